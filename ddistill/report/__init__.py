"""What a run looks like: picture grids, and a self-contained page."""

from ddistill.report.page import PAGE, write_page
from ddistill.report.pictures import class_sheet, is_contact_sheet, save_contact_sheet, save_grid
from ddistill.report.snapshots import load_snapshots, save_snapshot

__all__ = [
    "PAGE",
    "class_sheet",
    "is_contact_sheet",
    "load_snapshots",
    "save_contact_sheet",
    "save_grid",
    "save_snapshot",
    "write_page",
]

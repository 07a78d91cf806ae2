"""Pictures of runs."""

from ddistill.report.pictures import save_grid

__all__ = ["save_grid"]

"""`ddistill report`: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ddistill.cli.common import DebugOption, reported
from ddistill.runtime.errors import UserError
from ddistill.terminal import out


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Folders of finished runs.")],
    page: Annotated[Path | None, typer.Option("--out", help="The file. (default report.html in the first run)")] = None,
    debug: DebugOption = False,
) -> None:
    """Write one self-contained page about a run, or about several side by side."""
    with reported(debug):
        from ddistill.report import PAGE, write_page

        target = page or runs[0] / PAGE
        if target.is_dir():
            raise UserError(f"--out {str(target)!r} is a folder; give the name of a file, such as {PAGE}")
        out.print(f"page       {escape(str(write_page(runs, target)))}")

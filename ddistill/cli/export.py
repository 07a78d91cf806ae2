"""`ddistill export`: a distilled set in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ddistill.cli.common import RUN_HELP, DebugOption, reported
from ddistill.terminal import out


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File (torch, numpy) or folder, new or empty.")],
    to: Annotated[str, typer.Option(help="ddranking, imagefolder, webdataset, torch (a .pt file) or numpy (.npz).")],
    dataset: Annotated[
        str | None, typer.Option(help="ddranking: its name of the real data, if the set does not tell.")
    ] = None,
    full: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="ddranking: accuracy on all real images, for HLR."),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="ddranking: link to the method.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write the decoded images of a distilled set in another program's format."""
    with reported(debug):
        from ddistill import api

        count = api.export(run, to, path, dataset=dataset, full=full, reference=reference)
        out.print(f"{count} images in {escape(str(path))}")

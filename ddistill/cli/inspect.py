"""`ddistill inspect`: what data are taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ddistill.cli.common import DATA_HELP, DebugOption, SetOption, assignments, reported, slug
from ddistill.runtime.errors import UserError
from ddistill.terminal import Screen, out, plain


def inspect(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    changes: SetOption = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The contact sheet. (default NAME-sheet.png)")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per class on the contact sheet.")] = 8,
    debug: DebugOption = False,
) -> None:
    """Say what DATA are taken for: parts, classes, counts, what is left out and assumed; with a contact sheet."""
    with reported(debug):
        from ddistill.data import DataSettings, load_data
        from ddistill.recipe import build
        from ddistill.report import is_contact_sheet, save_contact_sheet

        if sheet is not None and sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet is a picture FILE.png, got {str(sheet)!r}")
        asked = assignments(changes)
        if strange := [path for path in asked if not path.startswith("data.")]:
            raise UserError(f"inspect takes --set data.FIELD=VALUE only, got {strange[0]!r}")
        settings = build(DataSettings, {path.removeprefix("data."): value for path, value in asked.items()})
        with Screen() as screen:
            real = load_data(data, settings, on_progress=lambda _, done, of: screen.progress("data", done, of))
        for line in real.account.lines:
            out.print(escape(plain(line)))
        target = sheet or Path(f"{slug(real.name)}-sheet.png")
        if target.resolve().is_relative_to(Path(data).expanduser().resolve()):
            raise UserError(f"the contact sheet {str(target)!r} would lie in the data; give another place by --sheet")
        if sheet is None and target.exists() and not is_contact_sheet(target):
            raise UserError(f"{str(target)!r} is there and no contact sheet; give another place by --sheet FILE.png")
        shown = save_contact_sheet(real, target, images)
        more = f" (the first {shown} of {real.num_classes} classes)" if shown < real.num_classes else ""
        out.print(f"contact sheet: {escape(str(target))}{more}")

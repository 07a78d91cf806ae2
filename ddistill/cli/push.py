"""`ddistill push`: a distilled set on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ddistill.cli.common import RUN_HELP, DebugOption, reported
from ddistill.terminal import out


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    name: Annotated[str, typer.Argument(metavar="hub:OWNER/NAME", help="Where to; OWNER is you or an organisation.")],
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write what would be sent there, new or empty; send nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you may see it.")] = False,
    licence: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the set, as the hub names them: cc-by-4.0, mit, ...")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Publish a distilled set on the Hugging Face hub: images, a card, and all that loads it to the bit."""
    with reported(debug):
        from ddistill import api

        where = api.push(run, name, private=private, licence=licence, dry_run=dry_run)
        if dry_run is not None:
            out.print(f"nothing was sent; it would be what is in {escape(str(dry_run))}")
            out.print(f"look at    {escape(str(dry_run / 'README.md'))}, its page")
            return
        out.print(f"page       {escape(where)}")
        if licence is None:
            out.print(
                "licence    whose the real images are, and what may be done with the set, is to be said on its page"
            )
        id_ = name.removeprefix("hub:")
        out.print(f"train on it:  datasets.load_dataset({id_!r})  or  ddistill.load_synthetic({name!r}).to_dataset()")

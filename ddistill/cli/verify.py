"""`ddistill verify`: do recipes reach their figures?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import FAILED, DebugOption, DeviceOption, PluginOption, reported, usable_device
from ddistill.runtime.errors import UserError
from ddistill.terminal import Screen, out, print_table

SECTION = "verified"


def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A recipe with a figure (`ddistill recipes`), or a data set: each of its recipes, at the ipc nearest "
            "to 10 that has a figure. Without it, --into writes what the store knows."
        ),
    ] = None,
    scale: Annotated[str, typer.Option(help="full (the recipe as it is), small, tiny; see `reproduce list`.")] = "full",
    ipc: Annotated[int | None, typer.Option(min=1, help="The figure of this ipc. (default all of a recipe)")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Distillations of each.")] = 2,
    data: Annotated[str | None, typer.Option(help="Where the data set is, if not on the hub.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Of the results store and the runs.")] = Path("runs/reproduce"),
    into: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Put the table of all that the store has verified into this file."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side. (default one per core on a CPU, else 1)")
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a recipe to its published or measured figure and say whether it is reached; what is known is not run again.

    Exit code 0: all are reached; 1: one is missed. `ddistill verify digits` takes under 20 minutes on two cores.
    """
    missed = False
    with reported(debug, plugin):
        from ddistill import reproduce as book

        if name is None and into is None:
            raise UserError("name a recipe or a data set to verify; or give --into FILE.md alone for what is known")
        if name is not None:
            figures = book.figures(name, scale, ipc)
            cells = [figure.cell(scale, seed) for figure in figures for seed in range(seeds)]
            device = usable_device(device)
            places = {figure.data: data for figure in figures if data}
            with Screen() as screen:
                listeners: dict[str, Any] = {"device": device, "observer": screen, "on_cell": screen.cell_done}
                sources = book.DataSources(places, screen)
                count = jobs or (min(len(cells), os.cpu_count() or 1) if device == "cpu" else 1)
                if count > 1:
                    results = book.run_cells_in_processes(cells, folder, sources, count, **listeners)
                else:
                    results = book.run_cells(cells, folder, sources, **listeners)
            checked = book.verified(figures, cells, results)
            table = Table(*book.HEADERS)
            for one in checked:
                table.add_row(*(escape(word.replace("**", "")) for word in one.line()))
            print_table(table)
            out.print(escape(book.RULE))
            missed = any(one.missing for one in checked)
        if into:
            text = book.what_was_verified_where(book.Store(folder / "results.jsonl"))
            book.put_into(into, SECTION, text, "ddistill verify --into FILE.md")
            out.print(f"page       {escape(str(into))}")
    if missed:
        raise typer.Exit(FAILED)

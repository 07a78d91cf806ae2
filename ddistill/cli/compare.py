"""`ddistill compare`: whether distilling pays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import (
    DATA_HELP,
    DebugOption,
    DeviceOption,
    PluginOption,
    SetOption,
    assignments,
    recipe_or_name,
    reported,
    slug,
    usable_device,
)
from ddistill.terminal import Screen, out, print_table


def compare(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    ipc: Annotated[int, typer.Option(help="Stored images per class.")] = 10,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="For all of it, divided among the rows. (default: as the recipes say)"),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", "-r", help="To distil by. Repeatable. (default: idc-ma and tgdd-ma)")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,OPTION=VALUE...]",
            help="To train on each set; the first decides. Repeatable. (default: the recipe's)",
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Real images beside them: k-center, herding, el2n, el2n-hard, mosaic, el2n-mosaic, rded. Repeatable. "
            "(default: all but el2n-hard and rded)"
        ),
    ] = None,
    changes: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same images. (default 0)")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Of everything. (default runs/compare-DATA-ipcN)")
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Tell whether distilling DATA pays: distilled sets beside chosen real images and all of them, equally trained.

    What --out holds already is not made again, so that the same command goes on after an interruption.
    """
    with reported(debug, plugin):
        from ddistill import api
        from ddistill.comparison import Candidates

        asked = assignments(changes) | ({"run.seed": seed} if seed is not None else {})
        target = folder or Path("runs") / slug(f"compare-{data}-ipc{ipc}")
        device = usable_device(device)
        given: dict[str, Any] = {
            "recipes": [recipe_or_name(name) for name in recipe or []],
            "selections": baseline,
            "networks": network,
        }
        candidates = Candidates(**{name: tuple(words) for name, words in given.items() if words})
        with Screen() as screen:
            comparison = api.compare(
                data,
                ipc=ipc,
                minutes=minutes,
                candidates=candidates,
                changes=asked,
                out=target,
                device=device,
                observer=screen,
            )
        headers, lines = comparison.table()
        table = Table(*headers)
        for line in lines:
            table.add_row(*map(escape, line))
        print_table(table)
        out.print(
            f"Top-1 on the real test set at the last epoch, hard labels, {comparison.protocol['repeats']} networks on "
            f"each row, {comparison.protocol['steps']} optimiser steps each; HLR: all images less this, IOR: this less "
            "random, in points"
        )
        out.print(f"page       {escape(str(target / 'report.html'))}")
        out.print(f"figures    {escape(str(target / 'compare.json'))}")
        out.print(f"[bold]{escape(comparison.verdict)}[/]")

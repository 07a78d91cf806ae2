"""`ddistill pretrain`: the pool beforehand."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from ddistill.cli.common import (
    DATA_HELP,
    DebugOption,
    DeviceOption,
    PluginOption,
    RecipeOption,
    SetOption,
    assignments,
    recipe_or_name,
    reported,
    together,
    usable_device,
)
from ddistill.terminal import Screen, networks_in_words, out


def pretrain(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: RecipeOption = "auto",
    changes: SetOption = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Train the pool of early-stage networks (the experts of tm) beforehand.

    Runs with the same settings share it, however many of its networks they want.
    """
    with reported(debug, plugin):
        from ddistill import api

        device = usable_device(device)
        with together(device), Screen() as screen:
            pool = api.pretrain(
                data, recipe_or_name(recipe), changes=assignments(changes), device=device, observer=screen
            )
        verb = "found" if pool.reused else "trained"
        out.print(
            f"{verb} {networks_in_words(pool.size)} ({pool.seconds:.0f} s of training) in {escape(str(pool.folder))}"
        )

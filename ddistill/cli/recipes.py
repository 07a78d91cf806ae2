"""`ddistill recipes`: the table of settings."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import DebugOption, PluginOption, reported
from ddistill.terminal import out, print_table


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show all fields of this recipe.")] = None,
    ipc: Annotated[int, typer.Option(help="Stored images per class.")] = 1,
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """List the recipes, or show one with all its fields."""
    with reported(debug, plugin):
        from ddistill import recipes as known

        if name is None:
            for family, about in known.FAMILIES.items():
                out.print(f"[bold]{family}[/]  {escape(about)}")
            table = Table("recipe", "about", "expected")
            for full, entry in known.RECIPES.items():
                table.add_row(full, entry.about, entry.expected)
            print_table(table)
            out.print(
                "A family takes its settings from the data, these or others; `ddistill recipes NAME` shows all fields."
            )
            return
        chosen = known.find(name, ipc, "cifar10")
        if name in known.RECIPES:
            out.print(f"# {known.RECIPES[name].about}; {known.RECIPES[name].expected}", markup=False)
        elif name in known.FAMILIES:
            out.print(f"# {known.FAMILIES[name]}; here with the settings for cifar10", markup=False)
        else:
            out.print(f"# {name}: no figure is known", markup=False)
        out.print(chosen.to_yaml(), markup=False, end="")

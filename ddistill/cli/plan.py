"""`ddistill plan`: time, FLOPs and memory of a run before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import (
    DATA_HELP,
    DebugOption,
    DeviceOption,
    PluginOption,
    RecipeOption,
    SetOption,
    asked_recipe,
    reported,
    usable_device,
)
from ddistill.runtime.errors import UserError
from ddistill.runtime.units import in_time
from ddistill.terminal import Screen, out, print_table

if TYPE_CHECKING:
    from ddistill.engine import Plan


def plan(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: RecipeOption = "auto",
    ipc: Annotated[int | None, typer.Option(help="Stored images per class. (default 1)")] = None,
    speedup: Annotated[int | None, typer.Option(help="Divide the recipe's outer steps by this.")] = None,
    changes: SetOption = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Also on paper: for 10, 100 and 1000 classes on N devices like this one."),
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Predict time, FLOPs and memory of a run on this machine, from a few measured steps; nothing is written."""
    with reported(debug, plugin):
        from ddistill import api

        numbers = _numbers("--devices", devices)
        chosen, settings, images = asked_recipe(recipe, {"synthetic.ipc": ipc, "budget.speedup": speedup}, changes)
        device = usable_device(device)
        with Screen() as screen:
            costs = api.plan(data, chosen, ipc=images, changes=settings, device=device, observer=screen)
        table = Table("phase", "time", "may be", "TFLOP")
        for phase, title in (("pool", "pool or experts"), ("distill", "distillation"), ("evaluate", "evaluation")):
            flops = f"{costs.flops[phase] / 1e12:.3g}" if phase in costs.flops else ""
            table.add_row(title, in_time(costs.seconds[phase]), _range(*costs.ranges[phase]), flops)
        whole = _range(*(sum(ends) for ends in zip(*costs.ranges.values(), strict=True)))
        table.add_row("[bold]all[/]", f"[bold]{in_time(sum(costs.seconds.values()))}[/]", whole, "")
        print_table(table)
        out.print(
            "may be: by the fastest and the slowest trial, and beyond what was tried along a line or in proportion; "
            "what else the machine does later is not in it"
        )
        out.print(
            f"{costs.outer_steps} outer steps on {escape(device)}; memory of the measured steps, data "
            f"included: {costs.peak_memory_bytes / 2**30:.1f} GiB; a pool that is in the cache already costs nothing"
        )
        if numbers:
            _show_on_paper(costs, numbers)


def _show_on_paper(costs: Plan, devices: list[int]) -> None:
    from ddistill.engine import on_paper

    if costs.inner is None:
        raise UserError(
            f"--devices: method {costs.recipe.method.name} is not planned for several devices; idc and dm are"
        )
    table = Table("classes", "devices", "pool", "distillation", "evaluation", "all", "memory each", "exchanged each")
    for classes in (10, 100, 1000):
        for number in devices:
            paper = on_paper(costs, classes, number)
            times = [in_time(paper.seconds[phase]) for phase in ("pool", "distill", "evaluate")]
            sizes = [f"{paper.memory_bytes / 2**30:.1f} GiB", f"{paper.exchanged_bytes / 2**20:.0f} MiB per outer step"]
            table.add_row(str(classes), str(number), *times, in_time(sum(paper.seconds.values())), *sizes)
    print_table(table)
    out.print("On paper: from the steps measured here, classes of the same size, the exchange itself not counted.")


def _range(low: float, high: float) -> str:
    return f"{in_time(low)} to {in_time(high)}" if high else ""


def _numbers(option: str, text: str | None) -> list[int]:
    """``"1,2,8"`` to ``[1, 2, 8]``."""
    words = text.split(",") if text else []
    if not all(word.strip().isdigit() and int(word) for word in words):
        raise UserError(f"{option} takes whole numbers from 1, such as 1,2,8; got {text!r}")
    return [int(word) for word in words]

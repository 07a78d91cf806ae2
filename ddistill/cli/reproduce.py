"""`ddistill reproduce`: tables and figures of the paper."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import DebugOption, DeviceOption, PluginOption, reported, usable_device
from ddistill.data.facts import short_names
from ddistill.runtime.errors import UserError
from ddistill.runtime.units import in_time
from ddistill.terminal import Screen, out, print_table


def reproduce(
    target: Annotated[str, typer.Argument(help="A table or figure; `ddistill reproduce list` names them.")],
    scale: Annotated[str, typer.Option(help="tiny (digits), small (CIFAR, hours on 2 cores), full (published).")] = (
        "small"
    ),
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME=PATH", help="Where a data set is, if not on the hub.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="LABEL=VALUE,...", help="Restrict the runs, e.g. ipc=10,method=idc.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Distillations of each cell. (default 2 at scale small, else 1)")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the runs and what is known of them; run nothing.")] = (
        False
    ),
    folder: Annotated[Path, typer.Option("--out", help="Of the results store and the runs.")] = Path("runs/reproduce"),
    into: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Put the table into this file, in place of its last version.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="ray[://ADDRESS]", help="Run side by side as Ray tasks: here, or on a cluster."),
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Run the cells of a table or figure of the paper; what is known already is not run again."""
    with reported(debug, plugin):
        from ddistill import reproduce as book

        if target == "list":
            table = Table("table or figure", "about")
            for name, entry in book.TARGETS.items():
                table.add_row(name, entry.about)
            print_table(table)
            for name, size in book.SCALES.items():
                out.print(f"--scale {name}: {escape(size.about)}")
            return
        chosen = _pairs("--only", (only or "").split(",") if only else [])
        named = next((word.partition("=")[0].strip() for word in data or [] if "=" in word), None)
        cells = book.cells_of(target, scale, range(seeds) if seeds else None, chosen, named)
        places = _pairs("--data", data or [], cells)
        device = usable_device(device)
        runs: list[Path] = []
        with Screen() as screen:
            sources = book.DataSources(places, screen)
            if listing:
                known = book.look_up(cells, folder, sources)
                on_estimate = partial(screen.progress, "estimate")
                plans = book.estimate(cells, known, sources, device=device, on_estimate=on_estimate)
            else:
                listeners: dict[str, Any] = {"device": device, "observer": screen, "on_cell": screen.cell_done}
                if on is None:
                    done = book.run_cells(cells, folder, sources, **listeners)
                else:
                    address = book.place_of(on)
                    done = book.run_cells_on_ray(cells, folder, sources, address=address, **listeners)
                known = list(done)
                if book.shows_images(target):
                    runs = [book.with_pictures(cell, folder, sources, device=device, observer=screen) for cell in cells]
        if listing:
            out.print(f"scale {scale}: {escape(book.SCALES[scale].about)}")
            _show_cells(cells, known, plans)
            return
        text = book.render(target, scale, cells, known)
        save = book.draw(target, scale, cells, known, runs)
        if save:
            picture = f"{target}-{scale}.png"
            drawn = (into.parent if into else folder) / "figures" / picture
            save(drawn)
            text = f"![{target}](figures/{picture})\n\n{text}" if into else text
        out.print(text, markup=False)
        if into:
            book.put_into(into, f"{target} {scale}", text, f"ddistill reproduce {target} --scale {scale}")
        if save:
            out.print(f"figure     {escape(str(drawn))}")


def _pairs(option: str, words: list[str], cells: Any = None) -> dict[str, str]:
    """``["a=b"]`` to ``{"a": "b"}``; a word alone is the place of the only data set of the cells."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        names = sorted({str(cell.labels["data"]) for cell in cells}) if cells else []
        if cells and name not in names:
            if len(names) != 1 or (equals and name.strip() in short_names()):
                raise UserError(f"{option} takes NAME=PATH with one of: {', '.join(names)}; got {word!r}")
            name, value = names[0], word
        elif not equals or not value:
            raise UserError(f"{option} takes NAME=VALUE, got {word!r}")
        found[name.strip()] = value.strip()
    return found


def _show_cells(cells: list[Any], known: list[Any], plans: list[Any]) -> None:
    labels = list(cells[0].labels)
    table = Table(*labels, "outer steps", "result", "about")
    for cell, result, costs in zip(cells, known, plans, strict=True):
        shown = "not run" if result is None else f"{sum(result.accuracy) / len(result.accuracy):.1f} %"
        marks = [str(cell.labels.get(label, "")) for label in labels]
        about = "" if costs is None else in_time(sum(costs.seconds.values()))
        table.add_row(*map(escape, marks), "" if cell.ages else str(cell.recipe.budget.steps), shown, about)
    print_table(table)
    ahead = sum(sum(costs.seconds.values()) for costs in plans if costs)
    if ahead:
        out.print(
            f"about {in_time(ahead)} in all on this machine, from a few measured steps of each kind; runs share "
            "pools, which are counted for each"
        )

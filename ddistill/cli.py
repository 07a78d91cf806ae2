"""The command `ddistill`; the only place that reads arguments, prints, and chooses a device.

Exit codes: 0 done; 2 the user can mend it; 1 a failure at run time, state saved; 130 interrupted, state saved.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from ddistill.errors import RunError, UserError, in_words
from ddistill.runtime.plugins import load_installed, load_plugin
from ddistill.terminal import STOP, Screen, err, in_units, networks_in_words, out, plain, print_table

if TYPE_CHECKING:
    from ddistill.config import Recipe
    from ddistill.engine import Plan, Run

DONE, FAILED, MENDABLE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="ddistill",
    help="Distil a labelled image dataset into a few synthetic images per class, quickly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DATA_HELP = (
    "'digits' (comes with the program), a short name such as cifar10, a hub id such as uoft-cs/cifar10, or a path: "
    "a folder of class folders, parquet, arrow. Where a word can be both, ./digits is the folder and name:digits the "
    "known set. The recipe's own data if left out."
)
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A name from `ddistill recipes`, or a recipe.yaml.", show_default=True)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any recipe field, e.g. --set method.inner_steps=50. Repeatable."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="A module, or a .py file, that registers methods, networks or augmentations. Repeatable.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]


def _version(wanted: bool) -> None:
    if wanted:
        from ddistill import __version__

        out.print(f"ddistill {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def distill(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: RecipeOption = "idc-ma",
    ipc: Annotated[int | None, typer.Option(help="Stored images per class. (default 1)")] = None,
    speedup: Annotated[int | None, typer.Option(help="Divide the recipe's outer steps by this.")] = None,
    networks: Annotated[
        str | None,
        typer.Option(help="fresh: new networks; pool: early-stage ones; snapshots: of every age; line: between ages."),
    ] = None,
    perturb: Annotated[bool | None, typer.Option("--perturb/--no-perturb", help="Perturb network weights.")] = None,
    select: Annotated[
        str | None,
        typer.Option(help="best: give the images that do best on a tenth of the training set, held out for it."),
    ] = None,
    changes: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same images. (default 0)")] = None,
    run: Annotated[Path | None, typer.Option("--out", help="Folder of the run. (default runs/RECIPE-ipcN)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start one.")] = False,
    extend: Annotated[bool, typer.Option("--extend", help="Go on with it under a larger budget.")] = False,
    checkpoint_every: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="Between two checkpoints. (default 120)")
    ] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Distil DATA into a few synthetic images per class.

    The run folder gets the pictures, a log, summary.json, and distilled/: the images in forms that anyone can train on.
    """
    with _reported(debug, plugin):
        from ddistill import api

        named = {
            "synthetic.ipc": ipc,
            "budget.speedup": speedup,
            "model_augmentation.networks": networks,
            "model_augmentation.perturb": perturb,
            "evaluation.select": select,
            "data.validation_fraction": 0.1 if select == "best" else None,
            "run.seed": seed,
            "run.checkpoint_every": checkpoint_every,
        }
        chosen, settings, images = _asked(recipe, named, changes)
        folder = run or Path("runs") / _slug(f"{chosen if isinstance(chosen, str) else chosen.name}-ipc{images}")
        device = _device(device)
        with _together(device), Screen() as screen:
            finished = api.distill(
                data,
                chosen,
                out=folder,
                ipc=images,
                changes=settings,
                resume="extend" if extend else resume,
                device=device,
                observer=screen,
            )
        _show_run(finished, folder)


@app.command()
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_ARTIFACT", help="A run folder, or its distilled/ folder.")],
    data: Annotated[str | None, typer.Option(help="Real data for the test; the run's own if left out.")] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,OPTION=VALUE...]",
            help="Networks to train: convnet, resnet10, resnet18,norm=batch, densenet,width=0.5, vgg11, vit, ... or "
            "all. Repeatable.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the set. (default: as in the recipe)")] = None,
    repeats: Annotated[int | None, typer.Option(help="Trained networks per kind. (default: as in the recipe)")] = None,
    seed: Annotated[int, typer.Option(help="First weights and batches follow from it.")] = 0,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Train fresh networks on a distilled set and test them on the real test images."""
    with _reported(debug, plugin):
        from ddistill import api
        from ddistill.networks import NETWORKS, check_trainable

        device = _device(device)
        recipe = api.recipe_of(path)
        asked: list[str | None] = [*network] if network else [None]
        settings = recipe.evaluation.model_copy(update={"epochs": epochs}) if epochs else recipe.evaluation
        results, failed = [], {}
        with _together(device), Screen() as screen:
            real = api.load_for(data, recipe, screen)
            if asked == ["all"]:
                asked = [name for name, made in NETWORKS.items() if real.size >= getattr(made, "SMALLEST_SIDE", 1)]
            for name in asked:  # before the first is trained
                check_trainable(api.network_for(name, recipe), real.size)
            api.tell_account(real, screen)
            for name in asked:
                called = name or recipe.network.name
                try:
                    judged = api.evaluate(
                        path, real, settings, network=name, repeats=repeats, seed=seed, device=device, observer=screen
                    )
                except (TypeError, ValueError, RuntimeError) as error:
                    if len(asked) == 1:
                        raise
                    failed[called] = f"{type(error).__name__}: {error}"  # what the others gave is not lost
                    screen.note(f"network {called} failed: {failed[called]}")
                    continue
                results.append((called, judged))
                if judged.fallback:
                    screen.note(f"network {called}: {judged.protocol['precision_reason']}")
                screen.accuracy(called, judged.mean, judged.std, len(judged.runs))
        table = Table("network", "accuracy %", "std", "networks", "epochs")
        for name, result in results:
            counts = (len(result.runs), result.protocol["epochs"])
            table.add_row(escape(name), f"{result.mean:.1f}", f"{result.std:.1f}", *map(str, counts))
        print_table(table)
        out.print("Top-1 on the real test set at the last epoch; mean and standard deviation over the networks.")
        if failed:
            raise RunError(f"not evaluated: {'; '.join(f'{name} ({why})' for name, why in failed.items())}")


@app.command()
def pretrain(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: RecipeOption = "idc-ma",
    changes: SetOption = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Train the pool of early-stage networks (the experts of tm) beforehand; runs with the same settings share it."""
    with _reported(debug, plugin):
        from ddistill import api

        device = _device(device)
        with _together(device), Screen() as screen:
            pool = api.pretrain(data, _recipe(recipe), changes=_assignments(changes), device=device, observer=screen)
        verb = "found" if pool.reused else "trained"
        out.print(
            f"{verb} {networks_in_words(pool.size)} ({pool.seconds:.0f} s of training) in {escape(str(pool.folder))}"
        )


@app.command()
def plan(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: RecipeOption = "idc-ma",
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
    with _reported(debug, plugin):
        from ddistill import api
        from ddistill.engine import plan_run

        numbers = _numbers("--devices", devices)
        chosen, settings, images = _asked(recipe, {"synthetic.ipc": ipc, "budget.speedup": speedup}, changes)
        device = _device(device)
        with Screen() as screen:
            real, complete = api.resolve(data, chosen, ipc=images, changes=settings, observer=screen)
            api.tell_account(real, screen)
            costs = plan_run(real, complete, device)
        table = Table("phase", "time", "TFLOP")
        for phase, title in (("pool", "pool or experts"), ("distill", "distillation"), ("evaluate", "evaluation")):
            flops = f"{costs.flops[phase] / 1e12:.3g}" if phase in costs.flops else ""
            table.add_row(title, in_units(costs.seconds[phase]), flops)
        table.add_row("[bold]all[/]", f"[bold]{in_units(sum(costs.seconds.values()))}[/]", "")
        print_table(table)
        out.print(
            f"{costs.outer_steps} outer steps on {escape(device)}; memory of the measured steps, data included: "
            f"{costs.peak_memory_bytes / 2**30:.1f} GiB; a pool that is in the cache already costs nothing"
        )
        if numbers:
            _show_on_paper(costs, complete, numbers)


@app.command()
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
    with _reported(debug):
        from ddistill.config import build
        from ddistill.data import DataSettings, load_data
        from ddistill.report import save_contact_sheet

        asked = _assignments(changes)
        if strange := [path for path in asked if not path.startswith("data.")]:
            raise UserError(f"inspect takes --set data.FIELD=VALUE only, got {strange[0]!r}")
        settings = build(DataSettings, {path.removeprefix("data."): value for path, value in asked.items()})
        with Screen() as screen:
            real = load_data(data, settings, on_progress=lambda _, done, of: screen.progress("data", done, of))
        for line in real.account.lines:
            out.print(escape(plain(line)))
        target = sheet or Path(f"{_slug(real.name)}-sheet.png")
        shown = save_contact_sheet(real, target, images)
        more = f" (the first {shown} of {real.num_classes} classes)" if shown < real.num_classes else ""
        out.print(f"contact sheet: {escape(str(target))}{more}")


def _show_on_paper(costs: Plan, recipe: Recipe, devices: list[int]) -> None:
    from ddistill.engine import on_paper

    if costs.inner is None:
        raise UserError(f"--devices: method {recipe.method.name} is not planned for several devices; choose idc")
    table = Table("classes", "devices", "pool", "distillation", "evaluation", "all", "memory each", "exchanged each")
    for classes in (10, 100, 1000):
        for number in devices:
            paper = on_paper(costs, recipe, classes, number)
            times = [in_units(paper.seconds[phase]) for phase in ("pool", "distill", "evaluate")]
            sizes = [f"{paper.memory_bytes / 2**30:.1f} GiB", f"{paper.exchanged_bytes / 2**20:.0f} MiB per outer step"]
            table.add_row(str(classes), str(number), *times, in_units(sum(paper.seconds.values())), *sizes)
    print_table(table)
    out.print("On paper: from the steps measured here, classes of the same size, the exchange itself not counted.")


def _numbers(option: str, text: str | None) -> list[int]:
    """``"1,2,8"`` to ``[1, 2, 8]``."""
    words = text.split(",") if text else []
    if not all(word.strip().isdigit() and int(word) for word in words):
        raise UserError(f"{option} takes whole numbers from 1, such as 1,2,8; got {text!r}")
    return [int(word) for word in words]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="Images and labels, as torch.save wrote them.")],
    data: Annotated[str, typer.Option(help="The real data that the set was distilled from.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the artifact; new or empty.")],
    factor: Annotated[int, typer.Option(help="Multi-formation factor of the images (2 for IDC on CIFAR).")] = 1,
    normalised: Annotated[
        bool | None,
        typer.Option(
            "--normalised/--pixels",
            help="Normalised by the data's mean and standard deviation, or in [0, 1]; by range if unsaid.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X[,X,X]", help="Normalised by this mean, and --std; e.g. --mean 0.5 --std 0.5."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="X[,X,X]", help="See --mean.")] = None,
    most_cut: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the values that may lie outside of [0, 1] and be cut.")
    ] = 0.01,
    changes: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Make an artifact of a .pt file that another program has written; nothing in the file is run."""
    with _reported(debug):
        from ddistill import api

        with Screen() as screen:
            made = api.import_set(
                file,
                data,
                folder,
                factor=factor,
                normalised=_normalisation(normalised, mean, std),
                most_cut=most_cut,
                changes=_assignments(changes),
                observer=screen,
            )
        out.print(f"{len(made.images)} images of {made.num_classes} classes in {escape(str(folder))}")
        own = api.recipe_of(folder).data.source  # no path of this machine goes into an artifact
        words = ["ddistill", "evaluate", str(folder), *([] if own else ["--data", data])]
        out.print(f"judge it:  {escape(shlex.join(words))}")


def _normalisation(normalised: bool | None, mean: str | None, std: str | None) -> Any:
    """What `api.import_set` takes for ``normalised``."""
    if mean is None and std is None:
        return normalised
    if mean is None or std is None or normalised is False:
        raise UserError("--mean and --std are given both, and without --pixels: normalised by these")
    try:
        return tuple([float(word) for word in text.split(",")] for text in (mean, std))
    except ValueError:
        raise UserError(f"--mean and --std take numbers such as 0.49,0.48,0.45; got {mean!r} and {std!r}") from None


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Folders of finished runs.")],
    page: Annotated[Path | None, typer.Option("--out", help="The file. (default report.html in the first run)")] = None,
    debug: DebugOption = False,
) -> None:
    """Write one self-contained page about a run, or about several side by side."""
    with _reported(debug):
        from ddistill.report import PAGE, write_page

        target = page or runs[0] / PAGE
        if target.is_dir():
            raise UserError(f"--out {str(target)!r} is a folder; give the name of a file, such as {PAGE}")
        out.print(f"page       {escape(str(write_page(runs, target)))}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show all fields of this recipe.")] = None,
    ipc: Annotated[int, typer.Option(help="Stored images per class.")] = 1,
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """List the recipes, or show one with all its fields."""
    with _reported(debug, plugin):
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


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(help="A table or figure; `ddistill reproduce list` names them.")],
    scale: Annotated[str, typer.Option(help="tiny (digits), small (CIFAR-10, hours on 2 cores), full (published).")] = (
        "small"
    ),
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME=PATH", help="Where a data set is, if not on the hub.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="LABEL=VALUE,...", help="Restrict the runs, e.g. ipc=10,method=idc.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per run.")] = 1,
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
    with _reported(debug, plugin):
        from ddistill import reproduce as book

        if target == "list":
            table = Table("table or figure", "about")
            for name, entry in book.TARGETS.items():
                table.add_row(name, entry.about)
            print_table(table)
            for name, size in book.SCALES.items():
                out.print(f"--scale {name}: {escape(size.about)}")
            return
        cells = book.cells_of(target, scale, range(seeds), _pairs("--only", (only or "").split(",") if only else []))
        places = _pairs("--data", data or [], cells)
        device = _device(device)
        runs: list[Path] = []
        with Screen() as screen:
            sources = book.Sources(places, screen)
            if listing:
                known = book.look_up(cells, folder, sources)
                plans = book.estimate(cells, known, sources, device=device, on_estimate=screen.estimated)
            else:
                listeners: dict[str, Any] = {"device": device, "observer": screen, "on_cell": screen.cell_done}
                if on is None:
                    done = book.run_cells(cells, folder, sources, **listeners)
                else:
                    address = book.place_of(on)
                    done = book.run_cells_on_ray(cells, folder, sources, address=address, **listeners)
                known = list(done)
                if book.shows_images(target):
                    runs = [
                        book.with_pictures(cell, result, folder, sources, device=device, observer=screen)
                        for cell, result in zip(cells, done, strict=True)
                    ]
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
            book.put_into(into, f"{target} {scale}", text)
        if save:
            out.print(f"figure     {escape(str(drawn))}")


def _pairs(option: str, words: list[str], cells: Any = None) -> dict[str, str]:
    """``["a=b"]`` to ``{"a": "b"}``; a word alone is the place of the only data set of the cells."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        names = sorted({str(cell.labels["data"]) for cell in cells}) if cells else []
        if cells and name not in names:
            if len(names) != 1:
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
        about = "" if costs is None else in_units(sum(costs.seconds.values()))
        table.add_row(*map(escape, marks), "" if cell.ages else str(cell.recipe.budget.steps), shown, about)
    print_table(table)
    ahead = sum(sum(costs.seconds.values()) for costs in plans if costs)
    if ahead:
        out.print(
            f"about {in_units(ahead)} in all on this machine, from a few measured steps of each kind; runs share "
            "pools, which are counted for each"
        )


def main() -> None:
    """Entry point of the command."""
    # OpenMP threads that wait actively for one that a busy core holds back make everything many times slower. The
    # library reads this once, when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    signal.signal(signal.SIGTERM, STOP.hear)
    signal.signal(signal.SIGINT, STOP.hear)
    app()


@contextmanager
def _reported(debug: bool, plugin: list[str] | None = None) -> Iterator[None]:
    """Load plugins, and turn errors into one line and an exit code."""
    try:
        for one in plugin or []:
            load_plugin(one)
        load_installed(lambda line: err.print(f"note: {escape(plain(line))}"))
        yield
    except UserError as error:
        if error.told or (_launched() and os.environ.get("LOCAL_RANK", "0") != "0"):
            raise typer.Exit(MENDABLE) from error  # the first process of the machine tells
        _fail(str(error), MENDABLE, debug)
    except KeyboardInterrupt:
        words = [word for word in sys.argv[1:] if word != "--resume"]
        again = shlex.join(["ddistill", *words, "--resume"])
        again = shlex.join(["ddistill", *words]) if words[:1] == ["reproduce"] else again
        hint = f"; go on with: {again}" if words[:1] in (["distill"], ["reproduce"]) else ""
        _fail(f"interrupted{hint}", INTERRUPTED, debug)
    except RunError as error:
        _fail(str(error), FAILED, debug)
    except OSError as error:
        resumable = sys.argv[1:2] == ["distill"]
        _fail(in_words(error) + ("; mend it and go on with --resume" if resumable else ""), FAILED, debug)
    except Exception as error:  # whatever else happens must not show a traceback unasked
        _fail(f"{type(error).__name__}: {error}; --debug shows where", FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        err.print_exception()
    who = f" process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}:" if _launched() else ""
    err.print(f"[red]ddistill:[/]{who} {escape(plain(' '.join(message.split())))}")
    raise typer.Exit(code)


def _launched() -> bool:
    """Whether torchrun started this process as one of several; asked without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def _together(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; only the first one shows what the run is at."""
    import torch

    from ddistill.ranks import joined

    with joined(torch.device(device)) as ranks:
        out.quiet = Screen.quiet = not ranks.first
        yield


def _slug(name: str) -> str:
    """A name as one folder's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def _assignments(pairs: list[str] | None) -> dict[str, Any]:
    """``["a.b=1"]`` to ``{"a.b": 1}``; values are YAML scalars or lists."""
    assigned = {}
    for pair in pairs or []:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set takes FIELD=VALUE, got {pair!r}; for example --set method.inner_steps=50")
        try:
            assigned[path.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {path}: cannot read the value {text!r}") from error
    return assigned


def _asked(recipe: str, named: dict[str, Any], pairs: list[str] | None) -> tuple[Recipe | str, dict[str, Any], int]:
    """The recipe, the changes to it (options that were given, then --set), and the ipc that its settings follow."""
    settings = {**{path: value for path, value in named.items() if value is not None}, **_assignments(pairs)}
    chosen = _recipe(recipe)
    usual = 1 if isinstance(chosen, str) else chosen.synthetic.ipc
    return chosen, settings, settings["synthetic.ipc"] if isinstance(settings.get("synthetic.ipc"), int) else usual


def _recipe(name: str) -> Recipe | str:
    if Path(name).suffix in (".yaml", ".yml"):
        from ddistill.config import Recipe

        return Recipe.from_yaml(name)
    return name


def _device(name: str) -> str:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; choose from: auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and device.index is None and _launched():
        from ddistill.ranks import local_rank

        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cpu":
        from ddistill.training import keep_freed_memory

        keep_freed_memory()
    return str(device)


def _show_run(run: Run, folder: Path) -> None:
    summary = run.summary
    table = Table("training set", "images", "test accuracy %", "std")
    distilled = summary["accuracy"]
    stored = f"{summary['stored_images']} stored, {summary['decoded_images']} decoded"
    table.add_row("[bold]distilled[/]", stored, f"[bold]{distilled['mean']:.1f}[/]", f"{distilled['std']:.1f}")
    titles = {"random": "random real images, equal storage", "random_decoded": "random real images, equal count"}
    for name, result in summary["baselines"].items():
        table.add_row(titles[name], str(result["images"]), f"{result['mean']:.1f}", f"{result['std']:.1f}")
    print_table(table)
    seconds = summary["seconds"]
    if "selected" in summary:
        chosen = summary["selected"]
        out.print(
            f"the images of outer step {chosen['step']} of {summary['outer_steps']}: "
            f"{chosen['validation_accuracy']:.1f} % on the validation part, the best of all that were judged"
        )
    if summary["ended_by"] != "outer_steps":
        out.print(f"ended after {summary['outer_steps']} outer steps by budget.{summary['ended_by']}")
    out.print(
        f"pool {seconds['pool']:.0f} s, distillation {seconds['distill']:.0f} s, "
        f"evaluation {seconds['evaluate']:.0f} s; seed {summary['seed']}, last epoch, "
        f"{networks_in_words(len(distilled['runs']))}"
    )
    out.print(f"pictures   {escape(str(folder / 'pictures'))}")
    out.print(f"page       {escape(str(folder / 'report.html'))}")
    out.print(f"artifact   {escape(str(folder / 'distilled'))}")
    ways = [f"ddistill.load_synthetic({str(folder)!r}).to_dataset()"]
    if run.synthetic.normalisation.whitening is None:  # else the PNG files lack what lies outside of [0, 1]
        ways.insert(0, f"datasets.load_dataset({str(folder / 'distilled')!r})")
    out.print(f"train on it:  {escape('  or  '.join(ways))}")


if __name__ == "__main__":
    main()

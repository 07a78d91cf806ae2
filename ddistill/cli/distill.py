"""`ddistill distill`: a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ddistill.cli.common import (
    DATA_HELP,
    DebugOption,
    DeviceOption,
    PluginOption,
    SetOption,
    asked_recipe,
    reported,
    slug,
    together,
    usable_device,
)
from ddistill.runtime.errors import UserError
from ddistill.terminal import Screen, networks_in_words, out, print_table

if TYPE_CHECKING:
    from ddistill.engine import Run


def distill(
    data: Annotated[str | None, typer.Argument(help=DATA_HELP)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="A name from `ddistill recipes`, or a recipe.yaml; auto: tgdd-ma, for images up to 12 px idc-ma. "
            "(default auto, or that of the run that grows)",
        ),
    ] = None,
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
    labels: Annotated[
        str | None,
        typer.Option(help="teacher: store soft labels, too, by the networks of the pool; see docs/soft_labels.md."),
    ] = None,
    add_classes_to: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Keep the images of a finished run, and add the other classes of DATA."),
    ] = None,
    refine: Annotated[bool, typer.Option("--refine", help="With --add-classes-to: go on with the kept, too.")] = False,
    memory: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stored images of all classes together, shared evenly by the classes."),
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
    with reported(debug, plugin):
        from ddistill import api

        named = {
            "synthetic.ipc": ipc,
            "budget.speedup": speedup,
            "model_augmentation.networks": networks,
            "model_augmentation.perturb": perturb,
            "evaluation.select": select,
            "synthetic.labels": labels,
            "data.validation_fraction": 0.1 if select == "best" else None,
            "run.seed": seed,
            "run.checkpoint_every": checkpoint_every,
        }
        begun = Path(run or "", "recipe.yaml")
        if (resume or extend) and run and not (data or recipe or add_classes_to):
            if begun.is_file():
                recipe = str(begun)  # what the run was started with, its data, too
            elif not any(pair.startswith("data.source=") for pair in changes or ()):
                raise UserError(f"there is no run in {str(run)!r} to go on with; to start one there, name its data")
        chosen, settings, images = asked_recipe(recipe or api.DEFAULT_RECIPE, named, changes)
        usual = f"{chosen if isinstance(chosen, str) else chosen.name}-{memory or f'ipc{images}'}"
        folder = run or Path("runs") / slug(f"{add_classes_to.name}-grown" if add_classes_to else usual)
        device = usable_device(device)
        with together(device), Screen() as screen:
            finished = api.distill(
                data,
                chosen if recipe or not add_classes_to else None,
                out=folder,
                ipc=images,
                changes=settings,
                resume="extend" if extend else resume,
                device=device,
                observer=screen,
                add_classes_to=add_classes_to,
                refine=refine,
                memory=memory,
            )
        _show_run(finished, folder)


def _show_run(run: Run, folder: Path) -> None:
    from ddistill.baselines import BASELINES

    summary = run.summary
    distilled, soft = summary["accuracy"], summary.get("accuracy_soft")
    table = Table("training set", "images", "test accuracy %", "std", *(["soft labels %", "std"] if soft else []))
    stored = f"{summary['stored_images']} stored, {summary['decoded_images']} decoded"
    table.add_row("[bold]distilled[/]", stored, *_figures(distilled, bold=True), *(_figures(soft) if soft else []))
    for name, result in summary["baselines"].items():
        beside = _figures(summary["baselines_soft"][name]) if soft and name in summary["baselines_soft"] else []
        table.add_row(BASELINES[name].title, str(result["images"]), *_figures(result), *beside)
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
    on_the_way = summary["epochs"]["on_the_way"]
    if on_the_way is not None:
        out.print(
            f"accuracies on the way are after {on_the_way} epochs, at the end after {summary['epochs']['judged']}"
        )
    if seconds["evaluate"] > seconds["pool"] + seconds["distill"]:
        out.print(
            "judging took longer than distilling: evaluation.epochs_on_the_way and evaluation.repeats make it shorter, "
            "and evaluation.baselines=[] leaves the real images out"
        )
    out.print(f"pictures   {escape(str(folder / 'pictures'))}")
    out.print(f"page       {escape(str(folder / 'report.html'))}")
    out.print(f"artifact   {escape(str(folder / 'distilled'))}")
    ways = [f"ddistill.load_synthetic({str(folder)!r}).to_dataset()"]
    if run.synthetic.normalisation.whitening is None:  # else the column of images lacks what lies outside
        ways.insert(0, f"datasets.load_dataset({str(folder / 'distilled')!r})")
    out.print(f"train on it:  {escape('  or  '.join(ways))}")


def _figures(accuracy: dict[str, Any], *, bold: bool = False) -> list[str]:
    """Mean and standard deviation, as cells."""
    mean = f"{accuracy['mean']:.1f}"
    return [f"[bold]{mean}[/]" if bold else mean, f"{accuracy['std']:.1f}"]

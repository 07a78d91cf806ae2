"""The page of one run or several: a self-contained HTML file that asks the network for nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddistill.baselines import BASELINES, SELECTIONS
from ddistill.evaluation import Confusion
from ddistill.recipe import Recipe
from ddistill.report.classes import Classes
from ddistill.report.curves import Curve, chart
from ddistill.report.snapshots import load_snapshots
from ddistill.report.sprites import MOST_BYTES, make_sprites
from ddistill.runtime.errors import UserError, in_words
from ddistill.runtime.storage import json_lines, read_checked_json, write_text
from ddistill.synthetic import artifact_folder, load_synthetic, read_description
from ddistill.synthetic.decode import in_bytes

if TYPE_CHECKING:
    from jinja2 import Template

PAGE = "report.html"
TILE, SMALL_TILE, COLUMNS_AT_EASE = 48, 32, 20
"""About the side of an image on the page in pixels, the smaller one where there are more columns than that."""
COLORS = ("#3b6fd4", "#d4703b", "#2f9e64", "#a04bc7", "#c7a11b", "#3aa6b9")


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of finished runs.

    Args:
        runs: run folders, at least one.
        out: the file.

    Raises:
        UserError: a folder that holds no finished run.
    """
    shown = [_run(folder, index, MOST_BYTES // len(runs)) for index, folder in enumerate(runs)]
    page = template("page.html").render(
        runs=shown, charts=_charts(shown), title=" and ".join(dict.fromkeys(run["title"] for run in shown))
    )
    write_text(out, page)
    return out


def template(name: str) -> Template:
    """A page to fill in; all share one look."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("ddistill.report", "templates")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def _run(folder: Path, index: int, most_bytes: int) -> dict[str, Any]:
    summary = _summary(folder)
    description = read_description(artifact_folder(folder))
    synthetic = load_synthetic(folder)
    events = _events(folder)
    snapshots = load_snapshots(folder) or {summary["outer_steps"]: in_bytes(synthetic.images)}
    confusion = Confusion.load(folder, synthetic.num_classes)
    classes = Classes.of(synthetic.class_names, confusion, summary.get("classes", {}))
    order = classes.order()
    sprites = make_sprites(snapshots, synthetic.counts, order, most_bytes)
    side = synthetic.images.shape[-1]
    baseline = summary["baselines"].get("random")
    equal = {name: row for name, row in summary["baselines"].items() if name in SELECTIONS}
    best = max(equal, key=lambda name: equal[name]["mean"], default="random")
    plugins = [word for name in summary.get("execution", {}).get("plugins", []) for word in ("--plugin", str(name))]
    return {
        "index": index,
        "title": f"{summary['recipe']}, ipc {summary['ipc']}",
        "folder": str(folder),
        "color": COLORS[index % len(COLORS)],
        "summary": summary,
        "baseline": baseline,
        "beside": [(_title(name), row) for name, row in summary["baselines"].items()],
        "gain": summary["accuracy"]["mean"] - baseline["mean"] if baseline else None,
        "best": (_title(best), summary["accuracy"]["mean"] - equal[best]["mean"]) if best != "random" else None,
        "recipe": yaml.safe_dump(description["recipe"], sort_keys=False, allow_unicode=True),
        "data": description["data"],
        "protocol": description["evaluation"],
        "machine": summary["machine"],
        "again": _again(folder, plugins),
        "artifact": str(folder / "distilled"),
        "whitened": synthetic.normalisation.whitening is not None,
        "curves": _curves(events, summary),
        "classes": classes,
        "matrix": classes.matrix(),
        "within": classes.within_groups(),
        "most": max(synthetic.counts),
        "sprites": sprites,
        "view": {
            "side": side,
            "zoom": max(1, round((SMALL_TILE if sprites.columns > COLUMNS_AT_EASE else TILE) / side)),
            "factor": synthetic.factor,
            "columns": sprites.columns,
            "counts": [min(count, sprites.columns) for count in synthetic.counts],
            "names": synthetic.class_names,
            "accuracies": classes.accuracies,
            "groups": classes.groups,
            "blocks": sprites.blocks,
            "steps": sprites.steps,
            "many": classes.many,
        },
    }


def _title(baseline: str) -> str:
    return BASELINES[baseline].title if baseline in BASELINES else baseline


def _again(folder: Path, plugins: list[str]) -> str:
    """What repeats a run: a command, or a line of Python where its data were an object, which no command can name."""
    recipe, out = str(folder / "recipe.yaml"), f"{folder}-again"
    with suppress(UserError):
        if Recipe.from_yaml(recipe).data.source is None:
            return f"ddistill.distill(your_data, ddistill.Recipe.from_yaml({recipe!r}), out={out!r})"
    return shlex.join(["ddistill", "distill", "--recipe", recipe, *plugins, "--out", out])


def _summary(folder: Path) -> dict[str, Any]:
    try:
        summary = read_checked_json(folder / "summary.json")
        if not isinstance(summary["accuracy"]["mean"], float):
            raise ValueError("no accuracy")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = in_words(error) if isinstance(error, OSError) else f"summary.json: {error}"
        raise UserError(f"{str(folder)!r} holds no finished run: {reason}") from error
    return summary


def _events(folder: Path) -> list[dict[str, Any]]:
    """Events of the log, damaged lines left out."""
    with suppress(OSError):
        return list(json_lines(folder / "log.jsonl"))
    return []


def _curves(events: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Accuracy over outer steps, seconds and FLOPs (pool included), and the loss over outer steps."""
    losses = {event["step"]: event for event in events if event.get("event") == "outer step"}
    what = "validation" if summary.get("selected") else "distilled"
    judged = {
        event["step"]: event
        for event in events
        if event.get("event") == "accuracy" and event.get("what") == what and "seconds" in event
    }
    points = [judged[step] for step in sorted(judged)]
    return {
        "steps": [(event["step"], event["mean"]) for event in points],
        "seconds": [(event["seconds"], event["mean"]) for event in points],
        "FLOPs": [(event["flops"], event["mean"]) for event in points],
        "loss": [(step, losses[step]["loss"]) for step in sorted(losses)],
    }


def _charts(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Curves of all runs on the same axes; a chart needs two points of some run."""
    made = []
    titles = {"steps": "outer steps", "seconds": "seconds, pool included", "FLOPs": "FLOPs, pool included"}
    epochs = [run["summary"].get("epochs", {}) for run in runs]
    watched = sorted(
        {f"{one['on_the_way']} epochs, at the end {one['judged']}" for one in epochs if one.get("on_the_way")}
    )
    for axis, label in titles.items():
        curves = [Curve(run["title"], run["color"], run["curves"][axis]) for run in runs]
        if any(len(curve.points) > 1 for curve in curves):
            levels = [(run["baseline"]["mean"], run["color"]) for run in runs if run["baseline"]]
            name = "; ".join([f"Test accuracy over {label}", *(f"on the way after {one}" for one in watched)])
            svg = chart(name, curves, label, "accuracy %", levels)
            made.append({"name": name, "svg": svg, "baseline": bool(levels)})
    curves = [Curve(run["title"], run["color"], run["curves"]["loss"]) for run in runs]
    if any(len(curve.points) > 1 for curve in curves):
        name = "Matching loss over outer steps"
        made.append({"name": name, "svg": chart(name, curves, "outer steps", "loss", []), "baseline": False})
    return made

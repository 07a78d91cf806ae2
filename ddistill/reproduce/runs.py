"""Runs the cells of a table or figure one after the other; what the store knows is not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ddistill.analysis import gradients_by_age
from ddistill.data import RealData, load_data
from ddistill.data.which import NAME
from ddistill.engine import Observer, Run, distill_data, recorded
from ddistill.engine.accuracies import Accuracies, Evaluator
from ddistill.engine.environment import machine, versions
from ddistill.recipe import RECIPE, Recipe, build
from ddistill.reproduce.store import Judged, Result, Store, images_key, result_key
from ddistill.reproduce.targets import Cell, Labels
from ddistill.runtime.distributed import current
from ddistill.runtime.execution import Execution
from ddistill.runtime.memory import keep_freed_memory
from ddistill.runtime.plugins import load_plugin
from ddistill.runtime.storage import json_lines
from ddistill.training import Safety, Unfinished

OnCell = Callable[[int, int, Cell, Result], None]


Plain = tuple[Labels, dict[str, Any], tuple[int, ...], str]


def in_plain_values(cell: Cell) -> Plain:
    """A cell for another process: what a plugin has registered is known there once the plugin is loaded."""
    return cell.labels, cell.recipe.model_dump(mode="json"), cell.ages, cell.arithmetic


def from_plain_values(plain: Plain) -> Cell:
    """The cell that `in_plain_values` has written."""
    labels, values, ages, arithmetic = plain
    return Cell(labels, build(Recipe, values), ages, arithmetic)


def begin_in_worker(threads: int, plugins: Iterable[tuple[str, str]]) -> None:
    """In a new process, before its first cell."""
    for plugin, folder in plugins:
        load_plugin(plugin, folder)
    torch.set_num_threads(threads)
    keep_freed_memory()


class DataSources:
    """The data sets of a reproduction: each is read once.

    Args:
        places: where a data set is, by short name; the short name itself (the hub) where none is given.
        observer: hears of reading.
    """

    def __init__(self, places: Mapping[str, str], observer: Observer | None = None) -> None:
        self.places = places
        self.observer = observer or Observer()
        self._loaded: dict[str, RealData] = {}

    def load(self, cell: Cell) -> RealData:
        """The real images of a cell."""
        name, recipe = str(cell.labels["data"]), cell.recipe
        if name not in self._loaded:
            self._loaded[name] = load_data(
                self.places.get(name, f"{NAME}{name}"),
                recipe.data,
                seed=recipe.run.seed,
                on_progress=lambda _what, done, total: self.observer.progress("data", done, total),
            )
        return self._loaded[name]


def run_cells(
    cells: Iterable[Cell],
    out: Path,
    sources: DataSources,
    *,
    device: str = "cpu",
    observer: Observer | None = None,
    on_cell: OnCell | None = None,
) -> list[Result]:
    """Run what the store does not know; a run that was cut off goes on.

    Args:
        cells: of the table.
        out: folder of the store (``results.jsonl``) and of the runs (``runs/KEY``, of the images).
        sources: of the real images.
        device: to compute on.
        observer: hears of progress.
        on_cell: called with (number from 1, cells in all, cell, result) as results become known.

    Returns:
        One result per cell, in their order.
    """
    cells, results = list(cells), []
    store = Store(out / "results.jsonl")
    for number, cell in enumerate(cells, 1):
        data = sources.load(cell)
        result = store.get(cell_key(cell, data))
        if result is None:
            result = run_cell(cell, data, out, device=device, observer=observer)
            store.add(result)
        results.append(result)
        if on_cell:
            on_cell(number, len(cells), cell, result)
    return results


def run_cell(cell: Cell, data: RealData, out: Path, *, device: str = "cpu", observer: Observer | None = None) -> Result:
    """Run one cell, or go on with it; the store is not asked.

    Images that were made for a cell which differs only in how they are judged are judged again, not made again.
    """
    key, observer = cell_key(cell, data), observer or Observer()
    if cell.ages:
        return _gradients(key, cell, data, device, observer)
    with _arithmetic(cell.arithmetic):
        return _distilled(key, cell, data, out, device, observer)


@contextmanager
def _arithmetic(asked: str) -> Iterator[None]:
    """Let a GPU multiply float32 in full (fp32) or rounded to 10 bits of fraction (tf32); as torch has it if not asked.

    torch rounds in convolutions, and not in products of matrices, where nobody says otherwise.
    """
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [one.allow_tf32 for one in backends]
    for one in backends if asked else ():
        one.allow_tf32 = asked == "tf32"
    try:
        yield
    finally:
        for one, was in zip(backends, before, strict=True):
            one.allow_tf32 = was


def _distilled(key: str, cell: Cell, data: RealData, out: Path, device: str, observer: Observer) -> Result:
    run = _made(cell, data, out, device, observer)
    result = _result(key, run, data)
    return (
        result if run.recipe.evaluation == cell.recipe.evaluation else _judged_again(result, run, cell, data, observer)
    )


def _made(cell: Cell, data: RealData, out: Path, device: str, observer: Observer) -> Run:
    """The run that makes a cell's images, judged as the first cell asked that they were made for."""
    folder, recipe = folder_of(cell, data, out), cell.recipe
    if (folder / RECIPE).is_file():
        begun = Recipe.from_yaml(folder / RECIPE)
        recipe = recipe.model_copy(update={"evaluation": begun.evaluation})
    return distill_data(data, recipe, out=folder, resume=True, device=device, observer=observer)


def _judged_again(result: Result, run: Run, cell: Cell, data: RealData, observer: Observer) -> Result:
    """The result of a run whose images are judged as a cell asks."""
    assert run.folder is not None  # a cell's run has one
    kept, name, step = run.folder / "checkpoint", f"judged-{result.key[:16]}", run.summary["outer_steps"]
    known, recipe = Accuracies(kept / f"{name}.jsonl"), cell.recipe
    unfinished = Unfinished(kept / f"{name}.safetensors", Safety(stopping=observer.stopping, note=observer.note))
    execution = Execution(torch.device(run.summary["execution"]["device"]), recipe.run, current())
    evaluate = Evaluator(data, execution, recipe.run.seed, known, unfinished, observer)
    judged = evaluate(run.synthetic, recipe.evaluation, recipe.network, ("distilled", step), phase="evaluate")
    observer.accuracy("distilled", judged.mean, judged.std, len(judged.runs))
    costs = {name: spent for name, spent in result.seconds.items() if name != "evaluate"}
    last = tuple(one._replace(accuracy=judged.mean) for one in result.accuracies[-1:])
    about = {**result.about, "recipe": recipe.changed(recorded(data)).travelling().identity()}
    runs = tuple(judged.as_dict()["runs"])
    return Result(result.key, runs, {**costs, "evaluate": known.seconds}, result.flops, last, about)


def look_up(cells: Iterable[Cell], out: Path, sources: DataSources) -> list[Result | None]:
    """What the store knows of the cells; nothing is run."""
    known = {result.key: result for result in Store(out / "results.jsonl")}
    return [known.get(cell_key(cell, sources.load(cell))) for cell in cells]


def folder_of(cell: Cell, data: RealData, out: Path) -> Path:
    """Where the run that makes a cell's images is, if it was made here."""
    return out / "runs" / (images_key(cell.recipe, data.fingerprint)[:16] + _suffix(cell))


def with_pictures(
    cell: Cell, out: Path, sources: DataSources, *, device: str = "cpu", observer: Observer | None = None
) -> Path:
    """The folder of a run with its stored images; a result that came without them is computed again, to the same bits.

    Args:
        cell: of the run.
        out, sources, device, observer: as in `run_cells`.
    """
    data = sources.load(cell)
    folder = folder_of(cell, data, out)
    if not (folder / "summary.json").is_file():
        _made(cell, data, out, device, observer or Observer())
    return folder


def cell_key(cell: Cell, data: RealData) -> str:
    """The key of a cell's result in the store."""
    return result_key(cell.recipe, data.fingerprint, cell.ages) + _suffix(cell)


def _suffix(cell: Cell) -> str:
    return f"-{cell.arithmetic}" if cell.arithmetic else ""


def _gradients(key: str, cell: Cell, data: RealData, device: str, observer: Observer) -> Result:
    began = time.perf_counter()
    found = gradients_by_age(
        data,
        cell.recipe,
        cell.ages,
        device=device,
        on_epoch=lambda done, total: observer.progress("pool", done, total),
    )
    about = {"gradients": [one.as_dict() for one in found], **_about(cell.recipe, data, machine(torch.device(device)))}
    return Result(key, (found[-1].accuracy,), {"train": time.perf_counter() - began}, {}, (), about)


def _result(key: str, run: Run, data: RealData) -> Result:
    summary = run.summary
    about = {
        "stored_images": summary["stored_images"],
        "outer_steps": summary["outer_steps"],
        "execution": summary["execution"],
        **_about(run.recipe, data, summary["machine"]),
    }
    return Result(
        key,
        tuple(summary["accuracy"]["runs"]),
        summary["seconds"],
        summary["flops"],
        _judged(run.folder),
        about,
    )


def _about(recipe: Recipe, data: RealData, where: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": recipe.travelling().identity(),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "versions": versions(),
        "machine": where,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _judged(folder: Path | None) -> tuple[Judged, ...]:
    """Accuracies of a run at its evaluations, from its log."""
    if folder is None:
        return ()
    found: dict[int, Judged] = {}
    for event in json_lines(folder / "log.jsonl"):
        if event.get("event") == "accuracy" and event.get("what") == "distilled":
            found[event["step"]] = Judged(event["step"], event["mean"], event["seconds"], event["flops"])
    return tuple(found[step] for step in sorted(found))

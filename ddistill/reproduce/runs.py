"""Runs the cells of a table or figure one after the other; what the store knows is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ddistill.data import RealData, load_data
from ddistill.engine import Observer, Run, distill_data
from ddistill.engine.environment import versions
from ddistill.reproduce.store import Judged, Result, Store, recipe_key
from ddistill.reproduce.targets import Cell

OnCell = Callable[[int, int, Cell, Result], None]


class Sources:
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
                self.places.get(name, name),
                recipe.data,
                seed=recipe.run.seed,
                on_progress=lambda _what, done, total: self.observer.progress("data", done, total),
            )
        return self._loaded[name]


def run_cells(
    cells: Iterable[Cell],
    out: Path,
    sources: Sources,
    *,
    device: str = "cpu",
    observer: Observer | None = None,
    on_cell: OnCell | None = None,
) -> list[Result]:
    """Run what the store does not know; a run that was cut off goes on.

    Args:
        cells: of the table.
        out: folder of the store (``results.jsonl``) and of the runs (``runs/KEY``).
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
        key = recipe_key(cell.recipe, data.fingerprint)
        result = store.get(key)
        if result is None:
            folder = out / "runs" / key[:16]
            run = distill_data(data, cell.recipe, out=folder, resume=True, device=device, observer=observer)
            result = _result(key, run, data)
            store.add(result)
        results.append(result)
        if on_cell:
            on_cell(number, len(cells), cell, result)
    return results


def look_up(cells: Iterable[Cell], out: Path, sources: Sources) -> list[Result | None]:
    """What the store knows of the cells; nothing is run."""
    known = {result.key: result for result in Store(out / "results.jsonl")}
    return [known.get(recipe_key(cell.recipe, sources.load(cell).fingerprint)) for cell in cells]


def _result(key: str, run: Run, data: RealData) -> Result:
    summary = run.summary
    about = {
        "recipe": run.recipe.model_dump(mode="json"),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "stored_images": summary["stored_images"],
        "outer_steps": summary["outer_steps"],
        "versions": versions(),
        "machine": summary["machine"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    return Result(
        key,
        tuple(summary["accuracy"]["runs"]),
        summary["seconds"],
        summary["flops"],
        _judged(run.folder),
        about,
    )


def _judged(folder: Path | None) -> tuple[Judged, ...]:
    """Accuracies of a run at its evaluations, from its log."""
    if folder is None:
        return ()
    found: dict[int, Judged] = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "accuracy" and event.get("what") == "distilled":
            found[event["step"]] = Judged(event["step"], event["mean"], event["seconds"], event["flops"])
    return tuple(found[step] for step in sorted(found))

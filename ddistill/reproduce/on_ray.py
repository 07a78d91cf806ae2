"""Runs of a table or figure as Ray tasks: on this machine, or on a cluster that shares the output folder.

A worker that is lost takes nothing with it but the time since its last checkpoint: Ray starts the task again, and the
run in its folder goes on. One process, the driver, writes the store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddistill.data import RealData
from ddistill.engine import Observer
from ddistill.observer import Phase
from ddistill.reproduce.estimates import estimate
from ddistill.reproduce.runs import (
    DataSources,
    OnCell,
    Plain,
    begin_in_worker,
    cell_key,
    from_plain_values,
    in_plain_values,
    run_cell,
)
from ddistill.reproduce.store import Result, Store, images_key
from ddistill.reproduce.targets import Cell
from ddistill.runtime.errors import RunError, UserError
from ddistill.runtime.plugins import to_elsewhere

if TYPE_CHECKING:
    from types import ModuleType

NAME = "ray"
POLL_SECONDS = 1.0
FEWEST_BYTES = 1 << 30
SHARE_OF_MEMORY = 1.25
"""Asked for, over what the measured steps have needed."""


@dataclass(frozen=True)
class Needs:
    """What a run asks of the cluster.

    Attributes:
        cpus: cores; a run has one thread on each.
        gpus: 1 on CUDA, else 0.
        memory: bytes of the machine's memory.
    """

    cpus: float
    gpus: float
    memory: int


def place_of(text: str) -> str | None:
    """The address in "ray" (None: a Ray of this machine's own) or "ray://HOST:PORT" ("ray://auto": a running one).

    Raises:
        UserError: neither.
    """
    if text == NAME:
        return None
    address = text.removeprefix("ray://")
    if address == text or not address:
        raise UserError(f"--on takes ray or ray://ADDRESS, got {text!r}")
    return address


def run_cells_on_ray(
    cells: Sequence[Cell],
    out: Path,
    sources: DataSources,
    *,
    address: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    observer: Observer | None = None,
    on_cell: OnCell | None = None,
) -> list[Result]:
    """As `run_cells`, side by side.

    Args:
        cells: of the table.
        out: folder of the store and of the runs; every machine of the cluster must see it there.
        sources: of the real images; places are paths that every machine sees, or names on the hub.
        address: of a running cluster; None starts a Ray on this machine.
        device: "cpu" or "cuda".
        threads: cores of a run.
        observer: hears of the progress of all runs together (phase "cells").
        on_cell: called with (number, cells in all, cell, result) in the order in which they end.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no machine of it has what a run needs.
        RunError: a run failed; those that had ended are in the store.
    """
    ray = _ray()
    observer, out = observer or Observer(), out.resolve()
    store = Store(out / "results.jsonl")
    keys = [cell_key(cell, sources.load(cell)) for cell in cells]
    found: dict[int, Result] = {
        number: result for number, key in enumerate(keys) if (result := store.get(key)) is not None
    }
    for number, result in found.items():
        if on_cell:
            on_cell(number + 1, len(cells), cells[number], result)
    missing = [number for number in range(len(cells)) if number not in found]
    if not missing:
        return [found[number] for number in range(len(cells))]
    needs = _needs([cells[number] for number in missing], sources, device, threads)
    started = _connect(ray, address)
    try:
        _check_room(ray, needs)
        board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        data = {str(cell.labels["data"]): ray.put(sources.load(cell)) for cell in cells}
        task = ray.remote(_task)
        waiting: dict[Any, int] = {}
        latest: dict[str, Any] = {}
        for number, need in zip(missing, needs, strict=True):
            options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.memory}
            cell = cells[number]
            images = data[str(cell.labels["data"])]
            same = images_key(cell.recipe, sources.load(cell).fingerprint)
            place = (str(out), device, threads)
            # a cell that only judges the images of another one waits for it
            words = (number, in_plain_values(cell), images, place, board, to_elsewhere(), latest.get(same))
            latest[same] = task.options(**options, max_retries=-1).remote(*words)
            waiting[latest[same]] = number
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
            for reference in ended:
                number = waiting.pop(reference)
                found[number] = _fetch(ray, reference, cells[number])
                store.add(found[number])
                if on_cell:
                    on_cell(number + 1, len(cells), cells[number], found[number])
            shares = _heard(ray, board)
            under_way = sum(shares.get(number, 0.0) for number in waiting.values())
            observer.progress("cells", round(100 * (len(found) + under_way)), 100 * len(cells), under_way=len(shares))
            if observer.stopping():
                raise KeyboardInterrupt
    finally:
        if started:
            ray.shutdown()
    return [found[number] for number in range(len(cells))]


class Board:
    """An actor that hears how far each run is."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}

    def tell(self, number: int, share: float) -> None:
        """``share`` of a run is done, 0 to 1."""
        self.known[number] = share

    def shares(self) -> dict[int, float]:
        """All of them."""
        return self.known


class Reporter(Observer):
    """Tells the board, once a second at most."""

    weights: Mapping[Phase, tuple[float, float]] = {
        "pool": (0.0, 0.3),
        "distill": (0.3, 0.5),
        "evaluate": (0.8, 0.2),
    }
    """Where the share of a phase begins, and its length: a guess that serves a progress bar."""

    def __init__(self, board: Any, number: int) -> None:
        self.board, self.number, self.told = board, number, 0.0

    def progress(self, phase: Phase, done: int, total: int, **_figures: float) -> None:
        """Tell how far the run is."""
        if phase not in self.weights or time.monotonic() - self.told < POLL_SECONDS:
            return
        self.told = time.monotonic()
        first, length = self.weights[phase]
        self.board.tell.remote(self.number, first + length * done / max(1, total))


def _task(
    number: int,
    plain: Plain,
    data: RealData,
    place: tuple[str, str, int],
    board: Any,
    plugins: list[tuple[str, str]],
    _after: Result | None,
) -> Result:
    """In a worker: run a cell, or go on with it; ``place`` is the output folder, the device and the threads."""
    out, device, threads = place
    begin_in_worker(threads, plugins)
    return run_cell(from_plain_values(plain), data, Path(out), device=device, observer=Reporter(board, number))


def _needs(cells: Sequence[Cell], sources: DataSources, device: str, threads: int) -> list[Needs]:
    """Of each cell, from a few measured steps of each kind of work."""
    plans = estimate(cells, [None] * len(cells), sources, device=device)
    found = []
    for plan in plans:
        measured = plan.peak_memory_bytes if plan and device == "cpu" else 0
        memory = max(FEWEST_BYTES, int(measured * SHARE_OF_MEMORY))
        found.append(Needs(threads, 0.0 if device == "cpu" else 1.0, memory))
    return found


def _check_room(ray: ModuleType, needs: Sequence[Needs]) -> None:
    """Refuse what no machine of the cluster could ever take: Ray would wait for it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for need in needs:
        asked = {"CPU": need.cpus, "GPU": need.gpus, "memory": need.memory}
        if not any(all(node.get(name, 0.0) >= least for name, least in asked.items()) for node in nodes):
            raise UserError(
                f"no machine of the cluster has what a run needs: {need.cpus:g} cores, {need.gpus:g} GPUs and "
                f"{need.memory / 2**30:.1f} GiB of memory"
            )


def _connect(ray: ModuleType, address: str | None) -> bool:
    """Whether a connection was made here, which is then ours to close."""
    if ray.is_initialized():
        return False
    # "local": an address left behind by a cluster that is gone would be taken for one
    own = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(**own, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"the Ray cluster at {address or 'this machine'} cannot be reached: {error}") from error
    return True


def _heard(ray: ModuleType, board: Any) -> dict[int, float]:
    """How far the runs are; nothing while the board moves from a machine that was lost."""
    try:
        shares: dict[int, float] = ray.get(board.shares.remote(), timeout=POLL_SECONDS)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return {}
    return shares


def _fetch(ray: ModuleType, reference: Any, cell: Cell) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        marks = " ".join(str(value) for value in cell.labels.values())
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise RunError(f"the run {marks} failed: {cause}; the same command goes on with the others") from error
    return result


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise UserError("--on ray needs Ray: pip install 'ddistill[ray]'") from error
    return ray

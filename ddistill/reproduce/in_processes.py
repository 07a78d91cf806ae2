"""Runs of a table side by side on this machine: a process each, one thread each on a CPU.

Networks of small images leave a second core idle, so that two runs beside each other take as long as one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from ddistill.engine import Observer
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
from ddistill.runtime.plugins import to_elsewhere

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

POLL_SECONDS = 0.5


def run_cells_in_processes(
    cells: Sequence[Cell],
    out: Path,
    sources: DataSources,
    jobs: int,
    *,
    device: str = "cpu",
    observer: Observer | None = None,
    on_cell: OnCell | None = None,
) -> list[Result]:
    """As `run_cells`, ``jobs`` at a time; cells that share images stay together, one after the other.

    Raises:
        KeyboardInterrupt: the observer asked to stop; the processes have kept their states.
    """
    observer, store = observer or Observer(), Store(out / "results.jsonl")
    keys = [cell_key(cell, sources.load(cell)) for cell in cells]
    known = {result.key: result for result in store}
    groups: dict[str, list[int]] = {}
    for number, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        if key in known:
            if on_cell:
                on_cell(number + 1, len(cells), cell, known[key])
        else:
            groups.setdefault(images_key(cell.recipe, sources.load(cell).fingerprint), []).append(number)
    context = multiprocessing.get_context("spawn")
    stop, threads = context.Event(), max(1, (os.cpu_count() or 1) // jobs)
    begin = (stop, os.getpid(), threads, to_elsewhere())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=begin) as pool:
        running: dict[Future[list[Result]], list[int]] = {}
        for numbers in groups.values():
            plain = [in_plain_values(cells[number]) for number in numbers]
            running[pool.submit(_run, plain, dict(sources.places), str(out), device)] = numbers
        try:
            while running:
                ended, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for one in ended:
                    numbers = running.pop(one)
                    for number, result in zip(numbers, one.result(), strict=True):
                        store.add(result)
                        known[result.key] = result
                        if on_cell:
                            on_cell(number + 1, len(cells), cells[number], result)
                observer.progress("cells", 100 * sum(key in known for key in keys), 100 * len(cells))
                if observer.stopping():
                    raise KeyboardInterrupt
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [known[key] for key in keys]


class _Worker(Observer):
    """Stops at the next safe point when the driver says so, or is gone."""

    stop: Event | None = None
    driver = 0

    def stopping(self) -> bool:
        """Whether to stop."""
        return (self.stop is not None and self.stop.is_set()) or os.getppid() != self.driver


def _begin(stop: Event, driver: int, threads: int, plugins: Sequence[tuple[str, str]]) -> None:
    """In a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears it, and says so
    _Worker.stop, _Worker.driver = stop, driver
    begin_in_worker(threads, plugins)


def _run(plain: Sequence[Plain], places: Mapping[str, str], out: str, device: str) -> list[Result]:
    """In a process: run cells one after the other, or go on with them."""
    sources, observer = DataSources(places), _Worker()
    cells = [from_plain_values(one) for one in plain]
    return [run_cell(cell, sources.load(cell), Path(out), device=device, observer=observer) for cell in cells]

"""Full-scale results of the paper's tables, one queue of runs, in pieces that resume.

    python benchmarks/gpu_results.py cifar10=PATH [cifar100=PATH ...] [--out runs/reproduce] [--minutes 8] [--list]

First `tgdd` and `tgdd-ma` on CIFAR-10 and CIFAR-100, ipc 1, 10 and 50; then the tables; then IDC with model
augmentation at 100 outer steps with one setting changed at a time (`ddistill reproduce factors`), and with three seeds.
IDC, plain and with model augmentation, is run once at speed-up 5 and judged at a quarter, a half and all of its outer
steps: nothing in IDC depends on the length of a run (every draw and the network of an outer step are functions of the
seed and the step, and the rates are constant), so these are, to the bit, the runs at speed-ups 20, 10 and 5. CAFE is
the one method whose rate falls in the course of the run; each of its lengths would be a run of its own.

After ``--minutes`` the run stops at a safe point and keeps its state; the same command goes on, and exits with 3 while
something is left. Results go to OUT/results.jsonl, where `ddistill reproduce TABLE --scale full --out OUT` finds them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from end_to_end import CUT_OFF, Clock

from ddistill.data import RealData
from ddistill.engine import Observer
from ddistill.recipe import Recipe
from ddistill.reproduce import SCALES, Cell, DataSources, Result, Store, cells_of
from ddistill.reproduce.runs import cell_key, folder_of, run_cell
from ddistill.reproduce.targets import cell as cell_of
from ddistill.runtime.errors import UserError
from ddistill.runtime.memory import keep_freed_memory

SPEEDUPS = (5, 10, 20)
ALONG = "along training"
LADDERS = ("table3a", "table3b")
OTHERS = ("table5", "table6", "factors")


@dataclass(frozen=True)
class Job:
    """A run of the queue.

    Attributes:
        cells: of the tables, that the run gives results for; of a ladder those of falling length.
        table: that it is for.
    """

    cells: tuple[Cell, ...]
    table: str

    @property
    def name(self) -> str:
        """What tells it from the others."""
        labels = self.cells[0].labels
        lengths = "/".join(str(cell.labels["speedup"]) for cell in self.cells)
        rest = [str(value) for name, value in labels.items() if name not in ("speedup", "seed")]
        return f"{self.table} {' '.join(rest)} speed-up {lengths} seed {labels['seed']}"


def queue(scale: str, seeds: range) -> list[Job]:
    """All runs, the most wanted first."""
    jobs: list[Job] = []
    own = SCALES[scale].data
    datasets = ("cifar10", "cifar100") if own is None else (own,)
    for seed, data, ipc, augmented in product(seeds, datasets, (1, 10, 50), (True, False)):
        speedup = 5 if augmented else 1
        made = cell_of("tgdd", data, ipc, SCALES[scale], seed=seed, speedup=speedup, augmented=augmented)
        jobs.append(Job((made,), ALONG))
    for table in LADDERS:
        cells = [cell for cell in cells_of(table, scale, seeds) if cell.labels["method"] == "idc"]
        groups: dict[tuple[object, ...], dict[int, Cell]] = {}
        for cell in cells:
            same = tuple(value for name, value in cell.labels.items() if name != "speedup")
            groups.setdefault(same, {})[int(cell.labels["speedup"])] = cell
        ladders = [Job(tuple(group[speedup] for speedup in SPEEDUPS), table) for group in groups.values()]
        jobs += sorted(ladders, key=lambda job: job.cells[0].labels["networks"] == "plain")  # stable: ours first
    for table in OTHERS:
        jobs += [Job((cell,), table) for cell in cells_of(table, scale, seeds)]
    return jobs


def long_recipe(cells: Sequence[Cell]) -> Recipe:
    """The longest recipe of a ladder, judged where the others end."""
    longest = cells[0].recipe
    return longest if len(cells) == 1 else longest.changed({"evaluation.every": cells[-1].recipe.budget.steps})


def run(job: Job, data: RealData, out: Path, *, device: str = "cpu", observer: Observer | None = None) -> list[Result]:
    """Run a job, or go on with it, and give the result of each of its cells."""
    cells = job.cells
    if len(cells) == 1:
        return [run_cell(cells[0], data, out, device=device, observer=observer)]
    long = replace(cells[0], recipe=long_recipe(cells))
    whole = run_cell(long, data, out, device=device, observer=observer)
    judged = accuracies(folder_of(long, data, out) / "log.jsonl")
    pool = {"seconds": whole.seconds["pool"], "flops": whole.flops["pool"]}
    results = []
    for cell in cells:
        event = judged[cell.recipe.budget.steps]
        costs = {name: {"pool": pool[name], "distill": event[name] - pool[name]} for name in ("seconds", "flops")}
        about = {
            **whole.about,
            "outer_steps": cell.recipe.budget.steps,
            "recipe": cell.recipe.model_dump(mode="json"),
            "cut_from": {"key": whole.key, "outer_steps": cells[0].recipe.budget.steps},
        }
        reached = tuple(one for one in whole.accuracies if one.step <= cell.recipe.budget.steps)
        accuracy = tuple(event["runs"])
        results.append(Result(cell_key(cell, data), accuracy, costs["seconds"], costs["flops"], reached, about))
    return results


def accuracies(log: Path) -> dict[int, dict]:
    """From the outer step to what was logged of the evaluation there."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    wanted = [event for event in events if event.get("event") == "accuracy" and event.get("what") == "distilled"]
    return {event["step"]: event for event in wanted}


def pending(jobs: Iterable[Job], store: Store, sources: DataSources) -> list[Job]:
    """The jobs with a result that the store lacks."""
    known = {result.key for result in store}
    return [job for job in jobs if any(cell_key(cell, sources.load(cell)) not in known for cell in job.cells)]


def main() -> int:
    """Run a piece of the queue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="the data that are here; others are passed over")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--list", action="store_true", help="show the queue and run nothing")
    options = parser.parse_args()
    if options.device == "cpu":
        keep_freed_memory()
    clock = Clock(60.0 * options.minutes)
    places = dict(word.partition("=")[::2] for word in options.data)
    if not all(places.values()):
        parser.error(f"data are given as NAME=PATH, got {' '.join(options.data)}")
    sources, store = DataSources(places, clock), Store(options.out / "results.jsonl")
    jobs = queue(options.scale, range(options.seeds))
    here = [job for job in jobs if job.cells[0].labels["data"] in places]
    left = pending(here, store, sources)
    print(f"{len(jobs)} runs, {len(jobs) - len(here)} without data here, {len(here) - len(left)} done", flush=True)
    for job in left:
        if options.list:
            print(f"  {job.name}: {job.cells[0].recipe.budget.steps} outer steps")
            continue
        try:
            for result in run(job, sources.load(job.cells[0]), options.out, device=options.device, observer=clock):
                store.add(result)
                mean = sum(result.accuracy) / len(result.accuracy)
                print(f"{job.name}, {result.about['outer_steps']} steps: {mean:.2f} {result.accuracy}", flush=True)
        except KeyboardInterrupt:
            print(f"cut off in {job.name} at {clock.at}; the state is kept: the same command goes on")
            return CUT_OFF
        if clock.stopping() and job is not left[-1]:
            print("the time is up; the same command goes on")
            return CUT_OFF
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"gpu_results: {error}")

"""Faults by the hundred, and what keeping the state costs: the figures of docs/reliability.md.

    python benchmarks/reliability.py OUT [--only kills damages arguments races full_disk cost] [--trials N]

Campaigns run in temporary folders under OUT; each prints one JSON line. `cost` needs `--data` for CIFAR-10 shapes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.campaigns import CAMPAIGNS

from ddistill.data import load_data
from ddistill.engine import Observer, distill_data
from ddistill.engine.checkpoint import Checkpoint, save_checkpoint
from ddistill.engine.environment import machine, versions
from ddistill.recipe import Recipe
from ddistill.training.unfinished import KEPT_EVERY_SECONDS

TRIALS = 9


def checkpoint_cost(out: Path) -> dict[str, Any]:
    """Seconds of a checkpoint of CIFAR-10 shapes, as a part of the default interval."""
    found = {}
    for ipc in (10, 50):
        tensors = {name: torch.rand(10 * ipc, 3, 32, 32) for name in ("images", "method.velocity")}
        state = Checkpoint(0, tensors, loss=[1.0] * 2000)
        seconds = []
        for step in range(TRIALS):
            state.step = step
            began = time.perf_counter()
            save_checkpoint(out / f"cost-{ipc}", state)
            seconds.append(time.perf_counter() - began)
        median = statistics.median(seconds)
        spread = [round(min(seconds), 4), round(max(seconds), 4)]
        found[f"ipc {ipc}"] = {
            "seconds": round(median, 4),
            "min_max": spread,
            "percent_of_interval": round(100 * median / KEPT_EVERY_SECONDS, 3),
        }
    return found


class Resumed(Observer):
    """Remembers when the state was taken back, right before the first step; asks to stop after that step."""

    def __init__(self) -> None:
        self.at = 0.0

    def note(self, text: str) -> None:
        if text.startswith("resumed after"):
            self.at = time.perf_counter()

    def stopping(self) -> bool:
        return True


def resume_seconds(source: str, out: Path) -> dict[str, Any]:
    """Seconds from loaded data to the start of the first step after --resume: CIFAR-10, width 128, ipc 10."""
    settings = {"synthetic.ipc": 10, "method.inner_steps": 1, "method.network_samples": 64, "run.compile": "off"}
    recipe = Recipe().changed({**settings, "budget.outer_steps": 100})
    began = time.perf_counter()
    data = load_data(source)
    loading = time.perf_counter() - began
    seconds = []
    for _ in range(4):
        observer = Resumed()
        began = time.perf_counter()
        with suppress(KeyboardInterrupt):
            distill_data(data, recipe, out=out / "resumed", resume=True, observer=observer)
        if observer.at:
            seconds.append(round(observer.at - began, 2))
    return {"data_loading": round(loading, 2), "first_step_starts": seconds}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*CAMPAIGNS, "cost"], default=[*CAMPAIGNS, "cost"])
    parser.add_argument("--trials", type=int, help="of each campaign; by default as in docs/reliability.md")
    parser.add_argument("--data", help="CIFAR-10: a short name or a path")
    options = parser.parse_args()
    for name in options.only:
        folder = options.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        result: dict[str, Any] = {"campaign": name}
        if name == "cost":
            result["checkpoint"] = checkpoint_cost(folder)
            if options.data:
                result["resume"] = resume_seconds(options.data, folder)
        else:
            campaign, usual = CAMPAIGNS[name]
            count = campaign(options.trials or usual, folder)
            result |= {"outcomes": dict(sorted(count.kinds.items())), "wrong": count.wrong}
        result["seconds"] = round(time.monotonic() - began)
        place = {"machine": machine(torch.device("cpu")), "versions": versions()}
        print(json.dumps({**result, **place}), flush=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

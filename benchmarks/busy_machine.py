"""`make demo` alone and beside one busy core: seconds of each trial, in turn.

    python benchmarks/busy_machine.py [--trials 3] [--steps 40] [--save]

The busy core is a process that computes without end. Without the passive wait policy that the command sets, and one
thread for small work, two OpenMP threads wait for each other actively, and this took more than 70 minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ddistill.engine.environment import machine, versions

RESULTS = Path(__file__).parent / "results"
BUSY = "while True: pass"


@contextmanager
def busy_core() -> Iterator[None]:
    """One process that computes without end."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def demo(steps: int) -> float:
    """Seconds of the command of `make demo`, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["distill", "digits", "--recipe", "idc-ma", "--ipc", "1", "--out", f"{folder}/run"]
        environment = {**os.environ, "DDISTILL_CACHE": f"{folder}/cache"}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ddistill", *words, "--set", f"budget.outer_steps={steps}"],
            env=environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="outer steps; 40 is the demo")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"alone": [], "beside a busy core": []}
    for _ in range(options.trials):
        seconds["alone"].append(demo(options.steps))
        with busy_core():
            seconds["beside a busy core"].append(demo(options.steps))
    for name, taken in seconds.items():
        print(f"{name:<20}{statistics.median(taken):>8.1f} s   ({', '.join(f'{one:.1f}' for one in taken)})")
    ratio = statistics.median(busy / free for free, busy in zip(*seconds.values(), strict=True))
    print(f"{ratio:.2f} times as long beside a busy core (median of the trials' ratios)")
    result = {
        "seconds": {name: [round(one, 1) for one in taken] for name, taken in seconds.items()},
        "ratio": round(ratio, 2),
        "outer_steps": options.steps,
        "versions": versions(),
        "machine": machine(torch.device("cpu")),
    }
    if options.save:
        name = f"{datetime.date.today().isoformat()}-busy-machine.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

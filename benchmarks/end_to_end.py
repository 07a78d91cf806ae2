"""Time to accuracy: a whole run, its pool and the evaluation of 3 networks included; the seconds of each part.

CIFAR-10, ipc 10, IDC + model augmentation at speed-up 5 (published: 67.1 % in 4.45 hours on the authors' GPU).

    python benchmarks/end_to_end.py DATA --out RUN [--minutes 8] [--scale full] [--device auto] [--save]

DATA is a name, a hub id or a path. After ``--minutes`` the run stops at a safe point, keeps its state and prints how
far it is; the same command goes on. ``--scale small`` is the recipe for two CPU cores (width 32, fewer steps), ``tiny``
is digits, in a minute. Parts are wall-clock seconds of the work itself, whatever the number of pieces.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import torch

import ddistill
from ddistill.engine import Observer
from ddistill.reproduce import SCALES, cells_of
from ddistill.runtime.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
CUT_OFF = 3


class Clock(Observer):
    """Asks the run to stop when the time is up; remembers how far it is."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.at = "starting"

    def stopping(self) -> bool:
        return time.monotonic() > self.until

    def progress(self, phase: str, done: int, total: int, **_figures: float) -> None:
        self.at = f"{phase} {done} of {total}"


def main() -> int:
    """Run a piece; the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results/, too")
    options = parser.parse_args()
    if options.device == "cpu":
        keep_freed_memory()
    only = {"ipc": "10", "method": "idc", "speedup": "5", "networks": "model augmentation"}
    (cell,) = cells_of("table5", options.scale, only=only)
    clock, began = Clock(60.0 * options.minutes), time.perf_counter()
    try:
        run = ddistill.distill(
            options.data, cell.recipe, out=options.out, resume=True, device=options.device, observer=clock
        )
    except KeyboardInterrupt:
        spent = time.perf_counter() - began
        print(f"cut off after {spent:.0f} s at {clock.at}; the state is kept: the same command goes on")
        return CUT_OFF
    seconds, accuracy = run.summary["seconds"], run.summary["accuracy"]
    for part, title in (("pool", "pool"), ("distill", "distillation"), ("evaluate", "evaluation of 3 networks")):
        print(f"{title:<26}{seconds[part]:>10.1f} s")
    print(f"{'all':<26}{sum(seconds.values()):>10.1f} s")
    print(f"{'test accuracy':<26}{accuracy['mean']:>10.1f} % ({accuracy['std']:.1f})")
    names = ("accuracy", "seconds", "flops", "peak_memory_bytes", "outer_steps", "data", "versions", "machine")
    result = {"scale": options.scale, **{name: run.summary[name] for name in names}}
    if options.save:
        name = (
            f"{datetime.date.today().isoformat()}-end-to-end-{options.scale}-{torch.device(options.device).type}.json"
        )
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

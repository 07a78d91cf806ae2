"""Seconds of one inner step of IDC in one process and spread over several, one thread each.

CIFAR-10 shapes (10 classes, 64 real and 40 decoded images each, 2000 network samples). All processes do an inner step
together, then the first one does the same work alone while the others wait, in turns, so that a drift of the machine
hits both. The images that come out are compared.

    python benchmarks/several_processes.py [--processes 2] [--width 128] [--trials 5] [--save]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from hot_path import RESULTS, SHAPE, fast_phases

from ddistill.engine.environment import machine, versions
from ddistill.ranks import ALONE, Ranks, joined
from ddistill.training import keep_freed_memory

CPU = torch.device("cpu")


def inner_step(phases: dict, method: object, ranks: Ranks) -> float:  # type: ignore[type-arg]
    """Seconds of matching, network training and the exchange of images."""
    ranks.gather(None)
    began = time.perf_counter()
    phases["matching"]()
    phases["network"]()
    method._join_classes()  # type: ignore[attr-defined]
    ranks.gather(None)
    return time.perf_counter() - began


def child(width: int, trials: int, shards: int) -> None:
    """One of the processes; the first one prints."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = {**SHAPE, "width": width}
    with joined(CPU) as ranks:
        (together, shared), (alone, single) = (
            fast_phases(shape, False, "fp32", CPU, who, shards) for who in (ranks, ALONE)
        )
        times: dict[str, list[float]] = {"together": [], "alone": []}
        for _ in range(trials + 1):  # the first is a warm-up
            seconds = inner_step(together, shared, ranks)
            if ranks.first:
                times["together"].append(seconds)
                times["alone"].append(inner_step(alone, single, ALONE))
            ranks.gather(None)
        if not ranks.first:
            return
        apart = (shared.context.synthetic.images - single.context.synthetic.images).abs().max()
        pairs = list(zip(times["alone"][1:], times["together"][1:], strict=True))
        result = {
            "processes": ranks.count,
            "width": width,
            "shards": shards,
            "speedup": round(statistics.median(a / b for a, b in pairs), 3),
            "speedups": [round(a / b, 3) for a, b in pairs],
            "seconds": {kind: [round(s, 2) for s in values[1:]] for kind, values in times.items()},
            "largest_difference_of_pixels": float(apart),
            "versions": versions(),
            "machine": machine(CPU),
        }
        print(json.dumps(result), flush=True)


def main() -> None:
    """Start the processes, show what the first one says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--shards", type=int, default=1, help="run.shards, of both; 2: the same bits")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.width, options.trials, options.shards)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.processes}"]
    words = [__file__, "--child", "--width", str(options.width), "--trials", str(options.trials)]
    words += ["--shards", str(options.shards)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run([*launcher, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    line = said.strip().splitlines()[-1]
    print(line)
    if options.save:
        shape = f"{options.processes}-width{options.width}-shards{options.shards}"
        name = f"{datetime.date.today().isoformat()}-processes-{shape}.json"
        Path(RESULTS / name).write_text(json.dumps(json.loads(line), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

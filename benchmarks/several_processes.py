"""Seconds of one inner step of IDC in one process and spread over several, one thread each.

CIFAR-10 shapes (10 classes, 64 real and 40 decoded images each, 2000 network samples). All processes make as many outer
steps together as there are processes, networks included; then the first one makes the same ones alone while the others
wait, in turns, so that a drift of the machine hits both. The images that come out are compared.

    python benchmarks/several_processes.py [--processes 2] [--width 128] [--inner 3] [--trials 5] [--save]
"""

from __future__ import annotations

import argparse
import dataclasses
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
from ddistill.methods import GradientMatching
from ddistill.network_sources import NetworkDraw, copy_of, load_into
from ddistill.runtime.distributed import ALONE, Ranks, joined
from ddistill.runtime.memory import keep_freed_memory
from ddistill.training import Resolved

CPU = torch.device("cpu")


class First:
    """A source that gives every outer step the same network."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.weights = copy_of(network.state_dict())

    def draw(self, step: int) -> NetworkDraw:
        return NetworkDraw(copy_of(self.weights))


def outer_steps(method: GradientMatching, source: First, first: int, ranks: Ranks) -> float:
    """Seconds of an inner step, over as many outer steps as there are processes."""
    count = int(os.environ["WORLD_SIZE"])
    ranks.gather(None)
    began = time.perf_counter()
    for step in range(first, first + count):
        load_into(method.context.network, method.draw_networks(step, source).weights)
        method.context.trainer.restart()
        method.outer_step(step, lambda *_: None)
    ranks.gather(None)
    return (time.perf_counter() - began) / (count * method.inner_steps)


def child(width: int, inner: int, precision: Resolved, trials: int) -> None:
    """One of the processes; the first one prints."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = {**SHAPE, "width": width}
    with joined(CPU) as ranks:
        together, alone = (
            replace_steps(fast_phases(shape, None, precision, CPU, who, inner)[1], 1 + ranks.count * (trials + 1))
            for who in (ranks, ALONE)
        )
        source = First(together.context.network)
        times: dict[str, list[float]] = {"together": [], "alone": []}
        for trial in range(trials + 1):  # the first is a warm-up
            first = 1 + trial * ranks.count
            seconds = outer_steps(together, source, first, ranks)
            if ranks.first:
                times["together"].append(seconds)
                times["alone"].append(outer_steps(alone, source, first, ALONE))
            ranks.gather(None)
        if not ranks.first:
            return
        apart = (together.context.synthetic.images - alone.context.synthetic.images).abs().max()
        pairs = list(zip(times["alone"][1:], times["together"][1:], strict=True))
        result = {
            "processes": ranks.count,
            "width": width,
            "inner_steps": inner,
            "precision": precision,
            "speedup": round(statistics.median(a / b for a, b in pairs), 3),
            "speedups": [round(a / b, 3) for a, b in pairs],
            "seconds": {kind: [round(s, 2) for s in values[1:]] for kind, values in times.items()},
            "largest_difference_of_pixels": float(apart),
            "versions": versions(),
            "machine": machine(CPU),
        }
        print(json.dumps(result), flush=True)


def replace_steps(method: GradientMatching, steps: int) -> GradientMatching:
    """The method in a run of so many outer steps."""
    method.context = dataclasses.replace(method.context, outer_steps=steps)
    return method


def main() -> None:
    """Start the processes, show what the first one says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--inner", type=int, default=3, help="image updates per outer step")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.width, options.inner, options.precision, options.trials)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.processes}"]
    words = [__file__, "--child", "--width", str(options.width), "--trials", str(options.trials)]
    words += ["--inner", str(options.inner), "--precision", options.precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run([*launcher, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    line = said.strip().splitlines()[-1]
    print(line)
    if options.save:
        shape = f"{options.processes}-width{options.width}-{options.precision}"
        name = f"{datetime.date.today().isoformat()}-processes-{shape}.json"
        Path(RESULTS / name).write_text(json.dumps(json.loads(line), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

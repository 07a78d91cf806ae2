"""Seconds of one inner step of IDC by phase: the slow reference, the fast code eager, the fast code compiled.

CIFAR-10 shapes (10 classes, 64 real and 40 decoded images each, 2000 network samples), random pixels. The three take
turns in one process, so that a drift of the machine hits all of them; warm-up and compilation are not counted.

    python benchmarks/inner_step.py [--width 32] [--trials 5]

Prints a table and, last, one JSON line. Ratios are medians of the ratios of neighbouring trials.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from ddistill.engine.environment import machine, peak_memory_bytes, versions
from ddistill.methods import Context, GradientMatching, GradientMatchingSettings
from ddistill.networks import NetworkSettings, build_network
from ddistill.randomness import generator
from ddistill.synthetic import SyntheticSet
from ddistill.training import Source, Trainer, TrainingSettings, keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference import convnet, matching

CLASSES, IPC, FACTOR, SIDE, PER_CLASS = 10, 10, 2, 32, 200
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Phases = dict[str, Callable[[], object]]


def fast_phases(width: int, compiled: bool) -> tuple[Phases, GradientMatching]:
    """Class loop and network training of the package."""
    draws = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (CLASSES * PER_CLASS, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    stored = torch.rand(CLASSES * IPC, 3, SIDE, SIDE, generator=draws)
    names = tuple("abcdefghij")
    synthetic = SyntheticSet(stored, torch.arange(CLASSES).repeat_interleave(IPC), names, FACTOR, "single", MEAN, STD)
    network = build_network(NetworkSettings(width=width), CLASSES, 3, SIDE, "bench")
    source = Source(real, labels, MEAN, STD)
    trainer = Trainer(network, source, TrainingSettings(), compiled=compiled)
    offsets = [PER_CLASS * c for c in range(CLASSES + 1)]
    settings = GradientMatchingSettings(inner_steps=1)
    method = GradientMatching(settings, Context(source, offsets, synthetic, network, trainer, 0, compiled))
    plan = method._draw(1)
    batches = list(plan.network[0])
    return {
        "matching": lambda: method.class_loop(0, plan),
        "network": lambda: trainer.run(batches, generator(0, "bench")),
    }, method


def reference_phases(width: int) -> Phases:
    """The same work, written from the formulas; without augmentation, which is a few percent."""
    _, method = fast_phases(width, False)
    context, plan = method.context, method._draw(1)
    stored = context.synthetic.images.view(CLASSES, IPC, 3, SIDE, SIDE)
    real = [context.real.fetch(plan.real[c, 0]) for c in range(CLASSES)]
    batches = list(plan.network[0])
    fixed = {name: p.detach() for name, p in context.network.named_parameters()}
    trained = {name: p.detach().clone().requires_grad_() for name, p in fixed.items()}
    optimiser = torch.optim.SGD(trained.values(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def match() -> None:
        matching.class_loop(
            lambda parameters, images: convnet.convnet_forward(parameters, images, 3),
            fixed,
            stored,
            None,
            real,
            MEAN,
            STD,
            FACTOR,
            matching.decode_single,
            matching.distance_mse,
            0.01,
        )

    def train() -> None:
        for batch in batches:
            images = matching.normalise(context.real.fetch(batch), MEAN, STD)
            loss = F.cross_entropy(convnet.convnet_forward(trained, images, 3), context.real.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return {"matching": match, "network": train}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="filters of the ConvNet (the paper's is 128)")
    parser.add_argument("--trials", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    kinds = {
        "reference": reference_phases(options.width),
        "eager": fast_phases(options.width, False)[0],
        "compiled": fast_phases(options.width, True)[0],
    }
    first = dict.fromkeys(kinds, 0.0)
    for kind, phases in kinds.items():
        started = time.perf_counter()
        for phase in phases.values():
            phase()
        first[kind] = time.perf_counter() - started
    seconds: dict[str, dict[str, list[float]]] = {kind: {phase: [] for phase in kinds[kind]} for kind in kinds}
    for _ in range(options.trials):
        for kind, phases in kinds.items():
            for name, phase in phases.items():
                started = time.perf_counter()
                phase()
                seconds[kind][name].append(time.perf_counter() - started)
    for kind in kinds:
        seconds[kind]["inner step"] = [sum(parts) for parts in zip(*seconds[kind].values(), strict=True)]
    print(f"{'':<12}{'matching s':>12}{'network s':>12}{'inner step s':>14}{'(min - max)':>18}{'first call s':>14}")
    for kind in kinds:
        whole = seconds[kind]["inner step"]
        median = {name: statistics.median(times) for name, times in seconds[kind].items()}
        spread = f"({min(whole):.2f} - {max(whole):.2f})"
        print(
            f"{kind:<12}{median['matching']:>12.3f}{median['network']:>12.3f}{median['inner step']:>14.3f}"
            f"{spread:>18}{first[kind]:>14.1f}"
        )
    ratio = {
        kind: statistics.median(
            a / b for a, b in zip(seconds["reference"]["inner step"], seconds[kind]["inner step"], strict=True)
        )
        for kind in ("eager", "compiled")
    }
    result = {
        "ratio": {"inner_step": {kind: round(value, 3) for kind, value in ratio.items()}},
        "seconds": {kind: {n: round(statistics.median(t), 4) for n, t in seconds[kind].items()} for kind in kinds},
        "first_call_seconds": {kind: round(value, 2) for kind, value in first.items()},
        "width": options.width,
        "trials": options.trials,
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        "versions": versions(),
        "machine": machine(torch.device("cpu")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

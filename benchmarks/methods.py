"""Seconds of one image update of each method beside its slow reference (tests/reference), in turns in one process.

CIFAR-10 shapes: 10 classes, ipc 10, random pixels, real batches of 256 (IDC 64, four decoded images a stored one); TM:
10 student steps. The references do not augment; IDC and DSA, as they are run, do. Ratios are medians of the ratios of
neighbouring trials.

    python benchmarks/methods.py [--width 32] [--trials 5] [--device cpu] [--methods dc dm ...] [--compiled] [--save]

Prints a table and, last, one JSON line; ``--save`` writes it to benchmarks/results/, too.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ddistill.augment import NO_AUGMENTATION, Normalisation
from ddistill.data import ImageSet
from ddistill.engine.environment import machine, versions
from ddistill.methods import METHODS, Context, build_method
from ddistill.methods.base import draw_real
from ddistill.networks import NetworkSettings, build_network
from ddistill.runtime.memory import keep_freed_memory
from ddistill.runtime.settings import Settings
from ddistill.synthetic import SyntheticSet
from ddistill.training import EAGER, Trainer, TrainingSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hot_path import MEAN, RESULTS, STD, timed
from reference import matching, other_methods
from reference.convnet import convnet_forward

CLASSES, IPC, PER_CLASS, SIDE, DEPTH = 10, 10, 300, 32, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "idc": {"inner_steps": 1, "network_samples": 0},
    "dc": {"inner_steps": 1, "network_epochs": 0},
    "dsa": {"inner_steps": 1, "network_epochs": 0},
    "dm": {"augment": NO_AUGMENTATION},
    "cafe": {"augment": NO_AUGMENTATION, "max_inner_steps": 1, "max_network_epochs": 0},
    "tm": {"augment": NO_AUGMENTATION, "student_steps": 10},
}


class Pair:
    """A method at work on random pixels, and its reference on the same."""

    def __init__(self, name: str, width: int, device: torch.device, compiled: bool) -> None:
        self.name = name
        draws = torch.Generator().manual_seed(0)
        real = torch.randint(0, 256, (CLASSES * PER_CLASS, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws)
        labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
        source = ImageSet(real.to(device), labels.to(device), Normalisation(MEAN, STD))
        stored = torch.rand(CLASSES * IPC, 3, SIDE, SIDE, generator=draws).to(device)
        own = torch.arange(CLASSES).repeat_interleave(IPC).to(device)
        self.factor = 2 if name == "idc" else 1
        names = tuple(f"class {c}" for c in range(CLASSES))
        self.synthetic = SyntheticSet(stored, own, names, self.factor, "single", Normalisation(MEAN, STD))
        self.network = build_network(NetworkSettings(width=width, depth=DEPTH), CLASSES, 3, SIDE, "bench").to(device)
        self.weights = {key: p.detach().clone() for key, p in self.network.named_parameters()}
        target = {key: p + 0.05 * torch.randn_like(p) for key, p in self.weights.items()}
        self.target = target
        trainer = Trainer(self.network, source, TrainingSettings())
        offsets = [PER_CLASS * c for c in range(CLASSES + 1)]
        self.settings: Settings = METHODS[name][0](**SETTINGS[name])
        batch = getattr(self.settings, "real_batch", 1)
        reference, hot_path = copy.deepcopy(self.network), replace(EAGER, compiled=compiled)
        reference.load_state_dict(target)
        self.context = Context(trainer, offsets, self.synthetic, 0, hot_path, reference=reference)
        self.method = build_method(self.settings, self.context)
        index = draw_real(self.context, "real batch", 1, batch, 1)[:, 0]
        self.real = [source.fetch(one) for one in index]

    def fast(self) -> None:
        """One update by the package."""
        self.method.outer_step(1, lambda done, of: None)

    def reference(self) -> None:
        """One update by the formulas."""
        getattr(self, f"_{self.name}")()

    def _forward(self, weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        return convnet_forward(weights, images, DEPTH)

    def _layers(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for i in range(DEPTH):
            block = {name: self.weights[f"blocks.{i}.{name}"] for name in ("conv.weight", "conv.bias")}
            scale, shift = (self.weights[f"blocks.{i}.norm.{name}"] for name in ("weight", "bias"))
            images = F.conv2d(images, block["conv.weight"], block["conv.bias"], padding=1)
            maps.append(torch.relu(F.group_norm(images, images.shape[1], scale, shift)))
            images = F.avg_pool2d(maps[-1], 2)
        return [*maps, images]

    def _idc(self) -> None:
        stored = self.synthetic.images.view(CLASSES, IPC, 3, SIDE, SIDE)
        pieces = (matching.decode_single, matching.distance_mse)
        matching.class_loop(self._forward, self.weights, stored, None, self.real, MEAN, STD, self.factor, *pieces, 0.01)

    def _summed(self, loss: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        other_methods.summed_step(loss, self.synthetic.images, IPC, MEAN, STD, 0.1, 0.5, 1)

    def _normalised(self, label: int) -> torch.Tensor:
        return matching.normalise(self.real[label], MEAN, STD)

    def _dc(self) -> None:
        self._summed(
            lambda c, images: other_methods.dc_loss(self._forward, self.weights, self._normalised(c), images, c)
        )

    _dsa = _dc

    def _dm(self) -> None:
        def embed(images: torch.Tensor) -> torch.Tensor:
            return self._layers(images)[-1].flatten(1)

        self._summed(lambda c, images: other_methods.dm_loss(embed, self._normalised(c), images))

    def _cafe(self) -> None:
        stored = self.synthetic.images.detach().clone().requires_grad_()
        images = list(matching.normalise(stored, MEAN, STD).split(IPC))
        real = [self._normalised(c) for c in range(CLASSES)]
        weights = [0.1, 0.1, 1.0, 1.0]
        other_methods.cafe_loss(self._layers, real, images, weights, 0.01).backward()

    def _tm(self) -> None:
        stored = self.synthetic.images.detach().clone().requires_grad_()
        rate = torch.tensor(0.01, requires_grad=True, device=stored.device)
        images, steps = matching.normalise(stored, MEAN, STD), SETTINGS["tm"]["student_steps"]
        batches = [(images, self.synthetic.labels)] * steps
        loss = other_methods.trajectory_loss(self._forward, self.weights, self.target, batches, rate)
        torch.autograd.grad(loss, [stored, rate])


def measure(name: str, width: int, trials: int, device: torch.device, compiled: bool) -> dict[str, object]:
    """Seconds of both, in turns, after a warm-up."""
    pair = Pair(name, width, device, compiled)
    kinds = {"reference": pair.reference, "fast": pair.fast}
    for work in kinds.values():
        timed(work, device)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(trials):
        for kind, work in kinds.items():
            seconds[kind].append(timed(work, device))
    ratios = [a / b for a, b in zip(seconds["reference"], seconds["fast"], strict=True)]
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    print(
        f"{name:<8}{median['reference']:>14.3f}{median['fast']:>10.3f}{statistics.median(ratios):>8.2f}"
        f"{f'({min(ratios):.2f} - {max(ratios):.2f})':>18}",
        flush=True,
    )
    return {"seconds": median, "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--compiled", action="store_true", help="torch.compile, as runs on a GPU have it")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    print(f"{'method':<8}{'reference s':>14}{'fast s':>10}{'ratio':>8}{'(min - max)':>18}")
    rows = {name: measure(name, options.width, options.trials, device, options.compiled) for name in options.methods}
    result = {"methods": rows, "width": options.width, "compiled": options.compiled, "trials": options.trials}
    result |= {"versions": versions(), "machine": machine(device)}
    if options.save:
        name = f"{datetime.date.today().isoformat()}-methods-{device.type}-width{options.width}.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

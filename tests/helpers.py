"""What several test files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ddistill.augment import Normalisation
from ddistill.baselines import BASELINES
from ddistill.engine import Observer
from ddistill.evaluation import Confusion
from ddistill.recipe import Recipe
from ddistill.report import save_snapshot
from ddistill.runtime.storage import write_checked_json
from ddistill.synthetic import SyntheticSet, save_synthetic


class Interrupt(Observer):
    """Raises when a phase has got so far; remembers what it was told."""

    def __init__(self, phase: str = "", at: int = 0) -> None:
        self.phase, self.at, self.notes, self.seen = phase, at, [], []

    def progress(self, phase, done, total, **figures):
        self.seen.append((phase, done))
        if phase == self.phase and done == self.at:
            raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)


def finished_run(folder: Path, images: torch.Tensor, names: Sequence[str], groups: Sequence[str] = ()) -> Path:
    """A run folder as a finished run leaves it, of images that were not distilled.

    Args:
        folder: of the run.
        images: float in [0, 1], (classes * ipc, channels, side, side).
        names: of the classes.
        groups: of each class.
    """
    classes, generator = len(names), torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(len(images) // classes)
    synthetic = SyntheticSet(images, labels, tuple(names), 2, "single", Normalisation((0.5,) * 3, (0.2,) * 3))
    for step, shown in ((0, replace(synthetic, images=images.flip(-1))), (10, synthetic)):
        save_snapshot(shown, folder, step)
    true = torch.arange(classes).repeat_interleave(10)
    near = (true + torch.randint(-2, 3, true.shape, generator=generator)) % classes
    predicted = torch.where(torch.rand(true.shape, generator=generator) < true / classes, true, near)
    confusion = Confusion.of(true, [predicted], classes)
    assert confusion is not None
    confusion.save(folder)
    accuracy = {"mean": 100.0 * confusion.right() / len(true), "std": 0.0, "runs": [1.0]}
    about = {
        "recipe": Recipe().identity(),
        "data": {"name": "made", "fingerprint": "0" * 64},
        "evaluation": {"network": {"name": "convnet"}, "epochs": 1, "repeats": 1, "test_images": 1, "reported": "last"},
    }
    save_synthetic(synthetic, folder / "distilled", about)
    summary = {
        "recipe": "made",
        "method": "idc",
        "data": "made",
        "ipc": len(images) // classes,
        "seed": 0,
        "stored_images": len(images),
        "decoded_images": 4 * len(images),
        "outer_steps": 10,
        "account": [],
        "accuracy": accuracy,
        "baselines": {},
        "versions": {},
        "machine": {},
        "peak_memory_bytes": 0,
        "seconds": {"pool": 0.0, "distill": 0.0, "evaluate": 0.0},
        "flops": {"pool": 0.0, "distill": 0.0},
        "classes": {"group": dict(zip(names, groups, strict=True))} if groups else {},
    }
    write_checked_json(folder / "summary.json", summary)
    return folder


def few_networks(monkeypatch) -> None:
    """All baselines choose by one network of one epoch."""
    few = {"model_augmentation.pool_size": 1, "model_augmentation.pool_epochs": 1}
    for name, own in BASELINES.items():
        if "model_augmentation.networks" in own.method:
            monkeypatch.setitem(BASELINES, name, replace(own, method={**own.method, **few}))

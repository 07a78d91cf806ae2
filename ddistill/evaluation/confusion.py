"""Which classes networks take the images of a class for: a matrix of counts, of which only what occurs is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ddistill.runtime.storage import write_tensors

CONFUSION = "confusion.safetensors"
"""In the folder of a run: ``true``, ``predicted`` and ``images``, int64 (m,), one entry per pair of classes."""


@dataclass(frozen=True)
class Confusion:
    """How many images of each class were taken for which, all networks together.

    Attributes:
        true, predicted: classes, int64 (m,); every pair that occurs once, ascending.
        images: of that pair, int64 (m,).
        num_classes: C.
    """

    true: torch.Tensor
    predicted: torch.Tensor
    images: torch.Tensor
    num_classes: int

    @classmethod
    def of(cls, labels: torch.Tensor, predicted: Sequence[torch.Tensor | None], num_classes: int) -> Confusion | None:
        """Of images with labels int64 (N,), for each network the classes that it took them for, int64 (N,) on the CPU.

        None where that is not known of a network.
        """
        known = [one for one in predicted if one is not None]
        if not known or len(known) < len(predicted):
            return None
        counts = torch.ones(len(labels) * len(known), dtype=torch.int64)
        return cls._summed(labels.repeat(len(known)), torch.cat(known), counts, num_classes)

    @classmethod
    def _summed(cls, true: torch.Tensor, predicted: torch.Tensor, images: torch.Tensor, num_classes: int) -> Confusion:
        pairs, place = torch.unique(true * num_classes + predicted, return_inverse=True)
        counts = torch.zeros(len(pairs), dtype=torch.int64).index_add_(0, place, images)
        return cls(pairs // num_classes, pairs % num_classes, counts, num_classes)

    def totals(self) -> torch.Tensor:
        """Images of each class, int64 (C,)."""
        return torch.zeros(self.num_classes, dtype=torch.int64).index_add_(0, self.true, self.images)

    def right(self) -> int:
        """Images that were taken for what they are."""
        return int(self.images[self.true == self.predicted].sum())

    def accuracies(self) -> list[float | None]:
        """Top-1 in percent of each class; None for one without a test image."""
        right = self.true == self.predicted
        correct = torch.zeros(self.num_classes, dtype=torch.int64).index_add_(0, self.true[right], self.images[right])
        counts = zip(correct.tolist(), self.totals().tolist(), strict=True)
        return [100.0 * hits / total if total else None for hits, total in counts]

    def most_confused(self, most: int) -> list[tuple[int, int, float]]:
        """Pairs (class, the other one that it is taken for, in percent of its images), most frequent first."""
        shares = 100.0 * self.images.double() / self.totals()[self.true]
        order = torch.argsort(torch.where(self.true == self.predicted, -1.0, shares), descending=True, stable=True)
        return [
            (int(self.true[i]), int(self.predicted[i]), float(shares[i]))
            for i in order[:most].tolist()
            if self.true[i] != self.predicted[i]
        ]

    def grouped(self, group_of: Sequence[int]) -> Confusion:
        """The same between groups of classes; ``group_of``: the group of each class, from 0 without gaps."""
        groups = torch.tensor(group_of)
        return self._summed(groups[self.true], groups[self.predicted], self.images, int(groups.max()) + 1)

    def save(self, run: Path) -> None:
        """Write it into the folder of a run."""
        write_tensors(run / CONFUSION, {"true": self.true, "predicted": self.predicted, "images": self.images})

    @classmethod
    def load(cls, run: Path, num_classes: int) -> Confusion | None:
        """That of a run; None where there is none, or none that can be read and fits."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(run / CONFUSION)
            true, predicted, images = (found[name] for name in ("true", "predicted", "images"))
        except (OSError, KeyError, SafetensorError):
            return None
        pairs = torch.stack([true, predicted]) if true.shape == predicted.shape == images.shape else None
        if pairs is None or pairs.ndim != 2 or not pairs.numel() or pairs.min() < 0 or pairs.max() >= num_classes:
            return None
        return cls(true, predicted, images, num_classes)

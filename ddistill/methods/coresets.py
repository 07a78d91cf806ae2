"""Coresets: choose real images instead of making synthetic ones; the baselines of every report.

Shapes: n real images of a class, E numbers of an embedding (the input of the classifier), I images to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from ddistill.augment import NO_AUGMENTATION
from ddistill.methods.base import Context, Method, Needs, OnInner
from ddistill.randomness import generator
from ddistill.runtime.flops import flops_of
from ddistill.settings import Settings

EMBEDDED_AT_ONCE = 250
"""Images per forward pass."""


class RandomSettings(Settings):
    """Real images drawn at random."""

    name: Literal["random"] = "random"
    """The method."""

    @property
    def needs(self) -> Needs:
        """Nothing but the images."""
        return Needs(network=False, one_step=True)


class EmbeddingCoresetSettings(Settings):
    """Real images chosen by their embeddings under a network, usually one that was trained on the real images."""

    @property
    def needs(self) -> Needs:
        """A network that gives embeddings."""
        return Needs(network=True, features=True, one_step=True)


class HerdingSettings(EmbeddingCoresetSettings):
    """Herding: images whose mean embedding follows the mean of the class, chosen one after the other."""

    name: Literal["herding"] = "herding"
    """The method."""


class KCenterSettings(EmbeddingCoresetSettings):
    """k-center: images such that every image of the class is near a chosen one, chosen farthest first."""

    name: Literal["k-center"] = "k-center"
    """The method."""


def herding(embeddings: torch.Tensor, count: int) -> list[int]:
    """Greedy herding (Welling 2009): each choice brings the mean of the chosen nearest to the mean of all.

    Args:
        embeddings: (n, E).
        count: positions to choose, at most n.
    """
    mean, total = embeddings.mean(dim=0), torch.zeros_like(embeddings[0])
    chosen: list[int] = []
    taken = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.device)
    for size in range(1, count + 1):
        distance = (mean - (total + embeddings) / size).square().sum(dim=1).masked_fill(taken, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        taken[best] = True
        total = total + embeddings[best]
    return chosen


def k_center(embeddings: torch.Tensor, count: int) -> list[int]:
    """Greedy k-center (Sener and Savarese 2018): first the image nearest to the mean, then the farthest of all.

    Args:
        embeddings: (n, E).
        count: positions to choose, at most n.
    """
    chosen = [int((embeddings - embeddings.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = torch.full((len(embeddings),), torch.inf, device=embeddings.device)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (embeddings - embeddings[chosen[-1]]).square().sum(dim=1))
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
    return chosen


class Coreset(Method):
    """Fills the set with chosen real images in its one outer step."""

    def __init__(self, settings: RandomSettings | HerdingSettings | KCenterSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.pipeline = context.real.pipeline(NO_AUGMENTATION)

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Choose for every class; the loss is 0."""
        synthetic, classes = self.context.synthetic, self.context.synthetic.num_classes
        for label, count in enumerate(synthetic.counts):
            first, end = self.context.class_offsets[label : label + 2]
            positions = torch.tensor(self._choose(label, first, end, min(count, end - first)))
            repeated = positions.repeat(-(-count // len(positions)))[:count] + first
            real = self.context.real
            synthetic.images[synthetic.class_slice(label)] = real.fetch(repeated.to(real.images.device))
            on_inner(label + 1, classes)
        return torch.zeros((), device=synthetic.images.device)

    def _choose(self, label: int, first: int, end: int, count: int) -> list[int]:
        if isinstance(self.settings, RandomSettings):
            draws = generator(self.context.seed, "random coreset", label)
            return torch.randperm(end - first, generator=draws)[:count].tolist()
        select: Callable[[torch.Tensor, int], list[int]]
        select = herding if isinstance(self.settings, HerdingSettings) else k_center
        return select(self._embeddings(first, end), count)

    @torch.no_grad()
    def _embeddings(self, first: int, end: int) -> torch.Tensor:
        """Of the real images at those positions, (end - first, E)."""
        network: Any = self.context.network.eval()
        positions = torch.arange(first, end, device=self.context.real.images.device)
        parts = positions.split(EMBEDDED_AT_ONCE)
        return torch.cat([network.features(self._normalised(part)).flatten(1) for part in parts])

    def _normalised(self, positions: torch.Tensor) -> torch.Tensor:
        return self.pipeline.normalise(self.context.real.fetch(positions))

    def flops_per_outer_step(self) -> float:
        """Of embedding all real images; the greedy choice is not counted."""
        if not self.settings.needs.network:
            return 0.0
        return flops_of(lambda: self._embeddings(0, 1)) * len(self.context.real.labels)

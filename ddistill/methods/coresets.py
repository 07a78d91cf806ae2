"""Coresets: choose real images instead of making synthetic ones; the baselines of every report.

With a factor F above 1 the stored images are mosaics of F x F chosen ones.

Shapes: n real images of a class, E numbers of an embedding (the input of the classifier), I images to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from ddistill.augment import NO_AUGMENTATION
from ddistill.augment.imagenet import MAX_RATIO, cut_out
from ddistill.methods.base import Context, Method, Needs, OnInner
from ddistill.runtime.flops import flops_of
from ddistill.runtime.randomness import generator
from ddistill.runtime.settings import Settings
from ddistill.synthetic.herding import herding
from ddistill.synthetic.initialise import mosaics

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


class EL2NSettings(Settings):
    """The images that networks early in training find easiest, or hardest (https://arxiv.org/abs/2107.07075)."""

    name: Literal["el2n"] = "el2n"
    """The method."""
    choose: Literal["easy", "hard"] = "easy"
    """easy: the lowest scores of a class; hard: the highest."""

    @property
    def needs(self) -> Needs:
        """A network; each outer step looks at another one."""
        return Needs(network=True)


class RDEDSettings(Settings):
    """Crops of real images that a trained network finds easiest (RDED, https://arxiv.org/abs/2312.03526)."""

    name: Literal["rded"] = "rded"
    """The method."""
    candidates: int = Field(default=300, ge=1)
    """Images of a class that are looked at, drawn at random; more where more are stored."""
    crops: int = Field(default=5, ge=1)
    """Random crops of each, of which the one with the lowest loss stands for the image."""
    min_area: float = Field(default=0.08, gt=0, le=1)
    """Smallest share of the area that a crop takes; uniform up to 1, aspect ratio log-uniform in [3/4, 4/3]."""

    @property
    def needs(self) -> Needs:
        """A network that knows the classes."""
        return Needs(network=True, one_step=True)


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
    """Fills the set with chosen real images, as a rule in one outer step."""

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.pipeline = context.real.pipeline(NO_AUGMENTATION)

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Choose for every class; the loss is 0."""
        synthetic, classes = self.context.synthetic, self.context.synthetic.num_classes
        for label, stored in enumerate(synthetic.counts):
            count = stored * synthetic.factor**2
            first, end = self.context.class_offsets[label : label + 2]
            pictures = self._pictures(label, first, end, count)
            repeated = torch.arange(count, device=pictures.device) % len(pictures)
            synthetic.images[synthetic.class_slice(label)] = mosaics(pictures[repeated], synthetic.factor)
            on_inner(label + 1, classes)
        return torch.zeros((), device=synthetic.images.device)

    def _pictures(self, label: int, first: int, end: int, count: int) -> torch.Tensor:
        """At most ``count`` images of a class, at least one, in [0, 1], the best first; they are repeated to fill."""
        positions = torch.tensor(self._choose(label, first, end, min(count, end - first))) + first
        return self.context.real.fetch(positions.to(self.context.real.images.device))

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


class RDED(Coreset):
    """Chooses among random crops by their cross-entropy under the network, one crop of an image at most."""

    @torch.no_grad()
    def _pictures(self, label: int, first: int, end: int, count: int) -> torch.Tensor:
        real, settings = self.context.real, self.settings
        draws = generator(self.context.seed, "rded", label)
        positions = torch.randperm(end - first, generator=draws)[: max(settings.candidates, count)] + first
        images = real.fetch(positions.to(real.images.device))
        best, lowest = images, torch.full((len(images),), torch.inf, device=images.device)
        for _ in range(settings.crops):
            area, ratio, top, left = torch.rand((4, len(images)), generator=draws).to(images.device)
            side = (settings.min_area + (1.0 - settings.min_area) * area).sqrt()
            root_ratio = MAX_RATIO ** (ratio - 0.5)
            sides = ((side / root_ratio).clamp(max=1.0), (side * root_ratio).clamp(max=1.0))
            crops = cut_out(images, *sides, top, left)
            losses = self._losses(crops, label)
            better = losses < lowest
            best, lowest = torch.where(better.view(-1, 1, 1, 1), crops, best), torch.where(better, losses, lowest)
        return best[lowest.argsort(stable=True)[:count]]

    def _losses(self, images: torch.Tensor, label: int) -> torch.Tensor:
        """Cross-entropy of images in [0, 1] of a class, (n,)."""
        network = self.context.network.eval()
        logits = torch.cat([network(self.pipeline.normalise(part)) for part in images.split(EMBEDDED_AT_ONCE)])
        return -logits.log_softmax(dim=1)[:, label]

    def flops_per_outer_step(self) -> float:
        """Of looking at all crops."""
        offsets, synthetic = self.context.class_offsets, self.context.synthetic
        looked_at = (
            min(end - first, max(self.settings.candidates, stored * synthetic.factor**2))
            for first, end, stored in zip(offsets, offsets[1:], synthetic.counts, strict=False)
        )
        one = self.context.real.fetch(torch.zeros(1, dtype=torch.int64, device=self.context.real.images.device))
        with torch.no_grad():
            return flops_of(lambda: self._losses(one, 0)) * self.settings.crops * sum(looked_at)


class EL2N(Coreset):
    """Chooses by the mean over the outer steps' networks of |softmax - one-hot|, the error of an image.

    Attributes:
        total: sum of the scores of all real images so far, (N,).
    """

    def __init__(self, settings: EL2NSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.total = torch.zeros(len(context.real.labels), device=context.synthetic.images.device)

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Add the scores under one more network, and choose for every class; the loss is 0."""
        self.total += self._scores(0, len(self.total))
        return super().outer_step(step, on_inner)

    def _choose(self, label: int, first: int, end: int, count: int) -> list[int]:
        descending = self.settings.choose == "hard"
        chosen: list[int] = self.total[first:end].argsort(descending=descending, stable=True)[:count].tolist()
        return chosen

    @torch.no_grad()
    def _scores(self, first: int, end: int) -> torch.Tensor:
        """Of the real images at those positions, (end - first,)."""
        network, real, scores = self.context.network.eval(), self.context.real, []
        for part in torch.arange(first, end, device=real.images.device).split(EMBEDDED_AT_ONCE):
            shares = network(self._normalised(part)).softmax(dim=1)
            scores.append((shares - F.one_hot(real.fetch_labels(part), shares.shape[1])).norm(dim=1))
        return torch.cat(scores)

    def state(self) -> dict[str, torch.Tensor]:
        """The scores."""
        return {"total": self.total}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.total.copy_(state["total"])

    def flops_per_outer_step(self) -> float:
        """Of a pass over all real images."""
        return flops_of(lambda: self._scores(0, 1)) * len(self.context.real.labels)

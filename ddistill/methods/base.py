"""What a method is, what it declares, and what the engine gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from ddistill.augment import NO_AUGMENTATION
from ddistill.data import class_batches
from ddistill.randomness import generator
from ddistill.ranks import ALONE, Ranks
from ddistill.synthetic import SyntheticSet
from ddistill.training import Normalised, Resolved, Source, Trainer, TrainingSettings

PLAIN_SGD = TrainingSettings(lr=0.01, momentum=0.0, weight_decay=0.0, batch=256, augment=NO_AUGMENTATION, cutmix=0.0)
"""How DC, DSA and CAFE train their network on the synthetic set."""

OnInner = Callable[[int, int], None]


@dataclass(frozen=True)
class Needs:
    """What a method asks for; the engine and the contract tests read it.

    Attributes:
        network: uses a network, so a network source is meaningful.
        second_order: differentiates through gradients with respect to weights.
        trains_network_on: what the network is trained on between image updates.
        features: asks the network for the input of its classifier (a method `features`).
        layers: asks the network for the maps of all its layers (a method `layers`).
        trajectories: starts from an expert's weights and aims at its later ones.
        fixed_length: its schedule depends on the number of outer steps of the run.
        one_step: chooses real images in a single outer step, instead of improving a set.
        spread: the classes are shared out to the ranks of a run; else every rank does all of the matching.
    """

    network: bool
    second_order: bool
    trains_network_on: Literal["real", "synthetic", "nothing"]
    features: bool = False
    layers: bool = False
    trajectories: bool = False
    fixed_length: bool = False
    one_step: bool = False
    spread: bool = False


@dataclass(frozen=True)
class Context:
    """What the engine gives a method.

    Attributes:
        real: class-sorted real training images, on the device.
        class_offsets: position of the first real image of each class, and N at the end.
        synthetic: the set to improve, on the device; its image tensor is changed in place.
        network: holds the weights of the current outer step; the engine loads them before each.
        trainer: trains ``network`` on ``real``.
        seed: of the run.
        compiled: compile the hot functions.
        precision: of convolutions and products in the hot functions.
        class_chunk: classes that are matched in one launch; None chooses by the device and its free memory.
        outer_steps: of the whole run, for rates that fall in its course.
        target: for trajectory matching, from the outer step to the weights that the student should reach.
        image_chunk: images of a class whose activations are kept at once; None: all of them where they fit.
        ranks: the processes of the run.
    """

    real: Source
    class_offsets: list[int]
    synthetic: SyntheticSet
    network: nn.Module
    trainer: Trainer
    seed: int
    compiled: bool
    precision: Resolved = "fp32"
    class_chunk: int | None = None
    outer_steps: int = 1
    target: Callable[[int], dict[str, torch.Tensor]] | None = None
    image_chunk: int | None = None
    ranks: Ranks = ALONE

    @property
    def own_classes(self) -> range:
        """The classes that this rank matches, where a method spreads them."""
        return self.ranks.share(self.synthetic.num_classes)


class Method(Protocol):
    """One outer step at a time: given real data and a network, improve the synthetic set.

    What a method needs is a property of its settings (``settings.needs``), so that a recipe can be checked without it.
    """

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Improve the set in place.

        Args:
            step: from 1; random draws are a function of (seed, purpose, step).
            on_inner: called with (inner steps done, inner steps in all).

        Returns:
            The mean matching loss, a 0-d tensor on the device.
        """
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept, besides the images, to go on after an outer step."""
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        ...

    def flops_per_outer_step(self) -> float:
        """Floating-point operations of one outer step, by torch's counter on the real functions."""
        ...


@runtime_checkable
class CountsItsWork(Protocol):
    """A method whose outer steps differ in length, and that knows what it has done."""

    def flops_done(self) -> float:
        """Floating-point operations of all outer steps so far."""
        ...


@runtime_checkable
class MatchesInChunks(Protocol):
    """A method that matches several classes in one launch, and can do with fewer.

    Attributes:
        chunk: most classes in one launch.
        part: most images of a class whose activations are kept at once; None: all.
    """

    chunk: int
    part: int | None

    def smaller_chunk(self) -> str | None:
        """Halve the classes per launch, then the images at once; what is done now in words, None where it is one."""
        ...


class ImageSGD:
    """SGD with momentum on the stored images.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.
        momentum: of the velocity.
        space: normalisation (and whitening W) of the images that ``lr`` is meant for, as DC, DSA, DM and TM publish it;
            None: pixels. A step of lr * g along the gradient g in that space is, in pixels,
            lr * std * W ** -2 * std * (gradient in pixels).
    """

    def __init__(self, synthetic: SyntheticSet, lr: float, momentum: float, space: Normalised | None = None) -> None:
        self.images = synthetic.images
        self.velocity = torch.zeros_like(self.images)
        self.lr = lr
        self.momentum = momentum
        std = [1.0] * self.images.shape[1] if space is None else list(space.std)
        self.std = torch.tensor(std, device=self.images.device).view(1, -1, 1, 1)
        self.scale = torch.tensor([value**2 for value in std], device=self.images.device).view(1, -1, 1, 1)
        whitening = space.whitening if space else None
        self.metric = None if whitening is None else whitening.metric.to(self.images.device)

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to all stored images, (n, channels, H, H)."""
        self.velocity.mul_(self.momentum).add_(self.in_space(gradient))
        self.images.sub_(self.velocity, alpha=self.lr)

    def in_space(self, gradient: torch.Tensor) -> torch.Tensor:
        """A gradient with respect to pixels as the direction, in pixels, of a step in the space that ``lr`` is for."""
        if self.metric is None:
            return gradient * self.scale
        return ((gradient * self.std).flatten(1) @ self.metric).view_as(gradient) * self.std

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept, besides the images, to go on."""
        return {"velocity": self.velocity}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.velocity.copy_(state["velocity"])


def draw_real(context: Context, purpose: str, step: int, batch: int, steps: int) -> torch.Tensor:
    """Positions of real images for every class and inner step of an outer step, int64 (C, steps, batch).

    Shuffled passes over each class; a class smaller than the batch is repeated within it.
    """
    rows = []
    for label in range(context.synthetic.num_classes):
        first, end = context.class_offsets[label : label + 2]
        draws = generator(context.seed, purpose, step, label)
        rows.append(class_batches(end - first, batch, steps, draws) + first)
    return torch.stack(rows).to(context.real.images.device)

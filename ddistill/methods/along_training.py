"""Matching along training: embeddings are matched under networks of every age, and older networks must know the class.

TGDD, DANCE and, with the characteristic distance, NCFM (https://arxiv.org/abs/2502.20653).

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, E numbers of an embedding
(the input of the classifier), K frequencies.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch.nn import functional as F

from ddistill.augment import AugmentSettings
from ddistill.methods.base import Context, Needs
from ddistill.methods.class_matching import ClassMatching, ClassMatchingSettings, Networks, StepDraws, Through
from ddistill.methods.distances import characteristic_distance, mean_distance
from ddistill.methods.image_optimiser import ImageAdam, ImageOptimiser, ImageSGD
from ddistill.methods.turns import Turn
from ddistill.runtime.errors import UserError
from ddistill.runtime.randomness import generator
from ddistill.training import Forward


class AlongTrainingSettings(ClassMatchingSettings):
    """A distance of embeddings under one network, and the cross-entropy under an older one; the values of TGDD."""

    name: Literal["along-training"] = "along-training"
    """The method."""
    distance: Literal["mean", "characteristic"] = "mean"
    """mean: squared distance of the mean embeddings; characteristic: of their characteristic functions (NCFM)."""
    frequencies: int = Field(default=4096, ge=1)
    """characteristic: random frequencies (K), drawn anew for each outer step."""
    alpha: float = Field(default=2.5, ge=0)
    """Weight of the cross-entropy of the synthetic images under the source's reference; 0: no reference is needed."""
    steps: Literal["joint", "sweeps"] = "joint"
    """joint: one image update along both terms; sweeps: one along the distance, then one along the cross-entropy."""
    image_optimiser: Literal["coasting", "sgd", "adamw"] = "coasting"
    """coasting: an SGD step after each class, in which the images of the others go on by momentum (IDC's program);
    sgd: one SGD step on the sum of all classes' losses; adamw: one of AdamW, with weight decay 5e-4."""
    image_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the images, pixels in [0, 1]."""
    falling: bool = False
    """The learning rate of the images falls linearly over the outer steps of the run, from image_lr towards 0."""
    real_batch: int = Field(default=128, ge=1)
    max_decoded: int = Field(default=200, ge=1)
    """At most this many decoded images per class and image update; a random subset where there are more."""
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop", "cutout"))

    @property
    def needs(self) -> Needs:
        """A network that gives embeddings, and an older one."""
        older: Literal["older"] | None = "older" if self.alpha else None
        return Needs(network=True, features=True, reference=older, fixed_length=self.falling, sharded=True)


class Sweep(NamedTuple):
    """Which terms of the loss a pass over the classes looks at."""

    matches: bool
    constrains: bool


class AlongTraining(ClassMatching):
    """One image update per network, by the distance of embeddings and the cross-entropy under the reference.

    Deviations from the authors' programs: the real images of a class start a new shuffled pass at each outer step;
    both sweeps of an update see the same decoded images under the same augmentation; the frequencies of an outer step
    are shared by its classes.
    """

    settings: AlongTrainingSettings
    captured = True

    def __init__(self, settings: AlongTrainingSettings, context: Context) -> None:
        if settings.alpha and context.reference is None:
            raise UserError(f"method {settings.name} with alpha {settings.alpha} needs a source that gives a reference")
        self.embed = Through(context.network, "features", context.precision)
        self.knows = Forward(context.reference.eval(), context.precision) if context.reference is not None else None
        self.sweep = Sweep(True, settings.alpha > 0)
        network: Any = context.network
        images, size = context.synthetic.images[:1], 0
        if settings.distance == "characteristic":
            with torch.no_grad():
                size = network.features(images).numel()
        self.frequencies = torch.zeros(size, settings.frequencies, device=images.device)
        super().__init__(settings, context)

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """d(real embeddings, synthetic embeddings) + alpha * CE(synthetic, label), or one of the two in a sweep."""
        total = torch.zeros((), device=synthetic.device)
        if self.sweep.matches:
            theirs, ours = (self.embed(networks.weights, images).flatten(1) for images in (real, synthetic))
            if self.settings.distance == "mean":
                total = total + mean_distance(theirs, ours)
            else:
                total = total + characteristic_distance(theirs, ours, self.frequencies)
        if self.sweep.constrains and self.knows is not None and networks.reference is not None:
            logits = self.knows(networks.reference, synthetic)
            total = total + self.settings.alpha * F.cross_entropy(logits, label.expand(len(synthetic)))
        return total

    @property
    def sweeps(self) -> list[Sweep]:
        """The passes over the classes that an image update makes."""
        constrained = self.settings.alpha > 0
        if constrained and self.settings.steps == "sweeps":
            return [Sweep(True, False), Sweep(False, True)]
        return [Sweep(True, constrained)]

    def begin(self, step: int) -> None:
        """Set the rate, and draw frequencies from N(0, 1)."""
        settings, context = self.settings, self.context
        if settings.falling:
            self.optimiser.lr = settings.image_lr * (1.0 - (step - 1) / context.outer_steps)
        draws = generator(context.seed, "frequencies", step)
        self.frequencies.copy_(torch.randn(self.frequencies.shape, generator=draws))

    def image_step(self, inner: int, draws: StepDraws) -> torch.Tensor:
        """One update, in one sweep or in two; the sum of the classes' losses."""
        total = torch.zeros((), device=self.labels.device)
        for sweep in self.sweeps:
            self.sweep = sweep
            total += super().image_step(inner, draws)
        return total

    def class_work(self, label: int, draws: StepDraws) -> None:
        """What an image update computes for one class."""
        for sweep in self.sweeps:
            self.sweep = sweep
            super().class_work(label, draws)

    def real_side(self, labels: Turn, inner: int, draws: StepDraws) -> torch.Tensor:
        """The real images of some classes, (K, B, channels, H, H); none where they are not matched."""
        if self.sweep.matches:
            return self.real_images(labels, inner, draws)
        return self.context.synthetic.images.new_empty(len(labels), 0, *self.context.synthetic.images.shape[1:])

    @property
    def variant(self) -> Sweep:
        """The terms that the loss looks at."""
        return self.sweep

    @property
    def max_decoded(self) -> int:
        """Decoded images of a class per image update, at most."""
        return self.settings.max_decoded

    def image_optimiser(self) -> ImageOptimiser:
        """SGD, class by class or on the sum, or AdamW."""
        settings, synthetic = self.settings, self.context.synthetic
        if settings.image_optimiser == "adamw":
            return ImageAdam(synthetic, settings.image_lr, weight_decay=5e-4)
        coasts = settings.image_optimiser == "coasting"
        return ImageSGD(synthetic, settings.image_lr, settings.image_momentum, coasts=coasts)

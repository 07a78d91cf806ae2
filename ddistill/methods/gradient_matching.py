"""Gradient matching: move synthetic images until they give a network the gradients that real images give it.

DC (dataset condensation, https://arxiv.org/abs/2006.05929), DSA (https://arxiv.org/abs/2102.08259) and IDC
(https://arxiv.org/abs/2205.14959).

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, M inner steps.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from ddistill.augment import DSA_AUGMENTATION, NO_AUGMENTATION, AugmentSettings
from ddistill.data import epoch_batches
from ddistill.methods.base import PLAIN_SGD, Needs, draw_real, synthetic_trainer
from ddistill.methods.class_matching import ClassMatching, ClassMatchingSettings, Networks
from ddistill.methods.distances import DistanceName
from ddistill.methods.image_optimiser import ImageOptimiser, ImageSGD
from ddistill.methods.match import gradient_distance, match_in_parts
from ddistill.methods.paths import NetworkDraws, Paths
from ddistill.network_sources import NetworkDraw, NetworkSource, copy_of
from ddistill.runtime.randomness import generator
from ddistill.training import Trainer, TrainingSettings

BATCH_NORM_IMAGES = 16
"""Real images per class that set the statistics of a batch norm (DC)."""


class GradientMatchingSettings(ClassMatchingSettings):
    """What DC, DSA and IDC have in common, with the values of IDC."""

    distance: DistanceName = "mse"
    """mse, l1 or cosine."""
    image_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the images, before it is scaled where ``base_side`` is set."""
    base_side: int | None = Field(default=32, ge=1)
    """Scale the rate by (ipc / 10) * (side / base side) ** 2, as IDC does: 224 px for ImageNet, 28 for MNIST, 32
    otherwise; not set: the rate is used as it is."""
    image_space: Literal["pixels", "normalised"] = "pixels"
    """What image_lr is meant for: pixels in [0, 1] (IDC), or images normalised by mean and std (DC, DSA)."""
    inner_steps: int = Field(default=100, ge=1)
    real_batch: int = Field(default=64, ge=1)
    max_decoded: int = Field(default=128, ge=1)
    """At most this many decoded images per class and inner step; a random subset where there are more."""
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop", "cutout"))
    network_samples: int = Field(default=2000, ge=0)
    """Real images that the network is trained on after each image update, rounded up to whole mini-batches."""
    network_epochs: int = Field(default=0, ge=0)
    """Epochs on the synthetic set that the network is trained for between image updates (DC, DSA)."""
    synthetic_training: TrainingSettings = PLAIN_SGD
    """How the network is trained on the synthetic set."""
    image_step: Literal["class", "sum"] = "class"
    """class: one SGD step on the images after each class, as IDC's program does; sum: one step on the sum of all
    classes' distances (DC, DSA)."""
    freeze_batch_norm: bool = False
    """Move the statistics of batch norms by 16 real images per class of an image update, and hold them (DC, DSA)."""

    @model_validator(mode="after")
    def _check(self) -> GradientMatchingSettings:
        if self.network_samples and self.network_epochs:
            raise ValueError(
                "method.network_samples trains the network on real images, method.network_epochs on the synthetic set; "
                "set one of them to 0"
            )
        return self

    @property
    def needs(self) -> Needs:
        """A network, and gradients of second order."""
        return Needs(network=True, second_order=True, sharded=True)

    def scaled_image_lr(self, ipc: int, side: int) -> float:
        """The rate that is used."""
        return self.image_lr * ((ipc / 10.0) * (side / self.base_side) ** 2 if self.base_side else 1.0)


class IDCSettings(GradientMatchingSettings):
    """IDC: per-class gradient matching, the network trained on real data between image steps."""

    name: Literal["idc"] = "idc"
    """The method."""


class CondensationSettings(GradientMatchingSettings):
    """The values that DC and DSA share."""

    distance: DistanceName = "cosine"
    image_lr: float = Field(default=0.1, gt=0)
    base_side: int | None = Field(default=None, ge=1)
    image_space: Literal["pixels", "normalised"] = "normalised"
    inner_steps: int = Field(default=1, ge=1)
    real_batch: int = Field(default=256, ge=1)
    augment: AugmentSettings = NO_AUGMENTATION
    network_samples: int = Field(default=0, ge=0)
    network_epochs: int = Field(default=1, ge=0)
    image_step: Literal["class", "sum"] = "sum"
    freeze_batch_norm: bool = True


class DCSettings(CondensationSettings):
    """DC: cosine distance, all classes' losses summed, the network trained on the synthetic set in between."""

    name: Literal["dc"] = "dc"
    """The method."""


class DSASettings(CondensationSettings):
    """DSA: DC with siamese augmentation, one operation per call, in matching and in training."""

    name: Literal["dsa"] = "dsa"
    """The method."""
    augment: AugmentSettings = DSA_AUGMENTATION
    synthetic_training: TrainingSettings = PLAIN_SGD.model_copy(update={"augment": DSA_AUGMENTATION})


class AsItIs:
    """A source of the network that is there.

    Args:
        trainer: of it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.networks = NetworkDraw(copy_of(trainer.module.state_dict()), momenta=copy_of(trainer.momenta))

    def draw(self, _step: int) -> NetworkDraw:
        """Its weights, and the momenta of its training."""
        return self.networks


class GradientMatching(ClassMatching):
    """The inner loop of DC, DSA and IDC, for whatever network the source gave.

    Deviations from the authors' programs: the real images of a class start a new shuffled pass at each outer step;
    the stored images of DC and DSA stay in [0, 1] pixels and are clamped there at each outer step.
    """

    settings: GradientMatchingSettings
    divided = True
    captured = True
    paths: Paths | None = None
    drawn: int | None = None

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """D(gradient of the real images' loss, gradient of the synthetic images' loss)."""
        setting = (self.grad_and_value, self.forward, self.distance)
        return gradient_distance(*setting, networks.weights, real, synthetic, label)

    def class_gradient_in_parts(
        self, networks: Networks, real: torch.Tensor, synthetic: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`class_gradient` with the activations of a few images at a time."""
        part = self.chunking.images or len(synthetic)
        return match_in_parts(self.forward, self.distance, networks.weights, real, synthetic, label, part)

    @property
    def distance(self) -> DistanceName:
        """Name of D."""
        return self.settings.distance

    @property
    def max_decoded(self) -> int:
        """Decoded images of a class per inner step, at most."""
        return self.settings.max_decoded

    def image_optimiser(self) -> ImageOptimiser:
        """SGD; class by class for IDC."""
        settings, context = self.settings, self.context
        most = max(context.synthetic.counts[label] for label in context.synthetic.open_classes)
        lr = settings.scaled_image_lr(most, context.synthetic.images.shape[-1])
        space = context.real.normalisation if settings.image_space == "normalised" else None
        coasts = settings.image_step == "class"
        return ImageSGD(context.synthetic, lr, settings.image_momentum, space, coasts=coasts)

    def before(self, step: int, inner: int) -> None:
        """Move the statistics of batch norms by one batch of 16 real images per class, then hold them still (DC)."""
        context, network = self.context, self.context.network
        network.train()
        if self.paths is not None:
            self.paths.advance()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms or not self.settings.freeze_batch_norm:
            return
        turn = self.turns(step)[inner]
        chosen = draw_real(context, f"batch norm {inner}", step, BATCH_NORM_IMAGES, 1, [turn]).flatten()
        with torch.no_grad():
            network(self.pipeline.normalise(context.real.fetch(chosen)))
        for norm in norms:
            norm.eval()

    def draw_networks(self, step: int, source: NetworkSource) -> NetworkDraw:
        """Those that the source draws; what they go through on real images is computed ahead (IDC)."""
        if not self.settings.network_samples or self.inner_steps == 1:
            return source.draw(step)
        if self.paths is None or step not in self.paths.steps:
            self.paths = self._paths(range(step, max(step, self.context.outer_steps) + 1))
        self.paths.load_into(self.context.network, step, 0, source)
        self.drawn = step
        return NetworkDraw(copy_of(self.context.network.state_dict()))

    def _paths(self, steps: range) -> Paths:
        return Paths(self.context.trainer, self.network_draws, self.ranks, self.inner_steps, steps)

    def begin(self, step: int) -> None:
        """Start an outer step, with the network as it is where `draw_networks` was not asked."""
        if self.drawn != step and self.settings.network_samples and self.inner_steps > 1:
            self.paths = self._paths(range(step, step + 1))
            self.paths.load_into(self.context.network, step, 0, AsItIs(self.context.trainer))
        self.drawn = None

    def between(self, step: int, inner: int, draws: Any) -> None:
        """Train the network on real images (IDC), or for some epochs on the synthetic set as it now is (DC, DSA)."""
        settings, context = self.settings, self.context
        if inner + 1 == settings.inner_steps:
            return  # nobody would use it
        if self.paths is not None:
            self.paths.load_into(context.network, step, inner + 1)
        elif settings.network_epochs:
            if self.optimiser.coasts:
                self.join_classes()
            trainer = synthetic_trainer(context, settings.synthetic_training)
            random = generator(context.seed, "synthetic batch", step, inner)
            for _ in range(settings.network_epochs):
                trainer.run_epoch(random)

    def network_draws(self, step: int) -> NetworkDraws:
        """Of the training on real images at an outer step."""
        context, steps, total = self.context, self.inner_steps, len(self.context.real.labels)
        batch = min(context.trainer.settings.batch, total)
        batches = -(-self.settings.network_samples // batch)
        order = epoch_batches(total, batch, steps * batches, generator(context.seed, "network batch", step))
        training = context.trainer.draw(steps * batches, batch, generator(context.seed, "network augmentation", step))
        return order.view(steps, batches, batch).to(context.real.images.device), training

    def smaller_chunk(self) -> str | None:
        """Put less into a launch after the device ran out of memory: fewer networks, then fewer classes."""
        fewer = self.paths.smaller() if self.paths is not None else None
        return fewer or super().smaller_chunk()

    def flops_per_outer_step(self) -> float:
        """Of the image updates and of the network's training between them."""
        settings, context = self.settings, self.context
        matching = super().flops_per_outer_step()
        if not settings.network_epochs:
            batches = -(-settings.network_samples // min(context.trainer.settings.batch, len(context.real.labels)))
            return matching + context.trainer.flops_per_step() * batches * (self.inner_steps - 1)
        epoch = synthetic_trainer(context, settings.synthetic_training).flops_per_epoch()
        return matching + epoch * settings.network_epochs * (self.inner_steps - 1)

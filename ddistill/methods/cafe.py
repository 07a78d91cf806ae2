"""CAFE: align synthetic and real class means at every layer, and let the synthetic means classify real images.

https://arxiv.org/abs/2203.01531.

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, E numbers of an embedding
(the input of the classifier), L layers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch.nn import functional as F

from ddistill.augment import NO_AUGMENTATION, AugmentSettings
from ddistill.methods.base import PLAIN_SGD, Context, Needs, OnInner, draw_real, synthetic_trainer
from ddistill.methods.class_matching import ClassMatching, Networks, StepDraws, Through
from ddistill.methods.turns import Turn
from ddistill.runtime.flops import flops_of
from ddistill.runtime.randomness import generator
from ddistill.runtime.settings import Settings
from ddistill.training import TrainingSettings, maybe_compile

Tensors = dict[str, torch.Tensor]

LATE_LAYERS = 2
"""Layers at the output side whose weight is 1."""
LR_FALLS = (0.6, 0.8, 0.9)
"""Parts of the run after which the image rate is halved: 1200, 1600 and 1800 of 2000 steps."""


class CAFESettings(Settings):
    """CAFE: layer-wise feature alignment, a discrimination loss, and a dynamic schedule of both loops."""

    name: Literal["cafe"] = "cafe"
    """The method."""
    image_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the images, for images normalised by mean and std; halved at 0.6, 0.8 and 0.9 of the run."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    real_batch: int = Field(default=256, ge=1)
    """Real images per class and step (B)."""
    early_weight: float = Field(default=0.1, ge=0)
    """Weight of the distance at all layers but the last two, whose weight is 1."""
    discrimination_weight: float = Field(default=0.01, ge=0)
    """Weight of the cross-entropy of real images under the synthetic class means."""
    window: int = Field(default=10, ge=2)
    """Accuracies of the network on real images that the schedule looks back on."""
    watch_batch: int = Field(default=128, ge=1)
    """Real images per class of which each of these accuracies is, drawn anew for each."""
    stop_matching_range: float = Field(default=0.04, ge=0, le=1)
    """An outer step ends when the accuracy's range over the window is under this."""
    stop_training_range: float = Field(default=0.03, ge=0, le=1)
    """Network training between image updates ends when the accuracy's range over the window is over this."""
    max_inner_steps: int = Field(default=50, ge=1)
    """Image updates per outer step at most; the published program has no bound."""
    max_network_epochs: int = Field(default=50, ge=0)
    """Epochs on the synthetic set between image updates at most; the published program has no bound. Below the window
    it is what ends the training."""
    augment: AugmentSettings = NO_AUGMENTATION
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""
    synthetic_training: TrainingSettings = PLAIN_SGD
    """How the network is trained on the synthetic set."""

    @property
    def needs(self) -> Needs:
        """A network that gives its layers and embeddings, and is trained on the synthetic set."""
        return Needs(network=True, features=True, layers=True, fixed_length=True)


def layer_weights(layers: int, early: float) -> list[float]:
    """``early`` for all layers but the last two, 1 for those, and 1 more for the embedding, which is the last layer."""
    late = min(LATE_LAYERS, layers)
    weights = [early] * (layers - late) + [1.0] * late
    weights[-1] += 1.0
    return weights


def describe(layers: Through, weights: Tensors, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Mean over the images of every layer, L tensors (...), and the embeddings (N, E)."""
    maps = layers(weights, images)
    return [layer.mean(dim=0) for layer in maps], maps[-1].flatten(1)


def discriminate(
    embeddings: torch.Tensor, labels: torch.Tensor, means: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of real images under the synthetic class means as classifier, summed over the images.

    Args:
        embeddings: of the real images of all classes, (C * B, E).
        labels: int64 (C * B,).
        means: synthetic mean embeddings, (C, E).

    Returns:
        The sum (0-d), and its gradient with respect to the means (C, E).
    """
    means = means.detach().requires_grad_()
    loss = F.cross_entropy(embeddings @ means.T, labels, reduction="sum")
    return loss.detach(), torch.autograd.grad(loss, means)[0]


class Watch:
    """The accuracies of the last steps and their range."""

    def __init__(self, window: int) -> None:
        self.values: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> float | None:
        """The range over the window with this value, or None while it is not full."""
        self.values.append(value)
        return max(self.values) - min(self.values) if len(self.values) == self.values.maxlen else None


@dataclass
class Done:
    """What the dynamic schedule has done so far."""

    image_steps: int = 0
    network_epochs: int = 0


class CAFE(ClassMatching):
    """The loop of CAFE: image updates, each followed by network training, until the network's accuracy settles.

    Deviations from the authors' program: both loops are bounded; an accuracy that is watched does not carry a tenth of
    the one before; stored images stay in [0, 1] pixels. The schedule reads one number per image update and per epoch
    on the host, as it must.
    """

    settings: CAFESettings
    mapped = False

    def __init__(self, settings: CAFESettings, context: Context) -> None:
        self.layers = Through(context.network, "layers", context.precision)
        super().__init__(settings, context)
        self._describe = maybe_compile(describe, self.compiled)
        self.done = Done()
        self.targets: list[tuple[list[torch.Tensor], torch.Tensor]] = []
        self.watch = Watch(settings.window)
        self.at = (0, 0)

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Weighted squared distance of one class's layer means; its gradient is of that plus <pull, mean embedding>.

        ``real`` holds the layer means of the real images, and the pull: the gradient of the discrimination loss of all
        classes with respect to the class's mean embedding, (E,), since that loss does not fall apart into classes.
        """
        targets, pull = real
        means, embeddings = describe(self.layers, networks.weights, synthetic)
        weights = layer_weights(len(targets), self.settings.early_weight)
        terms = [w * (m - t).square().sum() for w, m, t in zip(weights, means, targets, strict=True)]
        along = (pull * embeddings.mean(dim=0)).sum()
        return torch.stack(terms).sum() + (along - along.detach())  # no value, a gradient

    def begin(self, step: int) -> None:
        """Halve the rate late in the run; forget the accuracies."""
        passed = sum(step > part * self.context.outer_steps for part in LR_FALLS)
        self.optimiser.lr = self.settings.image_lr * 0.5**passed
        self.watch = Watch(self.settings.window)

    def before(self, step: int, inner: int) -> None:
        """Make the network ready for an image update, and remember which it is."""
        super().before(step, inner)
        self.at = (step, inner)

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Image updates under one network until the schedule ends them; the mean loss of all classes together."""
        return super().outer_step(step, on_inner) * self.context.synthetic.num_classes

    def image_step(self, inner: int, draws: StepDraws) -> torch.Tensor:
        """One image update: what is aimed at, from all classes, then each class's gradient."""
        context, weight = self.context, self.settings.discrimination_weight
        targets, embeddings, means = [], [], []
        for label in self.assigned:
            target, embedded, mean = self._look(label, inner, draws)
            targets.append(target)
            embeddings.append(embedded)
            means.append(mean)
        labels = context.real.fetch_labels(draws.real[:, inner].flatten())
        loss, pulls = discriminate(torch.cat(embeddings).float(), labels, torch.stack(means).float())
        self.targets = list(zip(targets, weight * pulls, strict=True))
        self.done.image_steps += 1
        return weight * loss + super().image_step(inner, draws)

    @torch.no_grad()
    def _look(self, label: int, inner: int, draws: StepDraws) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Layer means and embeddings of a class's real images, and the mean embedding of its synthetic ones."""
        synthetic, weights = self.context.synthetic, self.networks.weights
        target, embedded = self._describe(self.layers, weights, self.real_images([label], inner, draws)[0])
        stored = synthetic.images[synthetic.class_slice(label)]
        means, _ = self._describe(self.layers, weights, self.synthetic_images([label], stored, inner, draws)[0])
        return target, embedded, means[-1].flatten()

    def real_side(self, labels: Turn, inner: int, draws: StepDraws) -> Any:
        """What `image_step` has found for the classes."""
        return [self.targets[label] for label in labels]

    @property
    def inner_steps(self) -> int:
        """Image updates per outer step, at most."""
        return self.settings.max_inner_steps

    def settled(self) -> bool:
        """Whether the accuracy's range over the window is small; reads one number on the host."""
        moved = self.watch.add(self.accuracy("matched"))
        return moved is not None and moved < self.settings.stop_matching_range

    def between(self, step: int, inner: int, draws: StepDraws) -> None:
        """Epochs on the synthetic set until the accuracy on real images has moved enough."""
        settings, context = self.settings, self.context
        trainer = synthetic_trainer(context, settings.synthetic_training)
        watch, random = Watch(settings.window), generator(context.seed, "synthetic batch", step, inner)
        for epoch in range(settings.max_network_epochs):
            trainer.run_epoch(random)
            self.done.network_epochs += 1
            moved = watch.add(self.accuracy(f"trained {epoch}"))
            if moved is not None and moved > settings.stop_training_range:
                break

    @torch.no_grad()
    def accuracy(self, when: str) -> float:
        """Of the network as it is, in [0, 1], on real images drawn for this moment of the image update."""
        context, (step, inner) = self.context, self.at
        network = context.network.eval()
        correct = torch.zeros((), device=self.labels.device)
        for chosen in draw_real(context, f"watched {when} {inner}", step, self.settings.watch_batch, 1):
            images, labels = context.real.fetch(chosen[0]), context.real.fetch_labels(chosen[0])
            correct += (network(self.pipeline.normalise(images)).argmax(dim=1) == labels).float().mean()
        return float(correct) / len(self.labels)

    def state(self) -> Tensors:
        """The momentum of the images, and what was done."""
        done = torch.tensor([self.done.image_steps, self.done.network_epochs], dtype=torch.int64)
        return {**super().state(), "done": done}

    def load_state(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        super().load_state(state)
        self.done = Done(*state["done"].tolist())

    def flops_per_outer_step(self) -> float:
        """Of an outer step that ends as early as it can: as many image updates as the window is long."""
        (image, epoch), window = self._flops, self.settings.window
        return window * image + (window - 1) * epoch * min(window, self.settings.max_network_epochs)

    def flops_done(self) -> float:
        """Of what the dynamic schedule has done."""
        image, epoch = self._flops
        return self.done.image_steps * image + self.done.network_epochs * epoch

    @cached_property
    def _flops(self) -> tuple[float, float]:
        """Of one image update, and of one network epoch, each with the accuracy that is watched; counted once."""
        image = super().flops_per_outer_step() / self.inner_steps
        network, real = self.context.network, self.settings.watch_batch * self.context.synthetic.num_classes
        one = self.context.synthetic.images[:1]
        watched = flops_of(lambda: network(one)) * real
        epoch = synthetic_trainer(self.context, self.settings.synthetic_training).flops_per_epoch()
        return image + watched, epoch + watched

    def _eager(self) -> Self:
        eager = super()._eager()
        eager._describe = describe
        return eager

    def class_work(self, label: int, draws: StepDraws) -> None:
        """What an image update computes for one class."""
        target, _, mean = self._look(label, 0, draws)
        self.targets = [(target, torch.zeros_like(mean))] * self.context.synthetic.num_classes
        super().class_work(label, draws)

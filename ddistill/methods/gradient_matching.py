"""Gradient matching: move synthetic images until they give a network the gradients that real images give it (IDC).

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, M inner steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import grad, grad_and_value
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddistill.augment import AugmentDraws, AugmentSettings, Pipeline, draw_augment
from ddistill.data import class_batches, epoch_batches
from ddistill.methods.base import Context, Needs, OnInner
from ddistill.methods.distances import DISTANCES, DistanceName, matched_names
from ddistill.randomness import generator
from ddistill.settings import Settings
from ddistill.training import Forward, TrainingDraws, maybe_compile

Tensors = dict[str, torch.Tensor]
Match = Callable[..., tuple[torch.Tensor, torch.Tensor]]

CLASSES_AT_ONCE = 10
"""Classes per launch where the device is no CPU and `Context.class_chunk` is not set."""


class GradientMatchingSettings(Settings):
    """IDC: per-class gradient matching, the network trained on real data between image steps."""

    name: Literal["idc"] = "idc"
    """The method."""
    distance: DistanceName = "mse"
    """mse, l1 or cosine."""
    image_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the images before it is scaled by (ipc / 10) * (side / base side) ** 2."""
    base_side: int = Field(default=32, ge=1)
    """Side in pixels at which ``image_lr`` is not scaled: 224 for ImageNet, 28 for MNIST, 32 otherwise."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    inner_steps: int = Field(default=100, ge=1)
    """Image updates per outer step (M)."""
    real_batch: int = Field(default=64, ge=1)
    """Real images per class and inner step (B)."""
    max_decoded: int = Field(default=128, ge=1)
    """At most this many decoded images per class and inner step; a random subset where there are more."""
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop", "cutout"))
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""
    network_samples: int = Field(default=2000, ge=0)
    """Real images that the network is trained on after each image update, rounded up to whole mini-batches."""

    def scaled_image_lr(self, ipc: int, side: int) -> float:
        """The rate that is used."""
        return self.image_lr * (ipc / 10.0) * (side / self.base_side) ** 2


def split_weights(module: nn.Module, distance: DistanceName, *, detach: bool) -> tuple[Tensors, Tensors]:
    """The weights whose gradients the distance compares, and the others, by name.

    Detached tensors share the module's memory; `match` wants them, or it would keep all for a backward pass that
    never comes. `match_eager` wants the parameters themselves.
    """
    weights = {name: p.detach() if detach else p for name, p in module.named_parameters()}
    names = matched_names(distance, weights)
    return {name: weights[name] for name in names}, {n: w for n, w in weights.items() if n not in names}


def match(
    forward: Forward,
    distance: DistanceName,
    matched: Tensors,
    fixed: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """D(grad_theta CE(real), grad_theta CE(synthetic)) of one class and its gradient with respect to the images.

    Written with torch.func so that it compiles into one graph, and maps over classes.

    Args:
        forward: from weights and images to logits.
        distance: name of D.
        matched: the weights whose gradients are compared, detached.
        fixed: the other weights, detached.
        real: (B, channels, H, H), normalised and augmented.
        synthetic: (S, channels, H, H), the same way.
        label: 0-d int64, the class.

    Returns:
        The distance (0-d) and its gradient (S, channels, H, H).
    """

    def loss(weights: Tensors, images: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward({**fixed, **weights}, images), label.expand(len(images)))

    target = grad(loss)(matched, real)
    gradient, value = grad_and_value(lambda images: DISTANCES[distance](target, grad(loss)(matched, images)))(synthetic)
    return value, gradient


def match_eager(
    forward: Forward,
    distance: DistanceName,
    matched: Tensors,
    fixed: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`match` by plain autograd on the module's own weights; faster than it where nothing is compiled."""
    weights = list(matched.values())
    synthetic = synthetic.detach().requires_grad_()

    def gradients(images: torch.Tensor, create_graph: bool) -> Tensors:
        # a view, since torch's FLOP counter cannot hook a leaf under autograd.grad
        logits = forward({**fixed, **matched}, images.view_as(images))
        loss = F.cross_entropy(logits, label.expand(len(images)))
        return dict(zip(matched, torch.autograd.grad(loss, weights, create_graph=create_graph), strict=True))

    value = DISTANCES[distance](gradients(real, False), gradients(synthetic, True))
    return value.detach(), torch.autograd.grad(value, synthetic)[0]


def match_classes(
    forward: Forward,
    distance: DistanceName,
    matched: Tensors,
    fixed: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`match` for K classes in one launch: real (K, B, ...), synthetic (K, S, ...), labels (K,).

    The weights are shared, so forward passes and input gradients run as one batch of K times as many images; only
    the weight gradients, and what is derived from them, have a class axis.

    Returns:
        Distances (K,) and gradients (K, S, channels, H, H).
    """
    one = partial(match, forward, distance, matched, fixed)
    return torch.vmap(one)(real, synthetic, labels)


def coast(images: torch.Tensor, velocity: torch.Tensor, lr: float, momentum: float, steps: torch.Tensor) -> None:
    """SGD steps with a zero gradient, ``steps`` of them for each image, in closed form and in place.

    The published program steps one tensor of all classes once per class, so a class's images keep moving by
    momentum during the other classes' steps: by lr * v * (mu + mu^2 + ... + mu^steps).

    Args:
        images, velocity: (n, ...).
        lr, momentum: of the images.
        steps: of each image, (n,) or 0-d.
    """
    decay = (momentum ** steps.to(images.dtype)).view(-1, *[1] * (images.ndim - 1))
    images.sub_(velocity * (lr * momentum * (1.0 - decay) / (1.0 - momentum)))
    velocity.mul_(decay)


@dataclass(frozen=True)
class Plan:
    """Every random number of one outer step.

    Attributes:
        real: positions in the real images, int64 (C, M, B).
        subset: for classes with too many decoded images, the ones to use, int64 (M, max_decoded).
        augment: one call per (inner step, class).
        network: positions of the network's mini-batches, int64 (M, batches, batch).
        training: augmentation and CutMix of those mini-batches, one after another.
    """

    real: torch.Tensor
    subset: dict[int, torch.Tensor]
    augment: AugmentDraws
    network: torch.Tensor
    training: TrainingDraws


class GradientMatching:
    """The inner loop of IDC (algorithm 1 of its paper), for whatever network the source gave.

    Deviation from the authors' program: the real images of a class start a new shuffled pass at each outer step.
    """

    needs = Needs(network=True, second_order=True, trains_network_on="real")

    def __init__(self, settings: GradientMatchingSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        images = context.synthetic.images
        self.velocity = torch.zeros_like(images)
        largest = max(context.synthetic.counts)
        self.lr = settings.scaled_image_lr(largest, images.shape[-1])
        self.pipeline = Pipeline(settings.augment, context.real.mean, context.real.std, images.device)
        compiled = context.compiled and next(context.network.buffers(), None) is None
        self.forward = Forward(context.network, context.precision)
        self.labels = torch.arange(context.synthetic.num_classes, device=images.device)
        self.chunks = class_chunks(context.synthetic.counts, self._class_chunk())
        functional = compiled or any(len(chunk) > 1 for chunk in self.chunks)
        self.matched, self.fixed = split_weights(context.network, settings.distance, detach=functional)
        self._match: Match = maybe_compile(match, True) if compiled else match if functional else match_eager
        self._match_classes = maybe_compile(match_classes, compiled)

    def _class_chunk(self) -> int:
        """Classes per launch: on a CPU one after the other is faster (grouped convolutions are slow there)."""
        if self.context.class_chunk is not None:
            return self.context.class_chunk
        return 1 if self.velocity.device.type == "cpu" else CLASSES_AT_ONCE

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """M image updates per class, each followed by training the network on real data."""
        settings, context = self.settings, self.context
        context.synthetic.images.clamp_(0.0, 1.0)
        context.trainer.restart()
        plan = self._draw(step)
        losses = torch.zeros((), device=self.velocity.device)
        for inner in range(settings.inner_steps):
            losses += self.class_loop(inner, plan)
            batches = plan.network[inner].unbind()
            context.trainer.run(batches, plan.training.part(inner * len(batches), len(batches)))
            on_inner(inner + 1, settings.inner_steps)
        return losses / (settings.inner_steps * context.synthetic.num_classes)

    def class_loop(self, inner: int, plan: Plan) -> torch.Tensor:
        """One image update for every class under one network; the sum of their distances, a 0-d tensor.

        The images of class c first coast through the c steps of the classes before it, and last through those of the
        classes after it: the same as one SGD over all images that steps once per class.
        """
        synthetic, momentum = self.context.synthetic, self.settings.image_momentum
        images, velocity, own = synthetic.images, self.velocity, synthetic.labels
        coast(images, velocity, self.lr, momentum, own)
        total = torch.zeros((), device=velocity.device)
        for labels in self.chunks:
            mine = slice(synthetic.class_slice(labels[0]).start, synthetic.class_slice(labels[-1]).stop)
            loss, gradient = self.image_gradient(labels, images[mine], inner, plan)
            velocity[mine].mul_(momentum).add_(gradient)
            images[mine].sub_(velocity[mine], alpha=self.lr)
            total += loss
        coast(images, velocity, self.lr, momentum, synthetic.num_classes - 1 - own)
        return total

    def image_gradient(
        self, labels: range, stored: torch.Tensor, inner: int, plan: Plan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the distances of consecutive classes and its gradient with respect to their stored images.

        Args:
            labels: classes with equally many stored images.
            stored: their images (K * I, channels, H, H), class-sorted.
            inner: inner step, from 0.
            plan: random numbers of the outer step.
        """
        stored = stored.detach().requires_grad_()
        real, synthetic = [], []
        for label, own in zip(labels, stored.chunk(len(labels)), strict=True):
            call = inner * self.context.synthetic.num_classes + label
            uniforms, choice = plan.augment.uniforms[call], plan.augment.choices[call]
            real.append(self.pipeline(self.context.real.fetch(plan.real[label, inner]), uniforms, choice))
            decoded = self.context.synthetic.decode_class(own)
            if label in plan.subset:
                decoded = decoded[plan.subset[label][inner]]
            synthetic.append(self.pipeline(decoded, uniforms, choice))
        self.context.network.train()
        setting = (self.forward, self.settings.distance, self.matched, self.fixed)
        if len(labels) == 1:
            loss, gradient = self._match(*setting, real[0], synthetic[0].detach(), self.labels[labels[0]])
            return loss, torch.autograd.grad(synthetic[0], stored, gradient)[0]
        stacked = torch.stack(synthetic)
        mine = self.labels[labels.start : labels.stop]
        losses, gradient = self._match_classes(*setting, torch.stack(real), stacked.detach(), mine)
        return losses.sum(), torch.autograd.grad(stacked, stored, gradient)[0]

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images."""
        return {"velocity": self.velocity}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back the momentum of the images."""
        self.velocity.copy_(state["velocity"])

    def flops_per_outer_step(self) -> float:
        """Counted on one eager class per distinct number of decoded images, and one network step."""
        synthetic, plan = self.context.synthetic, self._draw(0, inner_steps=1)
        counted = copy.copy(self)
        counted.matched, counted.fixed = split_weights(self.context.network, self.settings.distance, detach=False)
        counted._match = match_eager
        by_count: dict[int, float] = {}
        matching = 0.0
        for label, count in enumerate(synthetic.counts):
            if count not in by_count:
                with FlopCounterMode(display=False) as counter:
                    images = synthetic.images[synthetic.class_slice(label)]
                    counted.image_gradient(range(label, label + 1), images, 0, plan)
                by_count[count] = float(counter.get_total_flops())
            matching += by_count[count]
        training = self.context.trainer.flops_per_step() * plan.network.shape[1]
        return (matching + training) * self.settings.inner_steps

    def _draw(self, step: int, inner_steps: int | None = None) -> Plan:
        settings, context = self.settings, self.context
        steps = inner_steps or settings.inner_steps
        seed, classes, device = context.seed, context.synthetic.num_classes, self.velocity.device
        real, subset = [], {}
        for label in range(classes):
            first, end = context.class_offsets[label : label + 2]
            draws = generator(seed, "real batch", step, label)
            real.append(class_batches(end - first, settings.real_batch, steps, draws) + first)
            decoded = context.synthetic.decoded_per_class(label)
            if decoded > settings.max_decoded:
                keys = torch.rand(steps, decoded, generator=generator(seed, "decoded subset", step, label))
                subset[label] = keys.argsort(dim=1)[:, : settings.max_decoded].to(device)
        augment = draw_augment(settings.augment, steps * classes, 1, generator(seed, "siamese", step)).to(device)
        batch = min(context.trainer.settings.batch, len(context.real.labels))
        batches = -(-settings.network_samples // batch)
        order = epoch_batches(
            len(context.real.labels), batch, steps * batches, generator(seed, "network batch", step)
        ).view(steps, batches, batch)
        training = context.trainer.draw(steps * batches, batch, generator(seed, "network augmentation", step))
        return Plan(torch.stack(real).to(device), subset, augment, order.to(device), training)


def class_chunks(counts: list[int], most: int) -> list[range]:
    """Runs of consecutive classes with equally many stored images, at most ``most`` in each."""
    chunks: list[range] = []
    for label, count in enumerate(counts):
        last = chunks[-1] if chunks else range(0)
        if len(last) in range(1, most) and counts[last.start] == count:
            chunks[-1] = range(last.start, label + 1)
        else:
            chunks.append(range(label, label + 1))
    return chunks

"""Gradient matching: move synthetic images until they give a network the gradients that real images give it (IDC).

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, M inner steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call, grad, grad_and_value
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddistill.augment import AugmentDraws, AugmentSettings, Pipeline, draw_augment
from ddistill.data import class_batches, epoch_batches
from ddistill.methods.base import Context, Needs, OnInner
from ddistill.methods.distances import DISTANCES, DistanceName, matched_names
from ddistill.randomness import generator
from ddistill.settings import Settings
from ddistill.training import maybe_compile

Tensors = dict[str, torch.Tensor]


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
    module: nn.Module,
    distance: DistanceName,
    matched: Tensors,
    fixed: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """D(grad_theta CE(real), grad_theta CE(synthetic)) of one class and its gradient with respect to the images.

    Written with torch.func so that it compiles into one graph.

    Args:
        module: gives the forward function; its own weights are not used.
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
        logits = functional_call(module, {**fixed, **weights}, (images,))
        return F.cross_entropy(logits, label.expand(len(images)))

    target = grad(loss)(matched, real)
    gradient, value = grad_and_value(lambda images: DISTANCES[distance](target, grad(loss)(matched, images)))(synthetic)
    return value, gradient


def match_eager(
    module: nn.Module,
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
        loss = F.cross_entropy(module(images.view_as(images)), label.expand(len(images)))
        return dict(zip(matched, torch.autograd.grad(loss, weights, create_graph=create_graph), strict=True))

    value = DISTANCES[distance](gradients(real, False), gradients(synthetic, True))
    return value.detach(), torch.autograd.grad(value, synthetic)[0]


def coast(images: torch.Tensor, velocity: torch.Tensor, lr: float, momentum: float, steps: int) -> None:
    """``steps`` SGD steps with a zero gradient, in closed form and in place.

    The published program steps one tensor of all classes once per class, so a class's images keep moving by
    momentum during the other classes' steps: by lr * v * (mu + mu^2 + ... + mu^steps).
    """
    if momentum == 0.0 or steps == 0:
        return
    images.sub_(velocity, alpha=lr * momentum * (1.0 - momentum**steps) / (1.0 - momentum))
    velocity.mul_(momentum**steps)


@dataclass(frozen=True)
class Plan:
    """Every random number of one outer step.

    Attributes:
        real: positions in the real images, int64 (C, M, B).
        subset: for classes with too many decoded images, the ones to use, int64 (M, max_decoded).
        augment: one call per (inner step, class).
        network: positions of the network's mini-batches, int64 (M, batches, batch).
    """

    real: torch.Tensor
    subset: dict[int, torch.Tensor]
    augment: AugmentDraws
    network: torch.Tensor


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
        self.matched, self.fixed = split_weights(context.network, settings.distance, detach=compiled)
        self.labels = torch.arange(context.synthetic.num_classes, device=images.device)
        self._match: Callable[..., tuple[torch.Tensor, torch.Tensor]]
        self._match = maybe_compile(match, True) if compiled else match_eager

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """M image updates per class, each followed by training the network on real data."""
        settings, context = self.settings, self.context
        context.synthetic.images.clamp_(0.0, 1.0)
        context.trainer.restart()
        plan = self._draw(step)
        losses = torch.zeros((), device=self.velocity.device)
        for inner in range(settings.inner_steps):
            losses += self.class_loop(inner, plan)
            draws = generator(context.seed, "network augmentation", step, inner)
            context.trainer.run(list(plan.network[inner]), draws)
            on_inner(inner + 1, settings.inner_steps)
        return losses / (settings.inner_steps * context.synthetic.num_classes)

    def class_loop(self, inner: int, plan: Plan) -> torch.Tensor:
        """One image update for every class under one network; the sum of their distances, a 0-d tensor."""
        synthetic, momentum = self.context.synthetic, self.settings.image_momentum
        last = synthetic.num_classes - 1
        total = torch.zeros((), device=self.velocity.device)
        for label in range(synthetic.num_classes):
            stored = synthetic.images[synthetic.class_slice(label)]
            velocity = self.velocity[synthetic.class_slice(label)]
            coast(stored, velocity, self.lr, momentum, label)
            loss, gradient = self.image_gradient(label, stored, inner, plan)
            velocity.mul_(momentum).add_(gradient)
            stored.sub_(velocity, alpha=self.lr)
            coast(stored, velocity, self.lr, momentum, last - label)
            total += loss
        return total

    def image_gradient(
        self, label: int, stored: torch.Tensor, inner: int, plan: Plan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The class's distance and its gradient with respect to the stored images (I, channels, H, H)."""
        call = inner * self.context.synthetic.num_classes + label
        uniforms, choice = plan.augment.uniforms[call], plan.augment.choices[call]
        real = self.pipeline(self.context.real.fetch(plan.real[label, inner]), uniforms, choice)
        stored = stored.detach().requires_grad_()
        decoded = self.context.synthetic.decode_class(stored)
        if label in plan.subset:
            decoded = decoded[plan.subset[label][inner]]
        augmented = self.pipeline(decoded, uniforms, choice)
        self.context.network.train()
        loss, gradient = self._match(
            self.context.network,
            self.settings.distance,
            self.matched,
            self.fixed,
            real,
            augmented.detach(),
            self.labels[label],
        )
        return loss, torch.autograd.grad(augmented, stored, gradient)[0]

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images."""
        return {"velocity": self.velocity}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back the momentum of the images."""
        self.velocity.copy_(state["velocity"])

    def flops_per_outer_step(self) -> float:
        """Counted on one eager class per distinct number of decoded images, and one network step."""
        synthetic, plan = self.context.synthetic, self._draw(0, inner_steps=1)
        chosen, self._match = self._match, match_eager
        by_count: dict[int, float] = {}
        matching = 0.0
        for label, count in enumerate(synthetic.counts):
            if count not in by_count:
                with FlopCounterMode(display=False) as counter:
                    self.image_gradient(label, synthetic.images[synthetic.class_slice(label)], 0, plan)
                by_count[count] = float(counter.get_total_flops())
            matching += by_count[count]
        self._match = chosen
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
        return Plan(torch.stack(real).to(device), subset, augment, order.to(device))

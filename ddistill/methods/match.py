"""The distance between the gradients of real and of synthetic images, and its gradient with respect to the latter.

One class at a time, written for a compiler, for eager code and for little memory, and several classes in one launch;
all compute the same (`tests/reference/matching.py` is their plain form).

Shapes: B real images of a class, S decoded synthetic images of a class, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import grad, grad_and_value
from torch.nn import functional as F

from ddistill.methods.distances import DISTANCES, DistanceName, matched_names
from ddistill.training import Forward

Tensors = dict[str, torch.Tensor]
Match = Callable[..., tuple[torch.Tensor, torch.Tensor]]


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


def match_in_parts(
    forward: Forward,
    distance: DistanceName,
    matched: Tensors,
    fixed: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
    part: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`match_eager` with the activations of ``part`` images at a time, where a class does not fit.

    Both gradients are means over images, so they are summed part by part without a graph. With v = dD / d(synthetic
    gradient) the gradient with respect to the images of a part is that of <v, its gradient>, for which its forward
    and backward pass are computed once more: about a quarter more work. Not for networks that couple the images of a
    batch (batch norm).
    """
    weights = list(matched.values())

    def gradients(images: torch.Tensor, share: float, create_graph: bool) -> list[torch.Tensor]:
        loss = F.cross_entropy(forward({**fixed, **matched}, images.view_as(images)), label.expand(len(images)))
        return list(torch.autograd.grad(loss * share, weights, create_graph=create_graph))

    def mean(images: torch.Tensor) -> Tensors:
        sums = [torch.zeros_like(weight) for weight in weights]
        for some in images.split(part):
            for total, gradient in zip(sums, gradients(some, len(some) / len(images), False), strict=True):
                total += gradient
        return dict(zip(matched, sums, strict=True))

    target = mean(real.detach())
    own = {name: total.requires_grad_() for name, total in mean(synthetic.detach()).items()}
    value = DISTANCES[distance](target, own)
    slopes = torch.autograd.grad(value, list(own.values()))
    found = []
    for some in synthetic.detach().split(part):
        images = some.requires_grad_()
        along = [
            (gradient * slope).sum()
            for gradient, slope in zip(gradients(images, len(some) / len(synthetic), True), slopes, strict=True)
        ]
        found.append(torch.autograd.grad(torch.stack(along).sum(), images)[0])
    return value.detach(), torch.cat(found)


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

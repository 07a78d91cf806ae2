"""The distance between the gradients of real and of synthetic images, and its gradient in little memory.

`tests/reference/matching.py` is the plain form of both. Shapes: B real images of a class, S decoded synthetic ones.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ddistill.methods.distances import DISTANCES, DistanceName, matched_names
from ddistill.runtime.gradients import GradAndValue
from ddistill.training import Forward

Tensors = dict[str, torch.Tensor]


def gradient_distance(
    grad_and_value: GradAndValue,
    forward: Forward,
    distance: DistanceName,
    weights: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
) -> torch.Tensor:
    """D(grad_theta CE(real), grad_theta CE(synthetic)) of one class, 0-d.

    Args:
        grad_and_value: of `runtime.gradients`.
        forward: from weights and images to logits.
        distance: name of D; it says which weights' gradients are compared.
        weights: all of them, detached.
        real: (B, channels, H, H), normalised and augmented.
        synthetic: (S, channels, H, H), the same way.
        label: 0-d int64, the class.
    """
    matched = {name: weights[name] for name in matched_names(distance, weights)}

    def loss(theta: Tensors, images: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward({**weights, **theta}, images), label.expand(len(images)))

    gradient = grad_and_value(loss)
    return DISTANCES[distance](gradient(matched, real)[0], gradient(matched, synthetic)[0])


def match_in_parts(
    forward: Forward,
    distance: DistanceName,
    weights: Tensors,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    label: torch.Tensor,
    part: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gradient_distance` and its gradient with respect to the synthetic images, where a class does not fit.

    The activations of ``part`` images are kept at a time. Both gradients are means over images, so they are summed part
    by part without a graph. With v = dD / d(synthetic gradient) the gradient with respect to the images of a part is
    that of <v, its gradient>, for which its forward and backward pass are computed once more: about a quarter more
    work. Not for networks that couple the images of a batch (batch norm).
    """
    matched = {name: weights[name].detach().requires_grad_() for name in matched_names(distance, weights)}

    def gradients(images: torch.Tensor, share: float, create_graph: bool) -> list[torch.Tensor]:
        # a view, since torch's FLOP counter cannot hook a leaf under autograd.grad
        loss = F.cross_entropy(forward({**weights, **matched}, images.view_as(images)), label.expand(len(images)))
        return list(torch.autograd.grad(loss * share, list(matched.values()), create_graph=create_graph))

    def mean(images: torch.Tensor) -> Tensors:
        sums = [torch.zeros_like(weight) for weight in matched.values()]
        for some in images.split(part):
            for total, gradient in zip(sums, gradients(some, len(some) / len(images), False), strict=True):
                total += gradient
        return dict(zip(matched, sums, strict=True))

    target = mean(real.detach())
    gradient = {name: total.requires_grad_() for name, total in mean(synthetic.detach()).items()}
    value = DISTANCES[distance](target, gradient)
    v = torch.autograd.grad(value, list(gradient.values()))
    by_images = []
    for some in synthetic.detach().split(part):
        images = some.requires_grad_()
        of_part = gradients(images, len(some) / len(synthetic), True)
        product = torch.stack([(g * along).sum() for g, along in zip(of_part, v, strict=True)]).sum()
        by_images.append(torch.autograd.grad(product, images)[0])
    return value.detach(), torch.cat(by_images)

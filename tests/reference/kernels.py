"""What the hand-written kernels compute, by torch's operators, and the derivatives in which the two are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

EPS = 1e-5


def norm_relu_pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, H // 2, W // 2)."""
    return F.avg_pool2d(torch.relu(F.group_norm(x, x.shape[1], weight, bias, EPS)), 2)


def weight_gradient(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    """Of a convolution: the gradient of the output (N, K, pixels) times patches (N, C * R * S, pixels)."""
    patches = F.unfold(x, weight.shape[2:], padding=padding)
    return (g.flatten(2) @ patches.mT).sum(dim=0).view(weight.shape)


def derivatives(function: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Value, first gradients of a random linear function, and the gradients of a random linear function of those with
    respect to the first two tensors and to the first function."""
    draws = torch.Generator().manual_seed(1)

    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=draws).to(tensor)

    value = function(*tensors)
    outer = like(value).requires_grad_()
    first = torch.autograd.grad(value, tensors, outer, create_graph=True)
    mixed = sum((like(gradient) * gradient).sum() for gradient in first)
    second = torch.autograd.grad(mixed, [*tensors[:2], outer])
    return [value, *first, *second]

"""Weight perturbation: a random direction in weight space, filter by filter as long as the weights themselves."""

from __future__ import annotations

import torch

EPSILON = 1e-10

Weights = dict[str, torch.Tensor]


def random_direction(weights: Weights, generator: torch.Generator) -> Weights:
    """A filter-normalised direction: d ~ N(0, 1), each output filter d_j rescaled to d_j * |w_j| / (|d_j| + 1e-10).

    Args:
        weights: tensors by name; those of fewer than two dimensions (biases, norm parameters) get no direction.
        generator: draws d in the order of ``weights``.
    """
    return {
        name: filter_normalised(torch.randn(weight.shape, generator=generator).to(weight), weight)
        for name, weight in weights.items()
        if weight.ndim >= 2
    }


def filter_normalised(direction: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rescale each output filter (first dimension) of ``direction`` to the norm of the same filter of ``weight``."""
    shape = (-1,) + (1,) * (weight.ndim - 1)
    length = weight.flatten(1).norm(dim=1) / (direction.flatten(1).norm(dim=1) + EPSILON)
    return direction * length.view(shape)


def perturbed(weights: Weights, directions: list[Weights], coefficients: list[float]) -> Weights:
    """theta + sum of coefficient * direction; the given weights are left as they are."""
    moved = dict(weights)
    for direction, coefficient in zip(directions, coefficients, strict=True):
        for name, d in direction.items():
            moved[name] = moved[name] + coefficient * d
    return moved


def signed_coefficients(count: int, low: float, high: float, generator: torch.Generator) -> list[float]:
    """Coefficients of random sign and magnitude uniform in [low, high]."""
    magnitude, sign = torch.rand(2, count, generator=generator)
    return ((low + (high - low) * magnitude) * torch.where(sign < 0.5, -1.0, 1.0)).tolist()

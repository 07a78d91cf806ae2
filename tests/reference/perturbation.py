"""Weight perturbation along filter-normalised directions (section 2, ingredient 3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

NORM_EPS = 1e-10


def filter_normalised(direction: Tensor, weight: Tensor) -> Tensor:
    """Section 2: d_j * |w_j| / (|d_j| + 1e-10) for each output filter j.

    direction and weight [out, ...] of two or more dimensions; |.| is the Euclidean norm of the whole filter.
    """
    filters = []
    for j in range(weight.shape[0]):
        w_norm = (weight[j] ** 2).sum().sqrt()
        d_norm = (direction[j] ** 2).sum().sqrt()
        filters.append(direction[j] * w_norm / (d_norm + NORM_EPS))
    return torch.stack(filters)


def perturb(
    parameters: Mapping[str, Tensor], draws: Sequence[Mapping[str, Tensor]], coefficients: Sequence[float]
) -> dict[str, Tensor]:
    """Section 2: theta + sum_k coefficients[k] * filter_normalised(draws[k], theta).

    draws[k]: name -> raw N(0, 1) tensor, for every parameter of two or more dimensions; others get no direction.
    Every direction is normalised by the unperturbed theta. Paper: one draw, coefficient alpha; program: two draws.
    Returns new tensors; `parameters` is not changed.
    """
    if len(draws) != len(coefficients):
        raise ValueError("one coefficient per draw")
    perturbed = {}
    for name, weight in parameters.items():
        result = weight.detach().clone()
        if weight.dim() >= 2:
            for draw, coefficient in zip(draws, coefficients, strict=True):
                result = result + coefficient * filter_normalised(draw[name], weight.detach())
        perturbed[name] = result
    return perturbed

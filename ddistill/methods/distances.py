"""Distances between two lists of weight gradients, one tensor per layer, and between two sets of embeddings.

Of gradients only weight tensors count: dimension 4 for mse and l1; for cosine also the classifier's matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch.nn import functional as F

DistanceName = Literal["mse", "l1", "cosine"]
Gradients = Mapping[str, torch.Tensor]

EPSILON = 1e-6
SMALLEST = 1e-12
"""Under a root, whose slope at 0 is infinite."""


def mse(real: Gradients, synthetic: Gradients) -> torch.Tensor:
    """Sum of squared differences."""
    return torch.stack([(real[name] - g).square().sum() for name, g in synthetic.items()]).sum()


def l1(real: Gradients, synthetic: Gradients) -> torch.Tensor:
    """Sum of absolute differences."""
    return torch.stack([(real[name] - g).abs().sum() for name, g in synthetic.items()]).sum()


def cosine(real: Gradients, synthetic: Gradients) -> torch.Tensor:
    """Sum over layers and output filters of 1 - cos(g_real, g_syn) (DC)."""
    parts = []
    for name, g in synthetic.items():
        a, b = real[name].flatten(1), g.flatten(1)
        cos = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)
        parts.append((1.0 - cos).sum())
    return torch.stack(parts).sum()


DISTANCES: dict[DistanceName, Callable[[Gradients, Gradients], torch.Tensor]] = {
    "mse": mse,
    "l1": l1,
    "cosine": cosine,
}


def matched_names(distance: DistanceName, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the weight tensors whose gradients the distance compares."""
    smallest = 2 if distance == "cosine" else 4
    return [name for name, weight in weights.items() if weight.ndim >= smallest]


def mean_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Squared distance of the mean embeddings; real (B, E), synthetic (S, E)."""
    return (real.mean(dim=0) - synthetic.mean(dim=0)).square().sum()


def characteristic_distance(
    real: torch.Tensor, synthetic: torch.Tensor, frequencies: torch.Tensor, scale: float = 300.0
) -> torch.Tensor:
    """Mean distance of the characteristic functions of two sets of embeddings, made of unit length (NCFM).

    At a frequency t the functions are the means of exp(i t x): a + i b and c + i d, of lengths r and s. Their distance
    there is the root of 0.5 (r - s)^2 + (r s - a c - b d): amplitude and phase, which at these weights, the only ones
    in use, add up to 0.5 (a - c)^2 + 0.5 (b - d)^2, where nothing cancels.

    Args:
        real: (B, E).
        synthetic: (S, E).
        frequencies: (E, K).
        scale: of the result.
    """

    def characteristic(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = F.normalize(embeddings, dim=1) @ frequencies
        return angles.cos().mean(dim=0), angles.sin().mean(dim=0)

    (a, b), (c, d) = characteristic(real), characteristic(synthetic)
    return scale * torch.sqrt(0.5 * ((a - c).square() + (b - d).square()).clamp(min=SMALLEST)).mean()

"""Distances between two lists of weight gradients, one tensor per layer.

Only weight tensors count: dimension 4 for mse and l1; for cosine also the classifier's matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch

DistanceName = Literal["mse", "l1", "cosine"]
Gradients = Mapping[str, torch.Tensor]

EPSILON = 1e-6


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

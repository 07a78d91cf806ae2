"""Herding: a few vectors whose mean follows the mean of all."""

from __future__ import annotations

import torch


def herding(embeddings: torch.Tensor, count: int) -> list[int]:
    """Greedy herding (Welling 2009): each choice brings the mean of the chosen nearest to the mean of all.

    Args:
        embeddings: (n, E).
        count: positions to choose, at most n.
    """
    mean, total = embeddings.mean(dim=0), torch.zeros_like(embeddings[0])
    chosen: list[int] = []
    taken = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.device)
    for size in range(1, count + 1):
        distance = (mean - (total + embeddings) / size).square().sum(dim=1).masked_fill(taken, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        taken[best] = True
        total = total + embeddings[best]
    return chosen

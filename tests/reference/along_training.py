"""Matching along training, written slow and plain: two distances of embeddings, the constraint, what a draw may be.

Embeddings are rows: real [B, E], synthetic [S, E].
"""

import cmath
import math

import torch
from torch import Tensor


def mean_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Sum over the numbers of an embedding of the squared difference of the two means."""
    total = torch.zeros((), dtype=real.dtype)
    for e in range(real.shape[1]):
        total = total + (sum(real[:, e].detach()) / len(real) - sum(synthetic[:, e]) / len(synthetic)) ** 2
    return total


def characteristic_distance(real: Tensor, synthetic: Tensor, frequencies: Tensor) -> Tensor:
    """300 times the mean over the frequencies t (columns of [E, K]) of sqrt(d), with embeddings of unit length:

    d = 0.5 (r - r')^2 + 0.5 * 2 (r r' - a a' - b b'), where (a, b) and (a', b') are the means of cos and sin of t . x
    over the real and the synthetic ones, and r, r' their lengths; the second part, 2 (...), is at least 1e-12.
    """
    roots = []
    for t in frequencies.T:
        parts = []
        for embeddings in (real.detach(), synthetic):
            angles = [torch.dot(t, x / torch.sqrt((x**2).sum())) for x in embeddings]
            a = sum(torch.cos(angle) for angle in angles) / len(angles)
            b = sum(torch.sin(angle) for angle in angles) / len(angles)
            parts.append((a, b, torch.sqrt(a**2 + b**2)))
        (a, b, r), (a_, b_, r_) = parts
        phase = torch.clamp(2 * (r * r_ - a * a_ - b * b_), min=1e-12)
        roots.append(torch.sqrt(0.5 * (r - r_) ** 2 + 0.5 * phase))
    return 300 * torch.stack(roots).mean()


def characteristic_distance_by_phases(real: list[list[float]], synthetic: list[list[float]], t: list[float]) -> float:
    """The same at one frequency by complex numbers, where 2 (r r' - a a' - b b') = 2 r r' (1 - cos of the phases'
    difference)."""
    means = []
    for embeddings in (real, synthetic):
        waves = []
        for x in embeddings:
            length = math.sqrt(sum(value**2 for value in x))
            waves.append(cmath.exp(1j * sum(a * b / length for a, b in zip(t, x, strict=True))))
        means.append(sum(waves) / len(waves))
    r, r_ = abs(means[0]), abs(means[1])
    phase = cmath.phase(means[0]) - cmath.phase(means[1])
    return 300 * math.sqrt(0.5 * (r - r_) ** 2 + r * r_ * (1 - math.cos(phase)))


def constraint(logits: Tensor, label: int) -> Tensor:
    """Mean over the images of -log of the share that the softmax gives the class."""
    shares = [torch.exp(row[label]) / torch.exp(row).sum() for row in logits]
    return -sum(torch.log(share) for share in shares) / len(shares)


def chances(last: int, ahead: int) -> dict[tuple[int, int], float]:
    """(s, p) -> how likely: s uniform in 0..last, p uniform in s..min(s + ahead - 1, last)."""
    found = {}
    for s in range(last + 1):
        ages = [p for p in range(last + 1) if s <= p <= s + ahead - 1]
        for p in ages:
            found[s, p] = 1 / (last + 1) / len(ages)
    return found

"""Positions of real images for every batch of a stretch of steps, drawn at once."""

from __future__ import annotations

import torch


def class_batches(count: int, batch: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Positions within a class of ``count`` images, int64 [steps, batch] in [0, count).

    Shuffled passes over the class, end to end: every image comes k times before any comes k + 1 times.
    A class smaller than the batch therefore repeats within it.

    Raises:
        ValueError: ``count`` or ``batch`` is below 1, or ``steps`` is negative.
    """
    if count < 1 or batch < 1 or steps < 0:
        raise ValueError(f"count {count} and batch {batch} must be at least 1 and steps {steps} not negative")
    wanted = steps * batch
    # Sorting random keys shuffles all passes in one call; equal float64 keys are too rare to bias anything.
    keys = torch.rand((-(-wanted // count), count), dtype=torch.float64, generator=generator)
    if wanted <= count // 2:  # the first of one pass in their order: 128 of 5000 take a fifth of sorting all, or less
        return keys.topk(wanted, largest=False).indices.reshape(steps, batch)
    return keys.argsort(dim=1).flatten()[:wanted].reshape(steps, batch)


def epoch_batches(total: int, batch: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Positions within a whole set of ``total`` images, int64 [steps, batch]: shuffled epochs, end to end."""
    return class_batches(total, batch, steps, generator)

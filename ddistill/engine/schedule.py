"""What a run has spent, and when an evaluation is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddistill.recipe import Recipe

SELECTING_EVALUATIONS = 10
"""Of a run that gives its best images and has no schedule of its own."""


@dataclass(frozen=True)
class Spent:
    """Costs of a run so far, those of its pool included.

    Attributes:
        step: outer steps done.
        seconds: wall-clock, of pool and distillation.
        flops: of pool and distillation.
    """

    step: int
    seconds: float
    flops: float


def evaluation_due(recipe: Recipe, before: Spent, now: Spent) -> bool:
    """Whether the outer step between these two has passed a mark of one of the recipe's schedules."""
    settings, every = recipe.evaluation, recipe.evaluation.every
    if settings.select == "best" and not (every or settings.every_seconds or settings.every_flops):
        every = math.ceil(recipe.budget.steps / SELECTING_EVALUATIONS)
    axes = (
        (every, before.step, now.step),
        (settings.every_seconds, before.seconds, now.seconds),
        (settings.every_flops, before.flops, now.flops),
    )
    return any(interval and end // interval > start // interval for interval, start, end in axes)

"""The recipe by which a baseline chooses its images."""

from __future__ import annotations

from typing import Any

from ddistill.baselines import BASELINES, SMALLEST_FACTOR
from ddistill.recipe import Recipe

ONCE: dict[str, Any] = {
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "budget.seconds": None,
    "budget.flops": None,
    "evaluation.select": "last",
    "evaluation.baselines": (),
    "synthetic.init": "noise",  # every stored image is replaced, so that a small class can be filled
    "synthetic.decode": "single",
    "synthetic.labels": None,
    "synthetic.grow": None,
    "model_augmentation.networks": "fresh",
    "model_augmentation.fresh_epochs": 0,
    "model_augmentation.perturb": False,
    "model_augmentation.selection": "random",
}


def coreset_recipe(recipe: Recipe, name: str, draw: int = 0) -> Recipe:
    """The recipe of a baseline that chooses or tiles real images, for the storage that another recipe fills.

    Args:
        recipe: of the distilled set.
        name: of a baseline with a method.
        draw: of those that are drawn anew for each network.

    Raises:
        UserError: the recipe's network does not give what the choice asks for.
    """
    baseline, own = BASELINES[name], recipe.model_augmentation
    changes = {**ONCE, **baseline.method, "name": name, "run.seed": recipe.run.seed + draw}
    if own.networks == "pool" and baseline.method.get("method.name") == "el2n":
        changes |= {"model_augmentation.pool_size": own.pool_size, "model_augmentation.pool_epochs": own.pool_epochs}
    factor = max(SMALLEST_FACTOR, recipe.synthetic.factor) if baseline.mosaics else 1
    return recipe.changed({**changes, "synthetic.factor": factor})

"""The early-stage networks of a recipe on some data: which they are, and where they come from."""

from __future__ import annotations

from typing import Any

from ddistill.config import Recipe
from ddistill.data import RealData
from ddistill.model_augmentation import NetworkFactory, Pool, Trajectories, train_pool, train_trajectories
from ddistill.observer import Observer
from ddistill.training import Safety


def pool_for(
    recipe: Recipe, data: RealData, factory: NetworkFactory, observer: Observer, safety: Safety | None = None
) -> Pool:
    """The pool of a recipe on these data: from the cache, else trained."""
    return train_pool(factory, _data_identity(recipe, data), **_pool_settings(recipe, observer), safety=safety)


def trajectories_for(
    recipe: Recipe, data: RealData, factory: NetworkFactory, observer: Observer, safety: Safety | None = None
) -> Trajectories:
    """The expert trajectories of a recipe on these data: from the cache, else trained."""
    return train_trajectories(factory, _data_identity(recipe, data), **_pool_settings(recipe, observer), safety=safety)


def _data_identity(recipe: Recipe, data: RealData) -> str:
    whitened = f"-{recipe.data.whitening}" if recipe.data.whitening else ""
    if not recipe.data.validation_fraction:
        return data.fingerprint + whitened
    # which images are held out follows from the run's seed
    return f"{data.fingerprint}-{recipe.data.validation_fraction}-{recipe.run.seed}{whitened}"


def _pool_settings(recipe: Recipe, observer: Observer) -> dict[str, Any]:
    settings = recipe.model_augmentation
    return {
        "size": settings.pool_size,
        "epochs": settings.pool_epochs,
        "seed": settings.pool_seed,
        "on_member": lambda done, total: observer.progress("pool", done, total),
    }

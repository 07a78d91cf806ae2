"""The early-stage networks of a recipe on some data: which they are, and where they come from."""

from __future__ import annotations

from ddistill.data import RealData
from ddistill.network_sources import NetworkFactory, NetworkStore, Wanted, train_networks
from ddistill.network_sources.store import Kind
from ddistill.observer import Observer
from ddistill.recipe import Recipe
from ddistill.training import Safety


def networks_for(
    recipe: Recipe, data: RealData, factory: NetworkFactory, observer: Observer, safety: Safety
) -> NetworkStore:
    """The pool of a recipe on these data, with every epoch where it asks for it: from the cache, else trained."""
    settings = recipe.model_augmentation
    kinds: dict[str, Kind] = {"snapshots": "snapshots", "line": "snapshots", "trajectories": "trajectories"}
    return train_networks(
        factory,
        _data_identity(recipe, data),
        Wanted(
            settings.pool_size,
            settings.pool_epochs,
            settings.pool_seed,
            kinds.get(settings.networks, "pool"),
            settings.early_rate == "constant",
        ),
        on_member=lambda done, total: observer.progress("pool", done, total),
        safety=safety,
    )


def _data_identity(recipe: Recipe, data: RealData) -> str:
    how = recipe.data
    if how.whitening:
        normalised = f"-{how.whitening} of pixels"
    else:
        normalised = "" if how.constants == "measured" else f"-{how.constants}"
    if not how.validation_fraction:
        return data.fingerprint + normalised
    # which images are held out follows from the run's seed
    return f"{data.fingerprint}-{how.validation_fraction}-{recipe.run.seed}{normalised}"

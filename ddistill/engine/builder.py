"""What a run is made of, built from its recipe and its data: networks and where they come from, and the method."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from ddistill.data import ImageSet, RealData
from ddistill.engine.costs import Costs
from ddistill.engine.log import RunLog
from ddistill.methods import Context, Method, build_method
from ddistill.network_sources import (
    AheadSource,
    FreshSource,
    LineSource,
    NetworkFactory,
    NetworkSource,
    NetworkStore,
    PerturbedSource,
    PoolSource,
    SnapshotSource,
    TrajectorySource,
    Wanted,
    train_networks,
)
from ddistill.network_sources.store import Kind
from ddistill.observer import Observer
from ddistill.recipe import Recipe
from ddistill.runtime.execution import Execution
from ddistill.synthetic import SyntheticSet, initial_set
from ddistill.training import EAGER, HotPath, Safety, Trainer, choose_hot_path, compiler_available, training_work
from ddistill.training.compilation import COMPILE_SECONDS, REPAYING_FLOPS

KINDS: dict[str, Kind] = {"snapshots": "snapshots", "line": "snapshots", "trajectories": "trajectories"}
"""Of networks that are kept, by what a recipe calls them."""


class Builder:
    """Builds the parts of one run; nothing is written but to the log."""

    def __init__(
        self, data: RealData, recipe: Recipe, execution: Execution, observer: Observer, log: RunLog | None = None
    ) -> None:
        self.data, self.recipe = data.normalised_as(recipe.data), recipe
        self.execution, self.observer = execution, observer
        self.device, self.ranks = execution.device, execution.ranks
        self.log = log or RunLog(None)
        self.costs = Costs()
        self.hot_path = EAGER
        self.safety = Safety(execution.settings.checkpoint_every, observer.stopping, observer.note)
        self.pool: NetworkStore | None = None

    @cached_property
    def real(self) -> ImageSet:
        """The training images, on the device where they fit."""
        return ImageSet.of(self.data.train.images, self.data.train.labels, self.data, self.device)

    @cached_property
    def reference(self) -> nn.Module | None:
        """The module of the second network, where the method looks at one."""
        return self.network() if self.recipe.method.needs.reference else None

    def computed(self) -> dict[str, Any]:
        """How the run is computed, as far as it is decided."""
        return self.execution.about(**({} if self.hot_path is EAGER else self.hot_path.as_dict()))

    def network(self) -> nn.Module:
        """The module that all outer steps load their weights into."""
        return self.factory(EAGER).build("workspace")

    def factory(self, hot_path: HotPath) -> NetworkFactory:
        """What builds and trains networks on the real images."""
        recipe = self.recipe
        return NetworkFactory(
            recipe.network, recipe.training, self.real, self.data.num_classes, hot_path, self.execution
        )

    def method(self, trainer: Trainer, synthetic: SyntheticSet) -> Method:
        """The recipe's method, at work on ``synthetic``."""
        context = Context(
            trainer,
            self.data.class_offsets.tolist(),
            synthetic,
            self.recipe.run.seed,
            self.hot_path,
            self.execution,
            self.recipe.budget.steps,
            self.reference,
        )
        return build_method(self.recipe.method, context)

    def choose_hot_path(self, network: nn.Module) -> HotPath:
        """In which precision, and whether compiled, the work ahead is done; follows from the recipe, the data, the
        device, and what compilers and kernels there are."""
        recipe, data = self.recipe, self.data
        trainer = Trainer(network, self.real, recipe.training, captured="ahead")
        probe = initial_set(recipe.synthetic, data, recipe.run.seed)
        method = self.method(trainer, probe.to(self.device))
        ahead = self.costs.ahead(recipe, method, trainer)
        needs, asked = recipe.method.needs, self.execution.settings
        work = replace(
            training_work(trainer, 0.0),
            flops=ahead,
            second_order=needs.second_order,
            every_layer=needs.layers,
            captured=trainer.captures and method.captured,
        )
        chosen = choose_hot_path(network, work, asked.precision, asked.compile)
        gain = {"compiled_over_eager": chosen.gain, "compile_seconds_expected": COMPILE_SECONDS}
        self.log.event("hot path", **chosen.as_dict(), flops=ahead, mode=asked.compile, **gain)
        if chosen.fallback:
            self.observer.note(chosen.reason)
        if asked.compile == "auto" and ahead >= REPAYING_FLOPS and not compiler_available():
            self.observer.note("no C++ compiler was found, so nothing is compiled: the run takes about twice as long")
        return chosen

    def network_source(self) -> NetworkSource:
        """Where the networks of the outer steps come from; its costs are booked."""
        settings, seed = self.recipe.model_augmentation, self.recipe.run.seed
        factory = self.factory(self.hot_path)
        source: NetworkSource
        if settings.networks == "fresh":
            constant = settings.early_rate == "constant"
            source = FreshSource(factory, settings.fresh_epochs, seed, constant=constant)
            self.costs.book_fresh(settings.fresh_epochs, factory)
        else:
            source = self._among(self.networks(factory))
        source = PerturbedSource(source, settings, seed) if settings.perturb else source
        # fresh networks are made, and trained, on the device itself
        return AheadSource(source) if self.device.type == "cuda" and settings.networks != "fresh" else source

    def networks(self, factory: NetworkFactory) -> NetworkStore:
        """The pool of the run, with every epoch where its networks ask for it: from the cache, else trained, once."""
        if self.pool is None:
            settings = self.recipe.model_augmentation
            self.pool = train_networks(
                factory,
                _data_identity(self.recipe, self.data),
                Wanted(
                    settings.pool_size,
                    settings.pool_epochs,
                    settings.pool_seed,
                    KINDS.get(settings.networks, "pool"),
                    settings.early_rate == "constant",
                ),
                on_member=lambda done, total: self.observer.progress("pool", done, total),
                safety=self.safety,
            )
            self.costs.book_pool(self.pool, factory)
            about = {"seconds": self.pool.seconds, "reused": self.pool.reused}
            self.log.event("pool", flops=self.costs.flops["pool"], **about)
        return self.pool

    def _among(self, pool: NetworkStore) -> NetworkSource:
        """What chooses among networks that were trained beforehand."""
        settings, seed = self.recipe.model_augmentation, self.recipe.run.seed
        if settings.networks == "snapshots":
            return SnapshotSource(pool, settings.ahead, seed)
        if settings.networks == "line":
            return LineSource(pool, seed)
        wanted = self.recipe.method.needs.trajectories  # the recipe was checked for it
        if wanted is not None:
            return TrajectorySource(pool, wanted.max_start_epoch, wanted.ahead, seed)
        return PoolSource(pool.members, settings.selection, seed)


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

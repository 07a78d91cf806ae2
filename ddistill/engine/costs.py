"""What a run costs, in seconds and floating-point operations, by phase."""

from __future__ import annotations

from ddistill.engine.schedule import Spent
from ddistill.methods import Method
from ddistill.network_sources import NetworkFactory, NetworkStore
from ddistill.recipe import Recipe
from ddistill.training import Trainer


class Costs:
    """The account of a run.

    Attributes:
        seconds: of pool, distill, evaluate.
        flops: of pool, distill.
        flops_per_step: of an outer step of the method, where all take the same.
        source_flops_per_step: of training the fresh network of an outer step.
    """

    def __init__(self) -> None:
        self.seconds = {"pool": 0.0, "distill": 0.0, "evaluate": 0.0}
        self.flops = {"pool": 0.0, "distill": 0.0}
        self.flops_per_step = 0.0
        self.source_flops_per_step = 0.0

    def ahead(self, recipe: Recipe, method: Method, trainer: Trainer) -> float:
        """FLOPs of the whole run: its outer steps and its networks, also those of a pool from the cache."""
        self.flops_per_step = method.flops_per_outer_step()
        settings, steps = recipe.model_augmentation, recipe.budget.steps
        networks, epochs = settings.pool_size, settings.pool_epochs
        if settings.networks == "fresh":
            networks, epochs = steps, settings.fresh_epochs
        training = networks * epochs * trainer.flops_per_epoch() if epochs else 0.0
        return self.flops_per_step * steps + training

    def book_pool(self, pool: NetworkStore, factory: NetworkFactory) -> None:
        """The training of a pool or of trajectories, also of what was found in the cache."""
        self.seconds["pool"] = pool.seconds
        self.flops["pool"] = pool.size * pool.epochs * self._epoch(factory)

    def book_fresh(self, epochs: int, factory: NetworkFactory) -> None:
        """The training of a fresh network at each outer step."""
        self.source_flops_per_step = epochs * self._epoch(factory) if epochs else 0.0

    def spend(self, step: int, seconds: float, method: Method) -> Spent:
        """Book the outer steps up to ``step``, which took ``seconds``; what the run has cost so far."""
        counted = method.flops_done()
        done = self.flops_per_step * step if counted is None else counted
        self.seconds["distill"] = seconds
        self.flops["distill"] = done + self.source_flops_per_step * step
        return Spent(step, self.seconds["pool"] + seconds, self.flops["pool"] + self.flops["distill"])

    @staticmethod
    def _epoch(factory: NetworkFactory) -> float:
        """FLOPs of an epoch of whole mini-batches."""
        return factory.trainer().flops_per_step() * factory.steps_per_epoch()

"""Early-stage networks: built from a key and trained for a few epochs on the real data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ddistill.data import ImageSet
from ddistill.network_sources.perturb import Weights
from ddistill.networks import NetworkSettings, build_network
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.execution import Execution
from ddistill.runtime.randomness import generator
from ddistill.training import (
    CONSTANT,
    EAGER,
    HotPath,
    Resolved,
    Trainer,
    TrainingSettings,
    Unfinished,
    thirds_and_sixths,
    train_epochs,
)
from ddistill.training.side_by_side import MOST, SideBySide


@dataclass
class NetworkFactory:
    """Builds networks for one data set and trains them; compiled code is shared by all of them.

    Attributes:
        network: architecture.
        training: optimiser settings.
        real: the training images, on the device.
        num_classes: of the data.
        hot_path: precision, and whether the training step is compiled.
        execution: its ranks share the networks of a pool out.
    """

    network: NetworkSettings
    training: TrainingSettings
    real: ImageSet
    num_classes: int
    hot_path: HotPath = EAGER
    execution: Execution = field(default_factory=Execution)
    _trainer: Trainer | None = None

    @property
    def precision(self) -> Resolved:
        """Of convolutions and products."""
        return self.hot_path.precision

    @property
    def ranks(self) -> Ranks:
        """The processes that train."""
        return self.execution.ranks

    def build(self, *key: int | str) -> nn.Module:
        """A network with fresh weights drawn from the key, on the device of the images."""
        channels, size = self.real.images.shape[1], self.real.images.shape[-1]
        return build_network(self.network, self.num_classes, channels, size, *key).to(self.real.device)

    def trainer(self) -> Trainer:
        """The one trainer, and its module, that early-stage training reuses."""
        if self._trainer is None:
            self._trainer = Trainer(
                self.build("workspace"),
                self.real,
                self.training,
                compiled=self.hot_path.compiled,
                precision=self.precision,
                captured="early",
            )
        return self._trainer

    def steps_per_epoch(self) -> int:
        """Mini-batches of an epoch, the last one filled from the next pass."""
        return -(-len(self.real.labels) // min(self.training.batch, len(self.real.labels)))

    def early_stage(self, epochs: int, seed: int, purpose: str, step: int, *, falls_over: int | None = None) -> Weights:
        """Weights after ``epochs`` on the real data, a function of (seed, purpose, step); the rest as for `stages`."""
        *_, (_, (weights,)) = self.stages(epochs, seed, purpose, [step], falls_over=falls_over)
        return weights

    @property
    def at_once(self) -> int:
        """Networks that are trained side by side."""
        return MOST if self.trainer().captures else 1

    def stages(
        self,
        epochs: int,
        seed: int,
        purpose: str,
        steps: Sequence[int],
        *,
        falls_over: int | None = None,
        unfinished: Unfinished | None = None,
    ) -> Iterator[tuple[int, list[Weights]]]:
        """Epochs done and copies of the weights of some networks: first ones, then after each epoch; see `early_stage`.

        The rate falls at 2/3 and 5/6 of ``falls_over`` epochs, if any. ``unfinished`` keeps the epochs done.
        """
        fresh = [self.build(seed, purpose, step).state_dict() for step in steps]
        yield 0, [copy_of(weights) for weights in fresh]
        if not epochs:
            return
        one, several = self.trainer(), len(steps) > 1
        trainer = SideBySide(one, [self.real] * len(steps)) if several else one
        modules = [each.module for each in (trainer.trainers if isinstance(trainer, SideBySide) else [trainer])]
        for module, weights in zip(modules, fresh, strict=True):
            load_into(module, weights)
        trainer.restart()

        def draws(epoch: int) -> Any:
            each = [generator(seed, f"{purpose} epoch", step, epoch) for step in steps]
            return each if several else each[0]

        kept: dict[str, Any] = {"unfinished": unfinished, "name": f"{purpose} {', '.join(map(str, steps))}"}
        falls = thirds_and_sixths(falls_over) if falls_over else CONSTANT
        try:
            for done in train_epochs(trainer, epochs, draws, falls=falls, filled=True, **kept):
                yield done, [copy_of(module.state_dict()) for module in modules]
        finally:
            if isinstance(trainer, SideBySide):
                trainer.release()


def copy_of(weights: Weights) -> Weights:
    """Detached copies."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def load_into(module: nn.Module, weights: Weights) -> None:
    """Copy weights into a module's own tensors, so that compiled code keeps its addresses."""
    with torch.no_grad():
        module.load_state_dict(weights)

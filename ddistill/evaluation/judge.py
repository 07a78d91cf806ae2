"""Training fresh networks on a set and testing them, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ddistill.networks import NetworkSettings, build_network
from ddistill.randomness import generator
from ddistill.training import Resolved, Source, Trainer, TrainingSettings, Unfinished, predict_accuracy, train_epochs
from ddistill.training.side_by_side import SideBySide, can_stand_side_by_side

OnEpoch = Callable[[int, int], None]


@dataclass
class Judge:
    """How the networks of one evaluation are trained and tested.

    First weights, batches and augmentation of a network follow from (seed, repeat), so that it does not matter which
    are trained together, by whom, or in what order.

    Attributes:
        module: the network's module, whose weights are replaced.
        network: how it is built.
        classes: outputs.
        sources: the decoded set, or one per repeat, all of one shape.
        test: real images.
        training: optimiser, augmentation, CutMix.
        epochs: passes over the set.
        repeats: networks in all.
        seed: of the run.
        compiled: compile the training step.
        precision: of convolutions and products while training.
        side_by_side: train all networks that are asked for at once, where the architecture allows it.
        on_epoch: called with (epochs done, epochs in all), over all repeats.
        unfinished: keeps the training in progress.
        name: of the evaluation in what ``unfinished`` keeps.
    """

    module: nn.Module
    network: NetworkSettings
    classes: int
    sources: list[Source]
    test: Source
    training: TrainingSettings
    epochs: int
    repeats: int
    seed: int
    compiled: bool
    precision: Resolved
    side_by_side: bool
    on_epoch: OnEpoch | None
    unfinished: Unfinished | None
    name: str

    def __post_init__(self) -> None:
        self.side_by_side = self.side_by_side and can_stand_side_by_side(self.module)
        self.trainer = Trainer(
            self.module,
            self.sources[0],
            self.training,
            compiled=self.compiled,
            precision=self.precision,
            replay=True,
        )

    def rounds(self, repeats: Sequence[int], ranks: int) -> list[list[list[int]]]:
        """Who trains which networks: in each round a list for each rank."""
        shares = [list(repeats[rank::ranks]) for rank in range(ranks)]
        if self.side_by_side:
            return [shares]
        return [[share[i : i + 1] for share in shares] for i in range(len(shares[0]))]

    def accuracies(self, repeats: Sequence[int]) -> list[float]:
        """Top-1 in percent of the networks of these repeats."""
        return self._together(repeats) if self.side_by_side and repeats else [self._one(repeat) for repeat in repeats]

    def _one(self, repeat: int) -> float:
        self.module.load_state_dict(self._first_weights(repeat))
        self.trainer.source = self._source(repeat)
        self.trainer.restart()
        draws = partial(generator, self.seed, "evaluation epoch", repeat)
        for done in self._train(self.trainer, draws, f"{self.name} {repeat}"):
            if self.on_epoch:
                self.on_epoch(repeat * self.epochs + done, self.repeats * self.epochs)
        return predict_accuracy(self.module, self.test)

    def _together(self, repeats: Sequence[int]) -> list[float]:
        group = SideBySide(
            self.module,
            [self._first_weights(repeat) for repeat in repeats],
            [self._source(repeat) for repeat in repeats],
            self.training,
            compiled=self.compiled,
            precision=self.precision,
        )

        def draws(epoch: int) -> list[torch.Generator]:
            return [generator(self.seed, "evaluation epoch", repeat, epoch) for repeat in repeats]

        for done in self._train(group, draws, f"{self.name} {', '.join(map(str, repeats))}"):
            if self.on_epoch:
                self.on_epoch(len(repeats) * done, len(repeats) * self.epochs)
        accuracies = []
        for number in range(len(repeats)):
            self.module.load_state_dict(group.weights(number))
            accuracies.append(predict_accuracy(self.module, self.test))
        return accuracies

    def _source(self, repeat: int) -> Source:
        return self.sources[repeat % len(self.sources)]

    def _first_weights(self, repeat: int) -> dict[str, torch.Tensor]:
        images = self.sources[0].images
        shape = (self.classes, images.shape[1], images.shape[-1])
        return build_network(self.network, *shape, self.seed, "evaluation", repeat).state_dict()

    def _train(self, trainer: Trainer | SideBySide, draws: Callable[[int], Any], name: str) -> Iterator[int]:
        return train_epochs(trainer, self.epochs, draws, decay=True, unfinished=self.unfinished, name=name)

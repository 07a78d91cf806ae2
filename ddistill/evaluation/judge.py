"""Training fresh networks on a set and testing them, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ddistill.evaluation.settings import EvaluationSettings
from ddistill.networks import NetworkSettings, build_network
from ddistill.randomness import generator
from ddistill.runtime.execution import Execution
from ddistill.training import (
    ImageSet,
    Trainer,
    Unfinished,
    choose_hot_path,
    predict_accuracy,
    train_epochs,
    training_work,
)
from ddistill.training.side_by_side import SideBySide, can_stand_side_by_side

OnEpoch = Callable[[int, int], None]
OnRun = Callable[[int, float], None]


@dataclass(frozen=True)
class Progress:
    """What is known of an evaluation before, kept of it on the way, and told.

    Attributes:
        finished: accuracies in percent by repeat that were measured before and are taken as they are.
        on_run: called with (repeat, accuracy in percent) when a network has been trained and tested.
        on_epoch: called with (epochs done, epochs in all), over all repeats.
        unfinished: keeps the training in progress.
        name: of this evaluation in what ``unfinished`` keeps.
    """

    finished: Mapping[int, float] = field(default_factory=dict)
    on_run: OnRun | None = None
    on_epoch: OnEpoch | None = None
    unfinished: Unfinished | None = None
    name: str = ""


@dataclass
class Judge:
    """How the networks of one evaluation are trained and tested.

    First weights, batches and augmentation of a network follow from (seed, repeat), so that it does not matter which
    are trained together, by whom, or in what order.

    Attributes:
        network: how the networks are built.
        classes: outputs.
        sources: the decoded set, or one per repeat, all of one shape.
        test: real images.
        settings: of the protocol, with the epochs in force.
        seed: of the run.
        execution: device, precision, compilation.
        progress: what is kept and told.
    """

    network: NetworkSettings
    classes: int
    sources: list[ImageSet]
    test: ImageSet
    settings: EvaluationSettings
    seed: int
    execution: Execution
    progress: Progress

    def __post_init__(self) -> None:
        images, settings, execution = self.sources[0].images, self.settings, self.execution
        self.training, self.epochs = settings.training, settings.epochs or 0
        self.shape = (self.classes, images.shape[1], images.shape[-1])
        self.module = build_network(self.network, *self.shape, "evaluation").to(execution.device)
        wanted = execution.device.type == "cuda" if execution.side_by_side is None else execution.side_by_side
        self.side_by_side = wanted and can_stand_side_by_side(self.module)
        count = len(self.sources[0].labels)
        steps = count / min(count, self.training.batch) * self.epochs * settings.repeats
        work = training_work(Trainer(self.module, self.sources[0], self.training), steps)
        asked = execution.settings
        self.hot_path = choose_hot_path(self.module, work, asked.precision, asked.compile)
        self.trainer = Trainer(
            self.module,
            self.sources[0],
            self.training,
            compiled=self.hot_path.compiled,
            precision=self.hot_path.precision,
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
        for done in self._train(self.trainer, draws, f"{self.progress.name} {repeat}"):
            if self.progress.on_epoch:
                self.progress.on_epoch(repeat * self.epochs + done, self.settings.repeats * self.epochs)
        return predict_accuracy(self.module, self.test)

    def _together(self, repeats: Sequence[int]) -> list[float]:
        group = SideBySide(
            self.module,
            [self._first_weights(repeat) for repeat in repeats],
            [self._source(repeat) for repeat in repeats],
            self.training,
            compiled=self.hot_path.compiled,
            precision=self.hot_path.precision,
        )

        def draws(epoch: int) -> list[torch.Generator]:
            return [generator(self.seed, "evaluation epoch", repeat, epoch) for repeat in repeats]

        for done in self._train(group, draws, f"{self.progress.name} {', '.join(map(str, repeats))}"):
            if self.progress.on_epoch:
                self.progress.on_epoch(len(repeats) * done, len(repeats) * self.epochs)
        accuracies = []
        for number in range(len(repeats)):
            self.module.load_state_dict(group.weights(number))
            accuracies.append(predict_accuracy(self.module, self.test))
        return accuracies

    def _source(self, repeat: int) -> ImageSet:
        return self.sources[repeat % len(self.sources)]

    def _first_weights(self, repeat: int) -> dict[str, torch.Tensor]:
        return build_network(self.network, *self.shape, self.seed, "evaluation", repeat).state_dict()

    def _train(self, trainer: Trainer | SideBySide, draws: Callable[[int], Any], name: str) -> Iterator[int]:
        return train_epochs(trainer, self.epochs, draws, decay=True, unfinished=self.progress.unfinished, name=name)

"""Training fresh networks on a set and testing them, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from ddistill.data import ImageSet
from ddistill.evaluation.settings import EvaluationSettings
from ddistill.networks import NetworkSettings, build_network
from ddistill.runtime.execution import Execution
from ddistill.runtime.randomness import generator
from ddistill.training import (
    Trainer,
    Unfinished,
    choose_hot_path,
    predict_labels,
    train_epochs,
    training_work,
)
from ddistill.training.side_by_side import MOST, SideBySide
from ddistill.training.stretches import Stretches, stretch


class Outcome(NamedTuple):
    """What a trained network made of the real images.

    Attributes:
        accuracy: top-1 in percent.
        predicted: the class that it took each image for, int64 (N,) on the CPU; None where that was not kept.
    """

    accuracy: float
    predicted: torch.Tensor | None


OnEpoch = Callable[[int, int], None]
OnRun = Callable[[int, Outcome], None]


@dataclass(frozen=True)
class Progress:
    """What is known of an evaluation before, kept of it on the way, and told.

    Attributes:
        finished: what was measured before, by repeat, and is taken as it is.
        on_run: called with (repeat, what was measured) when a network has been trained and tested.
        on_epoch: called with (epochs done, epochs in all), over all repeats.
        unfinished: keeps the training in progress.
        name: of this evaluation in what ``unfinished`` keeps.
    """

    finished: Mapping[int, Outcome] = field(default_factory=dict)
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
        image_sets: the decoded set, or one per repeat, all of one shape.
        test: real images.
        settings: of the protocol, with the epochs in force.
        seed: of the run.
        execution: device, precision, compilation.
        progress: what is kept and told.
    """

    network: NetworkSettings
    classes: int
    image_sets: list[ImageSet]
    test: ImageSet
    settings: EvaluationSettings
    seed: int
    execution: Execution
    progress: Progress

    def __post_init__(self) -> None:
        images, settings, execution = self.image_sets[0].images, self.settings, self.execution
        self.training, self.epochs = settings.training, settings.epochs or 0
        self.shape = (self.classes, images.shape[1], images.shape[-1])
        self.module = build_network(self.network, *self.shape, "evaluation").to(execution.device)
        on_gpu = execution.device.type == "cuda"
        self.side_by_side = on_gpu if execution.side_by_side is None else execution.side_by_side
        count = len(self.image_sets[0].labels)
        steps = (settings.steps or count / min(count, self.training.batch) * self.epochs) * settings.repeats
        work = training_work(Trainer(self.module, self.image_sets[0], self.training, captured="evaluation"), steps)
        asked = execution.settings
        self.hot_path = choose_hot_path(self.module, work, asked.precision, asked.compile)
        self.trainer = Trainer(
            self.module,
            self.image_sets[0],
            self.training,
            compiled=self.hot_path.compiled,
            precision=self.hot_path.precision,
            captured="evaluation",
        )

    def rounds(self, repeats: Sequence[int], ranks: int) -> list[list[list[int]]]:
        """Who trains which networks: in each round a list for each rank."""
        shares = [list(repeats[rank::ranks]) for rank in range(ranks)]
        most = MOST if self.side_by_side else 1
        return [[share[i : i + most] for share in shares] for i in range(0, len(shares[0]), most)]

    def tested(self, repeats: Sequence[int]) -> list[Outcome]:
        """What the networks of these repeats make of the test images, once they are trained."""
        if not self.side_by_side or len(repeats) < 2:
            return [self._one(repeat) for repeat in repeats]
        group = SideBySide(self.trainer, [self._source(repeat) for repeat in repeats])
        try:
            return self._together(repeats, group)
        except torch.OutOfMemoryError:
            half = len(repeats) // 2
        finally:
            group.release()
        return self.tested(repeats[:half]) + self.tested(repeats[half:])

    def _one(self, repeat: int) -> Outcome:
        self.module.load_state_dict(self._first_weights(repeat))
        self.trainer.look_at(self._source(repeat))
        self.trainer.restart()
        draws = partial(generator, self.seed, "evaluation epoch", repeat)
        for done in self._train(self.trainer, draws, f"{self.progress.name} {repeat}"):
            if self.progress.on_epoch:
                self.progress.on_epoch(repeat * self.epochs + done, self.settings.repeats * self.epochs)
        return self._test()

    def _together(self, repeats: Sequence[int], group: SideBySide) -> list[Outcome]:
        for trainer, repeat in zip(group.trainers, repeats, strict=True):
            trainer.module.load_state_dict(self._first_weights(repeat))

        def draws(epoch: int) -> list[torch.Generator]:
            return [generator(self.seed, "evaluation epoch", repeat, epoch) for repeat in repeats]

        for done in self._train(group, draws, f"{self.progress.name} {', '.join(map(str, repeats))}"):
            if self.progress.on_epoch:
                self.progress.on_epoch(len(repeats) * done, len(repeats) * self.epochs)
        tested = []
        for trainer in group.trainers:
            self.module.load_state_dict(trainer.module.state_dict())
            tested.append(self._test())
        return tested

    def _test(self) -> Outcome:
        predicted = predict_labels(self.module, self.test)
        correct = int((predicted == self.test.labels).sum())
        return Outcome(100.0 * correct / len(predicted), predicted.cpu())

    def _source(self, repeat: int) -> ImageSet:
        return self.image_sets[repeat % len(self.image_sets)]

    def _first_weights(self, repeat: int) -> dict[str, torch.Tensor]:
        return build_network(self.network, *self.shape, self.seed, "evaluation", repeat).state_dict()

    def _train(self, trainer: Trainer | SideBySide, draws: Callable[[int], Any], name: str) -> Iterator[int]:
        falls, kept, steps = self.settings.falls(self.epochs), self.progress.unfinished, self.settings.steps
        trains = Stretches(trainer, stretch(steps)) if steps else trainer
        return train_epochs(trains, self.epochs, draws, falls=falls, unfinished=kept, name=name)

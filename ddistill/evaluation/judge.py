"""Training fresh networks on a set and testing them, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ddistill.evaluation.settings import EvaluationSettings
from ddistill.networks import NetworkSettings, build_network
from ddistill.randomness import generator
from ddistill.runtime.execution import Execution
from ddistill.training import (
    Source,
    Trainer,
    Unfinished,
    choose_hot_path,
    predict_accuracy,
    step_decay,
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
    sources: list[Source]
    test: Source
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
        training, unfinished = f"{self.progress.name} {repeat}", self.progress.unfinished
        first = unfinished.resume(training, self.trainer) if unfinished else 0
        for epoch in range(first, self.epochs):
            batches, draws = self._batches(repeat, epoch)
            self.trainer.run(batches, draws, [step_decay(self.training.lr, self.epochs, epoch)] * len(batches))
            if self.progress.on_epoch:
                self.progress.on_epoch(repeat * self.epochs + epoch + 1, self.settings.repeats * self.epochs)
            if unfinished:
                unfinished.keep(training, epoch + 1, self.trainer)
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
        training, unfinished = f"{self.progress.name} {', '.join(map(str, repeats))}", self.progress.unfinished
        first = unfinished.resume(training, group) if unfinished else 0
        for epoch in range(first, self.epochs):
            drawn = [self._batches(repeat, epoch) for repeat in repeats]
            draws = [self.trainer.draw(len(batches), len(batches[0]), source) for batches, source in drawn]
            group.run([batches for batches, _ in drawn], draws, step_decay(self.training.lr, self.epochs, epoch))
            if self.progress.on_epoch:
                self.progress.on_epoch(len(repeats) * (epoch + 1), len(repeats) * self.epochs)
            if unfinished:
                unfinished.keep(training, epoch + 1, group)
        accuracies = []
        for number in range(len(repeats)):
            self.module.load_state_dict(group.weights(number))
            accuracies.append(predict_accuracy(self.module, self.test))
        return accuracies

    def _source(self, repeat: int) -> Source:
        return self.sources[repeat % len(self.sources)]

    def _first_weights(self, repeat: int) -> dict[str, torch.Tensor]:
        return build_network(self.network, *self.shape, self.seed, "evaluation", repeat).state_dict()

    def _batches(self, repeat: int, epoch: int) -> tuple[Sequence[torch.Tensor], torch.Generator]:
        """Positions of an epoch's mini-batches, and what their augmentation is drawn from."""
        draws = generator(self.seed, "evaluation epoch", repeat, epoch)
        labels = self._source(repeat).labels
        return torch.randperm(len(labels), generator=draws).to(labels.device).split(self.training.batch), draws

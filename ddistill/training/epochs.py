"""The one loop over epochs: pools, fresh networks, evaluation, analysis, training on the synthetic set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ddistill.training.loop import TrainingSettings, step_decay
from ddistill.training.unfinished import HasState, Unfinished


class TrainsEpochs(HasState, Protocol):
    """A trainer, of one network or of several side by side."""

    settings: TrainingSettings

    def run_epoch(self, draws: Any, lr: float, *, filled: bool) -> None:
        """One pass over its images; ``draws`` gives order, augmentation and CutMix."""
        ...


def train_epochs(
    trainer: TrainsEpochs,
    epochs: int,
    draws: Callable[[int], Any],
    *,
    falls_over: int | None = None,
    filled: bool = False,
    unfinished: Unfinished | None = None,
    name: str = "",
) -> Iterator[int]:
    """Train epoch by epoch, as fast as the epochs done are asked for.

    Args:
        trainer: has the first weights.
        epochs: in all.
        draws: what an epoch (from 0) is drawn from.
        falls_over: epochs at 2/3 and 5/6 of which the rate falls to a fifth (`step_decay`); constant if None.
        filled: fill the last mini-batch of an epoch from a further pass; else it is smaller.
        unfinished: keeps the state, so that an interrupted training goes on from its last epoch.
        name: of the training in what ``unfinished`` keeps.

    Yields:
        The epochs done, after each that is done now.
    """
    lr = trainer.settings.lr
    first = unfinished.resume(name, trainer) if unfinished else 0
    for epoch in range(first, epochs):
        trainer.run_epoch(draws(epoch), step_decay(lr, falls_over, epoch) if falls_over else lr, filled=filled)
        yield epoch + 1
        if unfinished and epoch + 1 < epochs:
            unfinished.keep(name, epoch + 1, trainer)

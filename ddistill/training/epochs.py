"""The one loop over epochs: pools, fresh networks, evaluation, analysis, training on the synthetic set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ddistill.training.trainer import Falls, TrainingSettings
from ddistill.training.unfinished import HasState, Unfinished

CONSTANT = Falls()


class TrainsEpochs(HasState, Protocol):
    """A trainer, of one network or of several side by side."""

    settings: TrainingSettings

    def restart(self) -> None:
        """Forget what the optimiser remembers."""
        ...

    def run_epoch(self, draws: Any, lr: float, *, filled: bool) -> None:
        """One pass over its images; ``draws`` gives order, augmentation and CutMix."""
        ...


def train_epochs(
    trainer: TrainsEpochs,
    epochs: int,
    draws: Callable[[int], Any],
    *,
    falls: Falls = CONSTANT,
    filled: bool = False,
    unfinished: Unfinished | None = None,
    name: str = "",
) -> Iterator[int]:
    """Train epoch by epoch, as fast as the epochs done are asked for.

    Args:
        trainer: has the first weights.
        epochs: in all.
        draws: what an epoch (from 0) is drawn from.
        falls: of the rate; it is constant by default.
        filled: fill the last mini-batch of an epoch from a further pass; else it is smaller.
        unfinished: keeps the state, so that an interrupted training goes on from its last epoch.
        name: of the training in what ``unfinished`` keeps.

    Yields:
        The epochs done, after each that is done now.
    """
    lr = trainer.settings.lr
    first = unfinished.resume(name, trainer) if unfinished else 0
    for epoch in range(first, epochs):
        if falls.restart and epoch in falls.at:
            trainer.restart()
        trainer.run_epoch(draws(epoch), falls.rate(lr, epoch), filled=filled)
        yield epoch + 1
        if unfinished and epoch + 1 < epochs:
            unfinished.keep(name, epoch + 1, trainer)

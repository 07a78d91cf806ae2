"""Training by a number of optimiser steps instead of passes, so that sets of any size are trained equally long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ddistill.data import epoch_batches
from ddistill.data.image_set import ImageSet
from ddistill.training.side_by_side import SideBySide
from ddistill.training.trainer import Trainer, draw_training

STRETCHES = 12
"""That a training of a number of steps is divided into; the rate falls at the 8th and the 10th."""


def stretch(steps: int) -> int:
    """Optimiser steps of each of the stretches of a training of ``steps``, which is rounded up to equal ones."""
    return -(-steps // STRETCHES)


class Stretches:
    """A trainer whose epoch is a number of steps on full mini-batches of shuffled passes, end to end.

    Args:
        trainer: of one network or of several side by side.
        steps: of an epoch.
    """

    def __init__(self, trainer: Trainer | SideBySide, steps: int) -> None:
        self.trainer = trainer
        self.steps = steps
        self.settings = trainer.settings

    def state(self) -> dict[str, torch.Tensor]:
        """That of the trainer."""
        return self.trainer.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.trainer.load_state(state)

    def restart(self) -> None:
        """As the trainer does."""
        self.trainer.restart()

    def run_epoch(self, draws: torch.Generator | Sequence[torch.Generator], lr: float, *, filled: bool = False) -> None:
        """One stretch; every mini-batch is full.

        Args:
            draws: of the network, or of each: the order, then augmentation and CutMix.
            lr: learning rate.
            filled: has no effect.
        """
        trainer = self.trainer
        if isinstance(trainer, SideBySide):
            assert isinstance(draws, Sequence)
            pairs = list(zip(trainer.image_sets, draws, strict=True))
            batches = [self._batches(image_set, random) for image_set, random in pairs]
            most = len(batches[0][0])
            numbers = [draw_training(self.settings, image_set, self.steps, most, random) for image_set, random in pairs]
            trainer.run(batches, numbers, lr)
        else:
            assert isinstance(draws, torch.Generator)
            trainer.run(self._batches(trainer.image_set, draws), draws, [lr] * self.steps)

    def _batches(self, image_set: ImageSet, draws: torch.Generator) -> Sequence[torch.Tensor]:
        total = len(image_set.labels)
        order = epoch_batches(total, min(self.settings.batch, total), self.steps, draws)
        return order.to(image_set.images.device).unbind()

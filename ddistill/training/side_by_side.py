"""Several networks of one architecture trained side by side: on a GPU a launch makes steps of all of them.

A batch of 64 small images leaves most of a GPU idle, so R networks on streams of their own take little longer there
than one (per network 0.65 of the time with R = 4 on an H200; as one batch of grouped convolutions they gained nothing).
On a CPU they are trained one after the other.

Shapes: R networks, K steps of a launch, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from ddistill.data.image_set import ImageSet
from ddistill.runtime.capture import Captured, side_by_side
from ddistill.training.trainer import Block, Trainer, TrainingDraws, blocks, draw_training, epoch_order

Tensors = dict[str, torch.Tensor]

MOST = 8
"""Networks side by side. On an H200 2, 4, 8 and 16 took 0.79, 0.65, 0.62 and 0.62 of the time of one each."""


class SideBySide:
    """What `Trainer` does to one network, done to R; each has its own images and random numbers.

    Args:
        trainer: of such a network; neither its own network nor its optimiser is touched.
        image_sets: images of each network, all of one shape.
    """

    def __init__(self, trainer: Trainer, image_sets: Sequence[ImageSet]) -> None:
        self.settings = trainer.settings
        self.image_sets = image_sets
        self.trainers = [trainer.alike(image_set) for image_set in image_sets]
        first, changed = self.trainers[0], [tensor for one in self.trainers for tensor in one.changed]
        stream = first.captured if first.captures else None
        self._launch = Captured(self._steps_of, changed, stream) if stream else None

    def release(self) -> None:
        """Give back the memory of what was captured."""
        if self._launch is not None:
            self._launch.release()

    def restart(self) -> None:
        """Forget the momenta, as new optimisers would."""
        for trainer in self.trainers:
            trainer.restart()

    def state(self) -> Tensors:
        """Weights and momenta: all that decides how the training goes on."""
        states = enumerate(trainer.state() for trainer in self.trainers)
        return {f"{number}.{name}": tensor for number, state in states for name, tensor in state.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError, RuntimeError: it is of other networks.
        """
        for number, trainer in enumerate(self.trainers):
            trainer.load_state({name: state[f"{number}.{name}"] for name in trainer.state()})

    def run(self, batches: Sequence[Sequence[torch.Tensor]], draws: Sequence[TrainingDraws], lr: float) -> None:
        """One optimiser step of all networks per mini-batch.

        Args:
            batches: of each network, positions into its image set; the same sizes for all.
            draws: of each network, augmentation and CutMix of its batches.
            lr: learning rate.
        """
        if self._launch is None:
            for trainer, own, numbers in zip(self.trainers, batches, draws, strict=True):
                trainer.run(own, numbers, [lr] * len(own))
            return
        first = self.trainers[0]
        rates = torch.full((len(batches[0]),), lr, device=first.image_set.device)
        each = [blocks(own, numbers, rates, first.steps_at_once) for own, numbers in zip(batches, draws, strict=True)]
        for trainer in self.trainers:
            trainer.module.train()
        for group in zip(*each, strict=True):
            self._launch(*[tensor for block in group for tensor in block.tensors()])

    def run_epoch(self, draws: Sequence[torch.Generator], lr: float, *, filled: bool = False) -> None:
        """One optimiser step of all networks per mini-batch of one shuffled pass over their images.

        Args:
            draws: of each network, the order, then augmentation and CutMix.
            lr: learning rate.
            filled: fill the last mini-batch from a further pass, else it is smaller.
        """
        pairs = list(zip(self.image_sets, draws, strict=True))
        batches = [epoch_order(image_set, self.settings.batch, random, filled=filled) for image_set, random in pairs]
        steps, most = len(batches[0]), len(batches[0][0])
        self.run(
            batches, [draw_training(self.settings, image_set, steps, most, random) for image_set, random in pairs], lr
        )

    def _steps_of(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        each = len(tensors) // len(self.trainers)
        groups = [tensors[number * each :][:each] for number in range(len(self.trainers))]
        works = [partial(one.steps, Block.of_tensors(*block)) for one, block in zip(self.trainers, groups, strict=True)]
        losses: list[torch.Tensor] = side_by_side(works, self.image_sets[0].device)
        return losses

"""Several networks of one architecture trained side by side: every step is one launch for all of them.

A batch of 64 small images leaves most of a GPU idle, so R networks take little longer there than one. On a CPU they
would only share it.

Shapes: R networks, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.func import grad_and_value

from ddistill.augment import Pipeline
from ddistill.data.image_set import ImageSet
from ddistill.networks import couples_batch
from ddistill.training.compilation import maybe_compile
from ddistill.training.precision import Forward, Resolved
from ddistill.training.trainer import (
    TrainingDraws,
    TrainingSettings,
    descend,
    draw_training,
    epoch_order,
    mixed_batch,
    mixed_loss,
    no_momenta,
)

Tensors = dict[str, torch.Tensor]


def can_stand_side_by_side(module: nn.Module) -> bool:
    """Whether one launch can compute several such networks: not where they couple the images of a batch."""
    return not couples_batch(module)


class SideBySide:
    """What `Trainer` does to one module, done to R sets of weights; each has its own images and random numbers.

    Args:
        module: gives the architecture; its own weights are not touched.
        states: the first weights of each network.
        sources: images of each network, all of one shape.
        settings: optimiser, augmentation, CutMix.
        compiled: compile forward, backward and update into one graph.
        precision: of convolutions and products.
    """

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[Mapping[str, torch.Tensor]],
        sources: Sequence[ImageSet],
        settings: TrainingSettings,
        *,
        compiled: bool = False,
        precision: Resolved = "fp32",
    ) -> None:
        self.settings = settings
        self.sources = sources
        self.pipelines: list[Pipeline] = [source.pipeline(settings.augment) for source in sources]
        self.forward = Forward(module, precision)
        device = sources[0].device
        stacked = {name: torch.stack([state[name].to(device) for state in states]) for name in states[0]}
        self.parameters = {name: stacked.pop(name) for name, _ in module.named_parameters()}
        self.buffers = stacked  # constant
        self.momenta = no_momenta(settings, self.parameters)
        self._step = maybe_compile(self._update, compiled)

    def restart(self) -> None:
        """Forget the momentum, as new optimisers would."""
        for momentum in self.momenta.values():
            momentum.zero_()

    def state(self) -> Tensors:
        """Weights and momenta: all that decides how the training goes on."""
        weights = {f"weights.{name}": tensor for name, tensor in self.parameters.items()}
        return {**weights, **{f"momentum.{name}": tensor for name, tensor in self.momenta.items()}}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            KeyError, RuntimeError: it is of other networks.
        """
        found = [(own, state[name]) for name, own in self.state().items()]
        if any(own.shape != other.shape for own, other in found):
            raise RuntimeError("other networks")
        for own, other in found:
            own.copy_(other)

    def weights(self, network: int) -> Tensors:
        """The weights and buffers of one network, by name."""
        return {name: tensor[network] for name, tensor in (self.parameters | self.buffers).items()}

    def run(self, batches: Sequence[Sequence[torch.Tensor]], draws: Sequence[TrainingDraws], lr: float) -> None:
        """One SGD step of all networks per mini-batch.

        Args:
            batches: of each network, positions into its source; the same sizes for all.
            draws: of each network, augmentation and CutMix of its batches.
            lr: learning rate.
        """
        rate = torch.full((), lr, device=self.sources[0].device)
        for step in range(len(batches[0])):
            inputs = [
                mixed_batch(source, pipeline, own[step], numbers, step)
                for source, pipeline, own, numbers in zip(self.sources, self.pipelines, batches, draws, strict=True)
            ]
            images, labels, partner_labels, share = (torch.stack(parts) for parts in zip(*inputs, strict=True))
            self._step(images, labels, partner_labels, share, rate, self.parameters, self.momenta)

    def run_epoch(self, draws: Sequence[torch.Generator], lr: float, *, filled: bool = False) -> None:
        """One SGD step of all networks per mini-batch of one shuffled pass over their sources.

        Args:
            draws: of each network, the order, then augmentation and CutMix.
            lr: learning rate.
            filled: fill the last mini-batch from a further pass, else it is smaller.
        """
        own = list(zip(self.sources, draws, strict=True))
        batches = [epoch_order(source, self.settings.batch, random, filled=filled) for source, random in own]
        steps, most = len(batches[0]), len(batches[0][0])
        self.run(batches, [draw_training(self.settings, source, steps, most, random) for source, random in own], lr)

    def _update(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        partner_labels: torch.Tensor,
        share: torch.Tensor,
        lr: torch.Tensor,
        parameters: Tensors,
        momenta: Tensors,
    ) -> None:
        def loss(
            weights: Tensors,
            buffers: Tensors,
            x: torch.Tensor,
            own: torch.Tensor,
            other: torch.Tensor,
            part: torch.Tensor,
        ) -> torch.Tensor:
            return mixed_loss(self.forward({**weights, **buffers}, x), own, other, part)

        inputs = (images, labels, partner_labels, share)
        gradients, _ = torch.vmap(grad_and_value(loss))(parameters, self.buffers, *inputs)
        descend(self.settings, gradients, lr, parameters, momenta)

"""What a method is, what it declares, and what the engine gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from ddistill.synthetic import SyntheticSet
from ddistill.training import Resolved, Source, Trainer

OnInner = Callable[[int, int], None]


@dataclass(frozen=True)
class Needs:
    """What a method asks for; the engine and the contract tests read it.

    Attributes:
        network: matching uses a network, so a network source is meaningful.
        second_order: differentiates through gradients with respect to weights.
        trains_network_on: what the network is trained on between image updates.
    """

    network: bool
    second_order: bool
    trains_network_on: Literal["real", "synthetic", "nothing"]


@dataclass(frozen=True)
class Context:
    """What the engine gives a method.

    Attributes:
        real: class-sorted real training images, on the device.
        class_offsets: position of the first real image of each class, and N at the end.
        synthetic: the set to improve, on the device; its image tensor is changed in place.
        network: holds the weights of the current outer step; the engine loads them before each.
        trainer: trains ``network`` on ``real``.
        seed: of the run.
        compiled: compile the hot functions.
        precision: of convolutions and products in the hot functions.
        class_chunk: classes that are matched in one launch; None chooses by the device.
    """

    real: Source
    class_offsets: list[int]
    synthetic: SyntheticSet
    network: nn.Module
    trainer: Trainer
    seed: int
    compiled: bool
    precision: Resolved = "fp32"
    class_chunk: int | None = None


class Method(Protocol):
    """One outer step at a time: given real data and a network, improve the synthetic set."""

    needs: Needs

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Improve the set in place.

        Args:
            step: from 1; random draws are a function of (seed, purpose, step).
            on_inner: called with (inner steps done, inner steps in all).

        Returns:
            The mean matching loss, a 0-d tensor on the device.
        """
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept, besides the images, to go on after an outer step."""
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        ...

    def flops_per_outer_step(self) -> float:
        """Floating-point operations of one outer step, by torch's counter on the real functions."""
        ...

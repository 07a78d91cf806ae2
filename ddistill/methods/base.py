"""What a method is, what it declares, and what the engine gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ddistill.augment import NO_AUGMENTATION
from ddistill.data import ImageSet, class_batches
from ddistill.methods.turns import Turn, appearances
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.execution import Execution
from ddistill.runtime.randomness import generator
from ddistill.synthetic import SyntheticSet
from ddistill.training import EAGER, HotPath, Resolved, Trainer, TrainingSettings

if TYPE_CHECKING:
    from ddistill.methods.chunking import Chunking
    from ddistill.network_sources import NetworkDraw, NetworkSource

PLAIN_SGD = TrainingSettings(lr=0.01, momentum=0.0, weight_decay=0.0, batch=256, augment=NO_AUGMENTATION, cutmix=0.0)
"""How DC, DSA and CAFE train their network on the synthetic set."""

OnInner = Callable[[int, int], None]


@dataclass(frozen=True)
class Trajectory:
    """Which part of an expert's training a method looks at.

    Attributes:
        max_start_epoch: a start is drawn from the epochs below it.
        ahead: epochs from the start to the reference.
    """

    max_start_epoch: int
    ahead: int


@dataclass(frozen=True)
class Needs:
    """What a method asks for; recipes are checked by it, and the engine reads it.

    Attributes:
        network: uses a network, so a network source is meaningful.
        second_order: gradients with respect to weights are differentiated, too.
        features: asks the network for the input of its classifier (a method `features`).
        layers: asks the network for the maps of all its layers (a method `layers`).
        reference: looks at a second network beside the one that is matched: at where a trajectory leads to, or at any
            older one.
        fixed_length: its schedule depends on the number of outer steps of the run.
        one_step: chooses real images in a single outer step, instead of improving a set.
        sharded: the classes are shared out to the ranks of a run; else every rank does all of the matching.
    """

    network: bool
    second_order: bool = False
    features: bool = False
    layers: bool = False
    reference: Trajectory | Literal["older"] | None = None
    fixed_length: bool = False
    one_step: bool = False
    sharded: bool = False

    @property
    def trajectories(self) -> Trajectory | None:
        """Where a method starts from an expert's weights and aims at its later ones: which."""
        return self.reference if isinstance(self.reference, Trajectory) else None

    @property
    def learns_rate(self) -> bool:
        """A learning rate is learned with the images (`Method.learned_rate`)."""
        return self.trajectories is not None


@dataclass(frozen=True)
class Context:
    """What the engine gives a method.

    Attributes:
        trainer: trains ``network`` on ``real``.
        class_offsets: position of the first real image of each class, and N at the end.
        synthetic: the set to improve, on the device; its image tensor is changed in place.
        seed: of the run.
        hot_path: precision of the hot functions, and whether they are compiled.
        execution: the processes of the run, and what was asked for (classes and images in a launch).
        outer_steps: of the whole run, for rates that fall in its course.
        reference: holds the weights of a second network of the outer step, where the source gives one.
    """

    trainer: Trainer
    class_offsets: list[int]
    synthetic: SyntheticSet
    seed: int
    hot_path: HotPath = EAGER
    execution: Execution = field(default_factory=Execution)
    outer_steps: int = 1
    reference: nn.Module | None = None

    @property
    def real(self) -> ImageSet:
        """Class-sorted real training images, on the device."""
        return self.trainer.image_set

    @property
    def network(self) -> nn.Module:
        """Holds the weights of the current outer step; the engine loads them before each."""
        return self.trainer.module

    @property
    def precision(self) -> Resolved:
        """Of convolutions and products in the hot functions."""
        return self.hot_path.precision

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""
        return self.execution.ranks


class Method:
    """One outer step at a time: given real data and a network, improve the synthetic set.

    What a method needs is a property of its settings (``settings.needs``), so that a recipe can be checked without it.

    Attributes:
        chunking: what it puts into one launch, where it can put more or less into one.
        captured: most of its work is launched whole on a GPU (`ddistill.runtime.capture`).
    """

    chunking: Chunking | None = None
    captured = False

    def draw_networks(self, step: int, source: NetworkSource) -> NetworkDraw:
        """The networks that outer step ``step`` starts with; the engine loads them."""
        return source.draw(step)

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Improve the set in place.

        Args:
            step: from 1; random draws are a function of (seed, purpose, step).
            on_inner: called with (inner steps done, inner steps in all).

        Returns:
            The mean matching loss, a 0-d tensor on the device.
        """
        raise NotImplementedError

    def state(self) -> dict[str, torch.Tensor]:
        """What must be kept, besides the images, to go on after an outer step."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""

    @property
    def learned_rate(self) -> float | None:
        """The learning rate that the set asks a network to be trained at, where the method learns one with it."""
        return None

    def flops_per_outer_step(self) -> float:
        """Floating-point operations of one outer step, by torch's counter on the real functions."""
        raise NotImplementedError

    def flops_done(self) -> float | None:
        """Floating-point operations of all outer steps so far; None where each takes `flops_per_outer_step`."""
        return None

    def smaller_chunk(self) -> str | None:
        """Put less into a launch after the device ran out of memory; in words, None where it cannot be less."""
        return None


def draw_real(
    context: Context, purpose: str, step: int, batch: int, steps: int, turns: Sequence[Turn] | None = None
) -> torch.Tensor:
    """Positions of real images for every class and inner step of an outer step, int64 (C, steps, batch).

    Shuffled passes over each class; a class smaller than the batch is repeated within it.

    Args:
        context: of the method.
        purpose: of the draw.
        step: outer step.
        batch: real images of a class.
        steps: inner steps.
        turns: the classes of each inner step, where it does not look at all; the first axis is then the place in the
            largest turn, and zeros fill the shorter ones.
    """
    turns = turns or [range(context.synthetic.num_classes)] * steps
    positions = torch.zeros(max(map(len, turns)), steps, batch, dtype=torch.int64)
    for label, (places, numbers) in appearances(turns).items():
        first, end = context.class_offsets[label : label + 2]
        draws = generator(context.seed, purpose, step, label)
        positions[places, numbers] = class_batches(end - first, batch, len(numbers), draws) + first
    return positions.to(context.real.images.device)


def synthetic_trainer(context: Context, settings: TrainingSettings) -> Trainer:
    """Trains the network on the decoded set as it now is."""
    images, labels = context.synthetic.decoded()
    source = ImageSet(images, labels, context.real.normalisation)
    return Trainer(context.network, source, settings, precision=context.precision)

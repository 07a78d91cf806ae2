"""How a set is judged: the settings of the protocol."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ddistill.augment import AugmentSettings
from ddistill.networks import NetworkSettings
from ddistill.settings import Settings
from ddistill.training import TrainingSettings

EVALUATION_AUGMENT = AugmentSettings(operations=("color", "crop", "flip", "scale", "rotate"))


class EvaluationSettings(Settings):
    """How a set is judged."""

    network: NetworkSettings | None = None
    """Network that is trained on the set; the one of the distillation if not set."""
    training: TrainingSettings = TrainingSettings(augment=EVALUATION_AUGMENT)
    """Optimiser, augmentation and CutMix; the rate falls x0.2 at 2/3 and 5/6 of the epochs."""
    epochs: int | None = Field(default=1000, ge=1)
    """Passes over the decoded set; not set: the published table for ImageNet, by decoded images per class."""
    epochs_on_the_way: int | None = Field(default=None, ge=1)
    """Passes of the evaluations during a run, whose accuracies are watched and may choose; not set: as many as at the
    end. Figures of fewer passes are lower, and are no protocol's."""
    repeats: int = Field(default=3, ge=1)
    """Networks trained; mean and standard deviation are over them."""
    every: int = Field(default=0, ge=0)
    """Outer steps between evaluations during a run; 0: none by steps."""
    every_seconds: float | None = Field(default=None, gt=0)
    """Seconds of pool and distillation between evaluations, each at the first outer step past its time."""
    every_flops: float | None = Field(default=None, gt=0)
    """Floating-point operations of pool and distillation between evaluations."""
    select: Literal["last", "best"] = "last"
    """Which images a run gives: the last, or those of the evaluation with the best accuracy on the validation part of
    the training set; the test set is read once, at the end. Without a schedule ten evaluations choose."""
    baselines: tuple[Literal["random", "random_decoded"], ...] = ("random",)
    """random: as many real images as are stored; random_decoded: as many as are decoded; drawn anew per repeat."""

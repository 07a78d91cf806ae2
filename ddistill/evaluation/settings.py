"""How a set is judged: a protocol by name, and the settings that it decides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ddistill.augment import AugmentSettings
from ddistill.baselines import ALL, known_baseline
from ddistill.evaluation.protocols import IDC, PROTOCOLS, protocol
from ddistill.networks import NetworkSettings
from ddistill.runtime.errors import UserError
from ddistill.runtime.settings import Settings
from ddistill.training import Falls, TrainingSettings

EVALUATION_AUGMENT = AugmentSettings(operations=("color", "crop", "flip", "scale", "rotate"))


class EvaluationSettings(Settings):
    """How a set is judged."""

    protocol: str = IDC
    """How the rate falls, and where the other values come from: idc, dc, dsa (DM too), cafe, tm, ddranking, tgdd (DANCE
    too), ncfm. Another one brings its own values of the training and of the epochs, which can be changed with it."""
    network: NetworkSettings | None = None
    """Network that is trained on the set; the one of the distillation if not set."""
    training: TrainingSettings = TrainingSettings(augment=EVALUATION_AUGMENT)
    """Optimiser, augmentation and CutMix."""
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
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of each network, in place of epochs, in stretches of equal length: sets of any size are then
    trained equally long."""
    baselines: tuple[Annotated[str, AfterValidator(known_baseline)], ...] = ("random",)
    """Real images at equal storage: random, k-center, herding, el2n, el2n-hard, mosaic, el2n-mosaic, rded; besides,
    random_decoded (as many as are decoded), and all of them. Drawn anew per network, or chosen once."""

    @model_validator(mode="before")
    @classmethod
    def _values_of_the_protocol(cls, values: Any) -> Any:
        """What is not said stands as the protocol has it, in a file written by hand and in Python, too."""
        name = values.get("protocol", IDC) if isinstance(values, dict) else IDC
        if name == IDC or name not in PROTOCOLS:
            return values
        usual = cls().under(name).model_dump()
        training = values.get("training", {})
        return {
            **usual,
            **values,
            "training": {**usual["training"], **training} if isinstance(training, dict) else training,
        }

    @field_validator("protocol")
    @classmethod
    def _known(cls, name: str) -> str:
        protocol(name)
        return name

    def falls(self, epochs: int) -> Falls:
        """How the rate falls over so many epochs."""
        return protocol(self.protocol).falls(epochs)

    def under(self, name: str) -> EvaluationSettings:
        """The same settings with the values that a protocol decides.

        IDC's protocol takes its values from the data, so that there is a way from it, but none back.

        Raises:
            UserError: no such protocol, or these are the settings of another one than IDC's.
        """
        chosen = protocol(name)
        if name == self.protocol:
            return self
        if self.protocol != IDC:
            raise UserError(
                f"evaluation.protocol is {self.protocol}, whose settings do not tell those of {name} on these data; "
                f"start from a recipe by name (`ddistill recipes`), or evaluate with --protocol {name}"
            )
        training = self.training.model_copy(update=chosen.training_on(self.training.augment))
        return self.model_copy(update={"protocol": name, "training": training, **chosen.numbers})

    @model_validator(mode="after")
    def _check(self) -> EvaluationSettings:
        if ALL in self.baselines and self.steps is None:
            raise ValueError("the baseline of all images is trained as long as the set: set evaluation.steps")
        return self

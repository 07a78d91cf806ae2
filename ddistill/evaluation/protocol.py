"""The evaluation protocol: train fresh networks on the decoded set only, test on the real test set.

The accuracy reported is that of the last epoch, never the best of several looks at the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field

from ddistill.augment import AugmentSettings
from ddistill.data import RealData, Split
from ddistill.errors import UserError
from ddistill.evaluation.judge import Judge, OnEpoch
from ddistill.networks import NetworkSettings, build_network
from ddistill.ranks import ALONE, Ranks
from ddistill.settings import Settings
from ddistill.synthetic import SyntheticSet
from ddistill.training import (
    Precision,
    Source,
    Trainer,
    TrainingSettings,
    Unfinished,
    choose_hot_path,
    training_work,
)
from ddistill.training.compilation import CompileMode

OnRun = Callable[[int, float], None]
Part = Literal["test", "validation"]

EVALUATION_AUGMENT = AugmentSettings(operations=("color", "crop", "flip", "scale", "rotate"))
IMAGENET_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))


class EvaluationSettings(Settings):
    """How a set is judged."""

    network: NetworkSettings | None = None
    """Network that is trained on the set; the one of the distillation if not set."""
    training: TrainingSettings = TrainingSettings(augment=EVALUATION_AUGMENT)
    """Optimiser, augmentation and CutMix; the rate falls x0.2 at 2/3 and 5/6 of the epochs."""
    epochs: int | None = Field(default=1000, ge=1)
    """Passes over the decoded set; not set: the published table for ImageNet, by decoded images per class."""
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


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracies in percent on the real test set, last epoch.

    Attributes:
        runs: one per trained network.
        protocol: what was done, JSON-able.
        fallback: why the network was trained in float32 where bfloat16 was wanted; None where nothing stood against it.
    """

    runs: tuple[float, ...]
    protocol: dict[str, Any]
    fallback: str | None = None

    @property
    def mean(self) -> float:
        """Mean over the networks."""
        return statistics.fmean(self.runs)

    @property
    def std(self) -> float:
        """Standard deviation over the networks (population); 0 for one."""
        return statistics.pstdev(self.runs)

    def as_dict(self) -> dict[str, Any]:
        """``{"mean", "std", "runs"}``, rounded to a hundredth of a point."""
        return {
            "mean": round(self.mean, 2),
            "std": round(self.std, 2),
            "runs": [round(run, 2) for run in self.runs],
        }


def evaluation_epochs(settings: EvaluationSettings, decoded_per_class: int, num_classes: int) -> int:
    """The epochs in force; ImageNet's table gives two thirds, in whole hundreds, for 100 classes or more."""
    if settings.epochs is not None:
        return settings.epochs
    epochs = next(epochs for limit, epochs in IMAGENET_EPOCHS if decoded_per_class <= limit)
    return epochs if num_classes < 100 else int(epochs * 2 / 3) // 100 * 100


def evaluate_set(
    synthetic: SyntheticSet | Sequence[SyntheticSet],
    data: RealData,
    settings: EvaluationSettings,
    network: NetworkSettings,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    compile_mode: CompileMode = "auto",
    precision: Precision = "auto",
    finished: Mapping[int, float] | None = None,
    on_run: OnRun | None = None,
    on_epoch: OnEpoch | None = None,
    unfinished: Unfinished | None = None,
    name: str = "",
    part: Part = "test",
    ranks: Ranks = ALONE,
    side_by_side: bool | None = None,
) -> Evaluation:
    """Train ``settings.repeats`` networks on the decoded set and test each.

    Args:
        synthetic: the set, or one per repeat (random draws of real images, say), all of the same size.
        data: gives the test images; the set's own mean and spread normalise both.
        settings: the protocol.
        network: architecture where the protocol names none.
        seed: first weights, batches and augmentation follow from (seed, repeat).
        device: to train on.
        compile_mode: whether to compile the training step.
        precision: of convolutions and products while training; testing is in float32.
        finished: accuracies in percent by repeat that were measured before and are taken as they are.
        on_run: called with (repeat, accuracy in percent) when a network has been trained and tested.
        on_epoch: called with (epochs done, epochs in all), over all repeats.
        unfinished: keeps the training in progress.
        name: of this evaluation in what ``unfinished`` keeps.
        part: real images to test on.
        ranks: train a network each.
        side_by_side: train all networks of this process at once, one launch for all; None: on a GPU, where the
            architecture allows it.

    Raises:
        UserError: the data have no validation part.
    """
    device = torch.device(device)
    network = settings.network or network
    sets = [synthetic] if isinstance(synthetic, SyntheticSet) else list(synthetic)
    sources = [_decoded_source(one, device) for one in sets]
    train, classes = sources[0], sets[0].num_classes
    real = _part(data, part)
    test = Source.of(real.images, real.labels, train, device)
    epochs = evaluation_epochs(settings, len(train.labels) // classes, classes)
    shape = (classes, train.images.shape[1], train.images.shape[-1])
    module = build_network(network, *shape, "evaluation").to(device)
    steps = len(train.labels) / min(len(train.labels), settings.training.batch) * epochs * settings.repeats
    work = training_work(Trainer(module, train, settings.training), steps)
    hot_path = choose_hot_path(module, work, precision, compile_mode)
    runs = dict(finished or {})
    judge = Judge(
        module,
        network,
        classes,
        sources,
        test,
        settings.training,
        epochs,
        settings.repeats,
        seed,
        hot_path.compiled,
        hot_path.precision,
        device.type == "cuda" if side_by_side is None else side_by_side,
        on_epoch,
        unfinished,
        name,
    )
    pending = [repeat for repeat in range(settings.repeats) if repeat not in runs]
    for shares in judge.rounds(pending, ranks.count):
        with hot_path.on_its_threads():
            found = ranks.gather(judge.accuracies(shares[ranks.rank]))
        for repeat, accuracy in zip(chain(*shares), chain(*found), strict=True):
            runs[repeat] = accuracy
            if on_run:
                on_run(repeat, accuracy)
        if unfinished:
            unfinished.finish()
    protocol = {
        "network": network.model_dump(mode="json"),
        "epochs": epochs,
        "repeats": settings.repeats,
        "training": settings.training.model_dump(mode="json"),
        "lr_decay": "x0.2 at 2/3 and 5/6 of the epochs",
        "images": "decoded with single",
        "test_images": len(test.labels),
        "precision": hot_path.precision,
        "precision_reason": hot_path.reason,
        "reported": "last epoch",
    }
    return Evaluation(tuple(runs[repeat] for repeat in range(settings.repeats)), protocol, hot_path.fallback)


def _part(data: RealData, part: Part) -> Split:
    if part == "test":
        return data.test
    if data.validation is None:
        raise UserError("the data have no validation part; set data.validation_fraction")
    return data.validation


def _decoded_source(synthetic: SyntheticSet, device: torch.device) -> Source:
    images, labels = synthetic.decoded()
    return Source.like(images.to(device), labels.to(device), synthetic)

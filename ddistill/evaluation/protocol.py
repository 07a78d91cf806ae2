"""The evaluation protocol: train fresh networks on the decoded set only, test on the real test set.

The accuracy reported is that of the last epoch, never the best of several looks at the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch

from ddistill.data import ImageSet, RealData, Split
from ddistill.evaluation.confusion import Confusion
from ddistill.evaluation.judge import Judge, Progress
from ddistill.evaluation.protocols import protocol
from ddistill.evaluation.settings import EvaluationSettings
from ddistill.networks import NetworkSettings
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution
from ddistill.synthetic import SyntheticSet
from ddistill.training.stretches import STRETCHES, stretch

SplitName = Literal["test", "validation"]

IMAGENET_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracies in percent on the real test set, last epoch.

    Attributes:
        runs: one per trained network.
        protocol: what was done, JSON-able.
        fallback: why the network was trained in float32 where bfloat16 was wanted; None where nothing stood against it.
        confusion: which classes all networks together took the images for; None where that is not known of one of them.
        soft: the same networks trained on the soft labels of the set, where both were asked for and it has some.
    """

    runs: tuple[float, ...]
    protocol: dict[str, Any]
    fallback: str | None = None
    confusion: Confusion | None = None
    soft: Evaluation | None = None

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
        return {"mean": round(self.mean, 2), "std": round(self.std, 2), "runs": [round(run, 2) for run in self.runs]}


def evaluation_epochs(settings: EvaluationSettings, decoded_per_class: int, num_classes: int) -> int:
    """The epochs in force; ImageNet's table gives two thirds, in whole hundreds, for 100 classes or more."""
    if settings.epochs is not None:
        return settings.epochs
    epochs = next(epochs for limit, epochs in IMAGENET_EPOCHS if decoded_per_class <= limit)
    return epochs if num_classes < 100 else int(epochs * 2 / 3) // 100 * 100


def training_steps(settings: EvaluationSettings, images: int, num_classes: int) -> float:
    """Optimiser steps of one network on so many decoded images, a smaller last mini-batch counted as a part."""
    epochs = settings.epochs or evaluation_epochs(settings, images // num_classes, num_classes)
    return settings.steps or images / min(images, settings.training.batch) * epochs


def evaluate_set(
    synthetic: SyntheticSet | ImageSet | Sequence[SyntheticSet | ImageSet],
    data: RealData,
    settings: EvaluationSettings,
    network: NetworkSettings,
    *,
    execution: Execution | None = None,
    seed: int = 0,
    split: SplitName = "test",
    progress: Progress | None = None,
) -> Evaluation:
    """Train ``settings.repeats`` networks on the decoded set, on its soft labels where it has some, and test each.

    Args:
        synthetic: the set, or one per repeat (random draws of real images, say), all of the same size; or images that
            need no decoding.
        data: gives the test images; the set's own mean and std normalise both.
        settings: the protocol.
        network: architecture where the protocol names none.
        execution: device, compilation and precision of the training (testing is in float32); its ranks train a network
            each. On the CPU if None.
        seed: first weights, batches and augmentation follow from (seed, repeat).
        split: real images to test on.
        progress: what was measured before, and what is kept and told on the way.

    Raises:
        UserError: the data have no validation part.
    """
    execution, progress = execution or Execution(), progress or Progress()
    network, ranks = settings.network or network, execution.ranks
    sets = [synthetic] if isinstance(synthetic, SyntheticSet | ImageSet) else list(synthetic)
    image_sets = [training_images(one, execution.device) for one in sets]
    classes, real = data.num_classes, _split(data, split)
    test = ImageSet.of(real.images, real.labels, image_sets[0], execution.device)
    epochs = STRETCHES if settings.steps else evaluation_epochs(settings, len(image_sets[0].labels) // classes, classes)
    training, learned_rate = settings.training, getattr(sets[0], "learned_rate", None)
    if protocol(settings.protocol).learned_rate and learned_rate is not None:  # real images have none
        training = training.model_copy(update={"lr": learned_rate})
    in_force = settings.model_copy(update={"epochs": epochs, "training": training})
    judge = Judge(network, classes, image_sets, test, in_force, seed, execution, progress)
    runs = dict(progress.finished)
    pending = [repeat for repeat in range(settings.repeats) if repeat not in runs]
    for shares in judge.rounds(pending, ranks.count):
        with judge.hot_path.on_its_threads():
            found = ranks.gather(judge.tested(shares[ranks.rank]))
        for repeat, tested in zip(chain(*shares), chain(*found), strict=True):
            runs[repeat] = tested
            if progress.on_run:
                progress.on_run(repeat, tested)
        if progress.unfinished:
            progress.unfinished.finish()
    done = {
        "name": settings.protocol,
        "network": network.model_dump(mode="json"),
        "parameters": sum(parameter.numel() for parameter in judge.module.parameters()),
        **_length(settings, epochs, len(image_sets[0].labels)),
        "repeats": settings.repeats,
        "training": training.model_dump(mode="json"),
        "lr_decay": in_force.falls(epochs).in_words(),
        "images": "decoded with single",
        **({"labels": "soft"} if getattr(sets[0], "targets", None) is not None else {}),
        "test_images": len(test.labels),
        "precision": judge.hot_path.precision,
        "precision_reason": judge.hot_path.reason,
        "reported": "last epoch",
    }
    all_tested = [runs[repeat] for repeat in range(settings.repeats)]
    confusion = Confusion.of(test.labels.cpu(), [one.predicted for one in all_tested], classes)
    return Evaluation(tuple(one.accuracy for one in all_tested), done, judge.hot_path.fallback, confusion)


def _length(settings: EvaluationSettings, epochs: int, images: int) -> dict[str, float]:
    """How long a network is trained: passes over the decoded set, and the optimiser steps where these are fixed."""
    if settings.steps is None:
        return {"epochs": epochs}
    steps = stretch(settings.steps) * STRETCHES
    return {"epochs": round(steps * min(settings.training.batch, images) / images, 1), "steps": steps}


def _split(data: RealData, split: SplitName) -> Split:
    if split == "test":
        return data.test
    if data.validation is None:
        raise UserError("the data have no validation part; set data.validation_fraction")
    return data.validation


def training_images(synthetic: SyntheticSet | ImageSet, device: torch.device) -> ImageSet:
    """What networks are trained on: decoded images, with soft labels where the set has some."""
    if isinstance(synthetic, ImageSet):
        return synthetic
    images, labels = synthetic.decoded()
    labels = labels if synthetic.targets is None else synthetic.soft_labels()
    return ImageSet(images.to(device), labels.to(device), synthetic.normalisation)

"""Facts about data sets known by a short name: hub id, image size, channels, columns and parts."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from ddistill.data.settings import DataSettings
from ddistill.runtime.errors import unknown_name
from ddistill.runtime.words import class_list


@dataclass(frozen=True)
class KnownSet:
    """A hub data set, one of its configurations, and the settings that a user need not give for it."""

    hub_id: str
    settings: DataSettings
    config: str | None = None


def _known(hub_id: str, size: int, channels: Literal[1, 3], config: str | None = None, **other: Any) -> KnownSet:
    usual = {"image_column": "image", "label_column": "label", "train_split": "train", "test_split": "test"}
    return KnownSet(hub_id, DataSettings(size=size, channels=channels, **{**usual, **other}), config)


DIGITS_SIDE = 8
"""Of the grey images that come with the program, in pixels."""
IMAGENET = _known("ILSVRC/imagenet-1k", 224, 3, test_split="validation")
IMAGENET_SUBSETS = (
    "imagenet-10",
    "imagenet-100",
    "imagenette",
    "imagewoof",
    "imagefruit",
    "imagemeow",
    "imagesquawk",
    "imageyellow",
)

KNOWN_SETS: dict[str, KnownSet] = {
    "cifar10": _known("uoft-cs/cifar10", 32, 3, image_column="img"),
    "cifar100": _known("uoft-cs/cifar100", 32, 3, image_column="img", label_column="fine_label"),
    "mnist": _known("ylecun/mnist", 28, 1),
    "fashion_mnist": _known("zalando-datasets/fashion_mnist", 28, 1),
    "svhn": _known("ufldl-stanford/svhn", 32, 3, config="cropped_digits"),
    "imagenet-1k": IMAGENET,
    **{
        name: replace(IMAGENET, settings=IMAGENET.settings.model_copy(update={"classes": name}))
        for name in IMAGENET_SUBSETS
    },
}

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of each channel, of pixels in [0, 1]."""

PUBLISHED_CONSTANTS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What the programs of IDC, DC, DSA, DM, CAFE and TM normalise by. For CIFAR the stds are means over images of each
image's own, and CIFAR-100 has those of CIFAR-10: not what its training images have (`TRUE_STATISTICS`)."""
TRUE_STATISTICS: dict[str, Statistics] = {
    **PUBLISHED_CONSTANTS,
    "cifar10": ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    "cifar100": ((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
}
"""Of the training images of the known sets, by which a copy of one is told from other images of its name."""
COPY_TOLERANCE = 0.005
"""Of each statistic: JPEG compression or another part held out moves them less."""

ALIASES = {
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
    "fashionmnist": "fashion_mnist",
    "fashion-mnist": "fashion_mnist",
}
"""Other spellings that are understood."""


def short_names() -> list[str]:
    """Names of data sets that need neither a path nor a hub id."""
    return ["digits", *KNOWN_SETS]


def known_name(source: str) -> str | None:
    """The short name that ``source`` (a short name in any case, an alias or a hub id) stands for, if any."""
    lowered = source.lower()
    lowered = ALIASES.get(lowered, lowered)
    if lowered == "digits" or lowered in KNOWN_SETS:
        return lowered
    whole_sets = (name for name, facts in KNOWN_SETS.items() if facts.settings.classes is None)
    return next((name for name in whole_sets if KNOWN_SETS[name].hub_id.lower() == lowered), None)


def is_copy(name: str, statistics: Statistics, class_names: tuple[str, ...]) -> bool:
    """Whether images that are called like a known set are that set, by what was measured of them: its mean and std, or
    for ImageNet the WordNet ids of its classes."""
    facts = KNOWN_SETS.get(name)
    if facts and facts.settings.classes:
        return set(class_names) == set(subset_classes(name))
    true = TRUE_STATISTICS.get(name, ((), ()))
    measured, known = ([*mean, *std] for mean, std in (statistics, true))
    return len(measured) == len(known) and all(
        abs(one - other) <= COPY_TOLERANCE for one, other in zip(measured, known, strict=True)
    )


@cache
def _subset_table() -> dict[str, tuple[str, ...]]:
    text = resources.files("ddistill.data").joinpath("imagenet_subsets.csv").read_text(encoding="utf-8")
    rows = sorted(csv.DictReader(text.splitlines()), key=lambda row: (row["subset"], int(row["label"])))
    names = dict.fromkeys(row["subset"] for row in rows)
    return {name: tuple(row["wordnet_id"] for row in rows if row["subset"] == name) for name in names}


def subset_classes(name: str) -> tuple[str, ...]:
    """WordNet ids of an ImageNet subset in label order; a UserError for a name that is not a subset."""
    table = _subset_table()
    if name not in table:
        raise unknown_name(
            f"class subset (the names of classes are a list, data.classes={class_list([name])})", name, table
        )
    return table[name]

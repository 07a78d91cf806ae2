"""The results store: one JSON-lines file, a line per finished run, each with a checksum; nothing is ever rewritten.

A line has the version of its key. The first versions counted how a run was computed; their lines say from which recipe
and data they came, and are found by the key that follows from these now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ddistill.evaluation import EvaluationSettings
from ddistill.recipe import Recipe, build
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import append_checked, checked_lines, fingerprint, make_parent

VERSION = 2
"""Of the keys: 2 leaves the execution out."""
CHANGES: dict[str, Callable[[Recipe], bool]] = {
    "the rate of a pool falls an epoch later": lambda recipe: recipe.model_augmentation.networks == "pool",
    "students start below max_start_epoch": lambda recipe: recipe.model_augmentation.networks == "trajectories",
    "another factor for some images within the bound": lambda recipe: recipe.synthetic.decode == "bound",
    "ImageNet's crops are drawn anew and its colours not cut": lambda recipe: (
        "imagenet" in (recipe.training.augment.rule, recipe.evaluation.training.augment.rule)
    ),
    "whitening is of pixels": lambda recipe: recipe.data.whitening is not None,
    "CAFE sums over real images": lambda recipe: recipe.method.name == "cafe",
}
"""What was mended so that the same recipe gives other results since, and which recipes it concerns. A result that was
computed before is not found again then; it stays in its file."""
NEWER: dict[str, Any] = {
    "data.constants": "measured",
    "evaluation.protocol": "idc",
    "evaluation.training.optimiser": "sgd",
    "method.synthetic_training.optimiser": "sgd",
    "model_augmentation.early_rate": "falling",
    "training.optimiser": "sgd",
}
"""Fields that the first results did not have, and the value that they stand for there."""


def result_key(
    recipe: Recipe,
    data_fingerprint: str,
    ages: Sequence[int] = (),
    changes: Mapping[str, Callable[[Recipe], bool]] = CHANGES,
) -> str:
    """Hex key of everything that decides a result, so not of the names of the recipe, its data and groups of classes.

    Fields that are not set do not count, so that results outlive new optional fields. A new field with another usual
    value has a line in `NEWER`: a test holds the keys of what was published.

    Args:
        recipe: of the run.
        data_fingerprint: of its data.
        ages: epochs, where the result is the gradients of a network at those ages.
        changes: of the program since the first results.
    """
    values = recipe.identity(exclude_none=True)
    del values["name"]
    for name in ("source", "fingerprint", "group_column"):
        values["data"].pop(name, None)
    # newer than the first results, and without effect on them
    values["synthetic"].get("grow", {}).pop("source", None)
    if values["model_augmentation"]["networks"] != "snapshots":
        del values["model_augmentation"]["ahead"]
    for path, usual in NEWER.items():
        *way, last = path.split(".")
        room = values
        for part in way:
            room = room.get(part, {})
        if room.get(last) == usual:
            del room[last]
    decides: dict[str, Any] = {"version": VERSION, "recipe": values, "data": data_fingerprint}
    since = [what for what, concerns in changes.items() if concerns(recipe) and not ages]
    decides |= ({"ages": list(ages)} if ages else {}) | ({"since": since} if since else {})
    return fingerprint(decides)


def images_key(recipe: Recipe, data_fingerprint: str) -> str:
    """Hex key of everything that decides the images, so not of how they are judged at the end.

    Where a run is judged on the way, or its images are chosen by that, all of its evaluation counts.
    """
    settings = recipe.evaluation
    if settings.select != "best" and not (settings.every or settings.every_seconds or settings.every_flops):
        recipe = recipe.model_copy(update={"evaluation": EvaluationSettings()})
    return result_key(recipe, data_fingerprint)


class Judged(NamedTuple):
    """An evaluation in the course of a run: mean accuracy in percent, and the costs so far, pool included."""

    step: int
    accuracy: float
    seconds: float
    flops: float


@dataclass(frozen=True)
class Result:
    """A finished run, as the store keeps it.

    Attributes:
        key: of recipe and data.
        accuracy: percent on the test set, of each trained network.
        seconds, flops: by phase.
        accuracies: at each evaluation of the run, the last one included.
        about: recipe, data, machine, versions, date.
    """

    key: str
    accuracy: tuple[float, ...]
    seconds: dict[str, float]
    flops: dict[str, float]
    accuracies: tuple[Judged, ...]
    about: dict[str, Any]


class Store:
    """Results by key; several processes may add to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> Result | None:
        """The result of that recipe on those data, if it is there."""
        return next((result for result in self if result.key == key), None)

    def add(self, result: Result) -> None:
        """Append a line; a line that another process cut off does not spoil this one."""
        row = {"version": VERSION, **{name: getattr(result, name) for name in Result.__dataclass_fields__}}
        with FileLock(make_parent(self.path).with_suffix(".lock")):
            append_checked(self.path, row)

    def __iter__(self) -> Iterator[Result]:
        """All whole results, in the order in which they came."""
        for row in checked_lines(self.path):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                row["key"] = row["key"] if row.pop("version", 1) == VERSION else _key_now(row)
                row["accuracy"] = tuple(row["accuracy"])
                row["accuracies"] = tuple(Judged(*judged) for judged in row["accuracies"])
                yield Result(**row)


def _key_now(row: dict[str, Any]) -> str:
    """The key of a line of an older version, from the recipe and data that it names; its own where these are gone."""
    about = row["about"]
    ages = [one["epochs"] for one in about.get("gradients", ())]
    try:
        return result_key(build(Recipe, about["recipe"]), about["data"]["fingerprint"], ages, changes={})
    except (UserError, KeyError, TypeError):
        return str(row["key"])

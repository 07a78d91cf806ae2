"""The results store: one JSON-lines file, a line per finished run, each with a checksum; nothing is ever rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ddistill.config import Recipe
from ddistill.storage import append_line, fingerprint, make_parent


def recipe_key(recipe: Recipe, data_fingerprint: str) -> str:
    """Hex key of everything that decides a result, so not of the names of the recipe and of its data.

    Fields that are not set do not count, so that results outlive new optional fields.
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    del values["name"]
    for name in ("source", "fingerprint"):
        values["data"].pop(name, None)
    return fingerprint({"recipe": values, "data": data_fingerprint})


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
        row = {name: getattr(result, name) for name in Result.__dataclass_fields__}
        line = json.dumps({**row, "sha256": fingerprint(row)}, allow_nan=False)
        with FileLock(make_parent(self.path).with_suffix(".lock")):
            append_line(self.path, line)

    def __iter__(self) -> Iterator[Result]:
        """All whole results, in the order in which they came."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                checksum = row.pop("sha256")
                if checksum == fingerprint(row):
                    row["accuracy"] = tuple(row["accuracy"])
                    row["accuracies"] = tuple(Judged(*judged) for judged in row["accuracies"])
                    yield Result(**row)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue

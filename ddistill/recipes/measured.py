"""Accuracies that were measured here, as package data: ``measured.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A figure of a family of recipes on a data set.

    Attributes:
        family, data: of the recipe.
        ipc: stored images per class.
        scale: "full", the recipe as it is, or a smaller one of `reproduce`.
        accuracy, std: percent; over the networks of one distillation.
        changes: of recipe fields, with which it was measured.
        measured: when, and over what; then what was mended since, if anything.
    """

    family: str
    data: str
    ipc: int
    scale: str
    accuracy: float
    std: float
    changes: dict[str, Any]
    measured: str


@cache
def measured() -> tuple[Measured, ...]:
    """All of them, in the order of the file."""
    text = (files("ddistill.recipes") / "measured.csv").read_text(encoding="utf-8")
    return tuple(
        Measured(
            row["family"],
            row["data"],
            int(row["ipc"]),
            row["scale"],
            float(row["accuracy_percent"]),
            float(row["std_percent"]),
            {path: int(value) for path, _, value in (word.partition("=") for word in row["changes"].split())},
            row["measured"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def measured_in_words() -> dict[tuple[str, str], str]:
    """By family and data, those of the recipes as they are."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in measured():
        if one.scale == "full":
            mended = one.measured.partition("networks; ")[2]
            words = f"ipc {one.ipc} {one.accuracy:.1f}" + (f" ({mended})" if mended else "")
            found.setdefault((one.family, one.data), []).append(words)
    return {name: f"measured here: {', '.join(words)}" for name, words in found.items()}

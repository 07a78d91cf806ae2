"""The published figures, as package data: ``published_results.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """A cell of a table of the paper; accuracy and std in percent, None where none is printed."""

    accuracy: float
    std: float | None
    hours: float | None


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (files("ddistill.reproduce") / "published_results.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def published(table: str, data: str, ipc: int, method: str, speedup: int) -> Published | None:
    """The figure of a table ("3a", "5"), or None where the paper prints none."""
    wanted = {"table": table, "dataset": data, "ipc": str(ipc), "method": method, "speedup": str(speedup)}
    for row in _rows():
        if all(row[name] == value for name, value in wanted.items()):
            std, hours = (float(row[name]) if row[name] else None for name in ("std_percent", "hours"))
            return Published(float(row["accuracy_percent"]), std, hours)
    return None

"""The published figures, as package data: ``published_results.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """A cell of a table of the paper.

    Attributes:
        table: "3a", "5".
        data, method: as the paper writes them.
        ipc: stored images per class.
        speedup: that divides the outer steps.
        accuracy: percent.
        std: in points, over networks; None where none is printed.
        hours: that the run took, where they are printed.
    """

    table: str
    data: str
    ipc: int
    method: str
    speedup: int
    accuracy: float
    std: float | None
    hours: float | None


@cache
def published_rows() -> tuple[Published, ...]:
    """All of them, in the order of the file."""
    text = (files("ddistill.reproduce") / "published_results.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            row["table"],
            row["dataset"],
            int(row["ipc"]),
            row["method"],
            int(row["speedup"]),
            float(row["accuracy_percent"]),
            *(float(row[name]) if row[name] else None for name in ("std_percent", "hours")),
        )
        for row in csv.DictReader(text.splitlines())
    )


def published(table: str, data: str, ipc: int, method: str, speedup: int) -> Published | None:
    """The figure of a table ("3a", "5"), or None where the paper prints none."""
    wanted = (table, data, ipc, method, speedup)
    rows = published_rows()
    return next((row for row in rows if (row.table, row.data, row.ipc, row.method, row.speedup) == wanted), None)

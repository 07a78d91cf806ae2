"""The page of a comparison, one file that asks the network for nothing, and its plot."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddistill.comparison.table import Comparison, Row
from ddistill.report import PAGE, class_sheet
from ddistill.report.page import template
from ddistill.report.sprites import data_uri, encoded
from ddistill.runtime.storage import write_atomically, write_text
from ddistill.synthetic import load_synthetic
from ddistill.synthetic.decode import in_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT = "compare.png"
COLORS = {"selection": "#3b6fd4", "distilled": "#d4703b", "all": "#2f9e64"}
CLASSES_SHOWN = 10
IMAGES_SHOWN = 10
"""Of each class on the page."""


def save_page(comparison: Comparison, note: Callable[[str], None]) -> None:
    """Write page and plot into the folder of a comparison; without matplotlib the page, and a remark."""
    assert comparison.folder is not None
    plot = draw(comparison)
    if plot is None:
        note("no plot was drawn, as matplotlib is not installed: pip install 'ddistill[plots]'")
    else:
        write_atomically(comparison.folder / PLOT, lambda path: path.write_bytes(plot))
    headers, lines = comparison.table()
    page = template("comparison.html").render(
        title=f"does distilling {comparison.data} pay?",
        comparison=comparison,
        headers=headers,
        lines=[(COLORS[row.kind], row.kind, line) for row, line in zip(comparison.rows, lines, strict=True)],
        plot=data_uri(plot) if plot else "",
        pictures=[(row, _sheet(comparison.folder / row.folder)) for row in comparison.rows if row.folder],
    )
    write_text(comparison.folder / PAGE, page)


def draw(comparison: Comparison) -> bytes | None:
    """A PNG of accuracy over the time to make a set, and over its bytes; None where matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    over_time, over_bytes = figure.subplots(1, 2, sharey=True)
    _points(over_time, comparison, lambda row: row.seconds / 60)
    over_time.set_xscale("symlog", linthresh=0.5)
    over_time.set_xlim(left=-0.05)
    over_time.set(xlabel="minutes to make the set (networks, choice, distillation)", ylabel="test accuracy, %")
    _points(over_bytes, comparison, lambda row: row.stored_bytes)
    over_bytes.set_xscale("log")
    over_bytes.set(xlabel="bytes of the set, a byte for each pixel and channel")
    steps, network = comparison.protocol.get("steps"), comparison.networks[0]
    figure.suptitle(f"{comparison.data}, ipc {comparison.ipc}, {network}, {steps} optimiser steps each", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _points(axes: Axes, comparison: Comparison, value: Callable[[Row], float]) -> None:
    """A point with its spread for each row, and its name beside it."""
    for row in comparison.rows:
        axes.errorbar(value(row), row.mean(), yerr=row.std(), fmt="o", color=COLORS[row.kind], capsize=3)
        axes.annotate(row.name, (value(row), row.mean()), (8, 0), textcoords="offset points", fontsize=8, va="center")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)


def _sheet(folder: Path) -> str:
    synthetic = load_synthetic(folder)
    counts = synthetic.counts[:CLASSES_SHOWN]
    return data_uri(encoded(class_sheet(in_bytes(synthetic.images), counts, IMAGES_SHOWN, gap=1, blank=255)))

"""The figures: PNG files, drawn from results and from the stored images of runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddistill.report import class_sheet, load_snapshots
from ddistill.reproduce.store import Result
from ddistill.reproduce.tables import Row, mean_gradients, rows_of
from ddistill.reproduce.targets import AUGMENTED, DATA_TITLES, Cell
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import make_parent, write_atomically
from ddistill.synthetic import load_synthetic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = 5
"""Images per class that figures 4 and 5 show."""
COLORS = {"IDC": "#d4703b", "IDC + model augmentation": "#3b6fd4"}
AXES: dict[str, tuple[str, Callable[[Any], float], float]] = {
    "figure1": ("outer steps", lambda judged: judged.step, 1.0),
    "figure2": ("minutes, pool included", lambda judged: judged.seconds, 60.0),
    "figure3": ("TFLOP, pool included", lambda judged: judged.flops, 1e12),
}
SHOWN_GRADIENTS = (
    ("norm", "gradient norm"),
    ("cosine", "cosine of successive\nclass gradients"),
    ("cosine_same_class", "cosine of one class,\nsuccessive batches"),
    ("effective_rank", "effective rank"),
)


def draw(
    target: str, scale: str, cells: Sequence[Cell], results: Sequence[Result | None], folders: Sequence[Path | None]
) -> Callable[[Path], None] | None:
    """What writes the figure of a target to a path; None for a table, or where nothing has been run.

    Args:
        target: name of the table or figure.
        scale: for the title.
        cells: its runs.
        results: one per cell; None where it was not run.
        folders: of the runs with their stored images, for figures 4 to 7.

    Raises:
        UserError: matplotlib is not installed.
    """
    rows = [row for row in rows_of(cells, results) if row.results]
    if not rows or target.startswith("table") or target in ("methods", "factors", "ages"):
        return None
    from_runs = [folder for folder in folders if folder]
    if target in AXES:
        figure = _curves(target, scale, rows)
    elif target == "section1":
        figure = _gradients(scale, rows)
    elif target in ("figure4", "figure5"):
        figure = _real_beside_distilled(scale, rows[0], from_runs[0])
    else:
        figure = _full_set(scale, rows[0], from_runs[0])

    def save(path: Path) -> None:
        write_atomically(make_parent(path), lambda temporary: figure.savefig(temporary, format="png", dpi=110))

    return save


def shows_images(target: str) -> bool:
    """Whether a figure needs the stored images of its runs."""
    return target in ("figure4", "figure5", "figure6", "figure7")


def _figure(**options: Any) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'ddistill[plots]'") from error
    return Figure(layout="constrained", **options)


def _curves(target: str, scale: str, rows: Sequence[Row]) -> Figure:
    label, value, unit = AXES[target]
    figure = _figure(figsize=(6.0, 3.8))
    axes = figure.subplots()
    for row in rows:
        name = "IDC + model augmentation" if row.cell.labels["networks"] == AUGMENTED else "IDC"
        for result in row.results:
            xs, ys = [value(one) / unit for one in result.accuracies], [one.accuracy for one in result.accuracies]
            axes.plot(xs, ys, color=COLORS[name], alpha=0.25, linewidth=1)
        points = list(zip(*(result.accuracies for result in row.results), strict=False))
        xs = [statistics.fmean(value(one) for one in point) / unit for point in points]
        ys = [statistics.fmean(one.accuracy for one in point) for point in points]
        axes.plot(xs, ys, marker="o", color=COLORS[name], label=name)
    data, ipc = DATA_TITLES[str(rows[0].cell.labels["data"])], rows[0].cell.labels["ipc"]
    seeds = max(len(row.results) for row in rows)
    axes.set(xlabel=label, ylabel="test accuracy, %", xlim=(0, None))
    axes.set_title(f"{data}, ipc {ipc}; scale {scale}; mean of {seeds} seed{'s' if seeds > 1 else ''}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _gradients(scale: str, rows: Sequence[Row]) -> Figure:
    figure = _figure(figsize=(11.0, 3.2))
    row = rows[0]
    for axes, (name, label) in zip(figure.subplots(1, len(SHOWN_GRADIENTS)), SHOWN_GRADIENTS, strict=True):
        for result in row.results:
            found = result.about["gradients"]
            axes.plot([one["epochs"] for one in found], [one[name] for one in found], color="#3b6fd4", alpha=0.25)
        means = mean_gradients(row)
        axes.plot([one["epochs"] for one in means], [one[name] for one in means], color="#3b6fd4", marker="o")
        axes.set(xlabel="epochs of training", ylabel=label)
        axes.grid(alpha=0.3)
    data, network = DATA_TITLES[str(row.cell.labels["data"])], row.cell.labels["network"]
    figure.suptitle(f"class gradients, {data}, {network}; scale {scale}", fontsize=10)
    return figure


def _panels(titles: Sequence[str], sheets: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    height, width = sheets[0].shape[:2]
    wide = 4.2 * len(sheets)
    figure = _figure(figsize=(wide + 1.0, wide / len(sheets) * height / width + 0.5))
    side = height / len(names)
    for number, (axes, title, sheet) in enumerate(
        zip(np.atleast_1d(figure.subplots(1, len(sheets))), titles, sheets, strict=True)
    ):
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([side * (row + 0.5) for row in range(len(names))], names if not number else [], fontsize=8)
        axes.tick_params(length=0)
    return figure


def _real_beside_distilled(scale: str, row: Row, folder: Path) -> Figure:
    snapshots, synthetic = load_snapshots(folder), load_synthetic(folder)
    shown = (snapshots[min(snapshots)], snapshots[max(snapshots)])
    sheets = [class_sheet(images, synthetic.counts, BESIDE, _gap(images)) for images in shown]
    return _panels(
        ["real images that it started from", f"distilled, {_about(scale, row)}"], sheets, synthetic.class_names
    )


def _full_set(scale: str, row: Row, folder: Path) -> Figure:
    snapshots, synthetic = load_snapshots(folder), load_synthetic(folder)
    images = snapshots[max(snapshots)]
    sheet = class_sheet(images, synthetic.counts, gap=_gap(images))
    return _panels([f"distilled, {_about(scale, row)}"], [sheet], synthetic.class_names)


def _gap(images: torch.Tensor) -> int:
    return max(1, images.shape[-1] // 16)


def _about(scale: str, row: Row) -> str:
    return f"{DATA_TITLES[str(row.cell.labels['data'])]}, {row.cell.recipe.budget.steps} outer steps; scale {scale}"

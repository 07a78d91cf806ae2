"""Markdown of the tables: ours beside the published figures; a cell that was not run says so."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddistill.reproduce.published import Published, published
from ddistill.reproduce.store import Result
from ddistill.reproduce.targets import AUGMENTED, CORESETS, DATA_TITLES, SCALES, TARGETS, TITLES, Cell
from ddistill.storage import write_text

NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """All seeds of a cell.

    Attributes:
        cell: of the first seed.
        results: one per seed that was run.
    """

    cell: Cell
    results: tuple[Result, ...]

    def accuracies(self) -> list[float]:
        """Percent, of every trained network of every seed."""
        return [value for result in self.results for value in result.accuracy]

    def mean(self) -> float:
        """Mean over networks and seeds."""
        return statistics.fmean(self.accuracies())

    def shown(self) -> str:
        """Mean and population standard deviation over networks and seeds."""
        return f"{self.mean():.1f} ({statistics.pstdev(self.accuracies()):.1f})" if self.results else NOT_RUN

    def seconds(self, *phases: str) -> float:
        """Mean over the seeds of the seconds of these phases."""
        return statistics.fmean(sum(result.seconds[phase] for phase in phases) for result in self.results)

    def flops(self) -> float:
        """Mean over the seeds, pool and distillation together."""
        return statistics.fmean(sum(result.flops.values()) for result in self.results)


def rows_of(cells: Sequence[Cell], results: Sequence[Result | None]) -> list[Row]:
    """Cells that differ in the seed alone, put together, in the order of the first of each."""
    groups: dict[tuple[tuple[str, str | int], ...], list[tuple[Cell, Result | None]]] = {}
    for cell, result in zip(cells, results, strict=True):
        marks = tuple(sorted((name, value) for name, value in cell.labels.items() if name != "seed"))
        groups.setdefault(marks, []).append((cell, result))
    return [Row(group[0][0], tuple(result for _, result in group if result)) for group in groups.values()]


def markdown(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    shown = [headers, ["---"] * len(headers), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def render(target: str, scale: str, cells: Sequence[Cell], results: Sequence[Result | None]) -> str:
    """The table of a target, with what it was measured on."""
    rows = rows_of(cells, results)
    text = TABLES[target](rows)
    return f"{text}\n\n{provenance(scale, rows)}"


def put_into(path: Path, section: str, text: str) -> None:
    """Replace a section of a Markdown file, between two comments that name it; append it where it is not there yet."""
    start, end = (
        f"<!-- {section}: made by `ddistill reproduce {section_command(section)}` -->",
        f"<!-- end {section} -->",
    )
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = f"{start}\n\n{text}\n\n{end}"
    if start in old and end in old:
        before, _, rest = old.partition(start)
        old = before + block + rest.partition(end)[2]
    else:
        old = f"{old.rstrip()}\n\n{block}\n".lstrip()
    write_text(path, old)


def section_command(section: str) -> str:
    """Arguments of the command that makes a section ("table5 small")."""
    target, scale = section.split(" ")
    return f"{target} --scale {scale}"


def provenance(scale: str, rows: Sequence[Row]) -> str:
    """Scale, data, networks per figure, machines, versions and dates of the results."""
    done = [result for row in rows for result in row.results]
    if not done:
        return f"Scale {scale}: {SCALES[scale].about}. Nothing of it has been run."
    machines = sorted({f"{r.about['machine']['processor']}, {_device(r)}" for r in done})
    versions = sorted({f"torch {r.about['versions']['torch']}" for r in done})
    data = sorted({f"{r.about['data']['name']} ({r.about['data']['fingerprint'][:8]})" for r in done})
    dates = sorted({r.about["date"] for r in done})
    counts = sorted({len(row.accuracies()) for row in rows if row.results})
    networks = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Scale {scale}: {SCALES[scale].about}. Test accuracy in percent, last epoch: mean (standard deviation) over "
        f"{networks} trained networks; {len(done)} runs. Data: {', '.join(data)}. Measured on: {'; '.join(machines)}; "
        f"{', '.join(versions)}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )


def _device(result: Result) -> str:
    about = result.about["machine"]
    threads = about["threads"]
    return str(about["gpu"]) if "gpu" in about else f"{threads} thread{'s' if threads > 1 else ''}"


def _methods(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        marks = row.cell.labels
        networks = str(marks["networks"])
        if networks == AUGMENTED and marks["method"] == "tm":
            networks = "perturbed starts (our extension)"
        name = TITLES.get(str(marks["method"]), str(marks["method"]))
        steps = "-" if name in CORESETS else str(row.cell.recipe.budget.steps)
        costs = ["", "", ""]
        if row.results:
            costs = [f"{row.seconds('pool'):.0f}", f"{row.seconds('distill'):.0f}", f"{row.flops() / 1e12:.1f}"]
        lines.append([name, networks, steps, row.shown(), *costs])
    return markdown(
        ["method", "networks", "outer steps", "accuracy", "pool or experts, s", "distillation, s", "TFLOP"], lines
    )


def _beside(row: Row, reference: Published | None) -> str:
    theirs = "-" if reference is None else f"{reference.accuracy:.1f}"
    if reference is not None and reference.std is not None:
        theirs += f" ({reference.std:.1f})"
    if not row.results or reference is None:
        return f"{row.shown()} / {theirs}"
    return f"{row.shown()} / {theirs}, {row.mean() - reference.accuracy:+.1f}"


def _comparison(table: str, datasets: Mapping[str, str]) -> Callable[[Sequence[Row]], str]:
    """Tables 3 and 4: a line per data set and ipc, a column per method and speed-up."""

    def render(rows: Sequence[Row]) -> str:
        columns: dict[str, None] = {}
        lines: dict[tuple[str, int], dict[str, str]] = {}
        for row in rows:
            marks = row.cell.labels
            data, ipc, speedup = str(marks["data"]), int(marks["ipc"]), int(marks["speedup"])
            title = TITLES[str(marks["method"])]
            ours = marks["networks"] == AUGMENTED
            column = f"{'Ours' if ours else title} {speedup}" if title == "IDC" else title
            name = "IDC + model augmentation" if ours else title
            columns[column] = None
            reference = published(table, datasets.get(data, DATA_TITLES[data]), ipc, name, speedup)
            lines.setdefault((DATA_TITLES[data], ipc), {})[column] = _beside(row, reference)
        shown = [[data, str(ipc), *(cells.get(c, "-") for c in columns)] for (data, ipc), cells in lines.items()]
        return "Each cell: ours / published, difference.\n\n" + markdown(["data", "ipc", *columns], shown)

    return render


def _table5(rows: Sequence[Row]) -> str:
    lines = []
    by_marks = {(r.cell.labels["method"], r.cell.labels["speedup"], r.cell.labels["networks"]): r for r in rows}
    for method in dict.fromkeys(str(row.cell.labels["method"]) for row in rows):
        plain = by_marks.get((method, 1, "plain"))
        for row in (plain, by_marks.get((method, 5, "plain")), by_marks.get((method, 5, AUGMENTED))):
            if row is None:
                continue
            speedup, ours = int(row.cell.labels["speedup"]), row.cell.labels["networks"] == AUGMENTED
            title = TITLES[method]
            name = (
                f"{title} + model augmentation" if ours else f"{title}, a fifth of the steps" if speedup > 1 else title
            )
            reference = published("5", "CIFAR-10", 10, name, speedup)
            theirs = f"{reference.accuracy:.1f} / {reference.hours} h" if reference else "-"
            cells = [name, row.shown(), "", "", "", "", theirs]
            if row.results:
                cells[2:4] = [f"{row.seconds('pool', 'distill'):.0f}", f"{row.flops() / 1e12:.1f}"]
            if plain is not None and plain.results and row.results and row is not plain:
                faster = plain.seconds("pool", "distill") / row.seconds("pool", "distill")
                without = plain.seconds("distill") / row.seconds("distill")
                cells[4] = f"{faster:.2f}x ({without:.2f}x without the pool)" if ours else f"{faster:.2f}x"
                cells[5] = f"{row.mean() / plain.mean():.2f}x"
            lines.append(cells)
    return markdown(
        ["method", "accuracy", "pool and distillation, s", "TFLOP", "speed-up", "gain", "published: accuracy / time"],
        lines,
    )


def _curves(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        name = "IDC + model augmentation" if row.cell.labels["networks"] == AUGMENTED else "IDC"
        if not row.results:
            lines.append([name, str(row.cell.recipe.budget.steps), NOT_RUN, "", ""])
        for point in zip(*(result.accuracies for result in row.results), strict=False):
            accuracies = [one.accuracy for one in point]
            costs = [statistics.fmean(one.seconds for one in point), statistics.fmean(one.flops for one in point)]
            shown = f"{statistics.fmean(accuracies):.1f} ({statistics.pstdev(accuracies):.1f})"
            lines.append([name, str(point[0].step), shown, f"{costs[0]:.0f}", f"{costs[1] / 1e12:.3g}"])
    headers = ["method", "outer steps", "accuracy (over seeds)", "seconds, pool included", "TFLOP, pool included"]
    return markdown(headers, lines)


def _images(rows: Sequence[Row]) -> str:
    lines = [
        [DATA_TITLES[str(r.cell.labels["data"])], str(r.cell.labels["ipc"]), str(r.cell.recipe.budget.steps), r.shown()]
        for r in rows
    ]
    return markdown(["data", "ipc", "outer steps", "accuracy"], lines)


def mean_gradients(row: Row) -> list[dict[str, float]]:
    """Class gradients by age, means over the seeds."""
    by_age = zip(*(result.about["gradients"] for result in row.results), strict=True)
    return [{name: statistics.fmean(one[name] for one in same) for name in same[0]} for same in by_age]


def _gradients(rows: Sequence[Row]) -> str:
    headers = [
        "network",
        "epochs",
        "test accuracy",
        "gradient norm",
        "cosine of successive classes",
        "cosine of one class, successive batches",
        "effective rank",
    ]
    lines = []
    for row in rows:
        name = str(row.cell.labels["network"])
        if not row.results:
            lines.append([name, NOT_RUN, *[""] * 5])
            continue
        for one in mean_gradients(row):
            figures = [f"{one['norm']:.3g}", f"{one['cosine']:.3f}", f"{one['cosine_same_class']:.3f}"]
            rank = f"{one['effective_rank']:.1f} of {one['samples']:.0f}"
            lines.append([name, f"{one['epochs']:.0f}", f"{one['accuracy']:.1f}", *figures, rank])
    return markdown(headers, lines)


def _table6(rows: Sequence[Row]) -> str:
    lines: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        marks = row.cell.labels
        selection = "random selection" if marks["selection"] == "random" else "weight average"
        data, ipc = str(marks["data"]), int(marks["ipc"])
        reference = published("6", DATA_TITLES[data], ipc, f"IDC + model augmentation ({selection})", 5)
        lines.setdefault((DATA_TITLES[data], ipc), {})[selection] = _beside(row, reference)
    shown = [
        [data, str(ipc), cells.get("random selection", "-"), cells.get("weight average", "-")]
        for (data, ipc), cells in lines.items()
    ]
    return "Each cell: ours / published, difference.\n\n" + markdown(
        ["data", "ipc", "random selection", "weight average"], shown
    )


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "methods": _methods,
    "table3a": _comparison("3a", {}),
    "table3b": _comparison("3b", {"cifar10": "CIFAR-100"}),
    "table4": _comparison("4", {}),
    "table5": _table5,
    "table6": _table6,
    **dict.fromkeys(("figure1", "figure2", "figure3"), _curves),
    **dict.fromkeys(("figure4", "figure5", "figure6", "figure7"), _images),
    "section1": _gradients,
}
assert TABLES.keys() == TARGETS.keys()

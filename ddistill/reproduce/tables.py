"""Markdown of the tables: ours beside the published figures; a cell that was not run says so."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ddistill.evaluation import IDC
from ddistill.reproduce.published import Published, published
from ddistill.reproduce.store import Result
from ddistill.reproduce.targets import AUGMENTED, CORESETS, DATA_TITLES, SCALES, TARGETS, TITLES, USUAL, Cell, Labels
from ddistill.runtime.storage import write_text

NOT_RUN = "not run"
BOTH = ("accuracy, by the method's own protocol", "by IDC's")
EACH_CELL = "Each cell: ours / published, difference; ours under IDC's protocol, where the method has another."


@dataclass(frozen=True)
class Row:
    """All seeds of a cell.

    Attributes:
        cell: of the first seed.
        results: one per seed that was run.
        idc: the same images under IDC's protocol, where the cell is under another one.
    """

    cell: Cell
    results: tuple[Result, ...]
    idc: Row | None = None

    def mean(self) -> float:
        """Mean over the networks of all distillations."""
        return statistics.fmean(value for result in self.results for value in result.accuracy)

    def shown(self) -> str:
        """See `mean_and_std`."""
        return mean_and_std([result.accuracy for result in self.results]) if self.results else NOT_RUN

    def shown_under_idc(self) -> str:
        """The same under IDC's protocol."""
        return (self.idc or self).shown()

    def seconds(self, *phases: str) -> float:
        """Mean over the seeds of the seconds of these phases."""
        return statistics.fmean(sum(result.seconds[phase] for phase in phases) for result in self.results)

    def flops(self) -> float:
        """Mean over the seeds, pool and distillation together."""
        return statistics.fmean(sum(result.flops.values()) for result in self.results)


def mean_and_std(distillations: Sequence[Sequence[float]]) -> str:
    """Accuracies in words: mean, ± standard deviation over distillations, (standard deviation over networks).

    Over distillations it is the sample's, of their means, and left out for a single one; over the networks of a
    distillation it is the population's, as the published programs print it, averaged over the distillations.

    Args:
        distillations: of each the accuracies of its networks, in percent.
    """
    means = [statistics.fmean(networks) for networks in distillations]
    over = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    within = statistics.fmean(statistics.pstdev(networks) for networks in distillations)
    beside = f" ({within:.1f})" if max(map(len, distillations)) > 1 else ""
    return f"{statistics.fmean(means):.1f}{over}{beside}"


def rows_of(cells: Sequence[Cell], results: Sequence[Result | None]) -> list[Row]:
    """Cells that differ in the seed alone, put together, in the order of the first of each; with them those that differ
    in the protocol alone."""
    Marks = tuple[tuple[str, str | int], ...]
    groups: dict[Marks, dict[str, list[tuple[Cell, Result | None]]]] = {}
    for cell, result in zip(cells, results, strict=True):
        marks = tuple(sorted((name, value) for name, value in cell.labels.items() if name not in ("seed", "protocol")))
        by_protocol = groups.setdefault(marks, {})
        by_protocol.setdefault(str(cell.labels.get("protocol", IDC)), []).append((cell, result))
    return [_row(by_protocol) for by_protocol in groups.values()]


def _row(by_protocol: Mapping[str, Sequence[tuple[Cell, Result | None]]]) -> Row:
    rows = {
        name: Row(group[0][0], tuple(result for _, result in group if result)) for name, group in by_protocol.items()
    }
    own = next((row for name, row in rows.items() if name != IDC), None)
    return rows[IDC] if own is None else replace(own, idc=rows.get(IDC))


def markdown(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    shown = [headers, ["---"] * len(headers), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def render(target: str, scale: str, cells: Sequence[Cell], results: Sequence[Result | None]) -> str:
    """The table of a target, with what it was measured on."""
    rows = rows_of(cells, results)
    text = TABLES[target](rows)
    return f"{text}\n\n{provenance(scale, rows)}"


def put_into(path: Path, section: str, text: str, command: str) -> None:
    """Replace a section of a Markdown file, between two comments that name it; append it where it is not there yet.

    Args:
        path: of the file.
        section: its name.
        text: of the section.
        command: that makes it, with its arguments.
    """
    start, end = f"<!-- {section}: made by `{command}` -->", f"<!-- end {section} -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = f"{start}\n\n{text}\n\n{end}"
    if start in old and end in old:
        before, _, rest = old.partition(start)
        old = before + block + rest.partition(end)[2]
    else:
        old = f"{old.rstrip()}\n\n{block}\n".lstrip()
    write_text(path, old)


def provenance(scale: str, rows: Sequence[Row]) -> str:
    """Scale, data, networks per figure, machines, versions and dates of the results."""
    done = [result for row in rows for one in (row, row.idc) if one for result in one.results]
    if not done:
        return f"Scale {scale}: {SCALES[scale].about}. Nothing of it has been run."
    machines = sorted({machine_of(result) for result in done})
    versions = sorted({f"torch {r.about['versions']['torch']}" for r in done})
    data = sorted({f"{r.about['data']['name']} ({r.about['data']['fingerprint'][:8]})" for r in done})
    dates = sorted({r.about["date"] for r in done})
    seeds = _from_to(len(row.results) for row in rows if row.results)
    networks = _from_to(len(result.accuracy) for result in done)
    spread = f"mean over {seeds} networks"
    if not any(row.cell.ages for row in rows):
        of_one = f"standard deviation over the {networks} networks of one"
        spread = f"mean ± standard deviation over {seeds} distillations of each cell ({of_one})"
    return (
        f"Scale {scale}: {SCALES[scale].about}. Test accuracy in percent, last epoch: {spread}; {len(done)} results. "
        f"Data: {', '.join(data)}. Measured on: {'; '.join(machines)}; {', '.join(versions)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )


def _from_to(numbers: Iterable[int]) -> str:
    least, *_, most = sorted({*numbers}) * 2
    return f"{least}" if least == most else f"{least} to {most}"


def machine_of(result: Result) -> str:
    """Where a result was measured."""
    about = result.about["machine"]
    threads = about["threads"]
    device = str(about["gpu"]) if "gpu" in about else f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{about['processor']}, {device}"


def _methods(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        marks = row.cell.labels
        networks = str(marks["networks"])
        if networks == AUGMENTED and marks["method"] == "tm":
            networks = "perturbed starts (our extension)"
        name = TITLES.get(str(marks["method"]), str(marks["method"]))
        steps = "-" if marks["method"] in CORESETS else str(row.cell.recipe.budget.steps)
        costs = ["", "", ""]
        if row.results:
            costs = [f"{row.seconds('pool'):.0f}", f"{row.seconds('distill'):.0f}", f"{row.flops() / 1e12:.1f}"]
        lines.append([name, networks, steps, row.shown(), row.shown_under_idc(), *costs])
    headers = ["method", "networks", "outer steps", *BOTH, "pool or experts, s", "distillation, s", "TFLOP"]
    return markdown(headers, lines)


def _beside(row: Row, reference: Published | None) -> str:
    theirs = "-" if reference is None else f"{reference.accuracy:.1f}"
    if reference is not None and reference.std is not None:
        theirs += f" ({reference.std:.1f})"
    known = row.results and reference is not None
    difference = f", {row.mean() - reference.accuracy:+.1f}" if known else ""  # type: ignore[union-attr]
    return f"{row.shown()} / {theirs}{difference}" + (f"; {row.idc.shown()}" if row.idc else "")


def _pivot(told: Callable[[Labels], tuple[str, Published | None]]) -> Callable[[Sequence[Row]], str]:
    """A line per data set and ipc, a column per what ``told`` gives for a cell, beside the published figure."""

    def render(rows: Sequence[Row]) -> str:
        columns: dict[str, None] = {}
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            marks = row.cell.labels
            column, reference = told(marks)
            columns[column] = None
            lines.setdefault((DATA_TITLES[str(marks["data"])], str(marks["ipc"])), {})[column] = _beside(row, reference)
        shown = [[*line, *(cells.get(c, "-") for c in columns)] for line, cells in lines.items()]
        return f"{EACH_CELL}\n\n{markdown(['data', 'ipc', *columns], shown)}"

    return render


def _comparison(table: str) -> Callable[[Sequence[Row]], str]:
    """Tables 3 and 4: a column per method and speed-up."""

    def told(marks: Labels) -> tuple[str, Published | None]:
        title, speedup = TITLES[str(marks["method"])], int(marks["speedup"])
        ours = marks["networks"] == AUGMENTED
        name = f"{title} + model augmentation" if ours else title
        column = f"{'Ours' if ours else title} {speedup}" if title == "IDC" else f"{title} + ours {speedup}"
        column = title if title != "IDC" and not ours else column
        return column, published(table, DATA_TITLES[str(marks["data"])], int(marks["ipc"]), name, speedup)

    return _pivot(told)


def _table5(rows: Sequence[Row]) -> str:
    lines = []
    plain = {_place(row): row for row in rows if row.cell.labels["networks"] != AUGMENTED and _speedup(row) == 1}
    places = list(dict.fromkeys(map(_place, rows)))
    for row in sorted(rows, key=lambda one: places.index(_place(one))):
        data, ipc, method = _place(row)
        speedup, ours, title = _speedup(row), row.cell.labels["networks"] == AUGMENTED, TITLES[method]
        name = f"{title} + model augmentation" if ours else f"{title}, a fifth of the steps" if speedup > 1 else title
        reference = published("5", DATA_TITLES[data], ipc, name, speedup)
        theirs = f"{reference.accuracy:.1f} / {reference.hours} h" if reference else "-"
        cells = [DATA_TITLES[data], str(ipc), name, row.shown(), row.shown_under_idc(), "", "", "", "", theirs]
        if row.results:
            cells[5:7] = [f"{row.seconds('pool', 'distill'):.0f}", f"{row.flops() / 1e12:.1f}"]
        whole = plain.get(_place(row))
        if whole is not None and whole.results and row.results and row is not whole:
            faster = whole.seconds("pool", "distill") / row.seconds("pool", "distill")
            without = whole.seconds("distill") / row.seconds("distill")
            cells[7] = f"{faster:.2f}x ({without:.2f}x without the pool)" if ours else f"{faster:.2f}x"
            cells[8] = f"{row.mean() / whole.mean():.2f}x"
        lines.append(cells)
    costs = ["pool and distillation, s", "TFLOP", "speed-up", "gain"]
    return markdown(["data", "ipc", "method", *BOTH, *costs, "published: accuracy / time"], lines)


def _place(row: Row) -> tuple[str, int, str]:
    """Data, ipc and method."""
    marks = row.cell.labels
    return str(marks["data"]), int(marks["ipc"]), str(marks["method"])


def _speedup(row: Row) -> int:
    return int(row.cell.labels["speedup"])


def _curves(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        name = "IDC + model augmentation" if row.cell.labels["networks"] == AUGMENTED else "IDC"
        if not row.results:
            lines.append([name, str(row.cell.recipe.budget.steps), NOT_RUN, "", ""])
        for point in zip(*(result.accuracies for result in row.results), strict=False):
            accuracies = [one.accuracy for one in point]
            costs = [statistics.fmean(one.seconds for one in point), statistics.fmean(one.flops for one in point)]
            shown = mean_and_std([[accuracy] for accuracy in accuracies])
            lines.append([name, str(point[0].step), shown, f"{costs[0]:.0f}", f"{costs[1] / 1e12:.3g}"])
    headers = ["method", "outer steps", "accuracy", "seconds, pool included", "TFLOP, pool included"]
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


def _table6(marks: Labels) -> tuple[str, Published | None]:
    selection = "random selection" if marks["selection"] == "random" else "weight average"
    name = f"IDC + model augmentation ({selection})"
    return selection, published("6", DATA_TITLES[str(marks["data"])], int(marks["ipc"]), name, 5)


def _factors(rows: Sequence[Row]) -> str:
    usual = next((row for row in rows if row.cell.labels["factor"] == USUAL and row.results), None)
    lines = []
    for row in rows:
        steps = str(row.cell.recipe.budget.steps)
        seconds = [f"{row.seconds('pool'):.0f}", f"{row.seconds('distill'):.0f}"] if row.results else ["", ""]
        difference = f"{row.mean() - usual.mean():+.1f}" if usual and row.results and row is not usual else ""
        lines.append([str(row.cell.labels["factor"]), steps, row.shown(), difference, *seconds])
    return markdown(["changed", "outer steps", "accuracy", "difference", "pool, s", "distillation, s"], lines)


def _ages(rows: Sequence[Row]) -> str:
    by_line: dict[tuple[str, str, str], dict[tuple[int, bool], Row]] = {}
    for row in rows:
        marks = row.cell.labels
        line = (str(marks["ipc"]), str(row.cell.recipe.evaluation.epochs), str(marks["epochs"]))
        by_line.setdefault(line, {})[int(marks["experts"]), marks["networks"] == AUGMENTED] = row
    sources = list(product((1, 5), (False, True)))
    shown = []
    for line, of in by_line.items():
        accuracies = [of[source].shown() if source in of else "-" for source in sources]
        known = {source: row for source, row in of.items() if row.results}
        pools = {experts: f"{row.seconds('pool'):.0f}" for (experts, _), row in known.items()}
        distillation = f"{statistics.fmean(row.seconds('distill') for row in known.values()):.0f}" if known else ""
        shown.append([*line, *accuracies, *(pools.get(experts, "") for experts in (1, 5)), distillation])
    names = [f"{experts} expert{'s' * (experts > 1)}{', perturbed' * perturbed}" for experts, perturbed in sources]
    headers = ["ipc", "epochs of the evaluation", "of the experts", *names]
    return markdown([*headers, "1 expert, s", "5 experts, s", "distillation, s"], shown)


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "methods": _methods,
    "table3a": _comparison("3a"),
    "table3b": _comparison("3b"),
    "table4": _comparison("4"),
    "table5": _table5,
    "table6": _pivot(_table6),
    "factors": _factors,
    "ages": _ages,
    **dict.fromkeys(("figure1", "figure2", "figure3"), _curves),
    **dict.fromkeys(("figure4", "figure5", "figure6", "figure7"), _images),
    "section1": _gradients,
}
assert TABLES.keys() == TARGETS.keys()

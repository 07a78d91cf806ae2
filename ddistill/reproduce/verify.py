"""Whether recipes reach their figures: published ones, and those that were measured here.

A figure is reached where the mean over distillations is not further below it than

    allowance + 2 * sqrt(s^2 + d^2 * (1 + 1/k)),

with s the standard deviation that is printed with the figure (0.5 points where none is), d our standard deviation over
k distillations (of one distillation that over its networks stands in), and an allowance where the figure is the best of
several looks at the test set and ours is that of the last epoch: 0.5 points for IDC, with or without model
augmentation, and TM, 1 for TGDD, DANCE and NCFM. So a figure counts as one distillation with our standard deviation.
What is above it has reached it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ddistill import recipes
from ddistill.evaluation import IDC, OWN
from ddistill.recipes import along_training
from ddistill.reproduce.published import published_rows
from ddistill.reproduce.store import Result, Store, result_key
from ddistill.reproduce.tables import machine_of, markdown, mean_and_std
from ddistill.reproduce.targets import DATA_TITLES, SCALES, TITLES, Cell, Labels
from ddistill.runtime.errors import UserError, unknown_name

UNPRINTED = 0.5
"""Standard deviation of a figure that is printed without one, in points."""
LOOKS = {"idc": 0.5, "idc-ma": 0.5, "tm": 0.5, "tgdd": 1.0, "dance": 1.0, "ncfm": 1.0}
"""Points, by family, that the best of several looks at the test set is above the last one."""
OF_DC = {1: 28.3, 10: 44.9}
"""Of DC on CIFAR-10, by ipc, in its own paper (https://arxiv.org/abs/2006.05929)."""
USUAL_IPC = 10
"""Where a data set is verified, each recipe is at its figure of this ipc, or of the nearest there is."""


@dataclass(frozen=True)
class Figure:
    """What a recipe should reach.

    Attributes:
        family, data: of the recipe.
        ipc: stored images per class.
        accuracy: percent.
        std: that is printed with it, in points, if any.
        source: in words.
        published: by the method's authors, or by the paper's; else measured here, by IDC's protocol.
        changes: of recipe fields, with which it was found.
    """

    family: str
    data: str
    ipc: int
    accuracy: float
    std: float | None
    source: str
    published: bool
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return f"{self.family}-{self.data}"

    @property
    def protocol(self) -> str:
        """By which it was judged."""
        return OWN.get(self.family.removesuffix("-ma"), IDC) if self.published else IDC

    @property
    def allowance(self) -> float:
        """Points for what was looked at several times."""
        return LOOKS.get(self.family, 0.0) if self.published else 0.0

    def tolerance(self, distillations: Sequence[Sequence[float]]) -> float:
        """Points that the mean may be below the figure.

        Args:
            distillations: of each the accuracies of its networks, in percent.
        """
        means = [statistics.fmean(networks) for networks in distillations]
        own = statistics.stdev(means) if len(means) > 1 else statistics.pstdev(distillations[0])
        printed = UNPRINTED if self.std is None else self.std
        return self.allowance + 2.0 * math.sqrt(printed**2 + own**2 * (1.0 + 1.0 / len(means)))

    def cell(self, scale: str, seed: int) -> Cell:
        """The run that should reach it."""
        size, method = SCALES[scale].stand_in(self.data, self.ipc)[1], self.family.removesuffix("-ma")
        changes = {**size.settings, **size.methods.get(method, {}), **self.changes}
        protocol = {"evaluation.protocol": self.protocol} if self.protocol != IDC else {}
        fixed = {"run.seed": seed, "evaluation.baselines": (), **protocol}
        recipe = recipes.find(self.family, self.ipc, self.data).changed({**changes, **fixed})
        labels: Labels = {
            "data": self.data,
            "recipe": self.recipe,
            "ipc": self.ipc,
            "protocol": self.protocol,
            "seed": seed,
        }
        return Cell(labels, recipe)


def all_figures(scale: str = "full") -> list[Figure]:
    """Every figure that is known at a scale; the published ones are at full scale."""
    found = [
        Figure(one.family, one.data, one.ipc, one.accuracy, one.std, f"here, {one.measured}", False, one.changes)
        for one in recipes.measured()
        if one.scale == scale
    ]
    if scale != "full":
        return found
    data_of = {title: name for name, title in DATA_TITLES.items()}
    families = {(title, 1): family for family, title in TITLES.items()} | {
        ("IDC + model augmentation", 5): "idc-ma",
        ("DM + model augmentation", 5): "dm-ma",
    }
    for row in published_rows():
        family = families.get((row.method, row.speedup))
        # DC's line in Table 5 is not of the ipc that its caption says
        twice = row.table == "6" or (row.table == "5" and family != "dm-ma")
        if family and not twice:
            figure = Figure(family, data_of[row.data], row.ipc, row.accuracy, row.std, f"Table {row.table}", True)
            found.append(figure)
    found += [Figure("dc", "cifar10", ipc, accuracy, None, "DC's paper", True) for ipc, accuracy in OF_DC.items()]
    for (family, data), by_ipc in along_training.PUBLISHED.items():
        found += [Figure(family, data, ipc, value, None, "the method's paper", True) for ipc, value in by_ipc.items()]
    return found


def figures(name: str, scale: str = "full", ipc: int | None = None) -> list[Figure]:
    """The figures of a recipe, or of all recipes of a data set that have one.

    Args:
        name: of a recipe ("dm-cifar10") or of a data set ("digits").
        scale: "full", or a smaller one of `reproduce`.
        ipc: stored images per class; if None all of a recipe, and of each recipe of a data set the nearest to 10.

    Raises:
        UserError: a name or a scale that there is not, or nothing is known of it.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    known = all_figures(scale)
    of_data = [one for one in known if one.data == name]
    found = of_data or [one for one in known if one.recipe == name]
    if not found:
        full = {one.recipe for one in all_figures()} | {one.data for one in all_figures()}
        if name in recipes.names() or name in full:
            legal = sorted({one.recipe for one in known}) or ["none"]
            raise UserError(f"no figure is known of {name!r} at scale {scale}; with one: {', '.join(legal)}")
        raise unknown_name("recipe or data set", name, full, "`ddistill recipes` lists those with a known figure")
    if ipc is not None:
        chosen = [one for one in found if one.ipc == ipc]
        if not chosen:
            numbers = ", ".join(map(str, sorted({one.ipc for one in found})))
            raise UserError(f"no figure of {name!r} is known at ipc {ipc}; there is one at: {numbers}")
        return chosen
    if not of_data:
        return found
    nearest: dict[str, Figure] = {}
    for one in sorted(found, key=lambda one: abs(one.ipc - USUAL_IPC)):
        nearest.setdefault(one.recipe, one)
    return [one for one in found if nearest[one.recipe] is one]


@dataclass(frozen=True)
class Verified:
    """A figure, and what was measured.

    Attributes:
        figure: what should be reached.
        results: one per distillation.
    """

    figure: Figure
    results: tuple[Result, ...]

    @property
    def accuracies(self) -> list[tuple[float, ...]]:
        """Of the networks of each distillation, in percent."""
        return [result.accuracy for result in self.results]

    @property
    def difference(self) -> float:
        """Points above the figure."""
        return statistics.fmean(map(statistics.fmean, self.accuracies)) - self.figure.accuracy

    @property
    def tolerance(self) -> float:
        """Points that it may be below."""
        return self.figure.tolerance(self.accuracies)

    @property
    def missing(self) -> float:
        """Points below what would pass; 0 where it passes."""
        return max(0.0, -self.difference - self.tolerance)

    def line(self) -> list[str]:
        """For a table; under `HEADERS`."""
        figure = self.figure
        printed = f"{figure.accuracy:.1f}" + (f" ({figure.std:.1f})" if figure.std is not None else "")
        verdict = "pass" if not self.missing else f"**misses by {self.missing:.1f}**"
        measured = [mean_and_std(self.accuracies), f"{len(self.results)} x {len(self.accuracies[0])}"]
        by = [figure.recipe, str(figure.ipc), figure.protocol, printed, figure.source]
        return [*by, *measured, f"{self.difference:+.1f}", f"{self.tolerance:.1f}", verdict]


HEADERS = (
    "recipe",
    "ipc",
    "protocol",
    "figure",
    "of",
    "measured",
    "distillations x networks",
    "difference",
    "tolerance",
    "verdict",
)
RULE = (
    "measured: mean ± standard deviation over distillations (over the networks of one). Tolerance: "
    "2 * sqrt(s² + d² (1 + 1/k)), s the figure's standard deviation (0.5 where none is printed), d that over our k "
    "distillations; and 0.5 (IDC, TM) or 1 point (TGDD, DANCE, NCFM) for published figures that are the best of "
    "several looks at the test set, since ours are those of the last epoch."
)


def verified(chosen: Iterable[Figure], cells: Sequence[Cell], results: Sequence[Result]) -> list[Verified]:
    """Figures with their results, from the runs of `Figure.cell` for each of them and for each seed."""
    by_figure: dict[tuple[str, int, str], list[Result]] = {}
    for cell, result in zip(cells, results, strict=True):
        mark = (str(cell.labels["recipe"]), int(cell.labels["ipc"]), str(cell.labels["protocol"]))
        by_figure.setdefault(mark, []).append(result)
    return [Verified(one, tuple(by_figure[one.recipe, one.ipc, one.protocol])) for one in chosen]


def in_store(store: Store) -> list[tuple[str, Verified]]:
    """Scale and figure of all that a store has results for."""
    rows = list(store)
    known = {row.key: row for row in rows}
    prints = {(row.about["data"]["name"], row.about["data"]["fingerprint"]) for row in rows}
    most = 1 + max((row.about["recipe"].get("run", {}).get("seed", 0) for row in rows), default=0)
    found = []
    for scale in SCALES:
        for figure in all_figures(scale):
            for name, fingerprint in sorted(prints):
                if name != figure.data:
                    continue
                keys = [result_key(figure.cell(scale, seed).recipe, fingerprint) for seed in range(most)]
                results = tuple(known[key] for key in keys if key in known)
                if results:
                    found.append((scale, Verified(figure, results)))
    return found


def what_was_verified_where(store: Store) -> str:
    """A table of all figures that a store has results for."""
    lines = []
    for scale, one in in_store(store):
        machines = sorted({machine_of(result) for result in one.results})
        dates = sorted({result.about["date"] for result in one.results})
        lines.append([*one.line(), scale, "; ".join(machines), " to ".join(dict.fromkeys((dates[0], dates[-1])))])
    if not lines:
        return "Nothing has been verified."
    return f"{markdown([*HEADERS, 'scale', 'where', 'when'], lines)}\n\n{RULE[0].upper()}{RULE[1:]}"

"""Rows of a comparison, what follows from them, and how they are shown in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ddistill.runtime.units import in_bytes, in_time

Kind = Literal["selection", "distilled", "all"]


@dataclass(frozen=True)
class Row:
    """A training set and what networks reach that are trained on it.

    Attributes:
        name: of the baseline or the recipe.
        title: in words.
        kind: real images at equal storage, distilled ones, or all images.
        images: that are stored.
        stored_bytes: of them, a byte for each pixel and channel.
        seconds: wall-clock, to make the set: networks, choice, distillation; 0 where nothing is computed.
        accuracies: percent on the test images, of every trained network, by the name of its architecture.
        folder: of the set, within that of the comparison; empty where it is not kept.
    """

    name: str
    title: str
    kind: Kind
    images: int
    stored_bytes: int
    seconds: float
    accuracies: dict[str, tuple[float, ...]]
    folder: str = ""

    def mean(self, network: str | None = None) -> float:
        """Mean accuracy in percent; of the first architecture if None."""
        return statistics.fmean(self._runs(network))

    def std(self, network: str | None = None) -> float:
        """Population standard deviation over the networks."""
        return statistics.pstdev(self._runs(network))

    def _runs(self, network: str | None) -> tuple[float, ...]:
        return self.accuracies[network or next(iter(self.accuracies))]


@dataclass(frozen=True)
class Comparison:
    """All rows, and under which protocol they were measured.

    Attributes:
        data: their name.
        ipc: stored images per class.
        rows: in the order of the table: selections, distilled, all images.
        networks: architectures, the first decides the verdict.
        protocol: of the evaluation, JSON-able.
        notes: what the time went to, and what was left out.
        about: machine, versions, seed, JSON-able.
        folder: where everything is; None if nothing was kept.
    """

    data: str
    ipc: int
    rows: tuple[Row, ...]
    networks: tuple[str, ...]
    protocol: dict[str, Any]
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def of(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def verdict(self) -> str:
        """Whether distilling pays, in a sentence, by the first architecture."""
        return verdict(self.rows, self.about.get("where", ""))

    def scores(self, row: Row, network: str | None = None) -> dict[str, float | None]:
        """In points of accuracy: HLR (all images less this), IOR (this less random real images of equal storage), and
        IOR over the best selection; None where the other row is not there. https://arxiv.org/abs/2505.13300"""
        others = {"hlr": self.of("all"), "ior": self.of("random"), "ior_best": best(self.rows, "selection", network)}
        signs = {"hlr": -1.0}
        return {
            score: None if other is None else signs.get(score, 1.0) * (row.mean(network) - other.mean(network))
            for score, other in others.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """The contents of ``compare.json``."""
        return {
            "data": self.data,
            "ipc": self.ipc,
            "verdict": self.verdict,
            "rows": [
                {**asdict(row), "scores": {name: _rounded(self.scores(row, name)) for name in self.networks}}
                for row in self.rows
            ],
            "networks": list(self.networks),
            "protocol": self.protocol,
            "notes": list(self.notes),
            "about": self.about,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and lines, as they are shown everywhere."""
        headers = ["training set", "images", "stored", "made in"]
        for network in self.networks:
            headers.append("accuracy %" if len(self.networks) == 1 else f"{network} %")
        return [*headers, "HLR", "IOR", "over best selection"], [self._line(row) for row in self.rows]

    def _line(self, row: Row) -> list[str]:
        reached = [f"{row.mean(network):.1f} ({row.std(network):.1f})" for network in self.networks]
        scores = ["" if value is None else f"{value:+.1f}" for value in self.scores(row).values()]
        scores[0] = scores[0].removeprefix("+")
        own = {"random": [1], "all": [0, 1, 2]}.get(row.name, [])
        return [
            row.title,
            str(row.images),
            in_bytes(row.stored_bytes),
            in_time(row.seconds),
            *reached,
            *("" if i in own else score for i, score in enumerate(scores)),
        ]


def best(rows: Sequence[Row], kind: Kind, network: str | None = None) -> Row | None:
    """The row of that kind with the highest mean accuracy."""
    return max((row for row in rows if row.kind == kind), key=lambda row: row.mean(network), default=None)


def verdict(rows: Sequence[Row], where: str = "") -> str:
    """Whether the best distilled set is better than the best selection by more than the spread of both.

    The spread is the root of the sum of the variances over the networks: a difference within it is not told from none.

    Args:
        rows: of a comparison.
        where: it was made, in words, for the time that it took.
    """
    distilled, chosen, everything = best(rows, "distilled"), best(rows, "selection"), best(rows, "all")
    end = f"; all images, in as many steps: {everything.mean():.1f}." if everything else "."
    if chosen is None or distilled is None:
        only = distilled or chosen
        what = "distilled set" if distilled else "selection"
        said = f"the best {what} is {only.title} with {only.mean():.1f} %" if only else "nothing was measured"
        return f"Nothing to tell whether distilling pays: {said}{end}"
    gain, spread = distilled.mean() - chosen.mean(), math.hypot(distilled.std(), chosen.std())
    cost = f"{in_time(distilled.seconds)}{f' ({where})' if where else ''}"
    selection = f"the best selection ({chosen.title}, {chosen.mean():.1f})"
    counts = {len(runs) for row in (distilled, chosen) for runs in row.accuracies.values()}
    if min(counts) == 1:
        said = f"{distilled.title} is {gain:+.1f} points beside {selection}, of one network each, which tells no spread"
        return f"Not known whether distilling pays: {said}{end}"
    if abs(gain) <= spread:
        return (
            f"Distilling does not pay measurably: {distilled.title} is {gain:+.1f} points beside {selection}, which is "
            f"within the spread of {spread:.1f}, for {cost}{end}"
        )
    if gain < 0:
        below = f"{distilled.title} is {-gain:.1f} points below {selection} (spread {spread:.1f})"
        return f"Distilling does not pay: {below}, for {cost}{end}"
    return (
        f"Distilling gains {gain:.1f} points over {selection} (spread {spread:.1f}) with {distilled.title}, for "
        f"{cost}{end}"
    )


def _rounded(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in scores.items()}

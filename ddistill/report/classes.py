"""What a page says of classes: their order by accuracy, their groups, and which are taken for which."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ddistill.evaluation import Confusion

MANY_CLASSES = 20
"""From so many classes on they are ordered and searched for; fewer are seen at a glance."""
MOST_IN_MATRIX = 30
"""Classes or groups that a matrix is drawn of."""
PAIRS_SHOWN = 20
CELL, NAME_WIDTH, NAME_LETTERS = 18, 190, 28


@dataclass(frozen=True)
class Classes:
    """The classes of a run as its page shows them.

    Attributes:
        names: by number.
        accuracies: in percent, None where not known; empty where none is.
        groups: the name of the group of each class; empty where there are none.
        confusion: of the evaluation at the end, where it was kept.
    """

    names: Sequence[str]
    accuracies: Sequence[float | None]
    groups: Sequence[str]
    confusion: Confusion | None

    @classmethod
    def of(cls, names: Sequence[str], confusion: Confusion | None, about: dict[str, Any]) -> Classes:
        """``about``: what the summary says of the classes."""
        group = about.get("group", {})
        groups = [str(group[name]) for name in names] if group.keys() >= set(names) else []
        return cls(names, confusion.accuracies() if confusion else [], groups, confusion)

    @property
    def many(self) -> bool:
        """Whether there are too many to be seen at a glance."""
        return len(self.names) >= MANY_CLASSES

    def order(self) -> list[int]:
        """Numbers of the classes as they are shown: many by accuracy, the best first, those of a group together."""
        if not self.many or not self.accuracies:
            return list(range(len(self.names)))
        means = self.group_accuracies()

        def rank(label: int) -> tuple[Any, ...]:
            accuracy = self.accuracies[label]
            own = (accuracy is None, -(accuracy or 0.0), label)
            return (-(means[self.groups[label]] or 0.0), self.groups[label], *own) if self.groups else own

        return sorted(range(len(self.names)), key=rank)

    def group_accuracies(self) -> dict[str, float | None]:
        """Mean over the classes of each group, in the order in which they first occur."""
        found: dict[str, list[float]] = {group: [] for group in self.groups}
        for group, accuracy in zip(self.groups, self.accuracies, strict=False):
            found[group] += [] if accuracy is None else [accuracy]
        return {group: statistics.fmean(values) if values else None for group, values in found.items()}

    def pairs(self) -> list[dict[str, Any]]:
        """Classes that are most often taken for another one, for the page."""
        if self.confusion is None:
            return []
        found = []
        for true, other, share in self.confusion.most_confused(PAIRS_SHOWN):
            names = {"name": self.names[true], "other": self.names[other]}
            found.append({**names, "percent": share, "within": self._within(true, other)})
        return found

    def _within(self, true: int, other: int) -> str:
        """The group of both; empty where they are of two."""
        return self.groups[true] if self.groups and self.groups[true] == self.groups[other] else ""

    def _grouped(self) -> tuple[list[str], Confusion] | None:
        """Names of the groups, and who is taken for whom among them."""
        if self.confusion is None or not self.groups:
            return None
        number = {group: i for i, group in enumerate(dict.fromkeys(self.groups))}
        return list(number), self.confusion.grouped([number[group] for group in self.groups])

    def within_groups(self) -> float | None:
        """Of the images that were taken for another class, percent that stayed within the group."""
        grouped = self._grouped()
        if self.confusion is None or grouped is None:
            return None
        right, together = self.confusion.right(), grouped[1].right()
        wrong = int(self.confusion.images.sum()) - right
        return 100.0 * (together - right) / wrong if wrong else None

    def matrix(self) -> str:
        """An SVG of who is taken for whom, of groups where there are some; empty where it would be too large."""
        found = self._grouped() or (list(self.names), self.confusion)
        return _matrix(found[0], found[1]) if found[1] is not None and len(found[0]) <= MOST_IN_MATRIX else ""


def _matrix(names: list[str], confusion: Confusion) -> str:
    """Rows: what the images are; columns: what they were taken for; darker: more of the row's images."""
    totals = confusion.totals().tolist()
    left, width = NAME_WIDTH + 30, NAME_WIDTH + 40 + CELL * len(names)
    parts = [
        f'<svg class="matrix" viewBox="0 0 {width} {CELL * (len(names) + 1) + 6}" role="img" '
        f'aria-label="which is taken for which" style="max-width:{width}px;min-width:{min(width, 560)}px">'
    ]
    for i, name in enumerate(names):
        short = name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
        down, across = CELL * (i + 1) + CELL * 0.7, left + CELL * (i + 0.5)
        parts.append(f'<text x="{NAME_WIDTH}" y="{down:.1f}" text-anchor="end"><title>{escape(name)}</title>')
        parts.append(f'{escape(short)}</text><text x="{left - 6}" y="{down:.1f}" text-anchor="end">{i + 1}</text>')
        parts.append(f'<text x="{across:.1f}" y="{CELL * 0.8:.1f}" text-anchor="middle">{i + 1}</text>')
    pairs = (tensor.tolist() for tensor in (confusion.true, confusion.predicted, confusion.images))
    for true, other, count in zip(*pairs, strict=True):
        share = count / totals[true]
        said = escape(f"{names[true]} taken for {names[other]}: {100 * share:.1f} %")
        kind, shade = "right" if true == other else "wrong", min(1.0, 0.04 + share)
        place = f'x="{left + CELL * other}" y="{CELL * (true + 1)}" width="{CELL - 1}" height="{CELL - 1}"'
        parts.append(f'<rect class="{kind}" {place} opacity="{shade:.2f}"><title>{said}</title></rect>')
    return "".join([*parts, "</svg>"])

"""What was taken for the data, in words: said before anything is computed, kept in log, summary and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddistill.data.labels import listed

NAMES_SHOWN = 10
LEFT_OUT = "left out: "
"""How a remark about what was left out begins."""


@dataclass(frozen=True)
class Taken:
    """What a source says about itself.

    Attributes:
        train, test: in words, where the parts came from.
        labels: in words, what the labels were taken from.
        left_out: in words, what is not used and why, a line each.
        groups: the name of the group that each class belongs to, where the user named a column of groups.
    """

    train: str = ""
    test: str = ""
    labels: str = ""
    left_out: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


UNKNOWN = Taken()
"""Of data that were made in a program."""


@dataclass(frozen=True)
class SplitAccount:
    """A part: its role, where it came from, its images, and the classes with the fewest and the most of them."""

    role: str
    origin: str
    images: int
    least: tuple[str, int]
    most: tuple[str, int]

    def __str__(self) -> str:
        few, many = self.least, self.most
        sizes = f"{few[1]} of each class" if few[1] == many[1] else f"{few[1]} ({few[0]!r}) to {many[1]} ({many[0]!r})"
        return f"{self.images} images, {sizes}" + (f"; from {self.origin}" if self.origin else "")


@dataclass(frozen=True)
class Account:
    """What the program took.

    Attributes:
        source: as the user named it.
        parts: training part, validation part where one is held out, test part.
        class_names: all of them.
        labels_from: in words.
        size, channels: of an image.
        left_out: what is not used and why.
        assumed: what was assumed or changed.
    """

    source: str
    parts: tuple[SplitAccount, ...]
    class_names: tuple[str, ...]
    labels_from: str
    size: int
    channels: int
    left_out: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The account as lines of text, each one beginning with what it is about."""
        classes = f"{len(self.class_names)}: {listed(self.class_names, NAMES_SHOWN)}"
        colours = {1: "grey (1 channel)", 3: "RGB (3 channels)"}[self.channels]
        return (
            f"data: {self.source}",
            *(f"{part.role}: {part}" for part in self.parts),
            f"classes: {classes}" + (f"; from {self.labels_from}" if self.labels_from else ""),
            f"images: {self.size}x{self.size} pixels, {colours}",
            *(f"{LEFT_OUT}{line}" for line in self.left_out or ("nothing",)),
            *(f"assumed: {line}" for line in self.assumed),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of many classes the first ten names."""
        about = asdict(self)
        return {**about, "class_names": list(self.class_names[:NAMES_SHOWN]), "classes": len(self.class_names)}


def split_account(role: str, origin: str, class_names: Sequence[str], counts: Sequence[int]) -> SplitAccount:
    """The account of a part with so many images of each class."""
    few, many = counts.index(min(counts)), counts.index(max(counts))
    return SplitAccount(role, origin, sum(counts), (class_names[few], counts[few]), (class_names[many], counts[many]))

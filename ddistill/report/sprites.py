"""Pictures of a page: a sheet for every block of classes, encoded so that all of them together stay within bounds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ddistill.report.pictures import class_sheet

CLASSES_PER_BLOCK = 20
MOST_BYTES = 10 * 2**20
"""Of all pictures of a page; as text they take a third more."""
MARGIN = 1.1
"""Blocks differ in size, and one of them tells that of all."""
PNG: tuple[str, dict[str, Any]] = ("PNG", {"optimize": True})
_JPEGS: list[tuple[str, dict[str, Any]]] = [("JPEG", {"quality": q, "subsampling": 0}) for q in (90, 75, 60, 40)]
CHOICES = ((2, [PNG, *_JPEGS[:3]]), (1, [PNG, *_JPEGS]))
"""Snapshots for which there must be room, and the encodings that may be used for it, best first."""


@dataclass(frozen=True)
class Sprites:
    """The pictures of a run.

    Attributes:
        steps: outer steps that are shown, ascending.
        pictures: for each of them a data URI per block: a row per class, an image per column.
        blocks: numbers of the classes of each block, in the order of its rows.
        columns: images of a class that are shown at most.
        exact: whether pixels are as they are stored, in 8 bits.
    """

    steps: list[int]
    pictures: list[list[str]]
    blocks: list[list[int]]
    columns: int
    exact: bool


def make_sprites(
    snapshots: dict[int, torch.Tensor], counts: Sequence[int], order: Sequence[int], most_bytes: int = MOST_BYTES
) -> Sprites:
    """Pictures of as many snapshots as there is room for: the last, the first, then those between.

    Where not even the last finds room, fewer images of each class are shown.

    Args:
        snapshots: uint8 (n, channels, side, side) sorted by class, by outer step.
        counts: images of each class.
        order: numbers of the classes as they are shown.
        most_bytes: of all pictures.
    """
    steps, columns = sorted(snapshots), max(counts)
    last = snapshots[steps[-1]]
    blocks = [list(order[i : i + CLASSES_PER_BLOCK]) for i in range(0, len(order), CLASSES_PER_BLOCK)]
    encoding, room = None, 1
    while encoding is None:
        sheet = _sheet(last, counts, blocks[0], columns)
        for wanted, encodings in CHOICES:
            for one in encodings:
                size = MARGIN * len(encoded(sheet, one)) * len(order) / len(blocks[0])
                if encoding is None and size * min(wanted, len(steps)) <= most_bytes:
                    encoding, room = one, int(most_bytes / size)
        if encoding is None and columns == 1:
            encoding = _JPEGS[-1]
        columns = columns if encoding else -(-columns // 2)
    chosen = np.unique(np.linspace(len(steps) - 1, 0, min(room, len(steps))).round().astype(int)).tolist()
    shown = [snapshots[steps[i]] for i in chosen]
    kind = encoding[0].lower()
    pictures = [
        [data_uri(encoded(_sheet(one, counts, block, columns), encoding), kind) for block in blocks] for one in shown
    ]
    return Sprites([steps[i] for i in chosen], pictures, blocks, columns, encoding is PNG)


def _sheet(images: torch.Tensor, counts: Sequence[int], block: Sequence[int], columns: int) -> np.ndarray:
    """The classes of a block, a row each, and the first images of each."""
    starts = list(accumulate(counts, initial=0))
    shown = [min(counts[label], columns) for label in block]
    index = [starts[label] + column for label, some in zip(block, shown, strict=True) for column in range(some)]
    sheet = class_sheet(images[index], shown)
    missing = columns * images.shape[-1] - sheet.shape[1]
    return np.pad(sheet, ((0, 0), (0, missing), (0, 0))[: sheet.ndim]) if missing else sheet


def encoded(sheet: np.ndarray, encoding: tuple[str, dict[str, Any]] = PNG) -> bytes:
    """A picture, uint8 (height, width) or (height, width, 3), as a file of that kind."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, encoding[0], **encoding[1])
    return buffer.getvalue()


def data_uri(picture: bytes, kind: str = "png") -> str:
    """A picture as the text that a page holds it by."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"

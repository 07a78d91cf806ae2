"""Pictures of a synthetic set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from ddistill.data import RealData
from ddistill.runtime.storage import write_atomically
from ddistill.synthetic import SyntheticSet
from ddistill.synthetic.decode import in_bytes

SHOWN_PER_CLASS = 20
CLASSES_SHOWN = 100
"""Rows of a contact sheet at most, and of a grid of enlarged images."""
SMALLEST_SIDE = 64
GAP = 2
MARK = ("Software", "ddistill contact sheet")
"""Text in the picture, by which an earlier sheet is known."""
NAME_LETTERS = 40


def class_sheet(
    images: torch.Tensor, counts: Sequence[int], most: int | None = None, gap: int = 0, blank: int = 0
) -> np.ndarray:
    """All images on one sheet, a row per class.

    Args:
        images: uint8 (n, channels, side, side), sorted by class.
        counts: images of each class.
        most: images per class that are shown; all if None.
        gap: white pixels below and to the right of each image.
        blank: grey level, 0 to 255, of what is left of the row of a class that has fewer.

    Returns:
        uint8 (height, width, 3), or (height, width) for one channel.
    """
    side, channels, columns = images.shape[-1], images.shape[1], min(max(counts), most or max(counts))
    step = side + gap
    sheet = np.full((len(counts) * step, columns * step, channels), 255, dtype=np.uint8)
    for row, (first, count) in enumerate(zip(accumulate(counts, initial=0), counts, strict=False)):
        for column in range(columns):
            tile = images[first + column].permute(1, 2, 0).numpy() if column < count else blank
            sheet[row * step :, column * step :][:side, :side] = tile
    return sheet.squeeze(2) if channels == 1 else sheet


def save_contact_sheet(data: RealData, path: Path, per_class: int) -> int:
    """Write a PNG of real training images as they will be used: a row for each class, its name beside it.

    Args:
        data: real images.
        path: of the picture.
        per_class: images of a class that are shown, from its first to its last.

    Returns:
        The number of classes that are shown, the first ones.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    classes = min(data.num_classes, CLASSES_SHOWN)
    counts = [min(per_class, count) for count in data.class_counts[:classes].tolist()]
    chosen = [
        np.linspace(start, end - 1, count).round().astype(np.int64)
        for start, end, count in zip(data.class_offsets.tolist(), data.class_offsets[1:].tolist(), counts, strict=False)
    ]
    images = data.train.images[torch.from_numpy(np.concatenate(chosen))]
    sheet = Image.fromarray(class_sheet(images, counts, gap=GAP, blank=255)).convert("RGB")
    zoom = max(1, -(-SMALLEST_SIDE // data.size))
    if zoom > 1:
        sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    elif data.size > 2 * SMALLEST_SIDE:
        shrink = 2 * SMALLEST_SIDE / data.size
        sheet = sheet.resize((round(sheet.width * shrink), round(sheet.height * shrink)), Image.Resampling.BOX)
    whole = data.class_names[:classes]
    names = [name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 3]}..." for name in whole]
    pen = ImageDraw.Draw(sheet)
    margin = GAP + max(round(pen.textlength(name)) for name in names) + 3 * GAP
    page = Image.new("RGB", (margin + sheet.width, GAP + sheet.height), (255, 255, 255))
    page.paste(sheet, (margin, GAP))
    pen, step = ImageDraw.Draw(page), sheet.height / classes
    for row, name in enumerate(names):
        pen.text((GAP, GAP + round((row + 0.5) * step)), name, fill=(0, 0, 0), anchor="lm")
    mark = PngInfo()
    mark.add_text(*MARK)
    write_atomically(path, lambda temporary: page.save(temporary, format="PNG", pnginfo=mark))
    return classes


def is_contact_sheet(path: Path) -> bool:
    """Whether a file is one that `save_contact_sheet` wrote."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.info.get(MARK[0]) == MARK[1]
    except (OSError, ValueError):
        return False


def save_grid(synthetic: SyntheticSet, path: Path) -> None:
    """Write a PNG with one row per class and its first ``SHOWN_PER_CLASS`` stored images in it.

    Small images of up to ``CLASSES_SHOWN`` classes are enlarged by a whole factor without smoothing, so that every
    stored pixel can be seen.
    """
    from PIL import Image

    images = in_bytes(synthetic.images).cpu()
    side, columns = images.shape[-1], min(SHOWN_PER_CLASS, max(synthetic.counts))
    zoom = max(1, -(-SMALLEST_SIDE // side)) if synthetic.num_classes <= CLASSES_SHOWN else 1
    step = side * zoom + GAP
    size = (GAP + columns * step, GAP + synthetic.num_classes * step)
    grid = Image.new("RGB", size, (255, 255, 255))
    for label in range(synthetic.num_classes):
        for column, image in enumerate(images[synthetic.class_slice(label)][:SHOWN_PER_CLASS]):
            pixels = image.permute(1, 2, 0).expand(side, side, 3).numpy()
            tile = Image.fromarray(pixels).resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
            grid.paste(tile, (GAP + column * step, GAP + label * step))
    write_atomically(path, lambda temporary: grid.save(temporary, format="PNG"))

"""Pictures of a synthetic set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from ddistill.storage import write_atomically
from ddistill.synthetic import SyntheticSet

SHOWN_PER_CLASS = 20
SMALLEST_SIDE = 64
GAP = 2


def class_sheet(images: torch.Tensor, counts: Sequence[int], most: int | None = None, gap: int = 0) -> np.ndarray:
    """All images on one sheet, a row per class; black where a class has fewer.

    Args:
        images: uint8 (n, channels, side, side), sorted by class.
        counts: images of each class.
        most: images per class that are shown; all if None.
        gap: white pixels below and to the right of each image.

    Returns:
        uint8 (height, width, 3), or (height, width) for one channel.
    """
    side, channels, columns = images.shape[-1], images.shape[1], min(max(counts), most or max(counts))
    step = side + gap
    sheet = np.full((len(counts) * step, columns * step, channels), 255, dtype=np.uint8)
    for row, (first, count) in enumerate(zip(accumulate(counts, initial=0), counts, strict=False)):
        for column in range(columns):
            tile = images[first + column].permute(1, 2, 0).numpy() if column < count else 0
            sheet[row * step :, column * step :][:side, :side] = tile
    return sheet.squeeze(2) if channels == 1 else sheet


def save_grid(synthetic: SyntheticSet, path: Path, per_class: int = SHOWN_PER_CLASS) -> None:
    """Write a PNG with one row per class and the first ``per_class`` stored images in it.

    Small images are enlarged by a whole factor without smoothing, so that every stored pixel can be seen.
    """
    from PIL import Image

    images = synthetic.images.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).cpu()
    side, columns = images.shape[-1], min(per_class, max(synthetic.counts))
    zoom = max(1, -(-SMALLEST_SIDE // side))
    step = side * zoom + GAP
    size = (GAP + columns * step, GAP + synthetic.num_classes * step)
    grid = Image.new("RGB", size, (255, 255, 255))
    for label in range(synthetic.num_classes):
        for column, image in enumerate(images[synthetic.class_slice(label)][:per_class]):
            pixels = image.permute(1, 2, 0).expand(side, side, 3).numpy()
            tile = Image.fromarray(pixels).resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
            grid.paste(tile, (GAP + column * step, GAP + label * step))
    write_atomically(path, lambda temporary: grid.save(temporary, format="PNG"))

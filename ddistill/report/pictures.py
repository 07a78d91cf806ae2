"""Pictures of a synthetic set."""

from __future__ import annotations

from pathlib import Path

import torch

from ddistill.storage import write_atomically
from ddistill.synthetic import SyntheticSet

SHOWN_PER_CLASS = 20
SMALLEST_SIDE = 64
GAP = 2


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

"""First stored images of a class, drawn from the run's seed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn import functional as F

from ddistill.data import touched

Initialisation = Literal["mix", "random", "noise"]


def initial_images(
    real: torch.Tensor, count: int, factor: int, kind: Initialisation, generator: torch.Generator
) -> torch.Tensor:
    """``count`` stored images (count, channels, side, side), float32 in [0, 1].

    Args:
        real: the class's real images, uint8 (N, channels, side, side).
        count: images to store.
        factor: multi-formation factor F.
        kind: "mix": each cell a different real image, nearest-neighbour resized to it (needs count * F * F real
            images); "random": one real image each; "noise": N(0.5, 1/4), clamped.
        generator: of this class.
    """
    channels, side = real.shape[1], real.shape[-1]
    if kind == "noise":
        return (torch.randn(count, channels, side, side, generator=generator) * 0.25 + 0.5).clamp(0.0, 1.0)
    cells = factor if kind == "mix" else 1
    chosen = torch.randperm(len(real), generator=generator)[: count * cells**2]
    touched(real, len(chosen))
    return mosaics(real[chosen].float().div(255.0), cells)


def mosaics(pictures: torch.Tensor, cells: int) -> torch.Tensor:
    """Whole images as the cells of stored ones, (count, channels, side, side), each nearest-neighbour resized to it.

    Args:
        pictures: (cells * cells * count, channels, side, side), those of the first cell of all stored images first.
        cells: per row and column.
    """
    count, (channels, side) = len(pictures) // cells**2, pictures.shape[1:3]
    pictures = pictures.view(cells, cells, count, channels, side, side)
    cell = math.ceil(side / cells)
    stored = torch.empty(count, channels, side, side, device=pictures.device)
    for row in range(cells):
        for column in range(cells):
            rows, columns = (slice(i * cell, min((i + 1) * cell, side)) for i in (row, column))
            size = (rows.stop - rows.start, columns.stop - columns.start)
            stored[:, :, rows, columns] = F.interpolate(pictures[row, column], size=size, mode="nearest")
    return stored

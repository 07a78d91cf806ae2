"""Multi-formation (IDC): a stored image holds F x F cells, each decoded to a full image. Pure functions.

Shapes: n stored images of (channels, H, W) in [0, 1]; F the factor.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn import functional as F

Decoder = Literal["single", "multi", "bound"]

PADDING = 0.5
BOUND = 128


def decode(stored: torch.Tensor, factor: int, decoder: Decoder) -> torch.Tensor:
    """Decode (n, channels, H, W) by the named decoder; see `decode_single`, `decode_multi`, `decode_bound`."""
    if decoder == "single":
        return decode_single(stored, factor)
    return decode_multi(stored, factor) if decoder == "multi" else decode_bound(stored, factor)


def decode_single(stored: torch.Tensor, factor: int) -> torch.Tensor:
    """Cut into F*F cells of ceil(side / F) and upsample each bilinearly to the full size.

    Where F does not divide the side, the image is first padded with 0.5 on the right and bottom.

    Returns:
        (F*F*n, channels, H, W), cell by cell (row by row), all images of a cell together.
    """
    if factor == 1:
        return stored
    n, channels, height, width = stored.shape
    cell_height, cell_width = math.ceil(height / factor), math.ceil(width / factor)
    padding = (0, cell_width * factor - width, 0, cell_height * factor - height)
    if any(padding):
        stored = F.pad(stored, padding, value=PADDING)
    cells = stored.reshape(n, channels, factor, cell_height, factor, cell_width).permute(2, 4, 0, 1, 3, 5)
    cells = cells.reshape(factor * factor * n, channels, cell_height, cell_width)
    return F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)


def decode_multi(stored: torch.Tensor, factor: int) -> torch.Tensor:
    """Concatenation of `decode_single` with the factors 1 to F: (n * (1 + 4 + ... + F*F), channels, H, W)."""
    return torch.cat([decode_single(stored, f) for f in range(1, factor + 1)])


def decode_bound(stored: torch.Tensor, factor: int, bound: int = BOUND) -> torch.Tensor:
    """Factor F for as many images, in stored order, as fit in ``bound`` decoded images, then smaller factors."""
    parts, start = [], 0
    for f, count in bound_counts(len(stored), factor, bound):
        parts.append(decode_single(stored[start : start + count], f))
        start += count
    return torch.cat(parts)


def bound_counts(images: int, factor: int, bound: int = BOUND) -> list[tuple[int, int]]:
    """How many images each factor decodes: (factor, images), from F downwards, nothing left out.

    Each factor takes as many as fit, at F*F decoded images each, into what ``bound`` leaves beside one decoded image
    for every image that is not decoded yet; so the bound is kept and, as in the published program, not always reached.
    More images than ``bound`` are all decoded with factor 1.
    """
    counts, left, room = [], images, bound
    for f in range(factor, 1, -1):
        taken = min(left, max(0, room - left) // (f * f))
        if taken:
            counts.append((f, taken))
        left, room = left - taken, room - taken * f * f
    return [*counts, (1, left)] if left else counts


def decoded_count(images: int, factor: int, decoder: Decoder) -> int:
    """Number of images that `decode` makes of ``images`` stored ones."""
    if decoder == "single":
        return images * factor * factor
    if decoder == "multi":
        return images * sum(f * f for f in range(1, factor + 1))
    return sum(f * f * count for f, count in bound_counts(images, factor))


def in_bytes(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1], any beyond cut off, as uint8 in [0, 255]; for pictures."""
    return images.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)

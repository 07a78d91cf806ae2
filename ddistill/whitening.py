"""ZCA whitening: a linear map of raw pixels that takes their correlation away (optional in TM).

Images stay pixels wherever they are stored or shown; whitening is what is done to them before a network, in place of
normalising them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ddistill.runtime.errors import UserError

EPSILON = 0.1
"""Added to the variances of pixels in [0, 1], as the published program of TM does."""
MOST_VALUES = 4800
"""Of an image; the map has the square of it."""
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Whitening:
    """x to (x - mean) @ matrix, on flattened images of d = channels * side * side values.

    Attributes:
        mean: (d,), of the training images.
        matrix: (d, d), symmetric: (covariance + epsilon) ** (-1/2).
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Whiten images (N, channels, side, side); differentiable."""
        return ((images.flatten(1) - self.mean) @ self.matrix).view_as(images)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """Images of whitened ones (N, channels, side, side)."""
        return (torch.linalg.solve(self.matrix, images.flatten(1).T).T + self.mean).view_as(images)

    @cached_property
    def metric(self) -> torch.Tensor:
        """matrix ** -2, (d, d): takes a gradient with respect to images to the step, in their units, that a step along
        the gradient with respect to whitened images is."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return (vectors * values**-2) @ vectors.T

    def to(self, device: torch.device) -> Whitening:
        """The same on a device."""
        return Whitening(self.mean.to(device), self.matrix.to(device))


def check_values(size: int) -> None:
    """Refuse images of more values than a map is made for."""
    if size > MOST_VALUES:
        raise UserError(
            f"data.whitening=zca is for images of at most {MOST_VALUES} values (40 px in colour), got {size}; use a "
            "smaller data.size, or leave it out"
        )


def zca(images: torch.Tensor) -> Whitening:
    """The whitening of a training set, of its pixels in [0, 1].

    Args:
        images: uint8 (N, channels, side, side).

    Raises:
        UserError: images of more than 4800 values (40 px in colour).
    """
    size = images[0].numel()
    check_values(size)
    total, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for chunk in images.split(CHUNK):
        rows = (chunk.float() / 255.0).flatten(1)
        total += rows.sum(dim=0, dtype=torch.float64)
        products += (rows.T @ rows).double()
    centre = total / len(images)
    covariance = (products - total.outer(centre)).float() / max(1, len(images) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = (vectors * (values.clamp(min=0.0) + EPSILON).rsqrt()) @ vectors.T
    return Whitening(centre.float(), matrix)

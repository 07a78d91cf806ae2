"""ZCA whitening: a linear map after normalisation that takes the correlation of pixels away (optional in TM).

Images stay pixels wherever they are stored or shown; whitening is part of what is done to them before a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from ddistill.errors import UserError

EPSILON = 0.1
"""Added to the variances of normalised images, as the published program of TM does."""
MOST_VALUES = 4800
"""Of an image; the map has the square of it."""
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Whitening:
    """x to (x - mean) @ matrix, on flattened normalised images of d = channels * side * side values.

    Attributes:
        mean: (d,), of the normalised training images.
        matrix: (d, d), symmetric: (covariance + epsilon) ** (-1/2).
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Whiten normalised images (N, channels, side, side); differentiable."""
        return ((images.flatten(1) - self.mean) @ self.matrix).view_as(images)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images of whitened ones (N, channels, side, side)."""
        return (torch.linalg.solve(self.matrix, images.flatten(1).T).T + self.mean).view_as(images)

    @cached_property
    def metric(self) -> torch.Tensor:
        """matrix ** -2, (d, d): takes a gradient with respect to normalised images to the step, in those units, that
        a step along the gradient with respect to whitened images is."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return (vectors * values**-2) @ vectors.T

    def to(self, device: torch.device) -> Whitening:
        """The same on a device."""
        return Whitening(self.mean.to(device), self.matrix.to(device))


def zca(images: torch.Tensor, normalise: Callable[[torch.Tensor], torch.Tensor]) -> Whitening:
    """The whitening of a training set.

    Args:
        images: uint8 (N, channels, side, side).
        normalise: takes mean and std of each channel from pixels in [0, 1].

    Raises:
        UserError: images of more than 4800 values (40 px in colour).
    """
    size = images[0].numel()
    if size > MOST_VALUES:
        raise UserError(
            f"data.whitening=zca is for images of at most {MOST_VALUES} values (40 px in colour), got {size}; use a "
            "smaller data.size, or leave it out"
        )
    total, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for chunk in images.split(CHUNK):
        rows = normalise(chunk.float() / 255.0).flatten(1)
        total += rows.sum(dim=0, dtype=torch.float64)
        products += (rows.T @ rows).double()
    centre = total / len(images)
    covariance = (products / len(images) - torch.outer(centre, centre)).float()
    values, vectors = torch.linalg.eigh(covariance)
    matrix = (vectors * (values.clamp(min=0.0) + EPSILON).rsqrt()) @ vectors.T
    return Whitening(centre.float(), matrix)

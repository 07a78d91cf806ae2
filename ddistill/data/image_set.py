"""Labelled images as a network is trained on them: real, decoded or for testing, on a device or beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ddistill.augment import AugmentSettings, Normalisation, Pipeline
from ddistill.data.rows import expect, touched
from ddistill.runtime.memory import free_memory_bytes

MEMORY_SHARE = 0.5
"""Of the free memory of a device, that the real images may take there."""


class HasNormalisation(Protocol):
    """What says how images are normalised: real data, a synthetic set, other images."""

    @property
    def normalisation(self) -> Normalisation:
        """The same for all of them."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Images to train on.

    Attributes:
        images: uint8 in [0, 255] or float in [0, 1], (N, channels, H, H).
        labels: what a network is trained on: classes, int64 (N,), or soft labels, float32 (N, classes), rows that sum
            to 1; the cross-entropy is one function of both.
        normalisation: what is done to them before a network.
        travel_to: device that every batch is moved to, for images that do not fit there; None: images and batches are
            on one device.
    """

    images: torch.Tensor
    labels: torch.Tensor
    normalisation: Normalisation
    travel_to: torch.device | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalisation", self.normalisation.to(self.device))

    @property
    def device(self) -> torch.device:
        """Where `fetch` gives images."""
        return self.travel_to or self.images.device

    @classmethod
    def of(cls, images: torch.Tensor, labels: torch.Tensor, other: HasNormalisation, device: torch.device) -> ImageSet:
        """Images for training on a device: moved there if they take less than half of what is free, else left."""
        if images.device.type != device.type and images.nbytes < free_memory_bytes(device) * MEMORY_SHARE:
            images, labels = images.to(device), labels.to(device)
        travel_to = device if images.device.type != device.type else None
        return cls(images, labels, other.normalisation, travel_to)

    def pipeline(self, augment: AugmentSettings) -> Pipeline:
        """What is done to the images before they enter a network."""
        return Pipeline(augment, self.normalisation)

    def fetch(self, index: torch.Tensor) -> torch.Tensor:
        """Float images in [0, 1] at those positions, (len(index), channels, H, H), on the device.

        ``index`` is where the images are.
        """
        rows = self.images[index]
        touched(self.images, len(index))
        rows = self._moved(rows)
        return rows.float().div_(255.0) if rows.dtype == torch.uint8 else rows

    def fetch_labels(self, index: torch.Tensor) -> torch.Tensor:
        """Labels at those positions, on the device."""
        return self._moved(self.labels[index])

    def expect(self, index: torch.Tensor) -> None:
        """Have images at those positions, of any shape, read ahead where they are on the disk; returns at once."""
        expect(self.images, index)

    def _moved(self, rows: torch.Tensor) -> torch.Tensor:
        if self.travel_to is None:
            return rows
        return rows.pin_memory().to(self.device, non_blocking=True)

"""What is done to images in [0, 1] before a network sees them: mean and std of each channel, and whitening if any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ddistill.whitening import Whitening

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Normalisation:
    """x to whitening((x - mean) / std); one value for real, synthetic and test images.

    Attributes:
        mean, std: of each channel of the real training set, of pixels in [0, 1].
        whitening: applied after them, if any.
        device: where the images are that it is called with.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Whitening | None = None
    device: torch.device = CPU

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise (N, channels, H, W) in [0, 1]; differentiable."""
        images = (images - self._mean) / self._std
        return images if self.whitening is None else self.whitening(images)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """The pixels of normalised images (N, channels, H, W)."""
        if self.whitening is not None:
            images = self.whitening.inverse(images)
        return images * self._std + self._mean

    def pull_back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction in pixels of a step along the gradient with respect to normalised images.

        A step of lr * g on normalised images is, in pixels, lr * std * g, and g is std * (gradient in pixels); with
        whitening W it is lr * std * W ** -2 * std * (gradient in pixels).

        Args:
            gradient: with respect to pixels, (N, channels, H, W).
        """
        if self.whitening is None:
            return gradient * self._variance
        return ((gradient * self._std).flatten(1) @ self.whitening.metric).view_as(gradient) * self._std

    def to(self, device: torch.device) -> Normalisation:
        """The same for images on a device."""
        if device == self.device:
            return self
        whitening = None if self.whitening is None else self.whitening.to(device)
        return replace(self, whitening=whitening, device=device)

    @cached_property
    def _mean(self) -> torch.Tensor:
        return self._by_channel(self.mean)

    @cached_property
    def _std(self) -> torch.Tensor:
        return self._by_channel(self.std)

    @cached_property
    def _variance(self) -> torch.Tensor:
        return self._by_channel(tuple(value**2 for value in self.std))

    def _by_channel(self, values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

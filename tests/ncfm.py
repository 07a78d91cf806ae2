"""A user's file: the characteristic function distance (NCFM) as a method, with the template and nothing else.

Class by class, real and synthetic embeddings of unit length are compared by their characteristic functions at random
frequencies: lengths and phases of the mean of exp(i t . x).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from ddistill.augment import AugmentSettings
from ddistill.methods import ClassMatching, ClassMatchingSettings, Needs, Networks, Through
from ddistill.methods.image_optimiser import ImageAdam, ImageOptimiser
from ddistill.runtime.randomness import generator


class CharacteristicSettings(ClassMatchingSettings):
    """NCFM without its adversarial sampler of frequencies."""

    name: Literal["characteristic"] = "characteristic"
    """The method."""
    image_lr: float = Field(default=0.01, gt=0)
    real_batch: int = Field(default=128, ge=1)
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop", "cutout"))
    frequencies: int = Field(default=1024, ge=1)
    """Random frequencies, drawn anew for each outer step."""

    @property
    def needs(self) -> Needs:
        """A network that gives embeddings."""
        return Needs(network=True, features=True, sharded=True)


class Characteristic(ClassMatching):
    """300 * mean over frequencies of the distance of two characteristic functions."""

    settings: CharacteristicSettings

    def __init__(self, settings: CharacteristicSettings, context: Any) -> None:
        self.embed = Through(context.network, "features", context.precision)
        with torch.no_grad():
            size = context.network.features(context.synthetic.images[:1]).numel()
        self.t = torch.zeros(size, settings.frequencies, device=context.synthetic.images.device)
        super().__init__(settings, context)

    def image_optimiser(self) -> ImageOptimiser:
        return ImageAdam(self.context.synthetic, self.settings.image_lr)

    def begin(self, step: int) -> None:
        self.t.copy_(torch.randn(self.t.shape, generator=generator(self.context.seed, "frequencies", step)))

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        (a, b), (c, d) = (self.characteristic(networks, images) for images in (real, synthetic))
        r, s = (torch.sqrt(x**2 + y**2 + 1e-12) for x, y in ((a, b), (c, d)))
        phase = (2.0 * (r * s - a * c - b * d)).clamp(min=1e-12)
        return 300.0 * torch.sqrt(0.5 * (r - s) ** 2 + 0.5 * phase).mean()

    def characteristic(self, networks: Networks, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = F.normalize(self.embed(networks.weights, images).flatten(1), dim=1) @ self.t
        return angles.cos().mean(dim=0), angles.sin().mean(dim=0)

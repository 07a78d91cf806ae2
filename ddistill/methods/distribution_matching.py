"""Distribution matching (DM): move synthetic images until a network maps them, on average, where it maps real ones.

https://arxiv.org/abs/2110.04181. Shapes: B real images of a class per step, S decoded synthetic images of a class.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from ddistill.methods.base import Context, Needs
from ddistill.methods.class_matching import ClassMatching, ClassMatchingSettings, Networks, Through
from ddistill.methods.distances import mean_distance


class DistributionMatchingSettings(ClassMatchingSettings):
    """DM: class-mean embeddings under many networks that are never trained by the method."""

    name: Literal["dm"] = "dm"
    """The method."""

    @property
    def needs(self) -> Needs:
        """A network that gives embeddings."""
        return Needs(network=True, features=True, sharded=True)


class DistributionMatching(ClassMatching):
    """The loop of DM (algorithm 1 of its paper): all classes' distances are summed, one image step.

    Deviations from the authors' program: the real images of a class start a new shuffled pass at each outer step; the
    stored images stay in [0, 1] pixels and are clamped there at each outer step.
    """

    captured = True

    def __init__(self, settings: DistributionMatchingSettings, context: Context) -> None:
        self.embed = Through(context.network, "features", context.precision)
        super().__init__(settings, context)

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """|| mean of the real embeddings - mean of the synthetic ones ||^2."""
        return mean_distance(*(self.embed(networks.weights, images).flatten(1) for images in (real, synthetic)))

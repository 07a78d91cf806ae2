"""A small vision transformer, for checks whether a distilled set serves other networks."""

from __future__ import annotations

import torch
from torch import nn

PATCHES = 8
"""Along a side."""
UNITS, HEADS, DEPTH = 192, 3, 6


class ViT(nn.Module):
    """8 x 8 patches, learned positions, 6 pre-norm encoder layers of 192 units, mean over the patches, linear.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels, at least 8; a rest at the border is not seen.
        width: factor on the 192 units, in steps of the 3 heads.
        depth: encoder layers.
    """

    SMALLEST_SIDE = PATCHES

    def __init__(
        self, num_classes: int, channels: int = 3, size: int = 32, *, width: float = 1.0, depth: int = DEPTH
    ) -> None:
        super().__init__()
        units, patch = HEADS * max(1, round(width * UNITS / HEADS)), size // PATCHES
        self.patches = nn.Conv2d(channels, units, patch, patch)
        count = (size // patch) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, count, units))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    units, HEADS, 4 * units, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(units)
        self.classifier = nn.Linear(units, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, (N, units)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.norm(self.layers(tokens)).mean(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))

"""DenseNet-121, for checks whether a distilled set serves other networks."""

from __future__ import annotations

import torch
from torch import nn

from ddistill.networks.layers import LEAST_SIDE, NormName, average_pool, make_norm, start_convolutions

GROWTH = 32
STAGES = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; the output is put beside the input."""

    def __init__(self, channels_in: int, growth: int, norm: NormName) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, channels_in)
        self.conv1 = nn.Conv2d(channels_in, 4 * growth, 1, bias=False)
        self.norm2 = make_norm(norm, 4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        new = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(new)))], dim=1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution to half the channels, average pool 2 (none where the maps would get too small)."""

    def __init__(self, channels_in: int, pools: bool, norm: NormName) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels_in)
        self.conv = nn.Conv2d(channels_in, channels_in // 2, 1, bias=False)
        self.pools = pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C // 2, H // 2, W // 2)."""
        x = self.conv(torch.relu(self.norm(x)))
        return average_pool(x) if self.pools else x


class DenseNet(nn.Module):
    """A stem, four stages of 6, 12, 24 and 16 dense layers, global average pool, linear.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels; above 64 px the stem is a 7x7 convolution with stride 2 and a pool.
        width: factor on the growth of 32 channels a layer.
        norm: "instance", "batch" or "none".
    """

    def __init__(
        self, num_classes: int, channels: int = 3, size: int = 32, *, width: float = 1.0, norm: NormName = "instance"
    ) -> None:
        super().__init__()
        growth = max(1, round(width * GROWTH))
        planes, large = 2 * growth, size > 64
        self.stem = nn.Sequential(
            nn.Conv2d(channels, planes, 7 if large else 3, 2 if large else 1, padding=3 if large else 1, bias=False),
            nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity(),
        )
        side = -(-size // 4) if large else size
        self.stages = nn.Sequential()
        for number, layers in enumerate(STAGES):
            if number:
                pools = side >= 2 * LEAST_SIDE
                self.stages.append(Transition(planes, pools, norm))
                planes, side = planes // 2, side // 2 if pools else side
            for _ in range(layers):
                self.stages.append(DenseLayer(planes, growth, norm))
                planes += growth
        self.norm = make_norm(norm, planes)
        self.classifier = nn.Linear(planes, num_classes)
        start_convolutions(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, (N, planes)."""
        return torch.relu(self.norm(self.stages(self.stem(x)))).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))

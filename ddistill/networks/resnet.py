"""ResNet-10 and ResNet-18, for checks whether a distilled set serves other networks."""

from __future__ import annotations

import torch
from torch import nn

from ddistill.networks.layers import LEAST_SIDE, NormName, make_norm, start_convolutions

STAGE_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms, and a shortcut: the block of ResNet-18."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), make_norm(norm, channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, channels, H / stride, W / stride)."""
        main = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(main)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, four stages of basic blocks, global average pool, linear.

    Up to 64 px the stem is a 3x3 convolution, above a 7x7 one with stride 2 and a max pool. A stage whose maps would
    fall below 2 px keeps its side: an instance norm over one pixel would leave nothing.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels.
        width: factor on the channels.
        norm: "instance", "batch" or "none".
    """

    BLOCKS = 2
    """Of each stage; 2 for ResNet-18."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        size: int = 32,
        *,
        width: float = 1.0,
        norm: NormName = "instance",
    ) -> None:
        super().__init__()
        widths = [max(1, round(width * stage)) for stage in STAGE_WIDTHS]
        large = size > 64
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], kernel, stride, padding=kernel // 2, bias=False),
            make_norm(norm, widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity(),
        )
        self.blocks = nn.Sequential()
        side, inputs = -(-size // 4) if large else size, widths[0]
        for stage, stage_width in enumerate(widths):
            for block in range(self.BLOCKS):
                stride = 2 if stage and not block and side >= 2 * LEAST_SIDE else 1
                self.blocks.append(BasicBlock(inputs, stage_width, stride, norm))
                side, inputs = -(-side // stride), stage_width
        self.classifier = nn.Linear(inputs, num_classes)
        start_convolutions(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, (N, 512 * width)."""
        return self.blocks(self.stem(x)).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))


class ResNet10(ResNet):
    """ResNet with one basic block per stage."""

    BLOCKS = 1

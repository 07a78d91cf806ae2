"""ResNetAP-10, the network of the ImageNet experiments (Table 2 of the supplement)."""

from __future__ import annotations

import torch
from torch import nn

from ddistill.networks.layers import NormName, average_pool, make_norm, start_convolutions

STAGE_WIDTHS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 2, 2)


class ConvNorm(nn.Module):
    """A convolution without bias and its norm; callers may pool between the two."""

    def __init__(self, channels_in: int, channels: int, kernel: int, norm: NormName) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel_size=kernel, padding=kernel // 2, bias=False)
        self.norm = make_norm(norm, channels)


class BasicBlockAP(nn.Module):
    """Basic residual block whose stride is an average pool after the first ReLU (and in the shortcut)."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = make_norm(norm, channels)
        reshapes = stride != 1 or channels_in != channels
        self.shortcut = ConvNorm(channels_in, channels, 1, norm) if reshapes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, channels, H // stride, W // stride)."""
        main = self._pool(torch.relu(self.norm1(self.conv1(x))))
        main = self.norm2(self.conv2(main))
        if self.shortcut is not None:
            x = self.shortcut.norm(self._pool(self.shortcut.conv(x)))
        return torch.relu(main + x)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.stride == 1 else average_pool(x, self.stride)


class ResNetAP(nn.Module):
    """A stem, four basic blocks of 64, 128, 256, 512 channels (times ``width``), global average pool, linear.

    The stem follows the image size: up to 64 px a 3x3 convolution without pool, up to 128 px the same with
    pool 2, above a 7x7 convolution with pool 4. Convolutions have no bias and start from N(0, sqrt(2 / (k*k*out))).

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels, at least 16.
        width: factor on the channels of every stage (1 is the paper's).
        norm: "instance", "batch" or "none".
    """

    SMALLEST_SIDE = 16
    """Pixels at which the last maps have 2 x 2: an instance norm over one leaves nothing."""

    def __init__(
        self, num_classes: int, channels: int = 3, size: int = 224, *, width: float = 1.0, norm: NormName = "instance"
    ) -> None:
        super().__init__()
        widths = [max(1, round(width * stage)) for stage in STAGE_WIDTHS]
        kernel, self.stem_pool = (3, 1) if size <= 64 else (3, 2) if size <= 128 else (7, 4)
        self.stem = ConvNorm(channels, widths[0], kernel, norm)
        inputs = [widths[0], *widths[:-1]]
        self.blocks = nn.Sequential(
            *(BasicBlockAP(i, o, s, norm) for i, o, s in zip(inputs, widths, STAGE_STRIDES, strict=True))
        )
        self.classifier = nn.Linear(widths[-1], num_classes)
        start_convolutions(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, (N, 512 * width)."""
        return self.layers(x)[-1]

    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The stem's ReLU output before its pool, the output of each block, and the input of the classifier."""
        maps = [torch.relu(self.stem.norm(self.stem.conv(x)))]
        x = average_pool(maps[0], self.stem_pool) if self.stem_pool > 1 else maps[0]
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [*maps, x.mean(dim=(2, 3))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))

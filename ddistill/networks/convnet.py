"""ConvNet-D, the network of the CIFAR, MNIST and SVHN experiments (Table 1 of the supplement)."""

from __future__ import annotations

import torch
from torch import nn

from ddistill.networks import kernels
from ddistill.networks.layers import NormName, average_pool, make_norm, norm_relu_pool
from ddistill.runtime.errors import UserError


class Convolution(nn.Conv2d):
    """torch's, with cheaper gradients of second order where the kernels serve."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, width, H', W')."""
        return kernels.convolve(x, self) if kernels.serves(x) else super().forward(x)


class ConvBlock(nn.Module):
    """Convolution 3x3 with bias, norm, ReLU, average pool 2."""

    def __init__(self, channels_in: int, width: int, norm: NormName, padding: int) -> None:
        super().__init__()
        self.conv = Convolution(channels_in, width, kernel_size=3, padding=padding)
        self.norm = make_norm(norm, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, width, H // 2, W // 2)."""
        return norm_relu_pool(self.conv(x), self.norm)

    def before_pool(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the output of the ReLU, (N, width, H, W)."""
        return torch.relu(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    """``depth`` convolution blocks of ``width`` filters and a linear classifier.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels; 28-pixel images get padding 3 in the first convolution.
        width: filters of each convolution.
        depth: blocks; each halves the side.
        norm: "instance", "batch" or "none".

    Raises:
        UserError: a depth that leaves no pixel.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        size: int = 32,
        *,
        width: int = 128,
        depth: int = 3,
        norm: NormName = "instance",
    ) -> None:
        super().__init__()
        side = final_side(size, depth)
        if side < 1:
            raise UserError(f"network.depth {depth} leaves no pixel of a {size}-pixel image; use a smaller depth")
        self.blocks = nn.Sequential()
        for index in range(depth):
            padding = 3 if index == 0 and size == 28 else 1
            self.blocks.append(ConvBlock(channels if index == 0 else width, width, norm, padding))
        self.classifier = nn.Linear(width * side * side, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The flattened input of the classifier, (N, width * side * side)."""
        if kernels.serves(x):
            x = x.contiguous(memory_format=torch.channels_last)  # the layout of the blocks' kernels
        return self.blocks(x).flatten(1)

    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Each block's ReLU output before its pool, then the last pool's output: D + 1 tensors (N, width, h, h)."""
        maps = []
        for block in self.blocks:
            maps.append(block.before_pool(x))  # type: ignore[operator]
            x = average_pool(maps[-1])
        return [*maps, x]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))


def final_side(size: int, depth: int) -> int:
    """Side in pixels of the last maps of a ConvNet of that depth."""
    side = size + 4 if size == 28 and depth > 0 else size
    return side >> depth

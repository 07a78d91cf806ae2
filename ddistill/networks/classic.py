"""MLP, LeNet, AlexNet and VGG-11 for small images, for checks whether a distilled set serves other networks.

Pools are left out where maps would fall below 2 px; maps that end larger than those of a 32-px image are averaged down.
"""

from __future__ import annotations

import torch
from torch import nn

from ddistill.networks.layers import LEAST_SIDE, NormName, make_norm


class Classic(nn.Module):
    """``body``, flattened, and a linear classifier."""

    body: nn.Sequential
    classifier: nn.Linear

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, (N, planes)."""
        return self.body(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, channels, size, size)."""
        return self.classifier(self.features(x))


class MLP(Classic):
    """Two hidden layers with ReLU.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels.
        width: units of a hidden layer.
    """

    def __init__(self, num_classes: int, channels: int = 3, size: int = 32, *, width: float = 128) -> None:
        super().__init__()
        units = max(1, round(width))
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(units, num_classes)


class LeNet(Classic):
    """Two 5x5 convolutions with ReLU and max pools, two hidden layers of 120 and 84 units.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels.
    """

    def __init__(self, num_classes: int, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        convolutions, planes, side = [], channels, size
        for width in (6, 16):
            padding = 0 if side >= 14 else 2
            convolutions += [nn.Conv2d(planes, width, 5, padding=padding), nn.ReLU(), *_pool(side - 4 + 2 * padding)]
            planes, side = width, _pooled(side - 4 + 2 * padding)
        side = min(side, 5)
        self.body = nn.Sequential(
            *convolutions,
            nn.AdaptiveAvgPool2d(side),
            nn.Flatten(),
            nn.Linear(planes * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(84, num_classes)


class AlexNet(Classic):
    """Five convolutions with ReLU, three max pools; without the wide hidden layers of the original.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels.
        width: factor on the channels.
        norm: "none" as in the original, "instance" or "batch".
    """

    def __init__(
        self, num_classes: int, channels: int = 3, size: int = 32, *, width: float = 1.0, norm: NormName = "none"
    ) -> None:
        super().__init__()
        blocks = ((128, 5, True), (192, 5, True), (256, 3, False), (192, 3, False), (192, 3, True))
        self.body, planes, side = _convolutions(blocks, channels, size, width, norm)
        self.body.append(nn.AdaptiveAvgPool2d(min(side, 4)))
        self.classifier = nn.Linear(planes * min(side, 4) ** 2, num_classes)


class VGG11(Classic):
    """Eight 3x3 convolutions with norm and ReLU, five max pools; one linear layer.

    Args:
        num_classes: outputs.
        channels: 1 or 3.
        size: side of the square images in pixels.
        width: factor on the channels.
        norm: "instance", "batch" or "none".
    """

    def __init__(
        self, num_classes: int, channels: int = 3, size: int = 32, *, width: float = 1.0, norm: NormName = "instance"
    ) -> None:
        super().__init__()
        widths = (64, 128, 256, 256, 512, 512, 512, 512)
        pools = (True, True, False, True, False, True, False, True)
        blocks = tuple((planes, 3, pool) for planes, pool in zip(widths, pools, strict=True))
        self.body, planes, _ = _convolutions(blocks, channels, size, width, norm)
        self.body.append(nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(planes, num_classes)


def _convolutions(
    blocks: tuple[tuple[int, int, bool], ...], channels: int, size: int, width: float, norm: NormName
) -> tuple[nn.Sequential, int, int]:
    """Convolution, norm, ReLU and perhaps a pool for each (channels, kernel, pools); channels and side at the end."""
    body, planes, side = nn.Sequential(), channels, size
    for count, kernel, pools in blocks:
        count = max(1, round(width * count))
        body.append(nn.Conv2d(planes, count, kernel, padding=kernel // 2))
        body.append(make_norm(norm, count))
        body.append(nn.ReLU())
        planes = count
        if pools:
            body.extend(_pool(side))
            side = _pooled(side)
    return body, planes, side


def _pool(side: int) -> list[nn.Module]:
    return [nn.MaxPool2d(2)] if side >= 2 * LEAST_SIDE else []


def _pooled(side: int) -> int:
    return side // 2 if side >= 2 * LEAST_SIDE else side

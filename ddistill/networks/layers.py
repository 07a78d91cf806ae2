"""Layers that several networks share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ddistill.networks import kernels

NormName = Literal["instance", "batch", "none"]
LEAST_SIDE = 2
"""Pixels of the smallest maps that an instance norm leaves something of."""


class InstanceNorm(nn.Module):
    """Group normalisation with one group per channel, affine (the paper's "instance" norm).

    Under a compiler it is written as mean and variance, which fuse with the activation and the pool that follow;
    eager, torch's kernel is faster.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W) over H and W; statistics of bfloat16 maps are taken in float32."""
        wide = x.float() if x.dtype == torch.bfloat16 else x
        if not torch.compiler.is_compiling():
            return F.group_norm(wide, x.shape[1], self.weight, self.bias, self.eps).to(x.dtype)
        mean = wide.mean(dim=(2, 3), keepdim=True)
        centred = wide - mean
        variance = centred.square().mean(dim=(2, 3), keepdim=True)
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def make_norm(name: NormName, channels: int) -> nn.Module:
    """The normalisation layer of that name for (N, ``channels``, H, W)."""
    if name == "instance":
        return InstanceNorm(channels)
    return nn.BatchNorm2d(channels) if name == "batch" else nn.Identity()


def average_pool(x: torch.Tensor, size: int = 2) -> torch.Tensor:
    """Average pool of (N, C, H, W) with windows of ``size`` that do not overlap; a rest at the border is left out.

    Under a compiler it is a mean over a view: its gradient is then a plain broadcast, without the window bounds
    that torch's pool checks for every pixel.
    """
    if not torch.compiler.is_compiling():
        return F.avg_pool2d(x, size)
    n, c, h, w = x.shape[0], x.shape[1], x.shape[2] // size, x.shape[3] // size
    return x[:, :, : h * size, : w * size].reshape(n, c, h, size, w, size).mean(dim=(3, 5))


def norm_relu_pool(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """Norm, ReLU and average pool 2 of (N, C, H, W): one kernel where there is one, else one after the other."""
    if isinstance(norm, InstanceNorm):
        pooled = kernels.norm_relu_pool(x, norm.weight, norm.bias, norm.eps)
        if pooled is not None:
            return pooled
    return average_pool(torch.relu(norm(x)))


def couples_batch(module: nn.Module) -> bool:
    """Whether what a network makes of an image while it is trained depends on the others of the batch.

    True with a batch norm, a norm that tracks statistics, or an own module that has ``couples_batch = True``. Such a
    batch cannot be divided, nor the network be mapped over several batches or compiled. Constant buffers do not matter.
    """
    return any(
        isinstance(part, _BatchNorm)
        or getattr(part, "track_running_stats", False)
        or getattr(part, "couples_batch", False)
        for part in module.modules()
    )


def start_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, sqrt(2 / (k * k * out)))."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))

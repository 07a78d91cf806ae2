"""Networks by name. A network is any `nn.Module` from normalised images (N, channels, size, size) to logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from ddistill.errors import UserError, unknown_name
from ddistill.networks import kernels
from ddistill.networks.convnet import ConvNet, final_side
from ddistill.networks.layers import InstanceNorm, NormName
from ddistill.networks.resnet_ap import ResNetAP
from ddistill.randomness import key_hash
from ddistill.settings import Settings

__all__ = [
    "ConvNet",
    "NetworkSettings",
    "ResNetAP",
    "build_network",
    "check_known_network",
    "check_network",
    "network_gives",
    "parameter_count",
    "register",
    "runs_on_kernels",
]

NetworkConstructor = Callable[..., nn.Module]

NETWORKS: dict[str, NetworkConstructor] = {"convnet": ConvNet, "resnet_ap": ResNetAP}


class NetworkSettings(Settings):
    """Which network, and its size."""

    name: str = "convnet"
    """A name in the table of networks: convnet, resnet_ap, or one that was registered."""
    width: float | None = Field(default=None, gt=0)
    """Filters of a ConvNet (128 by default); a factor on the channels of a ResNetAP (1 by default)."""
    depth: int | None = Field(default=None, ge=1)
    """Blocks of a ConvNet (3 by default); each halves the side of the maps."""
    norm: NormName | None = None
    """instance (default), batch or none."""


def register(name: str, constructor: NetworkConstructor) -> None:
    """Make an own network known by name.

    ``constructor(num_classes, channels, size, **options)`` returns a module; options are the settings that the
    user gave (width, depth, norm).

    Raises:
        UserError: a name that is taken by another constructor.
    """
    if NETWORKS.get(name, constructor) is not constructor:
        raise UserError(f"network name {name!r} is taken; choose another")
    NETWORKS[name] = constructor


def build_network(settings: NetworkSettings, num_classes: int, channels: int, size: int, *key: int | str) -> nn.Module:
    """A network with freshly drawn weights that depend on ``key`` alone (see `ddistill.randomness`).

    Modules draw their first weights from torch's global generator and take no other. So it is seeded from the key
    inside a fork: what it held before stands again afterwards, and any `nn.Module` can be used.

    Raises:
        UserError: unknown name, or an option that this network does not have.
    """
    check_known_network(settings)
    options = _options(settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key_hash("network", *key))
        try:
            return NETWORKS[settings.name](num_classes, channels, size, **options)
        except TypeError as error:
            raise UserError(f"network {settings.name!r} does not take {', '.join(options)}: {error}") from error


def check_known_network(settings: NetworkSettings) -> None:
    """Refuse a name that is not in the table, and an option that its network does not have.

    Raises:
        UserError: naming the nearest names, or the option.
    """
    if settings.name not in NETWORKS:
        raise unknown_name("network", settings.name, NETWORKS)
    options = _options(settings)
    try:
        inspect.signature(NETWORKS[settings.name]).bind(10, 3, 32, **options)
    except TypeError as error:
        raise UserError(f"network {settings.name!r} does not take all of {', '.join(options)}: {error}") from error


def check_network(settings: NetworkSettings, size: int) -> None:
    """Refuse a network whose last maps are too small for images of ``size`` pixels to be matched.

    Instance norm over a 2x2 map leaves three numbers a channel: gradients that match there carry nothing of the
    image, and distilled sets get worse than random ones.

    Raises:
        UserError: naming a depth that works.
    """
    check_known_network(settings)
    if settings.name == "resnet_ap" and size < ResNetAP.SMALLEST_SIDE:
        raise UserError(
            f"network resnet_ap needs images of at least {ResNetAP.SMALLEST_SIDE} px, got {size}; set data.size"
        )
    if settings.name != "convnet":
        return
    depth = settings.depth or 3
    if final_side(size, depth - 1) < 4:
        works = [d for d in range(1, depth) if final_side(size, d - 1) >= 4]
        mend = (
            f"network.depth={max(works)}, or larger images with data.size" if works else "larger images with data.size"
        )
        raise UserError(
            f"network.depth {depth} normalises maps of {final_side(size, depth - 1)} px in its last block on "
            f"{size}-px images, too small to match; use {mend}"
        )


def network_gives(settings: NetworkSettings, method: str) -> bool:
    """Whether the network has a method ``features`` (the input of its classifier) or ``layers`` (all maps)."""
    return hasattr(NETWORKS[settings.name], method)


def runs_on_kernels(module: nn.Module, device: torch.device) -> bool:
    """Whether the slow part of an eager, float32 network is served by `ddistill.networks.kernels` on that device."""
    blocks = list(module.blocks) if isinstance(module, ConvNet) else []
    fused = bool(blocks) and all(isinstance(block.norm, InstanceNorm) for block in blocks)
    return fused and device.type == "cpu" and kernels.available()


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _options(settings: NetworkSettings) -> dict[str, Any]:
    options = {k: v for k, v in (("width", settings.width), ("depth", settings.depth), ("norm", settings.norm)) if v}
    if settings.name == "convnet" and settings.width is not None:
        if settings.width != int(settings.width):
            raise UserError(f"network.width of a convnet is a number of filters, got {settings.width}")
        options["width"] = int(settings.width)
    return options

"""Networks by name. A network is any `nn.Module` from normalised images (N, channels, size, size) to logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from pydantic import Field, ValidationError
from torch import nn

from ddistill.networks import kernels
from ddistill.networks.classic import MLP, VGG11, AlexNet, LeNet
from ddistill.networks.convnet import ConvNet, final_side
from ddistill.networks.densenet import DenseNet
from ddistill.networks.external import build_external, check_external, is_external
from ddistill.networks.layers import InstanceNorm, NormName, couples_batch
from ddistill.networks.resnet import ResNet, ResNet10
from ddistill.networks.resnet_ap import ResNetAP
from ddistill.networks.vit import ViT
from ddistill.runtime import plugins
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.randomness import key_hash
from ddistill.runtime.settings import Settings

__all__ = [
    "ConvNet",
    "NetworkSettings",
    "ResNetAP",
    "build_network",
    "check_known_network",
    "check_network",
    "check_trainable",
    "couples_batch",
    "network_gives",
    "network_of",
    "register",
    "register_network",
    "runs_on_kernels",
]

NetworkConstructor = Callable[..., nn.Module]
Constructor = TypeVar("Constructor", bound=NetworkConstructor)

NETWORKS: dict[str, NetworkConstructor] = {
    "convnet": ConvNet,
    "resnet_ap": ResNetAP,
    "resnet10": ResNet10,
    "resnet18": ResNet,
    "densenet": DenseNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "vit": ViT,
}
_BUILT: WeakSet[nn.Module] = WeakSet()
"""Modules that constructors have made and that are still there."""


class NetworkSettings(Settings):
    """Which network, and its size."""

    name: str = "convnet"
    """convnet, resnet_ap, resnet10, resnet18, densenet, mlp, lenet, alexnet, vgg11, vit, one that was registered, or
    timm/NAME or torchvision/NAME where those packages are installed."""
    width: float | None = Field(default=None, gt=0)
    """Filters of a ConvNet, units of an MLP (128 by default); a factor on the channels of others (1 by default)."""
    depth: int | None = Field(default=None, ge=1)
    """Blocks of a ConvNet (3 by default; each halves the side of the maps), layers of a ViT (6 by default)."""
    norm: NormName | None = None
    """instance (default; none for alexnet), batch or none."""


def register(name: str, constructor: NetworkConstructor) -> None:
    """Make a network known by name.

    ``constructor(num_classes, channels, size, **options)`` returns a module; options are the settings that the
    user gave (width, depth, norm).

    Raises:
        UserError: a name that is taken by another constructor.
    """
    if not plugins.is_again(NETWORKS.get(name, constructor), constructor):
        raise UserError(f"network name {name!r} is taken; choose another")
    NETWORKS[name] = constructor
    plugins.note_registered(constructor)


def register_network(name: str) -> Callable[[Constructor], Constructor]:
    """`register` as a decorator of a class or of a function that makes a module."""

    def decorate(constructor: Constructor) -> Constructor:
        register(name, constructor)
        return constructor

    return decorate


def build_network(settings: NetworkSettings, num_classes: int, channels: int, size: int, *key: int | str) -> nn.Module:
    """A network with freshly drawn weights that depend on ``key`` alone (see `ddistill.runtime.randomness`).

    Modules draw their first weights from torch's global generator and take no other. So it is seeded from the key
    inside a fork: what it held before stands again afterwards, and any `nn.Module` can be used.

    Raises:
        UserError: unknown name, an option that this network does not have, or a constructor that makes no new module.
    """
    check_known_network(settings)
    options = _options(settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key_hash("network", *key))
        if is_external(settings.name):
            return build_external(settings.name, num_classes, channels)
        made: object = NETWORKS[settings.name](num_classes, channels, size, **options)
    if not isinstance(made, nn.Module):
        raise UserError(f"network {settings.name!r} is made as {type(made).__name__!r}; it must be a torch.nn.Module")
    if made in _BUILT:  # its weights would be those that an earlier training left
        raise UserError(f"network {settings.name!r} is the same module each time; let its constructor make a new one")
    _BUILT.add(made)
    return made


def check_known_network(settings: NetworkSettings) -> None:
    """Refuse a name that is not in the table, and an option that its network does not have.

    Raises:
        UserError: naming the nearest names, or the option.
    """
    options = _options(settings)
    if is_external(settings.name):
        if options:
            raise UserError(f"network {settings.name!r} does not take {', '.join(options)}")
        check_external(settings.name)
        return
    if settings.name not in NETWORKS:
        plugins.load_installed()
    if settings.name not in NETWORKS:
        raise unknown_name("network", settings.name, NETWORKS)
    try:
        taken = inspect.signature(NETWORKS[settings.name]).parameters
    except ValueError:  # a constructor of which Python cannot tell
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for option in options:
        if option not in taken:
            others = [f"network.{name}" for name in ("width", "depth", "norm") if name in taken]
            takes = f"it takes {' and '.join(others)}" if others else "it takes no options"
            raise UserError(f"network {settings.name!r} has no {option}: leave out network.{option}; {takes}")


def check_network(settings: NetworkSettings, size: int) -> None:
    """Refuse a network whose last maps are too small for images of ``size`` pixels to be matched.

    Instance norm over a 2x2 map leaves three numbers a channel: gradients that match there carry nothing of the
    image, and distilled sets get worse than random ones.

    Raises:
        UserError: naming a depth that works.
    """
    check_trainable(settings, size)
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


def check_trainable(settings: NetworkSettings, size: int) -> None:
    """Refuse a network that does not exist or that images of ``size`` pixels are too small for.

    Raises:
        UserError: naming near names, or the least size.
    """
    check_known_network(settings)
    least = getattr(NETWORKS.get(settings.name), "SMALLEST_SIDE", 1)
    if size < least:
        raise UserError(f"network {settings.name} needs images of at least {least} px, got {size}; set data.size")


def network_of(text: str) -> NetworkSettings:
    """Settings from ``NAME[,OPTION=VALUE...]``: ``resnet18``, ``resnet18,norm=batch``, ``convnet,width=64,depth=4``.

    Raises:
        UserError: not of that form, unknown, or an option that the network does not have.
    """
    name, *options = text.split(",")
    values: dict[str, str] = {"name": name.strip()}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key.strip() not in NetworkSettings.model_fields:
            raise UserError(f"network {text!r}: expected NAME[,OPTION=VALUE...] with width, depth or norm")
        values[key.strip()] = value.strip()
    try:
        settings = NetworkSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"network {text!r}: {first['loc'][0]}: {first['msg']}") from error
    check_known_network(settings)
    return settings


def network_gives(settings: NetworkSettings, method: str, shape: tuple[int, int, int] | None = None) -> bool:
    """Whether the network has a method ``features`` (the input of its classifier) or ``layers`` (all maps).

    A class may tell by itself; of what a function or a library makes only a module tells, which is made for ``shape``.

    Args:
        settings: of the network.
        method: its name.
        shape: classes, channels and side of the images; None: not known yet, so that only a class is asked.
    """
    made = NETWORKS.get(settings.name)
    if isinstance(made, type):
        return hasattr(made, method)
    if shape is None:
        return True
    found = getattr(build_network(settings, *shape, "probe"), method, None)
    return callable(found) and not isinstance(found, nn.Module)


def runs_on_kernels(module: nn.Module, device: torch.device) -> bool:
    """Whether the slow part of an eager network is served by `ddistill.networks.kernels` on that device."""
    blocks = list(module.blocks) if isinstance(module, ConvNet) else []
    fused = bool(blocks) and all(isinstance(block.norm, InstanceNorm) for block in blocks)
    return fused and kernels.available(device)


def _options(settings: NetworkSettings) -> dict[str, Any]:
    options = {k: v for k, v in (("width", settings.width), ("depth", settings.depth), ("norm", settings.norm)) if v}
    if settings.name == "convnet" and settings.width is not None:
        if settings.width != int(settings.width):
            raise UserError(f"network.width of a convnet is a number of filters, got {settings.width}")
        options["width"] = int(settings.width)
    return options

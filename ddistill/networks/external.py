"""Networks of timm and torchvision, where those are installed: "timm/NAME", "torchvision/NAME"."""

from __future__ import annotations

from importlib import import_module
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from ddistill.runtime.errors import UserError, unknown_name

LIBRARIES = ("timm", "torchvision")


def is_external(name: str) -> bool:
    """Whether a network name asks for one of the libraries."""
    return name.partition("/")[0] in LIBRARIES and "/" in name


def check_external(name: str) -> None:
    """Refuse a network that its library does not have, or a library that is not there.

    Raises:
        UserError: naming the package, or near names.
    """
    library, _, model = name.partition("/")
    known = _library(library).list_models()
    if model not in known:
        raise unknown_name(f"network of {library}", model, known)


def build_external(name: str, num_classes: int, channels: int) -> nn.Module:
    """A network of a library with fresh weights; nothing is downloaded.

    Raises:
        UserError: unknown, not installed, or made for colour images only.
    """
    check_external(name)
    library, _, model = name.partition("/")
    if library == "timm":
        made = _library(library).create_model(model, pretrained=False, num_classes=num_classes, in_chans=channels)
        if hasattr(made, "forward_head") and not hasattr(made, "features"):
            made.features = MethodType(_timm_features, made)  # bound: a copy of the network gets one of its own
        return made
    if channels != 3:
        raise UserError(f"network {name!r} takes colour images, got {channels} channel; set data.channels=3")
    return _library(library).get_model(model, weights=None, num_classes=num_classes)


def _timm_features(network: Any, images: torch.Tensor) -> torch.Tensor:
    """The flattened input of the classifier of a network of timm."""
    embedded: torch.Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
    return embedded.flatten(1)


def _library(name: str) -> ModuleType:
    try:
        return import_module("timm" if name == "timm" else "torchvision.models")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise UserError(f"networks of {name} need the package {name} of this torch: {error}") from error

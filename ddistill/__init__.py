"""Distil a labelled image dataset into a few synthetic images per class, quickly.

The public names are found on first use: importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddistill import augment, methods, networks, recipes
    from ddistill.api import compare, distill, evaluate, export, push
    from ddistill.data import load_data
    from ddistill.recipe import Recipe
    from ddistill.runtime.errors import RunError, UserError
    from ddistill.runtime.plugins import load_plugin
    from ddistill.runtime.settings import Settings
    from ddistill.synthetic import load_synthetic

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "RunError",
    "Settings",
    "UserError",
    "__version__",
    "augment",
    "compare",
    "distill",
    "evaluate",
    "export",
    "load_data",
    "load_plugin",
    "load_synthetic",
    "methods",
    "networks",
    "push",
    "recipes",
]

_HOMES = {
    "Recipe": "recipe",
    "RunError": "runtime.errors",
    "Settings": "runtime.settings",
    "UserError": "runtime.errors",
    "compare": "api",
    "distill": "api",
    "evaluate": "api",
    "export": "api",
    "push": "api",
    "load_data": "data",
    "load_plugin": "runtime.plugins",
    "load_synthetic": "synthetic",
}


def __getattr__(name: str) -> Any:
    if name in ("augment", "methods", "networks", "recipes"):
        return import_module(f"ddistill.{name}")
    if name in _HOMES:
        return getattr(import_module(f"ddistill.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ddistill' has no attribute {name!r}")

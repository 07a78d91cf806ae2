"""Distillation methods; one file per family."""

from __future__ import annotations

from ddistill.methods.base import Context, Method, Needs
from ddistill.methods.gradient_matching import GradientMatching, GradientMatchingSettings

__all__ = [
    "Context",
    "GradientMatching",
    "GradientMatchingSettings",
    "Method",
    "MethodSettings",
    "Needs",
    "build_method",
]

MethodSettings = GradientMatchingSettings


def build_method(settings: MethodSettings, context: Context) -> Method:
    """The method that the settings describe."""
    return GradientMatching(settings, context)

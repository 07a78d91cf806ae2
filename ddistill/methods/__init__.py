"""Distillation methods; one file per family. A new method is a row of `METHODS` and a member of `MethodSettings`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ddistill.methods.base import Context, Method, Needs, OnInner
from ddistill.methods.cafe import CAFE, CAFESettings
from ddistill.methods.class_matching import ClassMatching, ClassMatchingSettings, Networks, Through
from ddistill.methods.coresets import Coreset, HerdingSettings, KCenterSettings, RandomSettings
from ddistill.methods.distribution_matching import DistributionMatching, DistributionMatchingSettings
from ddistill.methods.gradient_matching import (
    DCSettings,
    DSASettings,
    GradientMatching,
    GradientMatchingSettings,
    IDCSettings,
)
from ddistill.methods.trajectory_matching import TrajectoryMatching, TrajectoryMatchingSettings

__all__ = [
    "CAFE",
    "METHODS",
    "CAFESettings",
    "ClassMatching",
    "ClassMatchingSettings",
    "Context",
    "Coreset",
    "DCSettings",
    "DSASettings",
    "DistributionMatching",
    "DistributionMatchingSettings",
    "GradientMatching",
    "GradientMatchingSettings",
    "HerdingSettings",
    "IDCSettings",
    "KCenterSettings",
    "Method",
    "MethodSettings",
    "Needs",
    "Networks",
    "OnInner",
    "RandomSettings",
    "Through",
    "TrajectoryMatching",
    "TrajectoryMatchingSettings",
    "build_method",
]

MethodSettings = Annotated[
    IDCSettings
    | DCSettings
    | DSASettings
    | DistributionMatchingSettings
    | CAFESettings
    | TrajectoryMatchingSettings
    | RandomSettings
    | HerdingSettings
    | KCenterSettings,
    Field(discriminator="name"),
]

METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "idc": (IDCSettings, GradientMatching),
    "dc": (DCSettings, GradientMatching),
    "dsa": (DSASettings, GradientMatching),
    "dm": (DistributionMatchingSettings, DistributionMatching),
    "cafe": (CAFESettings, CAFE),
    "tm": (TrajectoryMatchingSettings, TrajectoryMatching),
    "random": (RandomSettings, Coreset),
    "herding": (HerdingSettings, Coreset),
    "k-center": (KCenterSettings, Coreset),
}
"""From the name of a method to its settings and the class that does it."""


def build_method(settings: Any, context: Context) -> Method:
    """The method that the settings describe."""
    method: Method = METHODS[settings.name][1](settings, context)
    return method

"""Distillation methods; one file per family. A new method is registered, here or in a plugin."""

from __future__ import annotations

from ddistill.methods.along_training import AlongTraining, AlongTrainingSettings
from ddistill.methods.base import Context, Method, Needs, OnInner
from ddistill.methods.cafe import CAFE, CAFESettings
from ddistill.methods.class_matching import ClassMatching, ClassMatchingSettings, Networks, Through
from ddistill.methods.coresets import (
    EL2N,
    RDED,
    Coreset,
    EL2NSettings,
    HerdingSettings,
    KCenterSettings,
    RandomSettings,
    RDEDSettings,
)
from ddistill.methods.distribution_matching import DistributionMatching, DistributionMatchingSettings
from ddistill.methods.gradient_matching import (
    DCSettings,
    DSASettings,
    GradientMatching,
    GradientMatchingSettings,
    IDCSettings,
)
from ddistill.methods.registry import METHODS, build_method, method_settings, register_method, settings_class
from ddistill.methods.trajectory_matching import TrajectoryMatching, TrajectoryMatchingSettings

__all__ = [
    "CAFE",
    "EL2N",
    "METHODS",
    "RDED",
    "AlongTraining",
    "AlongTrainingSettings",
    "CAFESettings",
    "ClassMatching",
    "ClassMatchingSettings",
    "Context",
    "Coreset",
    "DCSettings",
    "DSASettings",
    "DistributionMatching",
    "DistributionMatchingSettings",
    "EL2NSettings",
    "GradientMatching",
    "GradientMatchingSettings",
    "HerdingSettings",
    "IDCSettings",
    "KCenterSettings",
    "Method",
    "Needs",
    "Networks",
    "OnInner",
    "RDEDSettings",
    "RandomSettings",
    "Through",
    "TrajectoryMatching",
    "TrajectoryMatchingSettings",
    "build_method",
    "method_settings",
    "register_method",
    "settings_class",
]

register_method("idc", IDCSettings)(GradientMatching)
register_method("dc", DCSettings)(GradientMatching)
register_method("dsa", DSASettings)(GradientMatching)
register_method("dm", DistributionMatchingSettings)(DistributionMatching)
register_method("along-training", AlongTrainingSettings)(AlongTraining)
register_method("cafe", CAFESettings)(CAFE)
register_method("tm", TrajectoryMatchingSettings)(TrajectoryMatching)
register_method("el2n", EL2NSettings)(EL2N)
register_method("rded", RDEDSettings)(RDED)
register_method("random", RandomSettings)(Coreset)
register_method("herding", HerdingSettings)(Coreset)
register_method("k-center", KCenterSettings)(Coreset)

"""Model augmentation: early-stage networks and weight perturbation as the source of networks."""

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.sources import (
    FreshSource,
    ModelAugmentationSettings,
    NetworkDraw,
    NetworkSource,
    PerturbedSource,
    PoolSource,
    TrajectorySource,
)
from ddistill.model_augmentation.store import NetworkStore, Wanted, train_networks
from ddistill.model_augmentation.training import NetworkFactory, load_into

__all__ = [
    "FreshSource",
    "ModelAugmentationSettings",
    "NetworkDraw",
    "NetworkFactory",
    "NetworkSource",
    "NetworkStore",
    "PerturbedSource",
    "PoolSource",
    "TrajectorySource",
    "Wanted",
    "Weights",
    "load_into",
    "train_networks",
]

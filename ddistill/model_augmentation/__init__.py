"""Model augmentation: early-stage networks and weight perturbation as the source of networks."""

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.sources import (
    FreshSource,
    LineSource,
    ModelAugmentationSettings,
    NetworkDraw,
    NetworkSource,
    PerturbedSource,
    PoolSource,
    SnapshotSource,
    TrajectorySource,
)
from ddistill.model_augmentation.store import NetworkStore, Wanted, train_networks
from ddistill.model_augmentation.training import NetworkFactory, copy_of, load_into

__all__ = [
    "FreshSource",
    "LineSource",
    "ModelAugmentationSettings",
    "NetworkDraw",
    "NetworkFactory",
    "NetworkSource",
    "NetworkStore",
    "PerturbedSource",
    "PoolSource",
    "SnapshotSource",
    "TrajectorySource",
    "Wanted",
    "Weights",
    "copy_of",
    "load_into",
    "train_networks",
]

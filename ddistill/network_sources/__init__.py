"""Model augmentation: early-stage networks and weight perturbation as the source of networks."""

from ddistill.network_sources.perturb import Weights
from ddistill.network_sources.sources import (
    AheadSource,
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
from ddistill.network_sources.store import NetworkStore, Wanted, train_networks
from ddistill.network_sources.training import NetworkFactory, copy_of, load_into

__all__ = [
    "AheadSource",
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

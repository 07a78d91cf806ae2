"""Model augmentation: early-stage networks and weight perturbation as the source of networks."""

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.pool import Pool, train_pool
from ddistill.model_augmentation.sources import (
    FreshSource,
    ModelAugmentationSettings,
    NetworkDraw,
    NetworkSource,
    PerturbedSource,
    PoolSource,
)
from ddistill.model_augmentation.training import NetworkFactory, load_into
from ddistill.model_augmentation.trajectories import Trajectories, TrajectorySource, train_trajectories

__all__ = [
    "FreshSource",
    "ModelAugmentationSettings",
    "NetworkDraw",
    "NetworkFactory",
    "NetworkSource",
    "PerturbedSource",
    "Pool",
    "PoolSource",
    "Trajectories",
    "TrajectorySource",
    "Weights",
    "load_into",
    "train_pool",
    "train_trajectories",
]

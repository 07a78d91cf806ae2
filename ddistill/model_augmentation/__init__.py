"""Model augmentation: early-stage networks and weight perturbation as the source of networks."""

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.pool import Pool, train_pool
from ddistill.model_augmentation.sources import (
    FreshSource,
    ModelAugmentationSettings,
    NetworkSource,
    PerturbedSource,
    PoolSource,
)
from ddistill.model_augmentation.training import NetworkFactory, load_into

__all__ = [
    "FreshSource",
    "ModelAugmentationSettings",
    "NetworkFactory",
    "NetworkSource",
    "PerturbedSource",
    "Pool",
    "PoolSource",
    "Weights",
    "load_into",
    "train_pool",
]

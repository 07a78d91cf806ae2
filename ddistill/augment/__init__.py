"""Augmentation as pure functions of drawn parameters."""

from ddistill.augment.cutmix import CutMixDraws, cutmix, draw_cutmix
from ddistill.augment.normalisation import Normalisation
from ddistill.augment.siamese import (
    DSA_AUGMENTATION,
    NO_AUGMENTATION,
    AugmentDraws,
    AugmentSettings,
    Pipeline,
    augment,
    check_registered,
    draw_augment,
    register_augmentation,
    seeded,
)

__all__ = [
    "DSA_AUGMENTATION",
    "NO_AUGMENTATION",
    "AugmentDraws",
    "AugmentSettings",
    "CutMixDraws",
    "Normalisation",
    "Pipeline",
    "augment",
    "check_registered",
    "cutmix",
    "draw_augment",
    "draw_cutmix",
    "register_augmentation",
    "seeded",
]

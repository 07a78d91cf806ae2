"""IDC (Kim et al. 2022), and IDC with model augmentation ("Ours" in the tables of the paper this project starts from).

Papers: IDC https://arxiv.org/abs/2205.14959, model augmentation https://arxiv.org/abs/2212.06152.

    ddistill distill cifar10 --recipe idc-ma --ipc 10 --out RUN

The settings are those of the paper's program. Cost, CIFAR-10, ipc 10: 1.1 TFLOP an inner step, so 45 PFLOP for
`idc-ma` (400 x 100 inner steps) and 225 PFLOP for `idc`; the paper reports 4.45 and 22.2 hours on its GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ddistill.recipe import Recipe

SPEEDUP = 5
"""Of the recipes with model augmentation."""

CIFAR: dict[str, Any] = {
    "data.constants": "cifar10",
    "network.name": "convnet",
    "network.width": 128,
    "network.depth": 3,
    "synthetic.factor": 2,
    "method.distance": "mse",
    "method.image_lr": 0.005,
    "method.base_side": 32,
    "method.network_samples": 2000,
}
FASHION_MNIST: dict[str, Any] = {
    **CIFAR,
    "data.constants": "fashion_mnist",
    "method.distance": "l1",
    "method.image_lr": 0.0001,
    "method.network_samples": 500,
}
MNIST: dict[str, Any] = {
    **FASHION_MNIST,
    "data.constants": "mnist",
    "method.base_side": 28,
    "method.augment.operations": ("color", "crop"),
    "training.cutmix": 0.0,
    "evaluation.training.augment.operations": ("color", "crop", "scale", "rotate"),
    "evaluation.training.cutmix": 0.0,
}
"""With cells (F 2) no CutMix anywhere, and no cutout."""
IMAGENET_10: dict[str, Any] = {
    "data.constants": "imagenet",
    "network.name": "resnet_ap",
    "synthetic.factor": 3,
    "method.distance": "l1",
    "method.image_lr": 0.003,
    "method.base_side": 224,
    "method.network_samples": 500,
    "training.cutmix": 1.0,
    "budget.outer_steps": 500,
    "model_augmentation.pool_epochs": 10,
    "evaluation.training.augment.rule": "imagenet",
    "evaluation.training.augment.operations": (),
    "evaluation.training.cutmix": 1.0,
    "evaluation.epochs": None,
}
IMAGENET_100: dict[str, Any] = {
    **IMAGENET_10,
    "method.image_lr": 0.001,
    "method.real_batch": 128,
    "training.lr": 0.1,
    "training.weight_decay": 1e-4,
    "training.batch": 128,
    "model_augmentation.pool_epochs": 5,
    "model_augmentation.pool_size": 10,
    "evaluation.training.lr": 0.1,
    "evaluation.training.weight_decay": 1e-4,
    "evaluation.training.batch": 128,
}
DIGITS: dict[str, Any] = {
    **CIFAR,
    "data.constants": "measured",
    "network.width": 64,
    "network.depth": 2,
    "synthetic.factor": 1,
    "method.distance": "l1",
    "method.image_lr": 0.002,
    "method.base_side": 8,
    "method.inner_steps": 10,
    "method.network_samples": 128,
    "method.augment.operations": ("crop",),
    "training.augment.operations": ("crop",),
    "evaluation.training.augment.operations": ("crop", "scale", "rotate"),
    "evaluation.training.cutmix": 0.0,
    "evaluation.epochs": 300,
    "budget.outer_steps": 200,
}
"""8 px leave nothing to share a stored image for (cells of 4 px), and a CutMix box covers most of a digit."""


@dataclass(frozen=True)
class DataSettingsOf:
    """What is particular to a data set.

    Attributes:
        title: as people write it.
        settings: of plain IDC, by recipe field.
        augmented: further changes with model augmentation.
        plain: further changes without it.
    """

    title: str
    settings: dict[str, Any]
    augmented: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)


_FASTER_IMAGES = {"method.image_lr": 0.01}
_EARLY = {"model_augmentation.fresh_epochs": 10, "model_augmentation.early_rate": "constant"}
_STORED = {"model_augmentation.networks": "pool", "model_augmentation.early_rate": "constant"}
"""IDC on ImageNet-100 draws its networks from stored ones of 5 epochs, too."""
_IMAGENET_SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")

DATA: dict[str, DataSettingsOf] = {
    "digits": DataSettingsOf("digits (8 px)", DIGITS),
    "cifar10": DataSettingsOf("CIFAR-10", CIFAR, _FASTER_IMAGES),
    "cifar100": DataSettingsOf("CIFAR-100", {**CIFAR, "data.constants": "cifar100"}, _FASTER_IMAGES),
    "mnist": DataSettingsOf("MNIST", MNIST),
    "fashion_mnist": DataSettingsOf("FashionMNIST", FASHION_MNIST),
    "svhn": DataSettingsOf(
        "SVHN",
        {
            **CIFAR,
            "data.constants": "svhn",
            "method.network_samples": 500,
            "evaluation.training.augment.operations": ("color", "crop", "scale", "rotate"),
        },
    ),
    "imagenet-10": DataSettingsOf("ImageNet-10", IMAGENET_10, plain=_EARLY),
    "imagenet-100": DataSettingsOf("ImageNet-100", IMAGENET_100, plain=_STORED),
    **{name: DataSettingsOf(name.capitalize(), IMAGENET_10, plain=_EARLY) for name in _IMAGENET_SUBSETS},
}

EXPECTED = {
    ("idc", "cifar10"): "published: ipc 1 50.6, ipc 10 67.5, ipc 50 74.5 (Table 3a)",
    ("idc", "cifar100"): "published: ipc 1 25.1, ipc 10 45.1 (Table 3b)",
    ("idc", "imagenet-10"): "published: ipc 10 72.8, ipc 20 76.6 (Table 4)",
    ("idc", "imagenet-100"): "published: ipc 10 46.7, ipc 20 53.7 (Table 4)",
    ("idc-ma", "cifar10"): "published: ipc 1 49.2, ipc 10 67.1, ipc 50 73.8 (Table 3a, speed-up 5)",
    ("idc-ma", "cifar100"): "published: ipc 1 29.8, ipc 10 46.2, ipc 50 52.6 (Table 3b, speed-up 5)",
    ("idc-ma", "imagenet-10"): "published: ipc 10 74.6, ipc 20 76.3 (Table 4, speed-up 5)",
    ("idc-ma", "imagenet-100"): "published: ipc 10 48.4, ipc 20 56.0 (Table 4, speed-up 5)",
}


def recipe(data: str, ipc: int, *, model_augmentation: bool) -> Recipe:
    """IDC on a known data set.

    Args:
        data: a key of `DATA`.
        ipc: stored images per class.
        model_augmentation: pool and perturbation in place of fresh networks, at speed-up 5.
    """
    about = DATA[data]
    changes = {
        "name": f"idc{'-ma' if model_augmentation else ''}-{data}",
        "data.source": data,
        "synthetic.ipc": ipc,
        **about.settings,
    }
    if model_augmentation:
        changes |= {
            **about.augmented,
            "model_augmentation.networks": "pool",
            "model_augmentation.perturb": True,
            "budget.speedup": SPEEDUP,
        }
    else:
        changes |= about.plain
    if data == "digits" and ipc >= 10:
        changes["budget.outer_steps"] = 60  # so that it stays a matter of minutes
    if about.settings["network.name"] == "resnet_ap" and ipc >= 20:
        changes["synthetic.decode"] = "bound"
    return Recipe().changed(changes)

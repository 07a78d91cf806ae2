"""Matching along training: TGDD, DANCE, NCFM (https://arxiv.org/abs/2502.20653), and TGDD with early-stage networks.

    ddistill distill cifar10 --recipe tgdd --ipc 10 --out RUN

Settings are those of the authors' programs; network, data and evaluation protocol are those of IDC on the same data, so
that only the method differs. Cost, CIFAR-10, ipc 10, ConvNet-3 of width 128: 0.3 TFLOP an outer step, 2.9 PFLOP in all,
and 0.9 PFLOP for each of the five networks of 60 epochs (one is nearly as good). `tgdd-ma` is this project's own: five
networks of 10 epochs, perturbed, momentum that carries over, a fifth of the steps: 0.6 and 0.7 PFLOP.
"""

from __future__ import annotations

from typing import Any

from ddistill.recipe import Recipe
from ddistill.recipes import idc

FAMILIES = {
    "tgdd": "TGDD: embeddings are matched under networks of every age; an older one must know the class",
    "tgdd-ma": "TGDD with model augmentation: early-stage networks, perturbed; a fifth of the outer steps",
    "dance": "DANCE: as TGDD, under networks between first and trained weights, in two sweeps",
    "ncfm": "NCFM: as DANCE, with characteristic functions of the embeddings",
}
PUBLISHED = {
    ("tgdd", "cifar10"): {10: 71.9, 50: 76.5},
    ("tgdd", "cifar100"): {10: 51.3, 50: 54.6},
    ("dance", "cifar10"): {10: 70.8, 50: 76.1},
    ("dance", "cifar100"): {10: 49.8, 50: 52.8},
    ("ncfm", "cifar10"): {10: 71.8, 50: 77.4},
    ("ncfm", "cifar100"): {10: 48.7, 50: 54.7},
}
"""Accuracy in percent by ipc: maxima over evaluations on the test set."""
EXPECTED = {
    name: f"published: {', '.join(f'ipc {ipc} {value}' for ipc, value in by_ipc.items())} (maxima over evaluations)"
    for name, by_ipc in PUBLISHED.items()
}
SNAPSHOTS: dict[str, Any] = {"model_augmentation.networks": "snapshots", "budget.outer_steps": 10000}
DANCE: dict[str, Any] = {
    "model_augmentation.networks": "line",
    "budget.outer_steps": 10000,
    "method.steps": "sweeps",
    "method.alpha": 1.0,
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "tgdd": SNAPSHOTS,
    "tgdd-ma": {
        **SNAPSHOTS,
        "method.image_optimiser": "sgd",
        "method.image_momentum": 0.9,
        "model_augmentation.perturb": True,
        "budget.speedup": idc.SPEEDUP,
    },
    "dance": DANCE,
    "ncfm": {
        **DANCE,
        "method.distance": "characteristic",
        "method.image_optimiser": "adamw",
        "method.image_lr": 0.001,
        "method.real_batch": 1024,
        "budget.outer_steps": 20000,
    },
}
DIGITS: dict[str, dict[str, Any]] = {
    "tgdd": {"method.image_lr": 0.02},
    "tgdd-ma": {"method.image_lr": 0.02},
    "dance": {"method.image_lr": 0.02},
    "ncfm": {"method.image_lr": 0.01, "method.real_batch": 128, "method.frequencies": 512},
}
"""So that it stays a matter of a minute; rates as chosen at ipc 1, and not measured at others."""


def recipe(family: str, data: str, ipc: int) -> Recipe:
    """One of these methods on a known data set.

    Args:
        family: a key of `FAMILIES`.
        data: a key of `idc.DATA`.
        ipc: stored images per class.
    """
    usual = idc.DATA[data].settings
    large = usual["network.name"] == "resnet_ap"
    # IDC trains its networks on the ImageNet subsets in another way, and more of them
    others = ("method.", "training.", "model_augmentation.") if large else ("method.",)
    changes = {
        **{path: value for path, value in usual.items() if not path.startswith(others)},
        "name": f"{family}-{data}",
        "data.source": data,
        "synthetic.ipc": ipc,
        "method.name": "along-training",
        "method.image_lr": (0.1 if large else 0.01) * ipc,
        "method.alpha": 2.5 if ipc < 50 else 0.5,
        "model_augmentation.pool_epochs": 10 if family == "tgdd-ma" else 80 if large else 60,
        **OF_FAMILY[family],
    }
    if "method.augment.operations" in usual:
        changes["method.augment.operations"] = usual["method.augment.operations"]
    if data == "digits":
        changes |= {"model_augmentation.pool_size": 2, "model_augmentation.pool_epochs": 10, "budget.outer_steps": 300}
        changes |= DIGITS[family]
    return Recipe().changed(changes)

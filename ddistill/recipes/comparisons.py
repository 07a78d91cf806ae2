"""The methods that the paper compares with: DC, DSA, DM and CAFE, also with model augmentation, TM, and coresets.

Papers: DC https://arxiv.org/abs/2006.05929, DSA https://arxiv.org/abs/2102.08259,
DM https://arxiv.org/abs/2110.04181, CAFE https://arxiv.org/abs/2203.01531,
TM https://arxiv.org/abs/2203.11932.

    ddistill distill cifar10 --recipe dm-ma --ipc 10 --out RUN

Settings are the published ones of each method; network and evaluation protocol are those of IDC on the same data, so
that only the method differs; ``evaluation.protocol`` gives each its own, as tables of published figures do. Cost,
CIFAR-10, ipc 10, ConvNet-3 of width 128: DM 0.8 TFLOP an outer step (20,000 of them), DC and DSA about 30 TFLOP an
outer step of 10 image updates (1000 of them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ddistill.augment import DSA_AUGMENTATION
from ddistill.baselines import BASELINES
from ddistill.recipe import Recipe
from ddistill.recipes import idc

CONDENSATION_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Image updates and network epochs of DC and DSA, by ipc."""
EXPECTED = {
    ("dc", "cifar10"): "published: ipc 1 28.3, ipc 10 44.9 (DC); 26.0 (Table 5)",
    ("dc-ma", "cifar10"): "published: 28.9 (Table 5, speed-up 5)",
    ("dsa", "cifar10"): "published: ipc 1 28.2, ipc 10 52.1, ipc 50 60.6 (Table 3a)",
    ("dsa", "cifar100"): "published: ipc 1 13.9, ipc 10 32.3, ipc 50 42.8 (Table 3b)",
    ("dsa", "imagenet-10"): "published: ipc 10 52.7, ipc 20 57.4 (Table 4)",
    ("dsa", "imagenet-100"): "published: ipc 10 21.8, ipc 20 30.7 (Table 4)",
    ("dm", "cifar10"): "published: ipc 1 26.0, ipc 10 48.9, ipc 50 63.0 (Table 3a)",
    ("dm", "cifar100"): "published: ipc 1 11.4, ipc 10 29.7, ipc 50 43.6 (Table 3b)",
    ("dm", "imagenet-10"): "published: ipc 10 52.3, ipc 20 59.3 (Table 4)",
    ("dm", "imagenet-100"): "published: ipc 10 22.3, ipc 20 30.4 (Table 4)",
    ("cafe", "cifar10"): "published: ipc 1 30.3, ipc 10 46.3, ipc 50 55.5 (Table 3a)",
    ("cafe", "cifar100"): "published: ipc 1 12.9, ipc 10 27.8, ipc 50 37.9 (Table 3b)",
    ("tm", "cifar10"): "published: ipc 1 46.3, ipc 10 65.3, ipc 50 71.6 (Table 3a)",
    ("tm", "cifar100"): "published: ipc 1 24.3, ipc 10 40.1, ipc 50 47.7 (Table 3b)",
    ("dm-ma", "cifar10"): "published: ipc 10 49.5 (Table 5, speed-up 5)",
}
NOT_MIRRORED = {"mnist", "svhn"}
"""Data of digits, on which DSA does not flip."""


def condensation(name: str, data: str, ipc: int) -> dict[str, Any]:
    """DC or DSA: 1000 outer steps; loops by the nearest ipc of the published table that is not above."""
    steps, epochs = CONDENSATION_LOOPS[max(known for known in CONDENSATION_LOOPS if known <= ipc)]
    settings: dict[str, Any] = {
        "method.name": name,
        "method.inner_steps": steps,
        "method.network_epochs": epochs,
        "budget.outer_steps": 1000,
    }
    if name == "dsa" and data in NOT_MIRRORED:
        unmirrored = tuple(operation for operation in DSA_AUGMENTATION.operations if operation != "flip")
        settings |= {f"method.{part}augment.operations": unmirrored for part in ("", "synthetic_training.")}
    if data in SMALL:
        settings |= {"method.real_batch": 64, "budget.outer_steps": SMALL_STEPS[name]}
        if ipc >= 10:
            settings |= {"method.inner_steps": 5, "method.network_epochs": 5, "budget.outer_steps": 40}
    return settings


def distribution_matching(name: str, data: str, ipc: int) -> dict[str, Any]:
    """DM: 20,000 outer steps of one image update each."""
    settings: dict[str, Any] = {"method.name": name, "budget.outer_steps": 20000}
    if data in SMALL:
        settings |= {"method.real_batch": 64, "budget.outer_steps": SMALL_STEPS[name]}
        if ipc < 10:  # at the published rate of 1 early-stage networks drive 8-px images to and fro: 80 % for 89
            settings |= {"method.image_lr": 0.2}
    return settings


def cafe(name: str, data: str, ipc: int) -> dict[str, Any]:
    """CAFE: 2000 outer steps of at least ten image updates each."""
    settings: dict[str, Any] = {"method.name": name, "budget.outer_steps": 2000}
    if data in SMALL:
        few = {"method.real_batch": 64, "method.watch_batch": 64, "method.max_network_epochs": 10}
        settings |= {**few, "budget.outer_steps": SMALL_STEPS[name]}
    return settings


TRAJECTORY_SETTINGS: dict[tuple[str, int], tuple[int, int, int, float, float, float, int | None]] = {
    ("cifar10", 1): (50, 2, 2, 1e2, 1e-7, 0.01, None),
    ("cifar10", 10): (30, 2, 20, 1e5, 1e-6, 0.01, None),
    ("cifar10", 50): (30, 2, 40, 1e3, 1e-5, 0.001, None),
    ("cifar100", 1): (20, 3, 20, 1e3, 1e-5, 0.01, None),
    ("cifar100", 10): (20, 2, 20, 1e3, 1e-5, 0.01, None),
    ("cifar100", 50): (80, 2, 40, 1e3, 1e-5, 0.01, 125),
    ("digits", 1): (8, 2, 5, 10.0, 1e-4, 0.05, None),
}
"""Student steps, expert epochs, start epochs, image lr, lr of lr, student lr at the start, synthetic batch."""


EXPERT_TRAINING: dict[str, Any] = {
    "training.lr": 0.01,
    "training.momentum": 0.0,
    "training.weight_decay": 0.0,
    "training.batch": 256,
    "training.cutmix": 0.0,
    "training.augment.rule": "dsa",
    "training.augment.operations": ("color", "crop", "cutout", "flip", "scale", "rotate"),
}
"""How the experts of TM are trained."""
WHITENED = {("cifar10", 1), ("cifar10", 10), ("cifar100", 1), ("cifar100", 10)}
"""Data and ipc for which the published settings of TM whiten."""


def trajectory_matching(name: str, data: str, ipc: int) -> dict[str, Any]:
    """TM: 5000 outer steps; settings of the nearest published ipc that is not above, of CIFAR-10 for other data."""
    like = data if data in ("cifar100", *SMALL) else "cifar10"
    nearest = max(known for source, known in TRAJECTORY_SETTINGS if source == like and known <= ipc)
    steps, epochs, starts, image_lr, lr_lr, student_lr, batch = TRAJECTORY_SETTINGS[like, nearest]
    settings: dict[str, Any] = {
        "method.name": name,
        "method.student_steps": steps,
        "method.expert_epochs": epochs,
        "method.max_start_epoch": starts,
        "method.image_lr": image_lr,
        "method.lr_lr": lr_lr,
        "method.student_lr": student_lr,
        "method.synthetic_batch": batch,
        "model_augmentation.networks": "trajectories",
        "model_augmentation.pool_size": 100,
        "model_augmentation.pool_epochs": 50,
        **EXPERT_TRAINING,
        "data.whitening": "zca" if (data, nearest) in WHITENED else None,
        "budget.outer_steps": 5000,
    }
    if data in SMALL:
        settings |= {
            "model_augmentation.pool_size": 5,
            "model_augmentation.pool_epochs": 8,
            "training.lr": 0.05,
            "training.batch": 64,
            "training.augment.operations": ("crop", "scale", "rotate"),
            "method.augment.operations": ("crop", "scale", "rotate"),
            "budget.outer_steps": SMALL_STEPS[name],
        }
    return settings


def coreset(name: str, data: str, ipc: int) -> dict[str, Any]:
    """Real images chosen or drawn once, as the baseline of that name is."""
    return {"method.name": name, "budget.outer_steps": 1, **BASELINES[name].method}


SMALL = {"digits"}
"""Data sets whose recipes are cut to about a minute on a CPU."""
SMALL_STEPS = {"dc": 200, "dsa": 200, "dm": 300, "cafe": 10, "tm": 150}

METHODS: dict[str, tuple[str, Callable[[str, str, int], dict[str, Any]], str]] = {
    "dc": ("DC", condensation, "gradient matching, the network trained on the synthetic set"),
    "dsa": ("DSA", condensation, "DC with siamese augmentation"),
    "dm": ("DM", distribution_matching, "matching of class-mean embeddings under random networks"),
    "cafe": ("CAFE", cafe, "alignment of layer means and discrimination, with a dynamic schedule"),
    "tm": ("TM", trajectory_matching, "student steps that lead where experts got to; learned student rate"),
    "random": ("random", coreset, "real images drawn at random"),
    "herding": ("herding", coreset, "real images whose mean embedding follows that of the class"),
    "k-center": ("k-center", coreset, "real images such that every other one is near in embedding"),
    "rded": ("RDED", coreset, "crops of real images that a trained network finds easiest"),
    "el2n": ("EL2N", coreset, "real images that early-stage networks find easiest, or hardest"),
}
AUGMENTABLE = ("dc", "dsa", "dm", "cafe")


def families() -> dict[str, str]:
    """Family names and what each is, in one line."""
    about = {name: f"{title}: {text}" for name, (title, _, text) in METHODS.items()}
    for name in AUGMENTABLE:
        about[f"{name}-ma"] = f"{METHODS[name][0]} with model augmentation; a fifth of the outer steps"
    return about


def recipe(family: str, data: str, ipc: int) -> Recipe:
    """A method that IDC is compared with, on a known data set.

    Args:
        family: a key of `families`.
        data: a key of `idc.DATA`.
        ipc: stored images per class.
    """
    method = family.removesuffix("-ma")
    usual = {path: value for path, value in idc.DATA[data].settings.items() if not path.startswith("method.")}
    changes = {
        **usual,
        "name": f"{family}-{data}",
        "data.source": data,
        "synthetic.ipc": ipc,
        "synthetic.factor": 1,
        **METHODS[method][1](method, data, ipc),
    }
    if family != method:
        changes |= {
            "model_augmentation.networks": "pool",
            "model_augmentation.perturb": True,
            "budget.speedup": idc.SPEEDUP,
        }
    return Recipe().changed(changes)

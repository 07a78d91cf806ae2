"""What each table and figure is made of: a list of runs, at a scale.

The scales: `full` is the paper's; `small` is CIFAR-10 and CIFAR-100 with ConvNet-3 of width 32 and fewer steps, hours
on two CPU cores; `tiny` is digits, minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

from ddistill import recipes
from ddistill.evaluation import IDC, OWN
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError, unknown_name

Labels = dict[str, str | int]


@dataclass(frozen=True)
class Cell:
    """One run of a table or figure.

    Attributes:
        labels: what tells it from the others: data, method, ipc, speedup, networks, protocol, seed.
        recipe: complete, but for the place of the data.
        ages: if any, nothing is distilled: the gradients of a network are looked at after so many epochs of training.
        arithmetic: "fp32" or "tf32", where the cell is about how a GPU multiplies floats; else as the recipe asks.
    """

    labels: Labels
    recipe: Recipe
    ages: tuple[int, ...] = ()
    arithmetic: str = ""


@dataclass(frozen=True)
class Scale:
    """How large the runs of a scale are.

    Attributes:
        about: in one line.
        data: the data set that stands in for those of the paper; as in the paper if None.
        settings: recipe fields of all runs.
        methods: further recipe fields, by method.
        curves: further recipe fields of runs that are evaluated again and again.
        ages: epochs of training at which the gradients of a network are looked at.
        seeds: distillations of each cell of a table, where it is not said.
        hundred: sizes of the runs on CIFAR-100 by ipc, where it stands in for the paper's sets of a hundred classes.
    """

    about: str
    data: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    ages: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    seeds: int = 1
    hundred: Callable[[int], Scale] | None = None

    def stand_in(self, data: str, ipc: int) -> tuple[str, Scale]:
        """The data set that stands in for one of the paper's, and the sizes of the runs on it."""
        if self.hundred is not None and data in ("cifar100", "imagenet-100"):
            return "cifar100", self.hundred(ipc)
        return self.data or data, self


_SMALL_CONDENSATION = {
    "method.real_batch": 64,
    "method.inner_steps": 10,
    "method.network_epochs": 10,
    "budget.outer_steps": 40,
}
_FRESH_EMBEDDING: dict[str, Any] = {
    "model_augmentation.networks": "fresh",
    "model_augmentation.fresh_epochs": 2,
    "model_augmentation.pool_size": 5,
    "model_augmentation.pool_epochs": 2,
}
"""As the published rows were made, before herding and k-center shared a trained network."""


def _small_hundred(ipc: int) -> Scale:
    """A run of half an hour at most of one core with AVX2, and of a third of that where it has bfloat16."""
    return Scale(
        "CIFAR-100",
        settings={"network.width": 32, "evaluation.epochs": 300 if ipc == 1 else 100},
        methods={
            "idc": {"method.inner_steps": 2, "method.image_lr": 0.01, "budget.outer_steps": 30},
            "dm": {"method.real_batch": 64, "budget.outer_steps": 200},
            "tgdd": {
                "model_augmentation.pool_size": 1,
                "model_augmentation.pool_epochs": 10,
                "method.real_batch": 64,
                "budget.outer_steps": 100,
            },
        },
        curves={"budget.outer_steps": 10, "evaluation.epochs": 20, "evaluation.repeats": 1},
    )


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        "digits (8 px), ConvNet-2 of width 16: minutes on two CPU cores",
        "digits",
        {"network.width": 16, "evaluation.epochs": 100},
        {
            **{name: {"budget.outer_steps": 20} for name in ("idc", "dc", "dsa")},
            **{name: {"budget.outer_steps": 50} for name in ("dm", "tm")},
            "cafe": {"budget.outer_steps": 5, "method.max_inner_steps": 10},
        },
    ),
    "small": Scale(
        "ConvNet-3 of width 32, fewer steps, hours on two CPU cores: CIFAR-10, evaluation of 300 epochs; CIFAR-100, "
        "ipc 1 and 10, evaluation of 300 and 100 epochs, at most about half an hour of one core a run",
        "cifar10",
        {"network.width": 32, "evaluation.epochs": 300},
        {
            "idc": {"method.inner_steps": 10, "method.image_lr": 0.01, "budget.outer_steps": 20},
            "dc": _SMALL_CONDENSATION,
            "dsa": _SMALL_CONDENSATION,
            "dm": {"budget.outer_steps": 1000},
            "cafe": {  # a bound below the window: it ends each training of the network
                "method.real_batch": 64,
                "method.max_inner_steps": 20,
                "method.max_network_epochs": 5,
                "budget.outer_steps": 20,
            },
            **dict.fromkeys(("herding", "k-center"), _FRESH_EMBEDDING),
            "tgdd": {"budget.outer_steps": 500},
            "tm": {
                "method.student_steps": 10,
                "method.max_start_epoch": 2,
                "model_augmentation.pool_size": 3,
                "model_augmentation.pool_epochs": 4,
                "budget.outer_steps": 100,
            },
        },
        {"budget.outer_steps": 10, "evaluation.epochs": 100, "evaluation.repeats": 1},
        (0, 1, 2, 4, 8),
        seeds=2,
        hundred=_small_hundred,
    ),
    "full": Scale("as published: ConvNet-3 of width 128 and ResNetAP-10, hundreds of GPU hours in all"),
}

SPEEDUPS = (5, 10, 20)
CORESETS = ("random", "herding", "k-center")
COMPARED = {"idc": "IDC", "dc": "DC", "dsa": "DSA", "dm": "DM", "cafe": "CAFE", "tm": "TM"}
"""Methods that the paper measures or compares with."""
TITLES = {**COMPARED, "tgdd": "TGDD", "random": "random images", "mosaic": "mosaics of random images"}
DATA_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet-10": "ImageNet-10",
    "imagenet-100": "ImageNet-100",
    "digits": "digits",
}
AUGMENTED = "model augmentation"


def cell(
    method: str,
    data: str,
    ipc: int,
    scale: Scale,
    *,
    seed: int = 0,
    speedup: int = 1,
    augmented: bool = False,
    changes: Mapping[str, Any] | None = None,
    **labels: str | int,
) -> Cell:
    """A run of a method at a scale.

    Args:
        method: "idc", "dm", "random", ...
        data: the paper's data set; the scale may put another in its place.
        ipc: stored images per class.
        scale: sizes.
        seed: of the run.
        speedup: divides the outer steps.
        augmented: model augmentation; for TM, perturbed start weights.
        changes: further recipe fields.
        labels: further marks.
    """
    data, scale = scale.stand_in(data, ipc)
    family = f"{method}-ma" if augmented and f"{method}-ma" in recipes.FAMILIES else method
    fixed = {"budget.speedup": speedup, "run.seed": seed, "evaluation.baselines": ()}
    own = {**scale.settings, **scale.methods.get(method, {}), **(changes or {}), **fixed}
    recipe = recipes.find(family, ipc, data).changed(own)
    if augmented and family == method:
        recipe = recipe.changed({"model_augmentation.perturb": True})
    networks = AUGMENTED if augmented else "-" if method in CORESETS else "plain"
    marks: Labels = {"data": data, "method": method, "ipc": ipc, "speedup": speedup, "networks": networks}
    return Cell({**marks, "protocol": IDC, "seed": seed, **labels}, recipe)


def judged(method: str, data: str, ipc: int, scale: Scale, **how: Any) -> list[Cell]:
    """A run of a method at a scale, judged as the method's figures were published, and beside that by IDC's protocol.

    The images are the same, and are made once. Arguments are those of `cell`.
    """
    made = cell(method, data, ipc, scale, **how)
    return [made] if method not in OWN else [under(made, OWN[method], scale), made]


def under(made: Cell, protocol: str, scale: Scale) -> Cell:
    """A cell under another protocol than IDC's; with the epochs of the scale, where it has some."""
    short = {path: value for path, value in scale.settings.items() if path == "evaluation.epochs"}
    recipe = made.recipe.changed({"evaluation.protocol": protocol, **short})
    return replace(made, labels={**made.labels, "protocol": protocol}, recipe=recipe)


def methods(scale: Scale, seeds: range) -> list[Cell]:
    """Every method plain, at a fifth of its outer steps, and at a fifth with model augmentation; coresets; ipc 10."""
    cells = []
    for seed in seeds:
        cells += [cell(name, "cifar10", 10, scale, seed=seed) for name in CORESETS]
        for name in COMPARED:
            cells += _fifth(name, scale, seed)
    return cells


def table3(data: str, scale: Scale, seeds: range) -> list[Cell]:
    """DM, DSA, CAFE and TM; IDC; IDC plain and augmented at speed-ups 5, 10 and 20; ipc 1, 10, 50."""
    cells = []
    for seed in seeds:
        for ipc in (1, 10, 50) if scale.hundred is None or data != "cifar100" else ():
            for name in ("dm", "dsa", "cafe", "tm", "idc"):
                cells += judged(name, data, ipc, scale, seed=seed)
            cells += _speedups(data, ipc, scale, seed, SPEEDUPS)
        cells += _hundred(scale, seed)
    return cells


def table4(scale: Scale, seeds: range) -> list[Cell]:
    """ImageNet-10 and ImageNet-100 at ipc 10 and 20."""
    cells = []
    for seed in seeds:
        datasets = (("imagenet-10", (5, 10)), ("imagenet-100", (5,)))
        for data, speedups in datasets if scale.data is None else datasets[:1]:
            for ipc in (10, 20):
                for name in ("dm", "dsa", "idc"):
                    cells += judged(name, data, ipc, scale, seed=seed)
                cells += _speedups(data, ipc, scale, seed, speedups)
        cells += _hundred(scale, seed)
    return cells


def table5(scale: Scale, seeds: range) -> list[Cell]:
    """DC, DM and IDC, plain and with model augmentation at speed-up 5; ipc 10."""
    cells = []
    for seed in seeds:
        for name in ("dc", "dm", "idc"):
            cells += _fifth(name, scale, seed)
        cells += _hundred(scale, seed)
    return cells


def table6(scale: Scale, seeds: range) -> list[Cell]:
    """Random selection from the pool against the average of its weights."""
    cells = []
    for seed in seeds:
        datasets = ("cifar10", "cifar100", "imagenet-10")
        for data in datasets if scale.data is None else datasets[: 1 if scale.hundred is None else 2]:
            for ipc in (1, 10):
                for selection in ("random", "average"):
                    changes = {"model_augmentation.selection": selection}
                    wanted = {"seed": seed, "speedup": 5, "augmented": True, "changes": changes}
                    cells.append(cell("idc", data, ipc, scale, selection=selection, **wanted))  # type: ignore[arg-type]
    return cells


CURVE_POINTS = 5
"""Evaluations of a run of figures 1 to 3; the first is at the steps of speed-up 5."""


def curves(scale: Scale, seeds: range, data: str = "cifar10") -> list[Cell]:
    """IDC, plain and with model augmentation, evaluated again and again; ipc 10.

    Nothing in IDC depends on the length of a run, so that one run shows every speed-up.
    """
    cells = []
    for seed in seeds:
        for augmented in (False, True):
            changes = scale.stand_in(data, 10)[1].curves
            made = cell("idc", data, 10, scale, seed=seed, augmented=augmented, changes=changes)
            every = max(1, made.recipe.budget.steps // CURVE_POINTS)
            cells.append(replace(made, recipe=made.recipe.changed({"evaluation.every": every})))
    return cells


def pictures(data: str, scale: Scale, seeds: range) -> list[Cell]:
    """IDC with model augmentation at speed-up 5, ipc 10: a run of Table 3 or 4."""
    return [cell("idc", data, 10, scale, seed=seed, speedup=5, augmented=True) for seed in seeds]


USUAL = "as the recipe"
FACTORS: dict[str, dict[str, Any]] = {
    USUAL: {},
    "image rate 0.02": {"method.image_lr": 0.02},
    "normalised by measured constants": {"data.constants": "measured"},
    "tf32": {"run.precision": "fp32"},
    "fp32": {"run.precision": "fp32"},
    "10 networks in the pool": {"model_augmentation.pool_size": 10},
}
"""What is changed in IDC with model augmentation, one at a time, by name."""


def factors(scale: Scale, seeds: range) -> list[Cell]:
    """IDC with model augmentation at speed-up 20 (100 outer steps at full scale), one setting changed at a time;
    unchanged with three seeds at least."""
    cells = []
    for name, changes in FACTORS.items():
        for seed in range(max(3, seeds.stop)) if name == USUAL else seeds:
            how: dict[str, Any] = {"seed": seed, "speedup": 20, "augmented": True, "changes": changes, "factor": name}
            arithmetic = name if name in ("tf32", "fp32") else ""
            cells.append(replace(cell("idc", "cifar10", 10, scale, **how), arithmetic=arithmetic))
    return cells


AGES = (2, 5, 10, 20, 60)
"""Epochs that the networks of matching along training are trained for; the published one is the last."""


def ages(scale: Scale, seeds: range) -> list[Cell]:
    """TGDD by the age of its networks: one or five experts of so many epochs, perturbed or not; ipc 10 and 50.

    Otherwise as its recipe with model augmentation, of which this decides the networks, but for all of TGDD's steps; at
    ipc 50 judged after as many epochs as a point of a curve.
    """
    cells = []
    for seed, ipc, epochs, experts, perturb in product(seeds, (10, 50), AGES, (1, 5), (False, True)):
        source = {"pool_epochs": epochs, "pool_size": experts, "perturb": perturb}
        changes = {f"model_augmentation.{name}": value for name, value in source.items()}
        if ipc == 50 and "evaluation.epochs" in scale.curves:
            changes["evaluation.epochs"] = scale.curves["evaluation.epochs"]
        made = cell("tgdd", "cifar10", ipc, scale, seed=seed, augmented=True, changes=changes)
        networks = AUGMENTED if perturb else "plain"
        cells.append(replace(made, labels={**made.labels, "networks": networks, "epochs": epochs, "experts": experts}))
    return cells


def gradients(scale: Scale, seeds: range) -> list[Cell]:
    """Networks as the pool trains them, at constant rate."""
    cells = []
    for seed in seeds:
        made = cell("idc", "cifar10", 10, scale, seed=seed)
        labels: Labels = {"data": made.labels["data"], "network": made.recipe.network.name, "seed": seed}
        cells.append(Cell(labels, made.recipe, scale.ages))
    return cells


def _fifth(method: str, scale: Scale, seed: int) -> list[Cell]:
    """Plain, at a fifth of the outer steps, and at a fifth with model augmentation; CIFAR-10, ipc 10."""
    kinds: tuple[dict[str, Any], ...] = ({}, {"speedup": 5}, {"speedup": 5, "augmented": True})
    return [made for kind in kinds for made in judged(method, "cifar10", 10, scale, seed=seed, **kind)]


def _hundred(scale: Scale, seed: int) -> list[Cell]:
    """CIFAR-100 beside the other data, ipc 1 and 10, where the scale has sizes for it.

    Random images, and mosaics of them (2 x 2 to a stored image); DM and IDC, also with model augmentation in a fifth of
    the steps; TGDD, also with model augmentation in as many steps, so that both take the same time.
    """
    cells = []
    for ipc in (1, 10) if scale.hundred is not None else ():
        cells.append(cell("random", "cifar100", ipc, scale, seed=seed))
        mosaics = cell("random", "cifar100", ipc, scale, seed=seed, changes={"synthetic.factor": 2})
        cells.append(replace(mosaics, labels={**mosaics.labels, "method": "mosaic"}))
        for name, speedup in (("dm", 5), ("idc", 5), ("tgdd", 1)):
            cells.append(cell(name, "cifar100", ipc, scale, seed=seed))
            cells.append(cell(name, "cifar100", ipc, scale, seed=seed, speedup=speedup, augmented=True))
    return cells


def _speedups(data: str, ipc: int, scale: Scale, seed: int, speedups: tuple[int, ...]) -> list[Cell]:
    return [
        cell("idc", data, ipc, scale, seed=seed, speedup=speedup, augmented=augmented)
        for speedup in speedups
        for augmented in (False, True)
    ]


@dataclass(frozen=True)
class Target:
    """A table or figure.

    Attributes:
        about: in one line.
        cells: its runs, from the scale and the seeds; of a figure that may be drawn of several data sets, from the
            name of one, too.
        once: one run shows it; else a cell is over as many seeds as the scale says.
        of_any: whether it is a figure that may be drawn of several data sets.
    """

    about: str
    cells: Callable[..., list[Cell]]
    once: bool = False
    of_any: bool = False


TARGETS: dict[str, Target] = {
    "methods": Target("every method, plain and with model augmentation at a fifth of the steps, and coresets", methods),
    "table3a": Target("Table 3a: CIFAR-10", lambda scale, seeds: table3("cifar10", scale, seeds)),
    "table3b": Target("Table 3b: CIFAR-100", lambda scale, seeds: table3("cifar100", scale, seeds)),
    "table4": Target("Table 4: ImageNet-10 and ImageNet-100", table4),
    "table5": Target("Table 5: model augmentation for DC, DM and IDC", table5),
    "table6": Target("Table 6: random selection against weight average", table6),
    "factors": Target("IDC + model augmentation at 100 outer steps, one setting changed at a time", factors),
    "ages": Target("TGDD under experts of 2 to 60 epochs, one or five, perturbed or not, ipc 10 and 50", ages),
    "figure1": Target("Figure 1: accuracy over outer steps, IDC and IDC + model augmentation", curves, of_any=True),
    "figure2": Target("Figure 2: accuracy over time", curves, of_any=True),
    "figure3": Target("Figure 3: accuracy over FLOPs", curves, of_any=True),
    **{
        name: Target(f"Figure {name[-1]}: {what}, {DATA_TITLES[data]}", partial(pictures, data), once=True)
        for name, what, data in (
            ("figure4", "real beside distilled images", "cifar10"),
            ("figure5", "real beside distilled images", "imagenet-10"),
            ("figure6", "the full distilled set, ipc 10", "cifar10"),
            ("figure7", "the full distilled set, ipc 10", "imagenet-10"),
        )
    },
    "section1": Target("Section 1: gradients of a network by its epochs of training", gradients),
}


def cells_of(
    target: str,
    scale: str,
    seeds: range | None = None,
    only: Mapping[str, str] | None = None,
    data: str | None = None,
) -> list[Cell]:
    """The runs of a target.

    Args:
        target: name of the table or figure.
        scale: name of the scale.
        seeds: of the runs; as the scale says if None.
        only: restricts them to those with these labels.
        data: the paper's data set that figures 1 to 3 are drawn of, CIFAR-10 or CIFAR-100; others take no notice.

    Raises:
        UserError: unknown target, scale or label, or nothing left.
    """
    if target not in TARGETS:
        raise unknown_name("table or figure", target, TARGETS)
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    usual = range(1 if TARGETS[target].once else SCALES[scale].seeds)
    chosen = {"data": data} if TARGETS[target].of_any and data in ("cifar10", "cifar100") else {}
    cells = TARGETS[target].cells(SCALES[scale], usual if seeds is None else seeds, **chosen)
    for name, value in (only or {}).items():
        if name not in cells[0].labels:
            raise unknown_name("label", name, cells[0].labels)
        known = sorted({str(one.labels[name]) for one in cells})
        cells = [one for one in cells if str(one.labels[name]) == value]
        if not cells:
            raise UserError(f"--only {name}={value} leaves no run of {target}; {name} takes: {', '.join(known)}")
    return cells

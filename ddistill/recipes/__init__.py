"""Published settings by name. A recipe is a function that returns a whole `Recipe`; a variant changes fields of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddistill.data import DIGITS_SIDE, KNOWN_SETS, RealData, is_copy
from ddistill.methods.turns import updates_per_round
from ddistill.recipe import Recipe
from ddistill.recipes import along_training, comparisons, idc
from ddistill.recipes.measured import Measured, measured, measured_in_words
from ddistill.runtime.errors import UserError, unknown_name

__all__ = [
    "AUTO",
    "FAMILIES",
    "RECIPES",
    "Entry",
    "Measured",
    "families_for",
    "find",
    "for_images",
    "measured",
    "names",
    "suited",
]


@dataclass(frozen=True)
class Entry:
    """A row of the table of recipes.

    Attributes:
        about: what it is, in one line.
        expected: published accuracy, with its source, or what was measured here.
    """

    about: str
    expected: str


FAMILIES = {
    "idc": "IDC: gradient matching with multi-formation, a fresh network at each outer step",
    "idc-ma": "IDC with model augmentation: a pool of early-stage networks, perturbed; a fifth of the outer steps",
    **along_training.FAMILIES,
    **comparisons.families(),
}
_EXPECTED = {**idc.EXPECTED, **comparisons.EXPECTED, **along_training.EXPECTED, **measured_in_words()}
_KNOWN = {f"{family}-{data}": (family, data) for family in FAMILIES for data in idc.DATA}
RECIPES = {
    name: Entry(f"{FAMILIES[family].split(':')[0].split(';')[0]} on {idc.DATA[data].title}", _EXPECTED[family, data])
    for name, (family, data) in _KNOWN.items()
    if (family, data) in _EXPECTED
}
"""Those with a published or measured figure; `find` has settings for the other known data, too."""


MEASURED = {"data.constants": "measured", "data.whitening": None}
"""How images are normalised that no paper reports on."""


def _make(family: str, data: str, ipc: int) -> Recipe:
    if family in ("idc", "idc-ma"):
        return idc.recipe(data, ipc, model_augmentation=family == "idc-ma")
    own = along_training if family in along_training.FAMILIES else comparisons
    return own.recipe(family, data, ipc)


SMALL_SIDE = 12
"""Up to so many pixels images are treated like digits."""
MOST_AT_ONCE = 100
"""Classes of an image update, at most, in recipes for images that no paper reports on."""


def in_groups(recipe: Recipe, classes: int) -> Recipe:
    """The recipe for data of many classes: in groups, and with so many more outer steps that each class has as many
    image updates as with all classes at once.

    An update of more classes teaches none of them more: each has its own loss, and the network that it is matched under
    is drawn for the update. It only takes longer between two states that can be kept, and more memory. So up to
    `MOST_AT_ONCE` classes go together, which every published set has at most; smaller groups would only load more
    networks. All classes go together where a network is trained for each update on the whole synthetic set (DC, DSA),
    or for each outer step on the real images, which groups would make dearer by their number.
    """
    method, source = recipe.method, recipe.model_augmentation
    trained = getattr(method, "network_epochs", 0) or (source.networks == "fresh" and source.fresh_epochs)
    if classes <= MOST_AT_ONCE or trained or "classes_per_step" not in type(method).model_fields:
        return recipe
    updates = updates_per_round(classes, MOST_AT_ONCE)
    return recipe.changed(
        {"method.classes_per_step": MOST_AT_ONCE, "budget.outer_steps": recipe.budget.outer_steps * updates}
    )


def names() -> list[str]:
    """Every name that `find` takes."""
    return [*FAMILIES, *_KNOWN]


def find(name: str, ipc: int = 1, data: str | None = None) -> Recipe:
    """The recipe of that name.

    Args:
        name: a full name ("idc-cifar10"), or a family ("idc") whose settings follow from ``data``.
        ipc: stored images per class.
        data: short name of the data set, for a family.

    Raises:
        UserError: unknown name, ipc below 1, or a family without known data.
    """
    if ipc < 1:
        raise UserError(f"ipc must be at least 1, got {ipc}")
    if name in FAMILIES:
        if data not in idc.DATA:
            legal = ", ".join(f"{name}-{known}" for known in idc.DATA)
            raise UserError(f"recipe {name!r} has no settings for data {data!r}; choose from: {legal}")
        name = f"{name}-{data}"
    if name not in _KNOWN:
        raise unknown_name("recipe", name, names(), "`ddistill recipes` lists those with a known figure")
    return _make(*_KNOWN[name], ipc)


def _is_known(data: RealData) -> bool:
    """Whether data that are called like a known set are that set, or might be a copy of it."""
    facts = KNOWN_SETS.get(data.name)
    usual = (facts.settings.size, facts.settings.channels) if facts else (DIGITS_SIDE, 1)
    return data.source == data.name or (data.size, data.channels) == usual


def suited(recipe: Recipe, data: RealData) -> Recipe:
    """A recipe of a known set for these images: they are normalised (and whitened) as published if they are that set,
    by its name or by what was measured of them, else by what was measured of them."""
    known = recipe.data.source or ""
    same = data.source == known or is_copy(known, data.statistics, data.class_names)
    return recipe if same else recipe.changed(MEASURED)


AUTO = "auto"
"""Stands for the name of a recipe where none is given: the first of `families_for`."""


def families_for(side: int | None) -> tuple[str, str]:
    """The families of `AUTO`, first that of the higher accuracy per minute on images of this size (docs/results.md).

    Up to 12 px, measured on digits, that is IDC with model augmentation; above, measured on CIFAR-10 and CIFAR-100,
    TGDD with model augmentation, whose whole recipe also takes less than a tenth of the arithmetic.

    Args:
        side: of the images, in pixels; None where it is not known yet.
    """
    small = side is not None and side <= SMALL_SIDE
    return ("idc-ma", "tgdd-ma") if small else ("tgdd-ma", "idc-ma")


def for_images(family: str, ipc: int, data: RealData) -> Recipe:
    """Settings of a family for data that no paper reports on, by the size of the images.

    Up to 12 px as digits, up to 64 px as CIFAR-10 (28 grey pixels as MNIST; one more block at 48 px and above),
    larger as Imagenette; many classes in groups (`in_groups`). They are normalised by what was measured of them, and
    not whitened. A set of one's own that is called like a known one takes that one's settings if its images have that
    one's size and channels, but the constants that it is published with only if it is a copy of that one.

    Raises:
        UserError: unknown family.
    """
    if family not in FAMILIES:
        raise unknown_name("recipe", family, names())
    if data.name in idc.DATA and _is_known(data):
        return suited(find(family, ipc, data.name), data)
    changes: dict[str, Any] = {"name": f"{family} for {data.size}-px images", **MEASURED}
    if data.size <= SMALL_SIDE:
        like = "digits"
    elif data.size == 28 and data.channels == 1:
        like = "mnist"
    elif data.size <= 64:
        like = "cifar10"
        changes["network.depth"] = 4 if data.size >= 48 else 3 if data.size >= 16 else 2
    else:
        like = "imagenette"
    recipe = _make(family, like, ipc)
    if like in ("cifar10", "imagenette") and getattr(recipe.method, "base_side", None):
        changes["method.base_side"] = data.size
    return in_groups(recipe.changed(changes), data.num_classes)

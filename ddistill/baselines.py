"""What a distilled set is judged beside: real images chosen or drawn, at equal storage, and all of them.

The one table of these names. A chosen baseline is a coreset (`ddistill.methods.coresets`), made by the code that runs
it as a method, from the changes to a recipe that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddistill.runtime.errors import unknown_name

if TYPE_CHECKING:
    from ddistill.recipe import Recipe

EARLY_STAGE: dict[str, Any] = {"model_augmentation.pool_size": 5, "model_augmentation.pool_epochs": 2}
"""The pool that most recipes with model augmentation share; where a recipe has a pool, its own is taken."""
TRAINED: dict[str, Any] = {"model_augmentation.pool_size": 1, "model_augmentation.pool_epochs": 10}
"""The network whose embeddings or losses decide."""
SMALLEST_FACTOR = 2
"""Of mosaics, where the distilled images are whole ones."""


ONCE: dict[str, Any] = {
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "budget.seconds": None,
    "budget.flops": None,
    "evaluation.baselines": (),
    "synthetic.init": "noise",  # every stored image is replaced, so that a small class can be filled
    "synthetic.decode": "single",
    "synthetic.labels": None,
    "synthetic.grow": None,
    "model_augmentation.networks": "fresh",
    "model_augmentation.fresh_epochs": 0,
    "model_augmentation.perturb": False,
    "model_augmentation.selection": "random",
}
"""Of the recipe by which a coreset is chosen."""


@dataclass(frozen=True)
class Baseline:
    """A way to fill the storage of a distilled set with real images.

    Attributes:
        title: as reports name it.
        method: recipe fields that make the choice: `method.name`, its settings, its networks; empty where none is made.
        mosaics: F x F whole images to a stored one, F that of the distilled images, 2 at least.
        redrawn: other images for each trained network.
    """

    title: str
    method: Mapping[str, Any] = field(default_factory=dict)
    mosaics: bool = False
    redrawn: bool = False


def _pool(networks: Mapping[str, Any], **method: Any) -> dict[str, Any]:
    chosen = {f"method.{name}": value for name, value in method.items()}
    return {**chosen, "model_augmentation.networks": "pool", **networks}


_EL2N = {**_pool(EARLY_STAGE, name="el2n"), "budget.outer_steps": 5}
ALL = "all"
BASELINES = {
    "random": Baseline("random real images, equal storage", redrawn=True),
    "random_decoded": Baseline("random real images, equal count", redrawn=True),
    "k-center": Baseline("k-center coreset", _pool(TRAINED, name="k-center")),
    "herding": Baseline("herding coreset", _pool(TRAINED, name="herding")),
    "el2n": Baseline("EL2N coreset, easiest images", _EL2N),
    "el2n-hard": Baseline("EL2N coreset, hardest images", {**_EL2N, "method.choose": "hard"}),
    "mosaic": Baseline("mosaics of random images", {"method.name": "random"}, mosaics=True, redrawn=True),
    "el2n-mosaic": Baseline("mosaics of the easiest images by EL2N", _EL2N, mosaics=True),
    "rded": Baseline("RDED: mosaics of the crops of least loss", _pool(TRAINED, name="rded"), mosaics=True),
    ALL: Baseline("all real images"),
}
SELECTIONS = tuple(name for name in BASELINES if name not in ("random_decoded", ALL))
"""Those of equal storage."""


def known_baseline(name: str) -> str:
    """The name, if it is one.

    Raises:
        UserError: no such baseline, with the nearest.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return name


def coreset_recipe(recipe: Recipe, name: str, draw: int = 0) -> Recipe:
    """The recipe of a baseline that chooses or tiles real images, for the storage that another recipe fills.

    Args:
        recipe: of the distilled set.
        name: of a baseline with a method.
        draw: of those that are drawn anew for each network.

    Raises:
        UserError: the recipe's network does not give what the choice asks for.
    """
    baseline, own = BASELINES[name], recipe.model_augmentation
    changes = {**ONCE, **baseline.method, "name": name, "run.seed": recipe.run.seed + draw}
    if own.networks == "pool" and baseline.method.get("method.name") == "el2n":
        changes |= {"model_augmentation.pool_size": own.pool_size, "model_augmentation.pool_epochs": own.pool_epochs}
    factor = max(SMALLEST_FACTOR, recipe.synthetic.factor) if baseline.mosaics else 1
    unjudged = recipe.model_copy(update={"evaluation": type(recipe.evaluation)()})
    return unjudged.changed({**changes, "synthetic.factor": factor})

"""How the time of a comparison is divided: evaluation of every row, choice of real images, distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ddistill.baselines import BASELINES
from ddistill.engine import Plan
from ddistill.methods.coresets import RDEDSettings
from ddistill.runtime.errors import UserError

SAFE = 0.9
"""Of the time, that is planned with: estimates come from a few steps, and a machine may get busier."""
DISTILLING = 0.5
"""Of the time that is left after the choice of real images, that distilling may take."""
SLACK = 1.5
"""Of what a recipe needs by its estimate, that it may take at most."""
FEWEST = 0.05
"""Of the optimiser steps of the protocol; with fewer an accuracy says little, and rows are left out instead."""
POOL = 0.5
"""Of the time of a recipe, that its networks may take; it gets fewer of them rather than none."""
SPARED_FIRST = ("el2n-hard", "rded", "k-center", "herding", "el2n-mosaic", "el2n")
"""Selections that are left out where the time is too short, in this order; the others cost nothing to make."""


@dataclass(frozen=True)
class Measured:
    """Seconds on this machine, from a few steps of each kind of work.

    Attributes:
        step: of an optimiser step of the evaluation, once for every architecture.
        test: of testing a network of every architecture.
        epoch: of training a network on all images once.
        look: of a forward pass over all images.
        plans: of the recipes, by name.
    """

    step: float
    test: float
    epoch: float
    look: float
    plans: Mapping[str, Plan]


@dataclass(frozen=True)
class Division:
    """What each part gets.

    Attributes:
        steps: optimiser steps of every trained network.
        selections: names of the baselines that are made.
        seconds: of pool and distillation, by recipe; None: to the end of the recipe.
        pools: networks in the pool of a recipe that gets fewer than it asks for.
        left_out: what is not made, and why.
    """

    steps: int
    selections: tuple[str, ...]
    seconds: dict[str, float | None]
    pools: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Division:
        """From what `as_dict` gave."""
        return cls(**{**values, "selections": tuple(values["selections"])})


def choosing(selections: Sequence[str], measured: Measured) -> float:
    """Seconds to choose real images: a pool is trained once for all that share it."""
    pools, looks = set(), 0
    for name in selections:
        method = BASELINES[name].method
        if "model_augmentation.pool_size" in method:
            pools.add((method["model_augmentation.pool_size"], method["model_augmentation.pool_epochs"]))
            looks += method.get("budget.outer_steps", RDEDSettings().crops if name == "rded" else 1)
    return sum(size * epochs for size, epochs in pools) * measured.epoch + looks * measured.look


def divide(
    selections: Sequence[str],
    pools: Mapping[str, int],
    measured: Measured,
    *,
    steps: int,
    repeats: int,
    seconds: float,
) -> Division:
    """Divide ``seconds``.

    Half of what is left after the choice of real images goes to the evaluation, at most what the protocol asks for, and
    the rest to the recipes, equally, at most what each can use. Where that leaves too few optimiser steps, or a recipe
    without networks, rows are left out.

    Args:
        selections: names of baselines.
        pools: networks in the pool of each recipe, by name, the most promising first; 0 where it has none.
        measured: of this machine.
        steps: optimiser steps of the protocol.
        repeats: networks trained on each row.
        seconds: that all of it may take.

    Raises:
        UserError: too little for one recipe beside random images and all images.
    """
    kept, recipes, left_out = list(selections), list(pools), dict[str, str]()
    while True:
        found = _share(kept, recipes, measured, steps, repeats, seconds * SAFE)
        if found is not None:
            poor = _without_networks(found, pools, measured)
            if poor is None:
                fewer = _fewer_networks(found, pools, measured)
                return replace(found, pools=fewer, left_out=left_out)
            if len(recipes) > 1:
                recipes.remove(poor)
                left_out[poor] = "one network of its pool takes more than half of its share of the time"
                continue
        spared = next((name for name in SPARED_FIRST if name in kept), None)
        reason = "the time is too short for it"
        if spared is not None:
            kept.remove(spared)
            left_out[spared] = reason
        elif len(recipes) > 1:
            left_out[recipes.pop()] = reason
        else:
            needed = _least(kept, recipes, pools, measured, steps, repeats)
            raise UserError(
                f"{max(seconds, 0.0) / 60:.3g} of --minutes are left after measuring, too short even for one recipe "
                f"beside random images and all images; leave at least {needed:.3g}, or take fewer networks "
                f"(--set evaluation.repeats=2)"
            )


def _share(
    selections: list[str], recipes: list[str], measured: Measured, steps: int, repeats: int, seconds: float
) -> Division | None:
    """Steps and seconds; None where they are too few steps."""
    trained = repeats * (len(selections) + len(recipes) + 1)
    left = seconds - choosing(selections, measured) - trained * measured.test
    needs = {name: sum(measured.plans[name].seconds[part] for part in ("pool", "distill")) for name in recipes}
    whole = trained * steps * measured.step
    distilling = max(min(left * DISTILLING, sum(needs.values())), min(left - whole, SLACK * sum(needs.values())))
    affordable = int(min(steps, (left - distilling) / (trained * measured.step)))
    if affordable < max(1, steps * FEWEST):
        return None
    return Division(affordable, tuple(selections), _filled(needs, distilling))


def _filled(needs: Mapping[str, float], seconds: float) -> dict[str, float | None]:
    """Equal shares, but not much more than each needs by an estimate; what one leaves goes to the others."""
    shares: dict[str, float | None] = {}
    for count, name in zip(range(len(needs), 0, -1), sorted(needs, key=lambda name: needs[name]), strict=True):
        share = min(seconds / count, needs[name] * SLACK)
        shares[name] = share
        seconds -= share
    return {name: shares[name] for name in needs}


def _without_networks(found: Division, pools: Mapping[str, int], measured: Measured) -> str | None:
    """The last recipe whose share does not pay for a network and as long a distillation."""
    poor = [
        name
        for name, share in found.seconds.items()
        if share is not None and pools[name] and measured.plans[name].seconds["pool"] / pools[name] > share * POOL
    ]
    return poor[-1] if poor else None


def _fewer_networks(found: Division, pools: Mapping[str, int], measured: Measured) -> dict[str, int]:
    fewer = {}
    for name, share in found.seconds.items():
        pool = measured.plans[name].seconds["pool"]
        if share is not None and pool > share * POOL:
            fewer[name] = int(share * POOL / (pool / pools[name]))
    return fewer


def _least(
    selections: list[str], recipes: list[str], pools: Mapping[str, int], measured: Measured, steps: int, repeats: int
) -> float:
    """Minutes that would do, about."""
    trained = repeats * (len(selections) + len(recipes) + 1)
    evaluation = trained * (measured.test + max(1, steps * FEWEST) * measured.step)
    one = max(measured.plans[name].seconds["pool"] / max(1, pools[name]) / POOL for name in recipes)
    return (choosing(selections, measured) + max(evaluation * 2, evaluation + one * 2)) / SAFE / 60 * 1.1

"""What the runs of a table or figure cost on this machine, before they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ddistill.engine import Plan, plan_run, plan_training
from ddistill.recipe import Recipe
from ddistill.reproduce.runs import DataSources
from ddistill.reproduce.store import Result, images_key, result_key
from ddistill.reproduce.targets import Cell

OnEstimate = Callable[[int, int], None]


def estimate(
    cells: Sequence[Cell],
    known: Sequence[Result | None],
    sources: DataSources,
    *,
    device: str = "cpu",
    on_estimate: OnEstimate | None = None,
) -> list[Plan | None]:
    """Predicted costs of the cells that are not known yet; None for those that are.

    A few steps are measured of each kind of work; cells that differ in seed and number of outer steps share them.

    Args:
        cells: of the table.
        known: one result or None per cell.
        sources: of the real images.
        device: to compute on.
        on_estimate: called with (cells done, cells in all).
    """
    measured: dict[str, Plan] = {}
    plans: list[Plan | None] = []
    made: set[str] = set()
    for cell, result in zip(cells, known, strict=True):
        plan = None if result else _plan(cell, sources, device, measured)
        key = images_key(cell.recipe, sources.load(cell).fingerprint)
        if plan and key in made and not cell.ages:  # the images of another cell, judged again
            plan = replace(plan, seconds={"evaluate": plan.seconds["evaluate"]}, flops={})
        made.add(key)
        plans.append(plan)
        if on_estimate:
            on_estimate(len(plans), len(cells))
    return plans


def _plan(cell: Cell, sources: DataSources, device: str, measured: dict[str, Plan]) -> Plan:
    data, recipe = sources.load(cell), cell.recipe
    usual = _usual(recipe)
    key = result_key(usual, data.fingerprint, cell.ages)
    if key not in measured:
        whole = not cell.ages
        measured[key] = plan_run(data, usual, device) if whole else plan_training(data, usual, cell.ages[-1], device)
    return measured[key] if cell.ages else measured[key].of(recipe)


def _usual(recipe: Recipe) -> Recipe:
    """The recipe at speed-up 1 and seed 0; what differs in nothing else costs the same per outer step."""
    return recipe.changed({"budget.speedup": 1, "run.seed": 0, "model_augmentation.selection": "random"})

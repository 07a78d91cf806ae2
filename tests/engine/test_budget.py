"""Bounds of a run, schedules of its evaluations, and the choice of its best images."""

import json
from pathlib import Path

import pytest
import torch

from ddistill import distill, load_synthetic
from ddistill.data import load_data
from ddistill.engine import Observer, distill_data
from ddistill.engine.schedule import Spent, evaluation_due
from ddistill.recipe import BudgetSettings, Recipe
from ddistill.runtime.errors import UserError

TINY = {
    "network.width": 8,
    "network.depth": 2,
    "method.inner_steps": 1,
    "method.network_samples": 16,
    "method.real_batch": 8,
    "method.base_side": 8,
    "method.image_lr": 0.05,
    "budget.outer_steps": 6,
    "evaluation.epochs": 2,
    "evaluation.repeats": 2,
    "evaluation.baselines": (),
    "data.source": "digits",
}


def events(folder: Path, kind: str) -> list[dict]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == kind]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize(
    ("bounds", "spent", "reached"),
    [
        ({}, (1999, 1e9, 1e30), None),
        ({}, (2000, 0.0, 0.0), "outer_steps"),
        ({"speedup": 20}, (100, 0.0, 0.0), "outer_steps"),
        ({"seconds": 60.0}, (3, 60.0, 0.0), "seconds"),
        ({"seconds": 60.0, "flops": 1e9}, (3, 59.0, 2e9), "flops"),
        ({"seconds": 60.0, "flops": 1e9}, (3, 59.0, 9e8), None),
    ],
)
def test_a_run_ends_at_whichever_bound_comes_first(bounds, spent, reached):
    assert BudgetSettings(**bounds).reached(*spent) == reached


@pytest.mark.parametrize(
    ("settings", "before", "now", "due"),
    [
        ({}, (9, 0, 0), (10, 0, 0), False),
        ({"evaluation.every": 5}, (9, 0, 0), (10, 0, 0), True),
        ({"evaluation.every": 5}, (10, 0, 0), (11, 0, 0), False),
        ({"evaluation.every_seconds": 60.0}, (1, 59.0, 0), (2, 61.0, 0), True),
        ({"evaluation.every_seconds": 60.0}, (1, 61.0, 0), (2, 119.0, 0), False),
        ({"evaluation.every_flops": 1e9}, (1, 0, 0.5e9), (2, 0, 2.5e9), True),
        ({"evaluation.select": "best", "data.validation_fraction": 0.1}, (199, 0, 0), (200, 0, 0), True),
        ({"evaluation.select": "best", "data.validation_fraction": 0.1}, (200, 0, 0), (201, 0, 0), False),
    ],
)
def test_an_evaluation_is_due_at_the_first_step_past_a_mark(settings, before, now, due):
    assert evaluation_due(Recipe().changed(settings), Spent(*before), Spent(*now)) is due


def test_flops_bound_a_run_and_set_its_evaluations(digits, tmp_path):
    whole = distill_data(digits, Recipe().changed(TINY), out=tmp_path / "whole")
    per_step = whole.summary["flops"]["distill"] / 6
    assert whole.summary["ended_by"] == "outer_steps"
    bounded = {"budget.flops": 2.5 * per_step, "evaluation.every_flops": 1.5 * per_step}
    run = distill_data(digits, Recipe().changed({**TINY, **bounded}), out=tmp_path / "run")
    assert (run.summary["outer_steps"], run.summary["ended_by"]) == (3, "flops")
    judged = [(event["step"], event["flops"]) for event in events(tmp_path / "run", "accuracy")]
    assert judged == [(2, pytest.approx(2 * per_step)), (3, pytest.approx(3 * per_step))]
    shorter = distill_data(digits, Recipe().changed({**TINY, "budget.outer_steps": 3}))
    assert torch.equal(run.synthetic.images, shorter.synthetic.images)


def test_seconds_bound_a_run_with_one_step_at_least_and_the_pool_counts(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))
    pool = {"model_augmentation.networks": "pool", "model_augmentation.pool_size": 1}
    changes = {**TINY, **pool, "model_augmentation.pool_epochs": 1, "budget.seconds": 1e-6}
    run = distill_data(digits, Recipe().changed(changes), out=tmp_path / "run")
    assert (run.summary["outer_steps"], run.summary["ended_by"]) == (1, "seconds")
    longer = Recipe().changed({**changes, "budget.seconds": 1e6})
    extended = distill_data(digits, longer, out=tmp_path / "run", resume="extend")
    assert (extended.summary["outer_steps"], extended.summary["ended_by"]) == (6, "outer_steps")
    (judged,) = [event for event in events(tmp_path / "run", "accuracy") if event["step"] == 6]
    seconds = extended.summary["seconds"]
    assert judged["seconds"] == pytest.approx(seconds["pool"] + seconds["distill"], abs=0.02)


@pytest.fixture(scope="module")
def held_out():
    return load_data("digits", Recipe().changed({"data.validation_fraction": 0.2}).data)


CHOOSING = {**TINY, "evaluation.select": "best", "data.validation_fraction": 0.2, "evaluation.every": 2}


def test_the_best_images_by_validation_are_given_and_the_test_set_is_read_once(held_out, tmp_path):
    run = distill_data(held_out, Recipe().changed(CHOOSING), out=tmp_path / "run")
    judged = events(tmp_path / "run", "accuracy")
    by_step = {event["step"]: event["mean"] for event in judged if event["what"] == "validation"}
    assert list(by_step) == [2, 4, 6]
    best = max(by_step, key=by_step.__getitem__)
    assert run.summary["selected"] == {"step": best, "validation_accuracy": by_step[best]}
    assert [event["step"] for event in judged if event["what"] == "distilled"] == [best]
    shorter = {**CHOOSING, "evaluation.select": "last", "evaluation.every": 0, "budget.outer_steps": best}
    until = distill_data(held_out, Recipe().changed(shorter))
    assert torch.equal(load_synthetic(tmp_path / "run").images, until.synthetic.images)
    assert run.summary["accuracy"] == until.summary["accuracy"]


class AtReport(Observer):
    """Raises at the n-th report of a phase."""

    def __init__(self, phase: str, reports: int) -> None:
        self.phase, self.left = phase, reports

    def progress(self, phase, done, total, **figures):
        self.left -= phase == self.phase
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("phase", "at"), [("distill", 3), ("evaluate", 2), ("evaluate", 7), ("evaluate", 13)])
def test_the_choice_survives_an_interruption(held_out, tmp_path, phase, at):
    recipe = Recipe().changed(CHOOSING)
    whole = distill_data(held_out, recipe)
    often = recipe.changed({"run.checkpoint_every": 0.0})
    with pytest.raises(KeyboardInterrupt):
        distill_data(held_out, often, out=tmp_path / "run", observer=AtReport(phase, at))
    run = distill_data(held_out, recipe, out=tmp_path / "run", resume=True)
    assert torch.equal(run.synthetic.images, whole.synthetic.images)
    for figure in ("selected", "accuracy", "outer_steps"):
        assert run.summary[figure] == whole.summary[figure]


def test_choosing_needs_images_to_choose_on(digits):
    with pytest.raises(UserError, match=r"set data\.validation_fraction"):
        distill("digits", "idc", changes={"evaluation.select": "best"})

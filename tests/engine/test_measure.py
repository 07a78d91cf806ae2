"""Long work is predicted from short pieces of it, within the time that is given, and with its range."""

import pytest
import torch

from ddistill.data import load_data
from ddistill.engine import measure, plan_run
from ddistill.engine import plan as plan_module
from ddistill.engine.measure import Seconds, grown
from ddistill.recipe import Recipe

CPU = torch.device("cpu")
SMALL = {
    "network.width": 8,
    "network.depth": 2,
    "synthetic.factor": 1,
    "method.real_batch": 8,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
    "budget.outer_steps": 4,
}
TRAINED = {"model_augmentation.pool_size": 2, "model_augmentation.pool_epochs": 4}


@pytest.fixture
def quick(monkeypatch):
    """A plan that measures next to nothing."""
    for kind in ("MATCHING_SECONDS", "TRAINING_SECONDS", "TESTING_SECONDS"):
        monkeypatch.setattr(plan_module, kind, 0.02)


class Clock:
    """Work of size n takes constant + n * rate seconds, a little more at each other trial."""

    def __init__(self, monkeypatch, constant: float, rate: float, noise: float = 0.0) -> None:
        self.now, self.constant, self.rate, self.noise, self.sizes = 0.0, constant, rate, noise, []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def work(self, size: float):
        def one() -> None:
            self.sizes.append(size)
            self.now += (self.constant + size * self.rate) * (1 + self.noise * (len(self.sizes) % 2))

        return one


def test_work_that_fits_is_measured_whole(monkeypatch):
    clock = Clock(monkeypatch, 0.1, 0.01)
    found = grown(clock.work, (1, 2, 4, 8), 5, 10.0, CPU)
    assert found.typical == pytest.approx(0.15)
    assert (found.low, found.high) == pytest.approx((0.15, 0.15))
    assert clock.sizes == [1, 1, 2, 4, 5, 5, 5]


def test_work_that_does_not_fit_is_taken_along_the_line(monkeypatch):
    clock = Clock(monkeypatch, 0.5, 1.0)
    found = grown(clock.work, (1 / 8, 1, 2, 4, 8, 16), 1000, 12.0, CPU)
    assert max(clock.sizes) == 4
    assert clock.now < 12.0
    assert found.typical == pytest.approx(0.5 + 1000)
    assert found.low == pytest.approx(found.typical)
    assert found.high == pytest.approx(4.5 / 4 * 1000)  # if all of it grew


def test_the_range_holds_what_trials_differ_by(monkeypatch):
    found = grown(Clock(monkeypatch, 0.0, 0.01, noise=0.2).work, (1, 2), 4, 10.0, CPU)
    assert found.low < found.typical <= found.high
    assert found.high == pytest.approx(1.2 * 0.04)


def test_a_piece_that_takes_all_the_time_is_the_only_one(monkeypatch):
    clock = Clock(monkeypatch, 0.0, 100.0)
    found = grown(clock.work, (1 / 8, 1, 2), 10, 8.0, CPU)
    assert clock.sizes == [1 / 8, 1 / 8]
    assert found.typical == pytest.approx(1000.0)


def test_sums_and_products_keep_the_range():
    assert (Seconds(2, 1, 3) + Seconds(1, 1, 1)) * 2 == Seconds(6, 4, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"method.name": "dm", "method.inner_steps": 5, "method.classes_per_step": 3},
        {"method.name": "dc", "method.inner_steps": 2, "method.network_epochs": 1},
        {"method.name": "cafe", "method.window": 2, "method.max_inner_steps": 2, "synthetic.ipc_by_class": {"9": 2}},
        {
            "method.name": "along-training",
            "method.steps": "sweeps",
            "model_augmentation.networks": "snapshots",
            "evaluation.every": 1,
            "evaluation.epochs_on_the_way": 1,
        },
    ],
    ids=lambda changes: changes["method.name"],
)
def test_every_kind_of_method_has_a_plan_with_a_range(changes, quick):
    plan = plan_run(load_data("digits"), Recipe().changed({**SMALL, **TRAINED, **changes}))
    for phase, seconds in plan.seconds.items():
        low, high = plan.ranges[phase]
        assert 0.0 <= low <= seconds <= high * 1.0001, phase
    assert plan.seconds["distill"] > 0
    assert plan.seconds["evaluate"] > 0
    assert plan.flops["distill"] > 0
    assert (plan.inner is None) == (changes["method.name"] in ("dc", "cafe"))


def test_a_scheduled_outer_step_that_would_take_long_is_planned_from_its_inner_steps(quick, monkeypatch):
    cafe = {"method.name": "cafe", "method.window": 2, "method.max_inner_steps": 6, "method.max_network_epochs": 4}
    recipe = Recipe().changed({**SMALL, **TRAINED, **cafe})
    monkeypatch.setattr("ddistill.engine.plan.MATCHING_SECONDS", 0.0)
    plan = plan_run(load_data("digits"), recipe)
    low, high = plan.ranges["distill"]
    assert low <= plan.seconds["distill"] < high
    longest = plan_run(load_data("digits"), recipe.changed({"method.window": 6}))
    assert high / low >= 0.99 * longest.flops["distill"] / plan.flops["distill"] > 2


def test_methods_without_classes_are_planned_from_a_part_of_the_data(quick):
    settings = {key: value for key, value in SMALL.items() if key != "method.real_batch"}
    experts = {**TRAINED, "model_augmentation.networks": "trajectories", "method.student_steps": 4}
    tm = {"method.name": "tm", "method.expert_epochs": 1, "method.max_start_epoch": 1, **experts}
    coreset = {"method.name": "herding", "budget.outer_steps": 1}
    for changes in (tm, coreset):
        plan = plan_run(load_data("digits"), Recipe().changed({**settings, **changes}))
        assert plan.inner is None
        assert plan.seconds["distill"] > 0

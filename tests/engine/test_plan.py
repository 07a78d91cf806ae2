"""What a run would cost on other machines, from parts that were measured on one."""

import pytest

from ddistill.data import load_data
from ddistill.engine import InnerStep, Plan, on_paper, plan_run
from ddistill.recipe import Recipe

INNER = InnerStep(steps=10, class_seconds=2.0, batch_seconds=0.5, batches=4, network_bytes=1000, stored_bytes=50)
RECIPE = Recipe().changed({"model_augmentation.pool_size": 5, "evaluation.repeats": 3, "budget.outer_steps": 3})
PLAN = Plan({"pool": 60.0, "distill": 0.0, "evaluate": 30.0}, {}, 10_000, RECIPE, 10, INNER)


@pytest.mark.parametrize(
    ("classes", "devices", "pool", "distill", "evaluate"),
    [
        (10, 1, 60.0, 3 * 10 * (20.0 + 2.0), 30.0),
        (10, 2, 36.0, 3 * 10 * 10.0 + 2 * 10 * 2.0, 20.0),  # rounds of two: three of networks, two of repeats
        (10, 16, 12.0, 3 * 10 * 2.0 + 10 * 2.0, 10.0),
        (100, 8, 120.0, 3 * 10 * 26.0 + 10 * 2.0, 100.0),  # the busiest device has 13 classes
        (1000, 1, 6000.0, 3 * 10 * (2000.0 + 2.0), 3000.0),
    ],
)
def test_work_is_shared_in_whole_classes_networks_and_repeats(classes, devices, pool, distill, evaluate):
    paper = on_paper(PLAN, classes, devices)
    assert paper.seconds == pytest.approx({"pool": pool, "distill": distill, "evaluate": evaluate})


def test_memory_grows_with_the_stored_images_and_not_with_devices():
    assert on_paper(PLAN, 10, 4).memory_bytes == 10_000
    assert on_paper(PLAN, 100, 4).memory_bytes == 10_000 + 90 * 50 * 4


def test_weights_travel_once_an_inner_step():
    assert on_paper(PLAN, 10, 1).exchanged_bytes == 0
    assert on_paper(PLAN, 10, 2).exchanged_bytes == (10 * 1000 + 4 * 10 * 50) // 2
    assert on_paper(PLAN, 10, 4).exchanged_bytes == (10 * 1000 + 4 * 10 * 50) * 3 // 4


def test_fresh_networks_are_trained_by_one_device_each():
    plan = Plan(PLAN.seconds, {}, 0, RECIPE, 10, INNER, fresh_seconds=40.0)
    difference = on_paper(plan, 20, 2).seconds["distill"] - on_paper(PLAN, 20, 2).seconds["distill"]
    assert difference == pytest.approx(2 * 40.0 * 2)


def test_the_parts_make_up_the_plan():
    recipe = Recipe().changed(
        {"network.width": 8, "network.depth": 2, "synthetic.factor": 1, "method.inner_steps": 7, "evaluation.epochs": 1}
    )
    plan = plan_run(load_data("digits"), recipe)
    inner = plan.inner
    assert inner is not None
    assert (inner.steps, inner.batches, plan.classes) == (7, 32, 10)
    outer = inner.outer_seconds + 7 * (10 * inner.class_seconds + 32 * inner.batch_seconds)
    assert plan.seconds["distill"] == pytest.approx(outer * plan.outer_steps)
    assert inner.stored_bytes == 8 * 8 * 4
    assert on_paper(plan, 10, 1).seconds["distill"] == pytest.approx(plan.seconds["distill"])

"""Real images that a distilled set is judged beside: each is the coreset of that name, and costs what it says."""

from dataclasses import replace

import pytest
import torch
from helpers import few_networks
from torch import nn

from ddistill.baselines import ALL, BASELINES, SELECTIONS, coreset_recipe
from ddistill.data import Split, load_data
from ddistill.engine import Session, distill_data
from ddistill.methods import METHODS
from ddistill.networks import NETWORKS
from ddistill.observer import Observer
from ddistill.recipe import Recipe
from ddistill.recipes import find
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.ipc": 2,
    "synthetic.factor": 1,
    "method.name": "random",
    "training.batch": 64,
    "budget.outer_steps": 1,
    "evaluation.steps": 12,
    "evaluation.repeats": 2,
    "run.compile": "off",
    "run.precision": "fp32",
}
CHOSEN = [name for name, baseline in BASELINES.items() if baseline.method]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(autouse=True)
def _one_small_pool(monkeypatch, tmp_path_factory):
    few_networks(monkeypatch)
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path_factory.getbasetemp() / "baselines"))


@pytest.mark.parametrize("name", CHOSEN)
def test_to_choose_images_nothing_is_judged(name, digits):
    class Heard(Observer):
        def accuracy(self, *_: object) -> None:
            pytest.fail("a network was trained")

    often = {"evaluation.every": 1, "evaluation.every_seconds": 1e-3, "evaluation.every_flops": 1.0}
    Session(digits, Recipe().changed({**TINY, **often}), None, Execution(), Heard()).baseline(name)


@pytest.mark.parametrize("name", CHOSEN)
def test_beside_images_with_a_learned_rate_real_ones_are_chosen_all_the_same(name, digits):
    coreset_recipe(find("tm", 1, "digits").changed({"evaluation.protocol": "tm"}), name).check(digits)


def test_every_chosen_baseline_is_a_registered_method():
    assert {BASELINES[name].method["method.name"] for name in CHOSEN} <= METHODS.keys()
    assert set(SELECTIONS) == BASELINES.keys() - {"random_decoded", ALL}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_baseline_is_the_coreset_of_that_name(name, digits):
    recipe = Recipe().changed(TINY)
    sets, seconds = Session(digits, recipe, None, Execution(), Observer()).baseline(name)
    assert len(sets) == (2 if BASELINES[name].redrawn else 1)
    same = distill_data(digits, coreset_recipe(recipe, name)).synthetic
    assert torch.equal(sets[0].images, same.images)
    assert same.factor == (2 if BASELINES[name].mosaics else 1)
    assert (sets[0].images.shape, seconds >= 0) == ((20, 1, 8, 8), True)
    if BASELINES[name].redrawn:
        assert not torch.equal(sets[0].images, sets[1].images)


def test_a_run_is_judged_beside_all_of_them(digits, tmp_path):
    recipe = Recipe().changed({**TINY, "evaluation.baselines": tuple(BASELINES)})
    run = distill_data(digits, recipe, out=tmp_path / "run")
    assert list(run.summary["baselines"]) == list(BASELINES)
    images = {name: row["images"] for name, row in run.summary["baselines"].items()}
    assert images.pop("all") == len(digits.train.labels)
    assert set(images.values()) == {20}
    page, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "distilled/README.md"))
    for baseline in BASELINES.values():
        assert baseline.title in page
        assert baseline.title in card


def plain(classes: int, channels: int, size: int) -> nn.Module:
    """A network without embeddings."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))


def test_a_network_that_does_not_give_embeddings_is_refused_beforehand(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "plain", plain)
    usual = {path: value for path, value in TINY.items() if not path.startswith("network.")}
    recipe = Recipe().changed({**usual, "network.name": "plain"})
    with pytest.raises(UserError, match="method herding asks the network for the input of its classifier"):
        distill_data(digits, recipe.changed({"evaluation.baselines": ["herding"]}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_of_one_image_fills_what_is_stored(digits):
    kept = (digits.train.labels != 3) | (torch.arange(len(digits.train.labels)) == digits.class_offsets[3])
    part = Split(digits.train.images[kept], digits.train.labels[kept])
    few = replace(digits, train=part)
    session = Session(few, Recipe().changed(TINY), None, Execution(), Observer())
    for name in ("herding", "mosaic", "rded"):
        sets, _ = session.baseline(name)
        assert sets[0].counts == [2] * 10


def test_sets_of_any_size_are_trained_for_as_many_steps(digits, monkeypatch):
    from ddistill.training import Trainer

    taken = []
    run = Trainer.run
    monkeypatch.setattr(
        Trainer,
        "run",
        lambda self, batches, *rest: taken.append([len(b) for b in batches]) or run(self, batches, *rest),
    )
    recipe = Recipe().changed({**TINY, "evaluation.repeats": 1, "evaluation.steps": 30})
    done = distill_data(digits, recipe.changed({"evaluation.baselines": ["all"]}))
    assert taken == [[20] * 3] * 12 + [[64] * 3] * 12  # rounded up to 12 stretches of 3
    assert done.summary["accuracy"]["runs"] == distill_data(digits, recipe).summary["accuracy"]["runs"]

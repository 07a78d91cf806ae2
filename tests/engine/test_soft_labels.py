"""Soft labels: made by the networks of the pool, kept in the artifact, and judged beside the classes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers import Interrupt
from safetensors.torch import load_file
from torch.nn import functional as F

import ddistill
from ddistill.data import ImageSet, load_data
from ddistill.engine import distill_data
from ddistill.evaluation import EvaluationSettings, evaluate_set
from ddistill.networks import NetworkSettings, build_network
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution
from ddistill.runtime.storage import cache_folder, file_checksum, write_checked_json, write_tensors
from ddistill.synthetic import initial_set, load_synthetic, read_description, save_synthetic
from ddistill.training import Trainer, TrainingSettings

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.factor": 2,
    "method.inner_steps": 1,
    "method.real_batch": 8,
    "method.network_samples": 16,
    "method.base_side": 8,
    "training.batch": 64,
    "model_augmentation.networks": "pool",
    "model_augmentation.pool_size": 2,
    "model_augmentation.pool_epochs": 1,
    "evaluation.epochs": 2,
    "evaluation.repeats": 2,
    "budget.outer_steps": 2,
    "run.compile": "off",
}
SOFT = {**TINY, "synthetic.labels": "teacher"}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def soft(digits, cache, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDISTILL_CACHE", str(cache))
        return distill_data(digits, Recipe().changed(SOFT), out=tmp_path_factory.mktemp("soft"))


@pytest.fixture(scope="module")
def hard(digits):
    return distill_data(digits, Recipe().changed(TINY))


def test_the_targets_are_the_mean_softmax_of_the_pool(soft, digits, cache):
    members = sorted(cache.rglob("member-*.safetensors"))
    assert len(members) == 2
    images, _ = soft.synthetic.decoded()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in digits.statistics)
    normal = (images - mean) / std
    shares = []
    for path in members:
        network = build_network(NetworkSettings(depth=2, width=8), 10, 1, 8, "any").eval()
        network.load_state_dict(load_file(path))
        with torch.no_grad():
            shares.append(torch.softmax(network(normal), dim=1))
    targets = soft.synthetic.targets
    assert targets.dtype == torch.float16
    assert targets.shape == (40, 10)
    torch.testing.assert_close(targets.float(), (shares[0] + shares[1]) / 2, atol=1e-3, rtol=1e-3)


def test_the_images_and_the_headline_are_those_of_the_run_without(soft, hard):
    assert torch.equal(soft.synthetic.images, hard.synthetic.images)
    for name in ("accuracy", "baselines"):
        assert soft.summary[name] == hard.summary[name]
    assert "accuracy_soft" not in hard.summary
    assert soft.summary["accuracy_soft"]["runs"] != soft.summary["accuracy"]["runs"]
    assert soft.summary["baselines_soft"]["random"]["images"] == 10
    page = (soft.folder / "report.html").read_text()
    for one in (soft.summary["accuracy_soft"], soft.summary["baselines_soft"]["random"]):
        assert f"{one['mean']:.1f}" in page[page.index("trained on soft labels") - 200 :][:400]


def test_the_artifact_brings_them_back_and_counts_their_bytes(soft):
    folder = soft.folder / "distilled"
    again = load_synthetic(soft.folder)
    assert torch.equal(again.targets, soft.synthetic.targets)
    about = json.loads((folder / "synthetic.json").read_text())
    assert about["targets"]["bytes"] == soft.summary["stored_bytes"]["targets"] == 40 * 10 * 2
    assert about["accuracy_soft"] == soft.summary["accuracy_soft"]
    images, labels = again.to_dataset("soft").tensors
    assert torch.equal(labels, again.targets.float())
    assert torch.equal(images, again.to_dataset().tensors[0])
    assert again.to_dataset().tensors[1].tolist() == torch.arange(10).repeat_interleave(4).tolist()
    with pytest.raises(UserError, match="no soft labels"):
        again.hard().to_dataset("soft")


def test_datasets_is_given_them_as_a_column(soft):
    import datasets

    rows = datasets.Dataset.from_parquet(str(next((soft.folder / "distilled" / "data").iterdir())))
    found = torch.tensor(rows["target"][:])
    assert torch.equal(found, soft.synthetic.targets.float())
    assert rows.features["target"].length == 10


@pytest.mark.parametrize("fault", ["negative", "sum", "nan", "rows", "type"])
def test_an_artifact_whose_targets_are_no_shares_is_refused(soft, tmp_path, fault):
    targets = soft.synthetic.targets.clone()
    if fault == "rows":
        targets = targets[1:]
    elif fault == "type":
        targets = targets.float()
    else:
        targets[3, 0] = {"negative": -0.1, "sum": targets[3, 0] + 0.1, "nan": float("nan")}[fault]
    save_synthetic(soft.synthetic, tmp_path, {})
    about, stored = read_description(tmp_path), tmp_path / "stored.safetensors"
    write_tensors(stored, {**load_file(stored), "targets": targets})
    files = {**about["files"], stored.name: file_checksum(stored)}
    write_checked_json(tmp_path / "synthetic.json", {**about, "files": files})
    with pytest.raises(UserError, match="do not fit together"):
        load_synthetic(tmp_path)


def test_evaluate_reports_both(soft, digits):
    found = ddistill.evaluate(soft.folder, digits)
    assert list(found.runs) == pytest.approx(soft.summary["accuracy"]["runs"], abs=0.01)
    assert list(found.soft.runs) == pytest.approx(soft.summary["accuracy_soft"]["runs"], abs=0.01)
    assert (found.soft.protocol["labels"], found.soft.soft) == ("soft", None)
    assert ddistill.evaluate(soft.synthetic.hard(), digits, Recipe().changed(SOFT).evaluation, repeats=1).soft is None


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_training_on_them_is_sgd_on_the_cross_entropy_of_mixed_targets(cutmix):
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 8, 8, generator=draws)
    targets = torch.rand(12, 4, generator=draws).softmax(1)
    settings = TrainingSettings(lr=0.1, momentum=0.9, weight_decay=0.01, batch=6, augment={"operations": ()})
    settings = settings.model_copy(update={"cutmix": cutmix})
    own, other = (build_network(NetworkSettings(depth=1, width=4), 4, 1, 8, "net") for _ in range(2))
    mean, std = (0.4,), (0.3,)
    trainer = Trainer(own, ImageSet(images, targets, ddistill.augment.Normalisation(mean, std)), settings)
    drawn = trainer.draw(4, 6, draws)
    batches = list(torch.randperm(24, generator=draws).remainder(12).split(6))
    trainer.run(batches, drawn)

    optimiser = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, batch in enumerate(batches):
        x, t = images[batch].clone(), targets[batch].clone()
        top, bottom, left, right = drawn.mix.box[step].tolist()
        partner = drawn.mix.keys[step, :6].argsort()
        x[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / 64
        t = share * t + (1 - share) * t[partner]
        loss = -(t * F.log_softmax(other((x - 0.4) / 0.3), dim=1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for mine, its in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), its.detach(), rtol=1e-4, atol=1e-5)


def test_networks_side_by_side_learn_the_same_of_them(digits):
    recipe = Recipe().changed({**TINY, "evaluation.epochs": 6})
    first = initial_set(recipe.synthetic, digits, 0)
    rows = torch.rand(40, 10, generator=torch.Generator().manual_seed(0)).mul(4).softmax(1)
    given = replace(first, targets=rows.half())
    ways = [
        evaluate_set(given, digits, recipe.evaluation, recipe.network, execution=Execution(side_by_side=way))
        for way in (False, True)
    ]
    assert ways[0].runs == pytest.approx(ways[1].runs, abs=0.9)
    assert ways[0].runs != evaluate_set(first, digits, recipe.evaluation, recipe.network).runs


def test_targets_that_say_the_class_are_the_classes(digits):
    recipe = Recipe().changed(TINY)
    first = initial_set(recipe.synthetic, digits, 0)
    settings = EvaluationSettings(epochs=3, repeats=1)
    sure = replace(first, targets=F.one_hot(first.decoded()[1], 10).half())
    found = [evaluate_set(one, digits, settings, recipe.network).runs[0] for one in (first, sure)]
    assert found[0] == pytest.approx(found[1], abs=0.6)


def test_a_finished_run_is_given_them_and_keeps_them(digits, hard, soft, tmp_path):
    distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run")
    heard = Interrupt()
    again = distill_data(digits, Recipe().changed(SOFT), out=tmp_path / "run", resume=True, observer=heard)
    assert torch.equal(again.synthetic.targets, soft.synthetic.targets)
    assert again.summary["accuracy"] == hard.summary["accuracy"]
    assert [done for phase, done in heard.seen if phase == "evaluate"] == [1, 2, 3, 4]  # none of the classes again
    with pytest.raises(UserError, match=r"differs in: synthetic\.labels"):
        distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run", resume=True)


def test_an_interrupted_judgement_of_them_goes_on_to_the_same(digits, soft, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, Recipe().changed(SOFT), out=tmp_path / "run", observer=_AtSecond("evaluate", 3))
    again = distill_data(digits, Recipe().changed(SOFT), out=tmp_path / "run", resume=True)
    for name in ("accuracy", "accuracy_soft", "baselines_soft"):
        assert again.summary[name] == soft.summary[name]
    assert torch.equal(again.synthetic.targets, soft.synthetic.targets)


class _AtSecond(Interrupt):
    """Interrupts when a phase comes to a point for the second time."""

    def progress(self, phase, done, total, **figures):
        self.seen.append((phase, done))
        if self.seen.count((self.phase, self.at)) == 2:
            raise KeyboardInterrupt


def test_where_a_run_has_no_pool_one_is_trained_for_them(digits):
    changes = {**SOFT, "model_augmentation.networks": "fresh", "evaluation.repeats": 1}
    fresh = distill_data(digits, Recipe().changed(changes))
    assert fresh.synthetic.targets is not None
    assert len(list(cache_folder().rglob("member-*.safetensors"))) == 2
    assert fresh.summary["flops"]["pool"] > 0


def test_snapshots_teach_by_their_last_epoch(digits):
    changes = {**SOFT, "model_augmentation.networks": "snapshots", "evaluation.repeats": 1}
    alike = distill_data(digits, Recipe().changed({**changes, "model_augmentation.perturb": False}))
    assert alike.synthetic.targets.shape == (40, 10)
    assert float(alike.synthetic.targets.max()) < 1

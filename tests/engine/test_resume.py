"""Interruptions: what goes on, what is refused, and that the bits are those of an uninterrupted run."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import Interrupt

from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.engine.accuracies import Accuracies
from ddistill.engine.builder import Builder
from ddistill.engine.lock import locked
from ddistill.evaluation import Outcome
from ddistill.network_sources import AheadSource
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.synthetic import load_synthetic

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.factor": 1,
    "method.inner_steps": 1,
    "method.real_batch": 8,
    "method.network_samples": 16,
    "method.base_side": 8,
    "training.batch": 16,
    "evaluation.epochs": 2,
    "evaluation.repeats": 3,
    "budget.outer_steps": 3,
    "run.compile": "off",
}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def whole(digits):
    return distill_data(digits, Recipe().changed(TINY))


def assert_same(run, whole) -> None:
    assert torch.equal(run.synthetic.images, whole.synthetic.images)
    assert run.summary["accuracy"] == whole.summary["accuracy"]
    assert run.summary["baselines"] == whole.summary["baselines"]


def interrupted(digits, folder, phase: str, at: int, **changes) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, Recipe().changed({**TINY, **changes}), out=folder, observer=Interrupt(phase, at))


def test_an_interrupted_evaluation_trains_only_the_networks_that_are_missing(digits, whole, tmp_path):
    interrupted(digits, tmp_path / "run", "baseline", 3)  # all of "distilled", one of "random" and half of another
    observer = Interrupt()
    run = distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run", resume=True, observer=observer)
    assert_same(run, whole)
    assert [seen for seen in observer.seen if seen[0] in ("distill", "evaluate")] == []
    assert [done for phase, done in observer.seen if phase == "baseline"] == [3, 4, 5, 6]


def test_resuming_a_finished_run_computes_nothing_and_gives_the_same(digits, whole, tmp_path):
    distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run")
    before = (tmp_path / "run" / "distilled" / "stored.safetensors").read_bytes()
    observer = Interrupt()
    run = distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run", resume=True, observer=observer)
    assert_same(run, whole)
    assert observer.seen == []
    assert (tmp_path / "run" / "distilled" / "stored.safetensors").read_bytes() == before
    assert run.summary["seconds"]["evaluate"] > 0


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(digits, whole, tmp_path):
    interrupted(digits, tmp_path / "run", "evaluate", 1, **{"run.checkpoint_every": 0.0})
    newest = tmp_path / "run" / "checkpoint" / "step-00000003.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    observer = Interrupt()
    run = distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run", resume=True, observer=observer)
    assert_same(run, whole)
    assert "the checkpoint step-00000003.safetensors is damaged and was passed over" in observer.notes
    assert "resumed after outer step 2" in observer.notes


def test_other_data_are_refused_by_their_fingerprint(digits, tmp_path):
    interrupted(digits, tmp_path / "run", "distill", 1)
    other = replace(digits, fingerprint="0" * 64)
    with pytest.raises(UserError, match=r"started on other data: fingerprint \w{12}, now 000000000000"):
        distill_data(other, Recipe().changed(TINY), out=tmp_path / "run", resume=True)


def test_a_finished_run_is_extended_to_the_bits_of_a_longer_one(digits, whole, tmp_path):
    distill_data(digits, Recipe().changed({**TINY, "budget.outer_steps": 2}), out=tmp_path / "run")
    longer = Recipe().changed(TINY)
    with pytest.raises(UserError, match=r"differs in: budget\.outer_steps"):
        distill_data(digits, longer, out=tmp_path / "run", resume=True)
    run = distill_data(digits, longer, out=tmp_path / "run", resume="extend")
    assert_same(run, whole)
    assert run.summary["outer_steps"] == 3
    assert torch.equal(load_synthetic(tmp_path / "run").images, whole.synthetic.images)
    assert Recipe.from_yaml(tmp_path / "run" / "recipe.yaml").budget.outer_steps == 3


def test_only_the_budget_may_grow(digits, tmp_path):
    distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run")
    with pytest.raises(UserError, match=r"method\.image_lr"):
        distill_data(
            digits,
            Recipe().changed({**TINY, "budget.outer_steps": 4, "method.image_lr": 1.0}),
            out=tmp_path / "run",
            resume="extend",
        )
    for bound in ("budget.outer_steps", "budget.flops", "budget.seconds"):
        smaller = Recipe().changed({**TINY, bound: 2 if bound == "budget.outer_steps" else 0.001})
        with pytest.raises(UserError, match=f"has made 3 outer steps, .* of {bound}, more than the"):
            distill_data(digits, smaller, out=tmp_path / "run", resume="extend")
    run = distill_data(digits, Recipe().changed(TINY), out=tmp_path / "run", resume=True)  # it is what it was
    assert run.summary["outer_steps"] == 3


def test_a_schedule_that_depends_on_the_length_is_not_extended(digits, tmp_path):
    cafe = {
        "method.name": "cafe",
        "method.max_inner_steps": 1,
        "method.real_batch": 8,
        "evaluation.epochs": 1,
        "evaluation.repeats": 1,
    }
    common = {path: value for path, value in TINY.items() if not path.startswith(("method.", "evaluation."))}
    recipe = Recipe().changed({**common, **cafe, "budget.outer_steps": 1})
    distill_data(digits, recipe, out=tmp_path / "run")
    with pytest.raises(UserError, match="method cafe depends on the number of outer steps"):
        distill_data(digits, recipe.changed({"budget.outer_steps": 2}), out=tmp_path / "run", resume="extend")


def test_a_run_that_another_process_writes_is_refused_and_one_whose_process_is_gone_is_taken_over(digits, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import sys, time, pathlib\n"
        "from ddistill.engine.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"is being written by process {holder.pid} on ") as refusal:
        distill_data(digits, Recipe().changed(TINY), out=folder)
    assert "\n" not in str(refusal.value)
    assert not (folder / "recipe.yaml").exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (folder / ".owner.json").exists()  # a stale one
    with locked(folder):
        assert json.loads((folder / ".owner.json").read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_accuracies_that_were_cut_off_or_changed_are_not_taken(tmp_path):
    kept = Accuracies(tmp_path / "accuracies.jsonl")
    for repeat in range(3):
        kept.add(("distilled", 4, repeat), Outcome(50.0 + repeat, torch.tensor([3, 70_000])), 1.5)
        kept.add(("random", 0, repeat), Outcome(40.0 + repeat, torch.tensor([3])), 0.25)
    lines = kept.path.read_text().splitlines()
    kept.path.write_text("\n".join([*lines[:2], lines[2].replace("51.0", "91.0"), lines[4][:-9], "[]", "\x00"]))
    again = Accuracies(kept.path)
    (found,) = again.of("distilled", 4).values()
    assert found.accuracy == 50.0
    assert found.predicted.tolist() == [3, 70_000]
    assert again.of("random", 4) == {}
    assert again.of("random", 0) == {0: Outcome(40.0, None)}
    assert again.seconds == 1.75


def test_networks_drawn_while_the_loss_is_waited_for_give_the_same_run(digits, tmp_path, monkeypatch):
    changes = {
        **TINY,
        "model_augmentation.networks": "pool",
        "model_augmentation.pool_size": 2,
        "model_augmentation.pool_epochs": 1,
        "model_augmentation.perturb": True,
        "evaluation.repeats": 1,
    }
    plain = distill_data(digits, Recipe().changed(changes))
    drawn, made = Builder.network_source, []

    def ahead(self):
        made.append(AheadSource(drawn(self)))
        return made[-1]

    monkeypatch.setattr(Builder, "network_source", ahead)
    assert_same(distill_data(digits, Recipe().changed(changes)), plain)
    assert made[0].kept is None  # nothing is drawn for a fourth step
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, Recipe().changed(changes), out=tmp_path / "run", observer=Interrupt("distill", 2))
    assert_same(distill_data(digits, Recipe().changed(changes), out=tmp_path / "run", resume=True), plain)

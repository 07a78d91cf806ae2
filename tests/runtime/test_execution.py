"""How a run is computed: apart from the recipe's identity, kept beside it, and looked at when a run goes on."""

from __future__ import annotations

import json

import pytest
import yaml

from ddistill import api
from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError

TINY = {
    "network.width": 4,
    "network.depth": 2,
    "synthetic.factor": 1,
    "method.inner_steps": 1,
    "method.network_samples": 0,
    "method.real_batch": 4,
    "budget.outer_steps": 2,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
    "evaluation.baselines": (),
    "run.precision": "fp32",
    "run.compile": "off",
}
RECIPE = Recipe().changed(TINY)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    return distill_data(digits, RECIPE, out=tmp_path_factory.mktemp("execution") / "run")


def test_identity_has_no_field_of_the_execution():
    other = RECIPE.changed({"run.precision": "bf16", "run.class_chunk": 2, "run.checkpoint_every": 5})
    assert other.identity() == RECIPE.identity()
    assert RECIPE.identity()["run"] == {"seed": 0}
    assert RECIPE.changed({"run.seed": 3}).identity() != RECIPE.identity()


def test_it_stands_beside_the_recipe_and_in_summary_and_artifact(finished):
    stored = yaml.safe_load((finished.folder / "execution.yaml").read_text())
    assert stored == json.loads((finished.folder / "summary.json").read_text())["execution"]
    assert stored["asked"]["precision"] == stored["precision"] == "fp32"
    assert (stored["device"], stored["processes"], stored["compiled"]) == ("cpu", 1, False)
    assert {"kernels", "cuda_graphs", "plugins"} <= stored.keys()
    assert yaml.safe_load((finished.folder / "recipe.yaml").read_text())["run"] == {"seed": 0}
    about = json.loads((finished.folder / "distilled" / "synthetic.json").read_text())
    assert (about["recipe"]["run"], about["execution"]) == ({"seed": 0}, stored)


def test_the_recipe_of_a_run_or_of_its_artifact_is_computed_as_the_run_was(finished):
    assert Recipe.from_yaml(finished.folder / "recipe.yaml") == finished.recipe
    assert api.recipe_of(finished.folder) == finished.recipe


def test_what_the_recipe_says_itself_goes_before_what_stands_beside_it(finished, tmp_path):
    (tmp_path / "execution.yaml").write_text((finished.folder / "execution.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text("run: {precision: bf16}\n")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").run.precision == "bf16"
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").run.compile == "off"


def test_an_execution_that_was_changed_is_refused(finished, tmp_path):
    for name in ("recipe.yaml", "execution.yaml"):
        (tmp_path / name).write_text((finished.folder / name).read_text().replace("fp32", "bf16"))
    with pytest.raises(UserError, match=r"execution\.yaml was changed since it was written"):
        Recipe.from_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run.precision": "bf16"}, "is computed in fp32 and would go on in bf16.*--set run.precision=fp32"),
        ({"run.compile": "on"}, r"it differs in: run\.compile"),
    ],
)
def test_a_run_does_not_go_on_to_other_bits(digits, finished, change, words):
    with pytest.raises(UserError, match=words):
        distill_data(digits, RECIPE.changed(change), out=finished.folder, resume=True)


def test_a_run_goes_on_with_less_memory_and_other_checkpoints(digits, finished):
    other = RECIPE.changed({"run.class_chunk": 1, "run.checkpoint_every": 0})
    resumed = distill_data(digits, other, out=finished.folder, resume=True)
    assert resumed.summary["accuracy"] == finished.summary["accuracy"]


def test_a_run_of_the_first_edition_is_read_and_goes_on(digits, tmp_path):
    run = distill_data(digits, RECIPE, out=tmp_path / "run")
    (tmp_path / "run" / "execution.yaml").unlink()
    old = run.recipe.to_yaml()
    (tmp_path / "run" / "recipe.yaml").write_text(old)
    assert Recipe.from_yaml(tmp_path / "run" / "recipe.yaml") == run.recipe
    assert (
        distill_data(digits, RECIPE, out=tmp_path / "run", resume=True).summary["accuracy"] == run.summary["accuracy"]
    )
    (tmp_path / "run" / "execution.yaml").unlink()
    (tmp_path / "run" / "recipe.yaml").write_text(old)
    with pytest.raises(UserError, match=r"run\.precision=fp32"):
        distill_data(digits, RECIPE.changed({"run.precision": "bf16"}), out=tmp_path / "run", resume=True)


def test_another_place_to_go_on_is_told(digits, tmp_path, monkeypatch):
    from ddistill.observer import Observer
    from ddistill.recipe import in_yaml, signed

    class Listener(Observer):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    run = distill_data(digits, RECIPE, out=tmp_path / "run")
    stored = {**run.summary["execution"], "device": "cuda"}
    (tmp_path / "run" / "execution.yaml").write_text(signed(in_yaml(stored)))
    listener = Listener()
    distill_data(digits, RECIPE, out=tmp_path / "run", resume=True, observer=listener)
    assert "the run began with device cuda and goes on with cpu" in listener.notes

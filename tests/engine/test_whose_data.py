"""A run knows its images by place and fingerprint, and what it publishes names no place on the writer's machine."""

from __future__ import annotations

import getpass
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Interrupt
from PIL import Image
from typer.testing import CliRunner

import ddistill
from ddistill import api
from ddistill.cli import app
from ddistill.data import load_data
from ddistill.recipe import signed
from ddistill.report import write_page
from ddistill.reproduce.runs import DataSources
from ddistill.reproduce.targets import Cell
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import read_checked_json, write_checked_json

FEW = {
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "method.inner_steps": 1,
    "method.network_samples": 8,
    "method.real_batch": 4,
    "network.width": 8,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 1,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
}
OTHER = "are not those that the recipe was run on: fingerprint "


def pictures(root: Path, level: int = 50) -> Path:
    """Two classes of flat images, four of each in each part."""
    for part in ("train", "test"):
        for number, name in enumerate(("dark", "light")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for count in range(4):
                Image.new("L", (8, 8), level + 100 * number + count).save(folder / f"{count}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images in `own/set` and a run on them in `run`, started from there by relative paths."""
    place, before = tmp_path_factory.mktemp("made"), Path.cwd()
    pictures(place / "own" / "set")
    os.chdir(place)
    try:
        ddistill.distill("own/set", out="run", changes=FEW)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of it elsewhere, whose run names the copied images; the working folder is another one."""
    copy = Path(shutil.copytree(made, tmp_path / "place"))
    recipe = ddistill.Recipe.from_yaml(copy / "run" / "recipe.yaml")
    assert recipe.data.source == str(made / "own" / "set")
    moved = recipe.changed({"data.source": str(copy / "own" / "set")})
    (copy / "run" / "recipe.yaml").write_text(signed(moved.to_yaml()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return copy


def change_a_pixel(root: Path) -> None:
    path = root / "test" / "light" / "0.png"
    Image.new("L", (8, 8), 3).save(path)
    os.utime(path, (1, 1))


def test_a_run_is_evaluated_and_repeated_from_another_folder(place):
    for artifact in ("run", "run/distilled"):
        assert len(ddistill.evaluate(place / artifact, repeats=1).runs) == 1
    recipe = ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml")
    again = ddistill.distill(None, recipe)
    assert torch.equal(again.synthetic.images, ddistill.load_synthetic(place / "run").images)
    assert again.recipe.data == recipe.data


def test_changed_images_are_refused_by_whatever_reads_them(place):
    change_a_pixel(place / "own" / "set")
    recipe = ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml")
    for ask in (
        lambda: ddistill.evaluate(place / "run"),
        lambda: ddistill.distill(None, recipe, out="again"),
        lambda: api.pretrain(None, recipe),
        lambda: api.plan(None, recipe),
    ):
        with pytest.raises(UserError, match=OTHER) as refusal:
            ask()
        assert str(place / "own" / "set") in str(refusal.value)
        assert "--data" in str(refusal.value)
    assert not Path("again").exists()


def test_the_commands_say_it_in_one_line_and_take_the_data_that_are_given(place):
    change_a_pixel(place / "own" / "set")
    run, moved = str(place / "run"), str(pictures(place / "moved"))
    short = [word for name, value in FEW.items() for word in ("--set", f"{name}={value}")]
    repeat = ["--recipe", f"{run}/recipe.yaml", "--out", "again", *short]
    for words, given in ((["evaluate", run], ["--data", moved]), (["distill"], [moved])):
        rest = repeat if words == ["distill"] else []
        refused = CliRunner().invoke(app, [*words, *rest])
        assert refused.exit_code == 2
        assert OTHER in " ".join(refused.output.split())
        assert CliRunner().invoke(app, [*words, *given, *rest]).exit_code == 0


def test_images_that_are_gone_are_asked_for_and_may_be_given_from_elsewhere(place):
    (place / "own").rename(place / "moved")
    recipe = ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml")
    gone = rf"were at '{place / 'own' / 'set'}', where nothing is now; give the data again"
    with pytest.raises(UserError, match=gone):
        ddistill.evaluate(place / "run")
    with pytest.raises(UserError, match=gone):
        ddistill.distill(None, recipe)
    heard = Interrupt()
    ddistill.evaluate(place / "run", place / "moved" / "set", repeats=1, observer=heard)
    again = ddistill.distill(place / "moved" / "set", recipe, observer=heard)
    assert again.recipe.data.source == str(place / "moved" / "set")
    assert not [note for note in heard.notes if "other images" in note]


def test_other_images_that_are_given_are_used_and_it_is_said(place):
    change_a_pixel(place / "own" / "set")
    heard = Interrupt()
    ddistill.evaluate(place / "run", str(place / "own" / "set"), repeats=1, observer=heard)
    assert [note for note in heard.notes if note.startswith("these are other images than the recipe was run on")]


def test_other_data_settings_ask_for_other_images(place):
    recipe = ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml")
    colour = ddistill.distill(None, recipe, changes={"data.channels": 3})
    assert colour.recipe.data.fingerprint == load_data(place / "own" / "set", colour.recipe.data).fingerprint
    assert colour.recipe.data.fingerprint != recipe.data.fingerprint
    change_a_pixel(place / "own" / "set")
    with pytest.raises(UserError, match=OTHER):  # of the images that are decoded, validation takes some
        ddistill.distill(None, recipe, changes={"data.validation_fraction": 0.25})


def test_a_run_whose_images_were_moved_goes_on_with_them_and_with_no_others(place):
    (place / "own").rename(place / "moved")
    recipe = ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml")
    longer = {"budget.outer_steps": 2}
    run = ddistill.distill(place / "moved" / "set", recipe, out=place / "run", changes=longer, resume="extend")
    assert run.summary["outer_steps"] == 2
    assert ddistill.Recipe.from_yaml(place / "run" / "recipe.yaml").data.source == str(place / "moved" / "set")
    change_a_pixel(place / "moved" / "set")
    with pytest.raises(UserError, match="started on other data"):
        ddistill.distill(place / "moved" / "set", recipe, out=place / "run", changes=longer, resume=True)
    (place / "run" / "checkpoint" / "data.json").unlink()
    with pytest.raises(UserError, match="started on other data"):
        ddistill.distill(place / "moved" / "set", recipe, out=place / "run", changes=longer, resume=True)


def test_the_artifact_names_no_place_of_the_machine_it_was_made_on(place, made):
    whole = b"".join(path.read_bytes() for path in (place / "run" / "distilled").rglob("*") if path.is_file())
    names = [str(made), str(made / "own"), "own/set", str(Path.home()), made.parent.name]
    assert not [name for name in names if len(name) > 1 and name.encode() in whole]
    assert f"/{getpass.getuser()}/".encode() not in whole
    assert yaml.safe_load((made / "run" / "recipe.yaml").read_text())["data"]["source"] == str(made / "own" / "set")


def test_an_artifact_alone_asks_for_its_data_and_takes_them(place):
    shutil.copytree(place / "run" / "distilled", "alone")
    with pytest.raises(UserError, match=r"does not say where its images are.*give the data again.*--data"):
        ddistill.evaluate("alone")
    assert len(ddistill.evaluate("alone", place / "own" / "set", repeats=1).runs) == 1
    Path("other").mkdir()
    shutil.copytree("alone", "other/distilled")  # in the folder of another run
    ddistill.distill("digits", out="digits-run", changes=FEW)
    shutil.copy("digits-run/recipe.yaml", "other/recipe.yaml")
    with pytest.raises(UserError, match="does not say where its images are"):
        ddistill.evaluate("other")


def test_known_sets_stay_known_in_the_artifact_whatever_folder_it_is_read_in(place):
    ddistill.distill("digits", out="run", changes=FEW)
    shutil.copytree("run/distilled", "alone")
    pictures(Path("digits"))
    assert len(ddistill.evaluate("alone", repeats=1).runs) == 1
    assert ddistill.distill(None, ddistill.Recipe.from_yaml("run/recipe.yaml")).recipe.data.source == "digits"


def test_a_run_on_an_object_says_later_that_the_data_must_be_given(place):
    pairs = [(Image.new("L", (8, 8), 20 * number), number % 2) for number in range(12)]
    ddistill.distill((pairs, pairs), out="run", changes=FEW)
    recipe = ddistill.Recipe.from_yaml("run/recipe.yaml")
    Path("list").mkdir()  # what the object's type is called
    for ask in (lambda: ddistill.evaluate("run"), lambda: ddistill.distill(None, recipe, out="again")):
        with pytest.raises(UserError, match=r"an object in Python; give the data again: .* `data` in Python"):
            ask()
    assert len(ddistill.evaluate("run", (pairs, pairs), repeats=1).runs) == 1
    again = ddistill.distill((pairs, pairs), recipe)
    assert torch.equal(again.synthetic.images, ddistill.load_synthetic("run").images)
    page = write_page([Path("run")], Path("page.html")).read_text()
    assert "ddistill.distill(your_data, ddistill.Recipe.from_yaml(" in page
    assert "ddistill distill --recipe" not in page
    assert "ddistill distill --recipe" in write_page([place / "run"], Path("page.html")).read_text()


def test_a_run_of_an_earlier_version_is_checked_by_the_fingerprint_in_its_artifact(place, monkeypatch):
    for path in (place / "run" / "recipe.yaml", place / "run" / "distilled" / "synthetic.json"):
        if path.suffix == ".yaml":
            values = yaml.safe_load(path.read_text())
            del values["data"]["fingerprint"]
            values["data"]["source"] = "own/set"
            path.write_text(yaml.safe_dump(values))
        else:
            about = read_checked_json(path)
            del about["recipe"]["data"]["fingerprint"]
            about["recipe"]["data"]["source"] = "own/set"
            write_checked_json(path, about)
    monkeypatch.chdir(place)
    assert len(ddistill.evaluate("run", repeats=1).runs) == 1
    change_a_pixel(Path("own/set"))
    with pytest.raises(UserError, match=OTHER):
        ddistill.evaluate("run")


def test_an_import_keeps_no_path_and_its_hint_names_the_data(place):
    torch.save((torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), "set.pt")
    data = str(place / "own" / "set")
    result = CliRunner().invoke(app, ["import", "set.pt", "--data", data, "--out", "theirs"])
    assert f"judge it: ddistill evaluate theirs --data {data}" in " ".join(result.output.replace("\n", "").split())
    assert str(place).encode() not in Path("theirs/synthetic.json").read_bytes()
    result = CliRunner().invoke(app, ["import", "set.pt", "--data", "digits", "--out", "none"])
    assert result.exit_code == 2


def test_a_reproduction_reads_the_known_set_or_the_place_that_was_given(place):
    pictures(Path("digits"))
    cell = Cell({"data": "digits"}, ddistill.Recipe())
    assert DataSources({}).load(cell).source == "digits"
    own = replace(cell, labels={"data": "cifar10"})
    assert DataSources({"cifar10": str(place / "own" / "set")}).load(own).source == str(place / "own" / "set")
    with pytest.raises(UserError, match="two ways"):
        DataSources({"digits": "digits"}).load(cell)

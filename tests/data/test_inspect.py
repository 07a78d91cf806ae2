"""The account of what was taken: in words, on the command line, in a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data.made import classes, fill, parts, picture
from helpers import Interrupt
from PIL import Image
from typer.testing import CliRunner

import ddistill
from ddistill import api
from ddistill.cli import app
from ddistill.data import DataSettings, load_data

FAST = {
    "network.width": 4,
    "network.depth": 2,
    "synthetic.factor": 1,
    "budget.outer_steps": 1,
    "method.inner_steps": 1,
    "method.network_samples": 8,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 1,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
}


@pytest.fixture
def messy(tmp_path):
    """Parts in capitals below a wrapper, a picture between the folders, a text, a dangling link, grey, transparent."""
    root = tmp_path / "messy"
    parts(root / "pets", "Train", "Test", "val")
    picture("green").save(root / "pets" / "Train" / "preview.png")
    (root / "README.md").write_text("about")
    (root / ".DS_Store").write_text("x")
    (root / "pets" / "Train" / "red" / "9.png").symlink_to("/gone")
    picture("red").convert("L").save(root / "pets" / "Train" / "red" / "grey.png")
    clear = picture("red").convert("RGBA")
    clear.putalpha(0)
    clear.save(root / "pets" / "Train" / "red" / "clear.png")
    return root


def test_the_account_of_a_messy_folder(messy):
    data = load_data(messy)
    lines = data.account.lines
    assert lines[:6] == (
        f"data: {messy}",
        "train: 10 images, 4 ('blue') to 6 ('red'); from folder 'Train'",
        "test: 6 images, 3 of each class; from folder 'Test'",
        "classes: 2: 'blue', 'red'; from folders",
        "images: 8x8 pixels, RGB (3 channels)",
        "left out: the folder 'val': neither the training nor the test part",
    )
    assert [line for line in lines if line.startswith("left out: ")][1:] == [
        "left out: 1 image beside the class folders: 'pets/Train/preview.png'",
        "left out: 1 file that is no image: 'README.md'",
        "left out: 1 link that leads nowhere: 'pets/Train/red/9.png'",
        "left out: hidden files and folders: 1",
    ]
    assert "assumed: 1 grey train images were converted to RGB" in lines
    assert "assumed: 1 train images are transparent: put on white (data.background)" in lines
    assert "assumed: the folder 'pets' holds all others and was passed through" in lines
    about = data.account.as_dict()
    assert json.loads(json.dumps(about))["classes"] == 2
    assert load_data(messy).account == data.account  # from the cache


def test_inspect_says_it_and_writes_a_contact_sheet(messy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["inspect", str(messy)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[:-1] == list(load_data(messy).account.lines)
    assert done.stdout.splitlines()[-1] == "contact sheet: messy-sheet.png"
    sheet = np.asarray(Image.open(tmp_path / "messy-sheet.png").convert("RGB")).astype(int)
    red, blue = (np.abs(sheet - colour).max(axis=2) < 20 for colour in ((220, 20, 20), (20, 20, 220)))
    assert red.sum() > 3 * 60 * 60
    assert blue.sum() > 3 * 60 * 60
    assert np.argwhere(blue)[:, 0].max() < np.argwhere(red)[:, 0].min()  # a row for each class


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["digits", "--sheet", "d.png", "--images", "3"], 0, "contact sheet: d.png"),
        (["digits", "--set", "data.size=16"], 0, "images: 16x16 pixels, grey (1 channel)"),
        (["digits", "--set", "data.classes=[3, 5]"], 0, "classes: 2: '3', '5'"),
        (["digits", "--set", "method.inner_steps=3"], 2, "data.FIELD=VALUE only, got 'method.inner_steps'"),
        (["digits", "--set", "data.sise=3"], 2, "sise"),
        (["./nothing"], 2, "no such file or folder"),
    ],
)
def test_inspect_on_the_command_line(tmp_path, monkeypatch, words, code, says):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["inspect", *words])
    assert done.exit_code == code
    assert says in done.output


def test_a_contact_sheet_of_many_classes_shows_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes(tmp_path / "s", 3, {f"class {i:03d}": "red" for i in range(103)})
    done = CliRunner().invoke(app, ["inspect", "s", "--set", "data.test_fraction=0.3"])
    assert done.stdout.splitlines()[-1] == "contact sheet: s-sheet.png (the first 100 of 103 classes)"
    assert "and 93 more" in done.stdout


@pytest.mark.parametrize("side", [8, 32, 200])
def test_contact_sheets_of_small_and_large_images(tmp_path, side):
    from ddistill.report import save_contact_sheet

    images = [(np.full((side, side, 3), 9 * (i % 2), np.uint8), i % 2) for i in range(20)]
    data = load_data(images, DataSettings(test_fraction=0.2))
    assert save_contact_sheet(data, tmp_path / "s.png", 4) == 2
    with Image.open(tmp_path / "s.png") as sheet:
        width, height = sheet.size
    assert 4 * 64 <= width <= 4 * 140 + 60
    assert 2 * 64 <= height <= 2 * 140


def test_a_run_says_it_first_and_keeps_it(messy, tmp_path):
    observer = Interrupt()
    run = ddistill.distill(messy, out=tmp_path / "run", changes=FAST, observer=observer)
    lines = list(load_data(messy).account.lines)
    assert observer.notes[: len(lines)] == lines
    assert run.summary["account"] == lines
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[:2]] == ["start", "account"]
    assert events[1]["lines"] == lines
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(line.replace("'", "&#39;") in page for line in lines)
    assert str(tmp_path) not in (tmp_path / "run" / "distilled" / "README.md").read_text()


def test_the_range_of_images_per_class(tmp_path):
    fill(tmp_path / "a", "red", 9)
    fill(tmp_path / "b", "blue", 3)
    fill(tmp_path / "c", "green", 6)
    data = load_data(tmp_path, DataSettings(test_fraction=0.2, validation_fraction=0.2))
    train, validation, test = data.account.parts
    assert (train.least, train.most) == (("b", 2), ("a", 6))
    assert str(validation) == "2 images, 0 ('b') to 1 ('a'); from the training part, held out"
    assert test.images == 4


def test_evaluate_plan_and_pretrain_say_it_too(messy):
    lines = list(load_data(messy).account.lines)
    run = ddistill.distill(messy, changes=FAST)
    for work in (
        lambda observer: ddistill.evaluate(run.synthetic, messy, run.recipe.evaluation, observer=observer),
        lambda observer: api.plan(messy, changes=FAST, observer=observer),
        lambda observer: api.pretrain(messy, changes=FAST, observer=observer),
    ):
        observer = Interrupt()
        work(observer)
        assert observer.notes[: len(lines)] == lines


def test_a_file_that_is_no_sheet_is_not_replaced_unasked(messy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "messy-sheet.png"
    sheet.write_text("precious")
    refused = CliRunner().invoke(app, ["inspect", str(messy)])
    assert refused.exit_code == 2
    assert "--sheet" in refused.output
    assert sheet.read_text() == "precious"
    for words in (["--sheet", str(sheet)], []):  # asked for; then it is an earlier sheet
        assert CliRunner().invoke(app, ["inspect", str(messy), *words]).exit_code == 0
    assert CliRunner().invoke(app, ["inspect", str(messy), "--sheet", "sheet.txt"]).exit_code == 2


def test_no_sheet_is_written_into_the_data(messy, monkeypatch):
    monkeypatch.chdir(messy)
    before = sorted(messy.rglob("*"))
    for words in ([], ["--sheet", "pets/x.png"]):
        refused = CliRunner().invoke(app, ["inspect", ".", *words])
        assert refused.exit_code == 2
        assert "would lie in the data" in refused.output
        assert "train: 10 images" in refused.output
    assert sorted(messy.rglob("*")) == before


def test_images_before_some_are_set_aside_are_not_called_training_images():
    data = load_data([(np.full((8, 8), i / 20, "float32"), i % 2) for i in range(20)], DataSettings(test_fraction=0.3))
    assert data.account.lines[1].startswith("train: 14 images")
    assert "assumed: 20 given images hold floats: 0 is black and 1 white, as the given images run" in " ".join(
        data.account.lines
    )

"""A comparison on digits in no time: its rows, what it writes, and that it goes on where it was interrupted."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import Interrupt, few_networks
from typer.testing import CliRunner

import ddistill
from ddistill.cli import app
from ddistill.comparison import Candidates
from ddistill.data import Split, load_data
from ddistill.runtime.errors import UserError

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "budget.outer_steps": 2,
    "budget.speedup": 1,
    "evaluation.steps": 12,
    "evaluation.repeats": 2,
    "run.compile": "off",
    "run.precision": "fp32",
    "run.checkpoint_every": 0.0,
}
FEW = Candidates(recipes=("dm", "tgdd-ma"), selections=("herding", "mosaic"))
SMALL = {**TINY, "model_augmentation.pool_size": 1, "model_augmentation.pool_epochs": 1}
ROWS = ["random", "herding", "mosaic", "dm", "tgdd-ma", "all"]


@pytest.fixture(autouse=True)
def _one_small_pool(monkeypatch, tmp_path_factory):
    few_networks(monkeypatch)
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path_factory.getbasetemp() / "comparison"))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Undisturbed, by pools of its own."""
    with pytest.MonkeyPatch.context() as patch:
        few_networks(patch)
        patch.setenv("DDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return compared(digits, tmp_path_factory.mktemp("whole"))


def compared(data, out, **more):
    return ddistill.compare(data, **{"ipc": 2, "candidates": FEW, "changes": SMALL, "out": out, **more})


def test_every_row_is_there_and_what_it_rests_on(digits, whole):
    found, out = whole, whole.folder
    assert [row.name for row in found.rows] == ROWS
    assert {row.images for row in found.rows[:-1]} == {20}
    assert {row.stored_bytes for row in found.rows[:-1]} == {20 * 64}
    assert found.rows[-1].images == len(digits.train.labels)
    assert all(len(row.accuracies["convnet"]) == 2 for row in found.rows)
    assert (found.protocol["steps"], found.protocol["repeats"], found.protocol["labels"]) == (12, 2, "hard")
    for row in found.rows:
        if row.folder:
            assert len(ddistill.load_synthetic(out / row.folder).images) == 20
    summary = json.loads((out / found.of("dm").folder / "summary.json").read_text())
    assert tuple(summary["accuracy"]["runs"]) == found.of("dm").accuracies["convnet"]
    written = json.loads((out / "compare.json").read_text())
    assert written["verdict"] == found.verdict
    page = (out / "report.html").read_text()
    assert "https://" not in page
    assert found.verdict.split(":")[0] in page
    assert all(row.title in page for row in found.rows)
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_is_made_twice_and_another_network_is_only_added(digits, whole, monkeypatch):
    first, out = whole, whole.folder
    before = (out / "accuracies.jsonl").read_bytes()
    monkeypatch.setattr(ddistill.training.Trainer, "run", lambda *_: pytest.fail("a network was trained"))
    again = compared(digits, out)
    assert again.rows == first.rows
    assert (out / "accuracies.jsonl").read_bytes() == before
    monkeypatch.undo()
    few_networks(monkeypatch)
    both = compared(digits, out, candidates=replace(FEW, networks=("convnet,width=8,depth=2", "mlp,width=16")))
    assert list(both.rows[0].accuracies) == ["convnet,width=8,depth=2", "mlp,width=16"]
    assert [row.mean() for row in both.rows] == [row.mean() for row in first.rows]
    assert len(list((out / "runs").iterdir())) == 2


@pytest.mark.parametrize(("phase", "at"), [("pool", 1), ("distill", 1), ("evaluate", 13), ("baseline", 13)])
def test_an_interrupted_comparison_goes_on_to_the_same_results(phase, at, digits, tmp_path, whole, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        compared(digits, tmp_path / "out", observer=Interrupt(phase, at))
    resumed = compared(digits, tmp_path / "out")
    assert [row.accuracies for row in resumed.rows] == [row.accuracies for row in whole.rows]
    assert resumed.protocol == whole.protocol


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (Candidates(recipes=("idc-mb",)), "unknown recipe 'idc-mb'; did you mean idc-ma"),
        (replace(FEW, networks=("convent",)), "unknown network 'convent'; did you mean convnet"),
        (replace(FEW, selections=("herdin",)), "unknown baseline 'herdin'; did you mean herding"),
        (replace(FEW, selections=("random_decoded",)), "random_decoded stores more"),
    ],
)
def test_mistyped_names_are_refused_before_anything_is_read(candidates, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        compared(str(tmp_path / "no such data"), tmp_path / "out", candidates=candidates)
    assert list(tmp_path.iterdir()) == []


def test_too_short_a_time_is_refused_and_nothing_is_kept(digits, tmp_path):
    with pytest.raises(UserError, match="too short"):
        compared(digits, tmp_path / "out", minutes=0.001)
    assert not list((tmp_path / "out").glob("*.json*"))


def test_a_time_is_divided_once(digits, tmp_path):
    first = compared(digits, tmp_path, minutes=5.0)
    assert any("of pool and distillation" in line for line in first.notes)
    assert len(list(tmp_path.glob("plan-*.json"))) == 1
    assert compared(digits, tmp_path, minutes=5.0).notes == first.notes


def test_a_class_of_one_image_and_more_images_per_class_than_it_has(digits, tmp_path):
    kept = (digits.train.labels != 3) | (torch.arange(len(digits.train.labels)) == digits.class_offsets[3])
    few = replace(digits, train=Split(digits.train.images[kept], digits.train.labels[kept]))
    told = Interrupt()
    found = compared(few, tmp_path, ipc=3, observer=told, candidates=replace(FEW, recipes=("dm",)))
    assert [row.name for row in found.rows] == ["random", "herding", "mosaic", "dm", "all"]
    assert found.of("random").images == 28  # the class has no more
    assert found.of("herding").images == 30
    assert any("starts from noise images" in note for note in told.notes)


def test_the_folder_of_something_else_is_refused(digits, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        compared(digits, tmp_path)


def test_the_command_shows_the_table_and_goes_on(tmp_path):
    words = ["compare", "digits", "--ipc", "1", "--recipe", "dm", "--baseline", "mosaic", "--device", "cpu"]
    words += [word for path, value in TINY.items() for word in ("--set", f"{path}={value}")]
    runner = CliRunner(env={"DDISTILL_CACHE": str(tmp_path / "cache")})
    first, again = (runner.invoke(app, [*words, "--out", str(tmp_path / "out")]) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert "mosaics of random images" in first.stdout
    assert "over best selection" in first.stdout
    assert again.stdout == first.stdout

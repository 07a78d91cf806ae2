"""Whether a recipe reaches its figure: which figures there are, the rule, the command."""

from __future__ import annotations

import json
import math
import os

import pytest
from helpers import Interrupt
from typer.testing import CliRunner

from ddistill import recipes, reproduce
from ddistill.cli import app
from ddistill.recipes import measured
from ddistill.reproduce.in_processes import _Worker, run_cells_in_processes
from ddistill.reproduce.targets import SCALES, Scale
from ddistill.reproduce.verify import Figure, Verified, all_figures
from ddistill.runtime.errors import UserError

FIGURE = Figure("dm", "digits", 10, 50.0, 0.3, "a table", True)


def result(*accuracy: float, key: str = "k") -> reproduce.Result:
    about = {
        "machine": {"processor": "a processor", "threads": 1},
        "versions": {"torch": "2"},
        "data": {"name": "digits", "fingerprint": "f" * 64},
        "date": "2026-01-01",
        "recipe": {"run": {"seed": 0}},
    }
    return reproduce.Result(key, accuracy, {}, {}, (), about)


def test_the_tolerance_is_of_the_printed_spread_and_of_that_over_distillations():
    distillations = [(50.0, 52.0), (53.0, 55.0)]  # means 51 and 54: standard deviation 3 / sqrt(2)
    assert FIGURE.tolerance(distillations) == pytest.approx(2 * math.sqrt(0.3**2 + 4.5 * 1.5))
    assert FIGURE.tolerance([(50.0, 52.0)]) == pytest.approx(2 * math.sqrt(0.3**2 + 1.0 * 2))
    unprinted = Figure("dm", "digits", 10, 50.0, None, "", True)
    assert unprinted.tolerance([(50.0,), (50.0,)]) == pytest.approx(1.0)
    assert Figure("idc", "cifar10", 10, 67.5, None, "", True).tolerance([(1.0,), (1.0,)]) == pytest.approx(1.5)
    assert Figure("ncfm", "cifar10", 10, 71.8, None, "", True).tolerance([(1.0,), (1.0,)]) == pytest.approx(2.0)
    assert Figure("idc", "digits", 10, 97.7, None, "", False).tolerance([(1.0,), (1.0,)]) == pytest.approx(1.0)


@pytest.mark.parametrize(("mean", "missing"), [(51.0, 0.0), (49.5, 0.0), (49.39, 0.01), (40.0, 9.4)])
def test_a_figure_is_missed_by_what_is_below_the_tolerance(mean, missing):
    checked = Verified(FIGURE, (result(mean), result(mean)))
    assert checked.missing == pytest.approx(missing, abs=1e-9)
    assert checked.line()[-1] == ("pass" if not missing else f"**misses by {missing:.1f}**")


def test_published_figures_are_judged_by_the_method_s_own_protocol_and_ours_by_idc_s():
    known = {(one.recipe, one.ipc): one for one in all_figures()}
    assert len(known) == len(all_figures())
    found = {name: (known[name].accuracy, known[name].std, known[name].protocol) for name in known}
    assert found["idc-cifar10", 10] == (67.5, None, "idc")
    assert found["idc-ma-cifar10", 10] == (67.1, 0.2, "idc")
    assert found["dm-ma-cifar10", 10] == (49.5, None, "dsa")
    assert found["dc-cifar10", 10] == (44.9, None, "dc")
    assert found["cafe-cifar100", 50] == (37.9, None, "cafe")
    assert found["tm-cifar10", 1] == (46.3, None, "tm")
    assert found["ncfm-cifar10", 50] == (77.4, None, "ncfm")
    assert found["dance-cifar100", 10] == (49.8, None, "tgdd")
    assert found["idc-ma-imagenet-100", 20] == (56.0, 0.5, "idc")
    assert found["dm-digits", 10][2] == "idc"
    for one in all_figures():
        cell = one.cell("full", 3)
        assert (cell.recipe.name, cell.recipe.synthetic.ipc, cell.recipe.run.seed) == (one.recipe, one.ipc, 3)
        assert cell.recipe.evaluation.protocol == one.protocol
    assert known["dm-digits", 10].cell("full", 0).recipe.evaluation.epochs == 100  # as it was measured
    assert known["dm-digits", 1].cell("full", 0).recipe.evaluation.epochs == 300


def test_a_data_set_stands_for_each_of_its_recipes_at_the_usual_ipc():
    chosen = reproduce.figures("digits")
    assert {one.recipe for one in chosen} == {f"{one.family}-digits" for one in measured() if one.scale == "full"}
    assert {(one.recipe, one.ipc) for one in chosen if one.ipc != 10} == {
        (f"{family}-digits", 1) for family in ("tgdd", "tgdd-ma", "dance", "ncfm")
    }
    assert [one.ipc for one in reproduce.figures("dm-cifar10")] == [1, 10, 50]
    assert len({one.recipe for one in reproduce.figures("digits", ipc=1)}) == len(chosen)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("digit",), "did you mean digits"),
        (("dm-svhn",), "no figure is known of 'dm-svhn'"),
        (("digits", "smal"), "small"),
        (("dm-cifar10", "full", 20), "there is one at: 1, 10, 50"),
        (("idc-cifar10", "small"), "at scale small"),
    ],
)
def test_mistakes_name_the_choices(words, match):
    with pytest.raises(UserError, match=match):
        reproduce.figures(*words)


def test_every_measured_figure_is_that_of_a_recipe():
    for one in measured():
        assert f"ipc {one.ipc} {one.accuracy:.1f}" in recipes.RECIPES[f"{one.family}-{one.data}"].expected
        assert one.std >= 0


SHRUNK = {"network.width": 8, "evaluation.epochs": 2, "evaluation.repeats": 2, "budget.outer_steps": 2}
EASY = [
    Figure("dm", "digits", 1, 5.0, 0.1, "nowhere", False),
    Figure("random", "digits", 1, 5.0, 0.1, "nowhere", False),
]
HARD = Figure("dm", "digits", 1, 99.9, 0.1, "nowhere", False)


@pytest.fixture
def verify(tmp_path, monkeypatch):
    """Runs `ddistill verify` where three easy figures and one out of reach are known."""
    monkeypatch.chdir(tmp_path)
    scale = Scale("in no time", "digits", SHRUNK, {"random": {"budget.outer_steps": 1}})
    monkeypatch.setitem(SCALES, "full", scale)

    def run(known: list[Figure], *words: str):
        monkeypatch.setattr("ddistill.reproduce.verify.all_figures", lambda scale="full": known)
        done = CliRunner().invoke(app, ["verify", *words, "--out", "book", "--device", "cpu", "--jobs", "1"])
        return done.exit_code, done.stdout, done.stderr

    return run


def test_the_command_passes_or_says_what_is_missing_and_runs_nothing_twice(verify, tmp_path):
    code, text, errors = verify(EASY, "digits", "--into", "docs.md")
    assert (code, errors.count("Traceback")) == (0, 0), errors
    assert text.count("pass") == 2
    assert "2 x 2" in text
    store = tmp_path / "book" / "results.jsonl"
    before = store.read_bytes()
    rows = [json.loads(line) for line in before.splitlines()]
    assert [row["about"]["recipe"]["run"]["seed"] for row in rows] == [0, 1, 0, 1]
    code, text, _ = verify([HARD, EASY[1]], "digits", "--into", "docs.md")
    assert code == 1
    assert "misses by" in text
    assert store.read_bytes() == before
    page = (tmp_path / "docs.md").read_text()
    assert page.startswith("<!-- verified: made by `ddistill verify --into FILE.md` -->")
    assert "**misses by" in page
    assert "| random-digits | 1 | idc | 5.0 (0.1) | nowhere |" in page
    assert page.count("1 thread") == 2
    assert verify(EASY, "--into", "docs.md")[0] == 0
    assert "**misses" not in (tmp_path / "docs.md").read_text()
    assert verify(EASY)[0] == 2


@pytest.mark.slow
def test_processes_give_what_one_gives_and_stop_when_they_are_told_to(tmp_path, monkeypatch):
    scale = Scale("in no time", "digits", SHRUNK, {"random": {"budget.outer_steps": 1}})
    monkeypatch.setitem(SCALES, "full", scale)
    cells = [EASY[1].cell("full", seed) for seed in range(2)]
    sources = reproduce.DataSources({})
    alone = reproduce.run_cells(cells[:1], tmp_path / "one", sources)
    with pytest.raises(KeyboardInterrupt):
        run_cells_in_processes(cells, tmp_path / "two", sources, 2, observer=Stops())
    told: list[int] = []
    both = run_cells_in_processes(cells, tmp_path / "two", sources, 2, on_cell=lambda number, *_: told.append(number))
    assert (both[0].key, both[0].accuracy) == (alone[0].key, alone[0].accuracy)
    assert sorted(told) == [1, 2]
    assert len((tmp_path / "two" / "results.jsonl").read_text().splitlines()) == 2
    assert run_cells_in_processes(cells, tmp_path / "two", sources, 2) == both


class Stops(Interrupt):
    """Asks to stop at once."""

    def stopping(self):
        return True


def test_a_process_stops_when_its_driver_is_gone(monkeypatch):
    monkeypatch.setattr(_Worker, "driver", os.getppid())
    assert not _Worker().stopping()
    monkeypatch.setattr(_Worker, "driver", 1 + os.getppid())
    assert _Worker().stopping()

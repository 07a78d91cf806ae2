"""Evaluations during a run may be shorter than the one at the end; what they cost is told."""

import json

import pytest
from engine.test_budget import TINY, events
from engine.test_faults import At, StopAt

from ddistill import terminal
from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.recipe import Recipe
from ddistill.terminal import Screen

SHORT = {
    **TINY,
    "budget.outer_steps": 2,
    "evaluation.epochs": 3,
    "evaluation.every": 1,
    "evaluation.epochs_on_the_way": 2,
    "synthetic.factor": 1,
}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_watching_takes_fewer_epochs_than_the_final_figure_and_the_page_says_so(digits, tmp_path):
    recipe = Recipe().changed(SHORT)
    run = distill_data(digits, recipe, out=tmp_path / "run")
    judged = [(event["step"], event["epochs"]) for event in events(tmp_path / "run", "accuracy")]
    assert judged == [(1, 2), (2, 3)]
    assert run.summary["epochs"] == {"judged": 3, "on_the_way": 2}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Test accuracy over outer steps; on the way after 2 epochs, at the end 3" in page
    about = json.loads((tmp_path / "run" / "distilled" / "synthetic.json").read_text())
    assert about["evaluation"]["epochs"] == 3
    usual = distill_data(digits, recipe.changed({"evaluation.epochs_on_the_way": None}))
    assert usual.summary["accuracy"] == run.summary["accuracy"]


def test_an_evaluation_on_the_way_that_was_cut_off_goes_on_to_the_same_figures(digits, tmp_path):
    recipe = Recipe().changed(SHORT)
    whole = distill_data(digits, recipe, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, recipe, out=tmp_path / "run", observer=StopAt("evaluate", 3))
    observer = At()
    run = distill_data(digits, recipe, out=tmp_path / "run", resume=True, observer=observer)
    assert [done for phase, done in observer.seen if phase == "evaluate"] == [4, *range(1, 7)]
    assert run.summary["accuracy"] == whole.summary["accuracy"]
    figures = [[event["runs"] for event in events(tmp_path / name, "accuracy")] for name in ("run", "whole")]
    assert figures[0] == figures[1]


def test_time_left_is_told_where_no_bar_is_seen(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    screen, said = Screen(), []
    monkeypatch.setattr(terminal.err, "print", said.append)
    for done in range(1, 5):
        clock[0] = 20.0 * done
        screen.progress("evaluate", done, 10)
    clock[0] = 200.0
    screen.progress("evaluate", 1, 300)  # the next evaluation
    assert said[0].startswith("training on the distilled set: 2/10 about 3 min left")
    assert "left" not in said[-1]
    screen.progress("evaluate", 300, 300)
    clock[0], said[:] = 1e6, []  # hours later one of the same length
    screen.progress("evaluate", 1, 300)
    for done in (2, 3):
        clock[0] += 40.0
        screen.progress("evaluate", done, 300)
    assert said[-1].startswith("training on the distilled set: 3/300 about 3.3 h")

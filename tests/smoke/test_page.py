"""The page of a run: what it holds, and that a browser shows it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddistill.cli import app
from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.recipe import Recipe
from ddistill.report import write_page
from ddistill.report.curves import Curve, chart, short, ticks
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import read_checked_json, write_checked_json

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.ipc": 3,
    "synthetic.factor": 2,
    "method.inner_steps": 1,
    "method.real_batch": 8,
    "method.network_samples": 16,
    "method.image_lr": 20.0,
    "method.base_side": 8,
    "training.batch": 16,
    "evaluation.epochs": 1,
    "evaluation.repeats": 2,
    "evaluation.every": 1,
    "budget.outer_steps": 3,
    "run.compile": "off",
}
MARKUP = "<script>document.title='broken'</script><b>zero</b>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, auto_precision) -> list[Path]:
    folder = tmp_path_factory.mktemp("page")
    digits = load_data("digits")
    digits = replace(digits, class_names=(MARKUP, *digits.class_names[1:]))
    for name, seed in (("one", 0), ("two", 1)):
        distill_data(digits, Recipe().changed({**TINY, "name": f"run {name}", "run.seed": seed}), out=folder / name)
    return [folder / "one", folder / "two"]


def test_every_run_leaves_a_page_that_asks_for_nothing_outside(runs):
    page = (runs[0] / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert page.count("data:image/png") == 4  # the start, two evaluations, the end
    assert MARKUP not in page
    assert len(page) < 200_000


def test_a_page_states_accuracy_baseline_recipe_and_how_to_repeat(runs):
    page = (runs[0] / "report.html").read_text(encoding="utf-8")
    summary = json.loads((runs[0] / "summary.json").read_text())
    assert f"{summary['accuracy']['mean']:.1f} %" in page
    assert f"{summary['baselines']['random']['mean']:.1f} %" in page
    assert "pool_size: 5" in page
    assert f"ddistill distill --recipe {runs[0]}/recipe.yaml" in page
    assert "load_synthetic" in page


def test_a_page_says_where_chosen_real_images_are_better(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    summary = read_checked_json(folder / "summary.json")
    row = {**summary["baselines"]["random"], "mean": summary["accuracy"]["mean"] + 4.0}
    many = {**row, "mean": 99.0, "images": 10 * row["images"]}
    for baselines, shown in (({"mosaic": row, "random_decoded": many}, True), ({"random_decoded": many}, False)):
        write_checked_json(folder / "summary.json", {**summary, "baselines": {**summary["baselines"], **baselines}})
        page = write_page([folder], tmp_path / "page.html").read_text(encoding="utf-8")
        told = '<b>-4.0</b><span class="small soft">points against mosaics of random images, the best real images'
        assert (told in page) == shown
        assert "points over random images" in page


def test_several_runs_come_on_one_page_by_the_command(runs, tmp_path):
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(tmp_path / "both.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "2 runs side by side" in page
    assert page.count("Test accuracy over outer steps") >= 1


def test_a_folder_without_a_finished_run_is_refused(tmp_path, runs):
    with pytest.raises(UserError, match="holds no finished run"):
        write_page([tmp_path], tmp_path / "page.html")
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["report", str(runs[0]), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "is a folder" in result.stderr


def test_a_damaged_log_costs_curves_and_nothing_else(runs, tmp_path):
    log = runs[1] / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole[:200] + "\x00\n[]\n{" + whole[200:])
    write_page([runs[1]], tmp_path / "page.html")
    log.write_text(whole)
    assert "The images" in (tmp_path / "page.html").read_text()


def test_charts_escape_names_and_label_axes_with_round_numbers():
    svg = chart("a < b", [Curve("<i>", "#000", [(0, 10.0), (5e15, 20.0)])], "x", "y", [(12.0, "#111")])
    assert "<i>" not in svg
    assert "a &lt; b" in svg
    assert ticks(43.0, 71.0) == [50.0, 60.0, 70.0]
    assert [short(v) for v in (0, 250.0, 1234.0, 4.5e16)] == ["0", "250", "1.2k", "45P"]


@pytest.fixture
def opened(browser, runs):
    """A page of the first run, with what went wrong in it and what it asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto((runs[0] / "report.html").as_uri())
    page.wait_for_selector("section[data-ready]")
    yield page, wrong
    page.close()


def test_the_page_loads_without_errors_or_outside_requests(opened):
    page, wrong = opened
    assert wrong == []
    assert page.title() == "run one, ipc 3"
    assert page.locator(".tile").count() == 30


def test_a_class_name_with_markup_stays_text(opened):
    page, _ = opened
    assert page.locator(".row > span").first.text_content() == MARKUP
    assert page.locator(".row b").count() == 0


def test_the_slider_changes_the_pictures(opened):
    page, _ = opened
    background = "element => getComputedStyle(element).backgroundImage"
    last = page.locator(".tile").first.evaluate(background)
    page.locator(".step").fill("0")
    assert page.locator("output").text_content() == "start"
    assert page.locator(".tile").first.evaluate(background) != last


def test_the_keyboard_moves_between_images(opened):
    page, _ = opened
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator(".which").text_content() == "1, image 2"
    assert page.locator(".tile[aria-pressed=true]").count() == 1
    assert page.locator(".cells canvas").count() == 4


def test_few_classes_are_not_searched_and_what_is_confused_is_folded_away(opened):
    page, _ = opened
    assert page.locator(".search, .order").count() == 0
    assert page.locator(".row > .percent").count() == 0
    assert not page.locator(".confused").is_visible()
    page.locator("details summary", has_text="taken for what").click()
    assert page.locator(".confused tbody tr").count() > 0
    assert page.locator(".matrix text", has_text="<script>").count() == 1


def test_a_phone_shows_it_without_sideways_scrolling(browser, runs):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto((runs[0] / "report.html").as_uri())
    page.wait_for_selector("section[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()

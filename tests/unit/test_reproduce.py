"""Tables of the paper: their runs, the store of results, and what is printed beside the published figures."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddistill import reproduce
from ddistill.cli import app
from ddistill.errors import UserError
from ddistill.reproduce.published import published
from ddistill.reproduce.tables import put_into
from ddistill.reproduce.targets import AUGMENTED, SCALES, TARGETS


def result(key: str = "k", accuracy: tuple[float, ...] = (50.0, 52.0), seconds: float = 10.0) -> reproduce.Result:
    about = {
        "machine": {"processor": "a processor", "threads": 1},
        "versions": {"torch": "2"},
        "data": {"name": "cifar10", "fingerprint": "f" * 64},
        "date": "2026-01-01",
    }
    judged = tuple(reproduce.Judged(step, 50.0 + step, 5.0 + seconds * step / 4, 1e12 + 5e11 * step) for step in (2, 4))
    costs = {"pool": 5.0, "distill": seconds, "evaluate": 1.0}
    return reproduce.Result(key, accuracy, costs, {"pool": 1e12, "distill": 2e12}, judged, about)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_of_every_scale_is_a_complete_recipe(target, scale):
    cells = reproduce.cells_of(target, scale, range(2))
    assert {cell.labels["seed"] for cell in cells} == {0, 1}
    assert len({json.dumps(cell.labels, sort_keys=True) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.recipe.run.seed == cell.labels["seed"]
        assert cell.recipe.synthetic.ipc == cell.labels["ipc"]
        assert cell.recipe.budget.speedup == cell.labels["speedup"]
        pool = cell.recipe.model_augmentation.networks == "pool"
        assert pool == (cell.labels["networks"] == AUGMENTED and cell.labels["method"] != "tm")


def test_the_full_scale_is_the_published_one():
    (cell,) = reproduce.cells_of("table3a", "full", only={"method": "idc", "ipc": "10", "speedup": "1"})
    assert (cell.recipe.network.width, cell.recipe.budget.steps, cell.recipe.method.inner_steps) == (128, 2000, 100)
    assert cell.recipe.evaluation.epochs == 1000


def test_published_figures_are_looked_up():
    found = published("5", "CIFAR-10", 10, "IDC + model augmentation", 5)
    assert found is not None
    assert (found.accuracy, found.std, found.hours) == (67.1, None, 4.45)
    assert published("3a", "CIFAR-10", 7, "IDC", 1) is None


def test_published_figures_are_those_of_the_specification():
    specified = Path(__file__).parents[3] / "shared" / "spec" / "published_results.csv"
    if not specified.is_file():
        pytest.skip("the specification is not at hand")
    packaged = Path(reproduce.__file__).with_name("published_results.csv")
    assert packaged.read_text() == specified.read_text()


def test_the_key_follows_from_what_decides_a_result():
    first, second = reproduce.cells_of("table6", "tiny", only={"ipc": "1"})
    keys = {reproduce.recipe_key(cell.recipe, "data") for cell in (first, second)}
    assert len(keys) == 2
    renamed = first.recipe.changed({"name": "x", "data.source": "elsewhere"})
    assert reproduce.recipe_key(renamed, "data") == reproduce.recipe_key(first.recipe, "data")
    assert reproduce.recipe_key(first.recipe, "other") != reproduce.recipe_key(first.recipe, "data")


def test_the_store_passes_over_lines_that_were_cut_off_or_changed(tmp_path):
    store = reproduce.Store(tmp_path / "deep" / "results.jsonl")
    assert list(store) == []
    store.add(result("a"))
    store.add(result("b"))
    lines = store.path.read_text().splitlines()
    store.path.write_text("\n".join([lines[0], lines[1].replace("52.0", "92.0"), "[]", lines[0][:40]]))
    store.add(result("c"))
    assert [one.key for one in store] == ["a", "c"]
    assert store.get("a") == result("a")
    assert store.get("b") is None


def test_cells_are_restricted_and_mistakes_name_the_choices():
    cells = reproduce.cells_of("methods", "small", only={"method": "idc", "speedup": "5"})
    assert [cell.labels["networks"] for cell in cells] == ["plain", AUGMENTED]
    for wrong, match in (
        (("table7", "small", {}), "table6"),
        (("table5", "smal", {}), "small"),
        (("table5", "small", {"methd": "idc"}), "method"),
        (("table5", "small", {"method": "tm"}), "dc, dm, idc"),
    ):
        with pytest.raises(UserError, match=match):
            reproduce.cells_of(wrong[0], wrong[1], only=wrong[2])


@pytest.mark.parametrize("target", TARGETS)
def test_tables_say_what_was_not_run(target):
    cells = reproduce.cells_of(target, "small")
    nothing = reproduce.render(target, "small", cells, [None] * len(cells))
    assert "not run" in nothing
    assert "Nothing of it has been run" in nothing
    some = reproduce.render(target, "small", cells, [result(), *[None] * (len(cells) - 1)])
    assert "51.0 (1.0)" in some
    assert "not run" in some


def test_table_5_gives_speed_up_and_gain():
    cells = reproduce.cells_of("table5", "small", only={"method": "idc"})
    known = [result(seconds=95.0), result(seconds=15.0), result(accuracy=(60.0, 60.0), seconds=15.0)]
    line = next(one for one in reproduce.render("table5", "small", cells, known).splitlines() if "IDC + model" in one)
    assert "5.00x (6.33x without the pool)" in line
    assert "1.18x" in line
    assert "67.1 / 4.45 h" in line


def test_a_section_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    put_into(page, "table5 small", "first")
    put_into(page, "table6 small", "other")
    put_into(page, "table5 small", "second")
    text = page.read_text()
    assert text.startswith("# Results\n\n<!-- table5 small: made by `ddistill reproduce table5 --scale small` -->")
    assert text.index("second") < text.index("other")
    assert "first" not in text


def test_the_command_runs_a_table_and_does_not_run_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shrunk = {**SCALES["tiny"].settings, "network.width": 8, "evaluation.epochs": 2, "evaluation.repeats": 1}
    few = {"budget.outer_steps": 5, "method.inner_steps": 1, "method.network_samples": 16, "method.real_batch": 8}
    tiny = reproduce.targets.Scale("in no time", "digits", shrunk, {"idc": few})
    monkeypatch.setitem(SCALES, "tiny", tiny)
    words = ["reproduce", "table6", "--scale", "tiny", "--only", "ipc=1", "--out", "book", "--device", "cpu"]
    runner = CliRunner(env={"DDISTILL_CACHE": str(tmp_path / "cache"), "DDISTILL_KERNELS": "off"})
    listed = runner.invoke(app, [*words, "--list"])
    assert listed.exit_code == 0, listed.stderr
    assert listed.stdout.count("not run") == 2
    first = runner.invoke(app, [*words, "--into", "results.md"])
    assert first.exit_code == 0, first.stderr
    assert "| digits | 1 |" in first.stdout
    assert first.stdout.strip() in (tmp_path / "results.md").read_text()
    assert "in no time" in first.stdout
    before = (tmp_path / "book" / "results.jsonl").read_bytes()
    again = runner.invoke(app, words)
    assert again.stdout == first.stdout
    assert (tmp_path / "book" / "results.jsonl").read_bytes() == before
    wrong = runner.invoke(app, ["reproduce", "table4", "--scale", "full", "--data", "x"])
    assert wrong.exit_code == 2
    assert "imagenet-10, imagenet-100" in wrong.stderr

"""Tables of the paper: their runs, the store of results, and what is printed beside the published figures."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers import Interrupt
from typer.testing import CliRunner

from ddistill import reproduce
from ddistill.cli import app
from ddistill.reproduce.published import published
from ddistill.reproduce.tables import put_into
from ddistill.reproduce.targets import AUGMENTED, CORESETS, SCALES, TARGETS
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import fingerprint

PUBLISHED_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "2026-11-25-reproduce-small.jsonl"


def result(key: str = "k", accuracy: tuple[float, ...] = (50.0, 52.0), seconds: float = 10.0) -> reproduce.Result:
    ages = [
        reproduce.GradientsAtAge(age, 3.0 / (1 + age), 0.1 * age, 0.9, 5.0, 40, 60.0).as_dict() for age in (0, 1, 4)
    ]
    about = {
        "machine": {"processor": "a processor", "threads": 1},
        "versions": {"torch": "2"},
        "data": {"name": "cifar10", "fingerprint": "f" * 64},
        "date": "2026-01-01",
        "gradients": ages,
    }
    costs = {"pool": 5.0, "distill": seconds, "evaluate": 1.0}
    judged = tuple(reproduce.Judged(step, 50.0 + step, 5.0 + seconds * step / 4, 1e12 + 5e11 * step) for step in (2, 4))
    return reproduce.Result(key, accuracy, costs, {"pool": 1e12, "distill": 2e12}, judged, about)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_of_every_scale_is_a_complete_recipe(target, scale):
    cells = reproduce.cells_of(target, scale, range(2))
    assert {cell.labels["seed"] for cell in cells} == ({0, 1, 2} if target == "factors" else {0, 1})
    assert len({json.dumps(cell.labels, sort_keys=True) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.recipe.run.seed == cell.labels["seed"]
        if cell.ages:
            continue
        assert cell.recipe.synthetic.ipc == cell.labels["ipc"]
        assert cell.recipe.budget.speedup == cell.labels["speedup"]
        if cell.labels["method"] == "tgdd":
            assert cell.recipe.model_augmentation.perturb == (cell.labels["networks"] == AUGMENTED)
            continue  # its networks come from between the epochs, plain or augmented
        if cell.labels["data"] == "imagenet-100" and cell.labels["method"] == "idc":
            continue  # plain IDC draws stored networks there, too
        if cell.labels["method"] in CORESETS:
            continue  # one trained network decides
        pool = cell.recipe.model_augmentation.networks == "pool"
        assert pool == (cell.labels["networks"] == AUGMENTED and cell.labels["method"] != "tm")


def test_the_full_scale_is_the_published_one():
    (cell,) = reproduce.cells_of("table3a", "full", only={"method": "idc", "ipc": "10", "speedup": "1"})
    assert (cell.recipe.network.width, cell.recipe.budget.steps, cell.recipe.method.inner_steps) == (128, 2000, 100)
    assert cell.recipe.evaluation.epochs == 1000


def test_the_full_scale_has_every_cell_of_the_paper():
    text = Path(reproduce.__file__).with_name("published_results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    missing = []
    for row in rows:
        name, _, ours = row["method"].partition(" + model augmentation")
        marks = {
            "data": row["dataset"].lower().replace("cifar-", "cifar"),
            "method": name.lower(),
            "ipc": int(row["ipc"]),
            "speedup": int(row["speedup"]),
            "networks": AUGMENTED if "augmentation" in row["method"] else "plain",
        }
        if ours:
            marks["selection"] = "average" if "average" in ours else "random"
        cells = reproduce.cells_of(f"table{row['table']}", "full")
        missing += [] if any(marks.items() <= cell.labels.items() for cell in cells) else [row]
    assert len(rows) > 90
    assert missing == []


@pytest.mark.parametrize("target", ["table3a", "table3b", "table4", "table5"])
def test_small_has_cifar100_beside_cifar10(target):
    cells = reproduce.cells_of(target, "small")
    beside = [cell for cell in cells if cell.labels["data"] == "cifar100"]
    assert {cell.labels["data"] for cell in cells} == ({"cifar100"} if target == "table3b" else {"cifar10", "cifar100"})
    assert {(cell.labels["method"], cell.labels["networks"], cell.labels["ipc"]) for cell in beside} == {
        *(
            (name, networks, ipc)
            for name in ("dm", "idc", "tgdd")
            for networks in ("plain", AUGMENTED)
            for ipc in (1, 10)
        ),
        *((name, "-", ipc) for name in ("random", "mosaic") for ipc in (1, 10)),
    }
    assert {cell.recipe.synthetic.factor for cell in beside if cell.labels["method"] == "mosaic"} == {2}
    assert {cell.recipe.network.width for cell in beside} == {32}
    assert {cell.recipe.data.source for cell in beside} == {"cifar100"}
    shown = reproduce.render(target, "small", cells, [None] * len(cells))
    assert "CIFAR-100" in shown


def test_the_ages_of_networks_are_a_table_of_accuracies_and_costs():
    cells = reproduce.cells_of("ages", "tiny", range(1), only={"ipc": "10", "epochs": "5"})
    assert [(c.recipe.model_augmentation.pool_size, c.recipe.model_augmentation.perturb) for c in cells] == [
        (1, False),
        (1, True),
        (5, False),
        (5, True),
    ]
    assert {c.recipe.model_augmentation.pool_epochs for c in cells} == {5}
    assert {c.recipe.method.image_momentum for c in cells} == {0.9}
    small = reproduce.cells_of("ages", "small", range(1))
    assert {(c.labels["ipc"], c.recipe.evaluation.epochs) for c in small} == {(10, 300), (50, 100)}
    results = [result(str(n), (50.0 + n,), seconds=10.0 * (n + 1)) if n != 1 else None for n in range(4)]
    shown = reproduce.render("ages", "tiny", cells, results)
    assert "| 10 | 100 | 5 | 50.0 | not run | 52.0 | 53.0 | 5 | 5 | 27 |" in shown
    shown = reproduce.render("ages", "tiny", cells[2:], results[2:])
    assert "| 10 | 100 | 5 | - | - | 52.0 | 53.0 |  | 5 | 35 |" in shown


def test_small_compares_random_networks_with_their_average_on_both():
    marks = [cell.labels for cell in reproduce.cells_of("table6", "small")]
    assert {(one["data"], one["ipc"], one["selection"]) for one in marks} == {
        (data, ipc, how) for data in ("cifar10", "cifar100") for ipc in (1, 10) for how in ("random", "average")
    }


def test_a_figure_over_steps_may_be_of_cifar100():
    for scale in ("small", "full"):
        usual, hundred = (reproduce.cells_of("figure1", scale, range(1), data=data) for data in (None, "cifar100"))
        assert [cell.labels["data"] for cell in (*usual, *hundred)] == ["cifar10"] * 2 + ["cifar100"] * 2
    assert all(cell.recipe.budget.steps >= 5 for cell in hundred)
    (point,) = {cell.recipe.evaluation.every for cell in reproduce.cells_of("figure2", "small", data="cifar100")}
    assert point >= 1
    assert {cell.labels["data"] for cell in reproduce.cells_of("figure3", "tiny", data="cifar100")} == {"digits"}
    assert {cell.labels["data"] for cell in reproduce.cells_of("figure4", "small", data="cifar100")} == {"cifar10"}


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
    keys = {reproduce.result_key(cell.recipe, "data") for cell in (first, second)}
    assert len(keys) == 2
    renamed = first.recipe.changed({"name": "x", "data.source": "elsewhere", "data.fingerprint": "0" * 64})
    assert reproduce.result_key(renamed, "data") == reproduce.result_key(first.recipe, "data")
    assert reproduce.result_key(first.recipe, "other") != reproduce.result_key(first.recipe, "data")


AS_BEFORE = {"data.constants": "measured", "data.whitening": None}
"""How the recipes of CIFAR-10 normalised until 2026-11-26; their results stay in the file, under these settings."""
MENDED = {
    *("idc-ma", "dc-ma", "dsa-ma", "dm-ma", "cafe-ma"),  # the rates of the pool
    *("cafe", "cafe-ma"),  # the sum over real images, and what its schedule watches
    "tm",  # the epochs that students start from
}
"""Families whose published results are those of no recipe any more: `reproduce.store.CHANGES` says why."""


def test_published_results_are_found_again_where_what_they_measure_is_what_is_computed_now():
    rows = list(reproduce.Store(PUBLISHED_RESULTS))
    (data,) = {row.about["data"]["fingerprint"] for row in rows}
    cells = [cell for target in TARGETS for cell in reproduce.cells_of(target, "small", range(2))]
    today = {reproduce.result_key(cell.recipe, data, cell.ages) for cell in cells}
    before = {reproduce.result_key(cell.recipe.changed(AS_BEFORE), data, cell.ages) for cell in cells}
    assert len(rows) == len(PUBLISHED_RESULTS.read_text().splitlines()) == 42
    assert not {row.key for row in rows} & today  # all are of CIFAR-10, which is normalised by other constants now
    families = {True: set(), False: set()}
    for row in rows:
        families[row.key in before].add(row.about["recipe"]["name"].removesuffix("-cifar10"))
    assert families == {True: {"random", "herding", "k-center", "idc", "dc", "dsa", "dm"}, False: MENDED}
    # the keys themselves: a field that changes them orphans what users have computed
    assert (
        fingerprint(sorted(row.key for row in rows if row.key in before))
        == "4f00577e7ca248e40049abae68c4a5aa459eb76f937579025351241dea5f4ed3"
    )


def test_how_a_run_is_computed_is_no_part_of_the_key():
    (cell,) = reproduce.cells_of("figure4", "tiny")
    usual = reproduce.result_key(cell.recipe, "data")
    for change in ({"run.precision": "bf16"}, {"run.compile": "on"}, {"run.class_chunk": 3}):
        assert reproduce.result_key(cell.recipe.changed(change), "data") == usual
    assert reproduce.result_key(cell.recipe.changed({"run.seed": 1}), "data") != usual
    assert reproduce.result_key(cell.recipe, "data", (0, 1)) != usual


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
    cells = reproduce.cells_of("methods", "small", range(1), {"method": "idc", "speedup": "5"})
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
    cells = reproduce.cells_of(target, "small", range(1))
    nothing = reproduce.render(target, "small", cells, [None] * len(cells))
    assert "not run" in nothing
    assert "Nothing of it has been run" in nothing
    some = reproduce.render(target, "small", cells, [result(), *[None] * (len(cells) - 1)])
    shown = {"figure1": "| 54.0 |", "section1": "0.6"}
    assert shown.get("figure1" if target in ("figure2", "figure3") else target, "51.0 (1.0)") in some
    assert ("not run" in some) == (len(cells) > 1)


def test_table_5_gives_speed_up_and_gain():
    cells = reproduce.cells_of("table5", "small", range(1), {"method": "idc", "data": "cifar10"})
    known = [result(seconds=95.0), result(seconds=15.0), result(accuracy=(60.0, 60.0), seconds=15.0)]
    line = next(one for one in reproduce.render("table5", "small", cells, known).splitlines() if "IDC + model" in one)
    assert "5.00x (6.33x without the pool)" in line
    assert "1.18x" in line
    assert "67.1 / 4.45 h" in line


def test_a_section_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    put_into(page, "table5 small", "first", "ddistill reproduce table5 --scale small")
    put_into(page, "table6 small", "other", "ddistill reproduce table6 --scale small")
    put_into(page, "table5 small", "second", "ddistill reproduce table5 --scale small")
    text = page.read_text()
    assert text.startswith("# Results\n\n<!-- table5 small: made by `ddistill reproduce table5 --scale small` -->")
    assert text.index("second") < text.index("other")
    assert "first" not in text


def test_curves_are_evaluated_at_the_steps_of_speed_up_5(tmp_path):
    plain, augmented = reproduce.cells_of("figure1", "full")
    assert (plain.recipe.budget.steps, plain.recipe.evaluation.every) == (2000, 400)
    assert augmented.recipe.model_augmentation.networks == "pool"
    assert reproduce.cells_of("figure3", "full") == [plain, augmented]


@pytest.mark.parametrize("target", ["figure1", "figure2", "figure3", "section1"])
def test_a_figure_shows_its_results(target, tmp_path):
    from PIL import Image

    cells = reproduce.cells_of(target, "small", range(2))
    nothing = [None] * len(cells)
    assert reproduce.draw(target, "small", cells, nothing, nothing) is None
    pictures = []
    for number, results in enumerate(([result(), *nothing[1:]], [result(seconds=20.0 + n) for n in range(len(cells))])):
        save = reproduce.draw(target, "small", cells, results, nothing)
        save(tmp_path / "figures" / f"{number}.png")
        with Image.open(tmp_path / "figures" / f"{number}.png") as picture:
            assert min(picture.size) > 200
            pictures.append(picture.tobytes())
    assert pictures[0] != pictures[1] or target == "section1"


def test_tables_have_no_figure():
    cells = reproduce.cells_of("table6", "small")
    assert reproduce.draw("table6", "small", cells, [result() for _ in cells], []) is None


SHRUNK = {**SCALES["tiny"].settings, "network.width": 8, "evaluation.epochs": 2, "evaluation.repeats": 1}
FEW = {"budget.outer_steps": 5, "method.inner_steps": 1, "method.network_samples": 16, "method.real_batch": 8}
IN_NO_TIME = reproduce.targets.Scale("in no time", "digits", SHRUNK, {"idc": FEW}, {}, (0, 1))


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Runs `ddistill reproduce` at a scale of no time; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SCALES, "tiny", IN_NO_TIME)
    runner = CliRunner(env={"DDISTILL_CACHE": str(tmp_path / "cache"), "DDISTILL_KERNELS": "off"})

    def run(target: str, *words: str) -> str:
        done = runner.invoke(app, ["reproduce", target, "--scale", "tiny", "--out", "book", "--device", "cpu", *words])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    return run


def test_estimates_come_before_runs_and_go_with_them(book):
    before = book("table6", "--list")
    assert "about" in before
    assert "in all on this machine" in before
    book("table6", "--only", "ipc=1")
    after = book("table6", "--list")
    assert after.count("not run") == before.count("not run") - 2 == 2
    assert "epochs" not in book("section1", "--list")


def test_figures_are_drawn_beside_the_page_and_pictures_are_made_again_where_they_are_gone(book, tmp_path):
    text = book("figure4", "--into", "docs/results.md")
    picture = tmp_path / "docs" / "figures" / "figure4-tiny.png"
    assert "![figure4](figures/figure4-tiny.png)" in (tmp_path / "docs" / "results.md").read_text()
    assert str(picture.relative_to(tmp_path)) in text
    first = picture.read_bytes()
    picture.unlink()
    shutil.rmtree(tmp_path / "book" / "runs")
    book("figure4", "--into", "docs/results.md")
    assert picture.read_bytes() == first
    book("figure6")
    assert (tmp_path / "book" / "figures" / "figure6-tiny.png").is_file()
    assert len((tmp_path / "book" / "results.jsonl").read_text().splitlines()) == 1


def test_a_table_shows_spread_over_distillations_apart_from_that_over_networks():
    from ddistill.reproduce.tables import mean_and_std

    assert mean_and_std([(50.0, 52.0)]) == "51.0 (1.0)"
    assert mean_and_std([(50.0, 52.0), (52.0, 56.0)]) == "52.5 ± 2.1 (1.5)"
    assert mean_and_std([(50.0,), (51.0,)]) == "50.5 ± 0.7"
    cells = reproduce.cells_of("table6", "small", only={"ipc": "1", "selection": "random", "data": "cifar10"})
    assert [cell.labels["seed"] for cell in cells] == [0, 1]
    shown = reproduce.render("table6", "small", cells, [result(), result(accuracy=(52.0, 56.0))])
    assert "52.5 ± 2.1 (1.5) / " in shown
    assert "standard deviation over 2 distillations of each cell (standard deviation over the 2 networks" in shown


def test_methods_are_judged_as_they_were_published_and_by_idc_s_protocol_beside_it():
    cells = reproduce.cells_of("table3a", "full", only={"ipc": "10", "speedup": "1"})
    protocols = [(cell.labels["method"], cell.recipe.evaluation.protocol) for cell in cells]
    own = [("dm", "dsa"), ("dsa", "dsa"), ("cafe", "cafe"), ("tm", "tm")]
    assert protocols == [pair for method, name in own for pair in ((method, name), (method, "idc"))] + [("idc", "idc")]
    dm = cells[0].recipe.evaluation
    assert (dm.training.batch, dm.epochs, dm.training.cutmix) == (256, 1001, 0.0)
    results = [result(accuracy=(40.0 + number,)) for number in range(len(cells))]
    assert "40.0 / 48.9, -8.9; 41.0 |" in reproduce.render("table3a", "full", cells, results)
    assert "| DC | 40.0 | 41.0 |" in reproduce.render(
        "table5", "full", reproduce.cells_of("table5", "full", only={"method": "dc"})[:2], results[:2]
    )


def test_images_are_made_once_for_both_protocols_and_judged_as_from_the_beginning(book, tmp_path, monkeypatch):
    words = ["--only", "method=dm,speedup=1", "--seeds", "1"]
    monkeypatch.setitem(
        SCALES, "tiny", reproduce.targets.Scale("in no time", "digits", SHRUNK, {"dm": {"budget.outer_steps": 3}})
    )
    before = book("table5", *words, "--list")
    book("table5", *words)
    own, idc = reproduce.Store(tmp_path / "book" / "results.jsonl")
    assert len(list((tmp_path / "book" / "runs").iterdir())) == 1
    assert before.count("not run") == 2
    assert [one.about["recipe"]["evaluation"]["protocol"] for one in (own, idc)] == ["dsa", "idc"]
    assert own.seconds["distill"] == idc.seconds["distill"]
    cells = reproduce.cells_of("table5", "tiny", range(1), {"method": "dm", "speedup": "1"})
    sources = reproduce.DataSources({})
    alone = reproduce.run_cells(cells[1:], tmp_path / "alone", sources)
    assert (alone[0].key, alone[0].accuracy) == (idc.key, idc.accuracy)
    # the other way about, and after an interruption while the first protocol judges
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_cells(cells[1:], tmp_path / "other", sources, observer=Interrupt("evaluate", 1))
    other = reproduce.run_cells(cells, tmp_path / "other", sources)
    assert [one.accuracy for one in other] == [own.accuracy, idc.accuracy]


def test_section_1_is_measured_once(book, tmp_path):
    first = book("section1")
    store = (tmp_path / "book" / "results.jsonl").read_text()
    assert len(json.loads(store)["about"]["gradients"]) == 2
    assert book("section1") == first
    assert (tmp_path / "book" / "results.jsonl").read_text() == store


def test_the_command_runs_a_table_and_does_not_run_it_again(book, tmp_path):
    words = ["--only", "ipc=1"]
    assert book("table6", *words, "--list").count("not run") == 2
    first = book("table6", *words, "--into", "results.md")
    assert "| digits | 1 |" in first
    assert first.strip() in (tmp_path / "results.md").read_text()
    assert "in no time" in first
    before = (tmp_path / "book" / "results.jsonl").read_bytes()
    assert book("table6", *words) == first
    assert (tmp_path / "book" / "results.jsonl").read_bytes() == before


def test_the_place_of_data_is_asked_for_by_the_names_of_the_table():
    wrong = CliRunner().invoke(app, ["reproduce", "table4", "--scale", "full", "--data", "x"])
    assert wrong.exit_code == 2
    assert "imagenet-10, imagenet-100" in wrong.stderr
    wrong = CliRunner().invoke(app, ["reproduce", "figure1", "--scale", "tiny", "--data", "cifar100=x"])
    assert wrong.exit_code == 2
    assert "NAME=PATH with one of: digits" in wrong.stderr
    there = CliRunner().invoke(app, ["reproduce", "figure1", "--scale", "small", "--data", "cifar100=nowhere"])
    assert there.exit_code == 2
    assert "nowhere" in there.stderr

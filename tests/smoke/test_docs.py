"""The code and the commands of the guides, run as a user would: files in a folder, and the command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ddistill.recipes import FAMILIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHORT = [
    *("--set", "network.width=8", "--set", "budget.outer_steps=20", "--set", "method.real_batch=16"),
    *("--set", "evaluation.epochs=2", "--set", "evaluation.repeats=1", "--device", "cpu"),
]


def as_a_user(words: list[str], folder: Path) -> str:
    """What the command prints in that folder."""
    # the installed script, which does not put the folder into Python's path
    script = Path(sys.executable).with_name("ddistill")
    environment = {**os.environ, "DDISTILL_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [str(script), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def walk_through(tmp_path_factory, auto_precision) -> Path:
    """A folder with the two files of the page, where its commands have been run."""
    folder, page = tmp_path_factory.mktemp("walk through"), (DOCS / "adding_a_method.md").read_text(encoding="utf-8")
    for name, code in zip(("mean.py", "parts.py"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True):
        (folder / name).write_text(code)
    commands = [line for line in page.splitlines() if line.startswith("ddistill ")]
    assert len(commands) == 3
    for command in commands:
        program, verb, *words = shlex.split(command)
        assert program == "ddistill"
        as_a_user([verb, *words, *(SHORT if verb == "distill" else ["--repeats", "1"])], folder)
    return folder


def test_the_method_of_the_walk_through_works(walk_through):
    log = [json.loads(line) for line in (walk_through / "runs" / "mean" / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in log if event["event"] == "outer step"]
    assert losses[-1] < losses[0] / 5


def test_the_network_and_the_augmentations_of_the_walk_through_work(walk_through):
    summary = json.loads((walk_through / "runs" / "parts" / "summary.json").read_text())
    assert (summary["method"], summary["outer_steps"]) == ("dm", 20)
    recipe = (walk_through / "runs" / "parts" / "recipe.yaml").read_text()
    assert "name: perceptron" in recipe
    assert "- fade\n    - noise\n" in recipe


def test_every_family_of_recipes_has_a_card():
    cards = " ".join(path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md"))
    for family in FAMILIES:
        assert f"`{family}`" in cards or f"--recipe {family} " in cards


def test_every_card_of_a_published_method_links_to_its_paper():
    cards = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md")}
    linked = {name for name, text in cards.items() if re.search(r"https://arxiv\.org/abs/\d{4}\.\d{5}", text)}
    assert linked == cards.keys()


TINY = [*SHORT, "--set", "budget.outer_steps=1", "--set", "method.inner_steps=1", "--set", "method.network_samples=16"]
POOL = ["--set", "model_augmentation.pool_size=1", "--set", "model_augmentation.pool_epochs=1"]


@pytest.mark.parametrize(("page", "commands"), [("grow.md", 3), ("soft_labels.md", 2)])
def test_the_commands_and_the_code_of_a_page_work(page, commands, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from ddistill.cli import app

    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("ddistill ")]
    assert len(lines) == commands
    for line in lines:
        words = shlex.split(line)[1:]
        first = words[0] == "distill" and "--add-classes-to" not in words
        done = CliRunner().invoke(app, [*words, *(TINY + POOL if first else ["--device", "cpu"])])
        assert done.exit_code == 0, done.output
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(code, names)
    if page == "grow.md":
        assert names["run"].synthetic.counts == [2] * 10
        made = json.loads(Path("runs/fifteen/summary.json").read_text())
        assert made["stored_images"] == 15
    else:
        assert float(names["target"].sum()) == pytest.approx(1, abs=0.01)
        assert "soft labels %" in done.output


def test_the_commands_and_the_code_of_the_guide_to_compare_work(tmp_path, monkeypatch):
    from helpers import few_networks
    from typer.testing import CliRunner

    from ddistill.cli import app

    monkeypatch.chdir(tmp_path)
    few_networks(monkeypatch)
    text = (DOCS / "compare.md").read_text(encoding="utf-8")
    short = {"network.width": 8, "budget.outer_steps": 1, "evaluation.epochs": 5, "evaluation.repeats": 1}
    short |= {"model_augmentation.pool_size": 1, "model_augmentation.pool_epochs": 1}
    words = [word for path, value in short.items() for word in ("--set", f"{path}={value}")]
    lines = [line for line in text.splitlines() if line.startswith("ddistill compare digits")]
    assert len(lines) == 2
    for line in lines:
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], *words, "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert "distilling pays" in done.stdout  # of one network each there is no spread
    assert "mlp %" in done.stdout
    assert Path("runs/compare/report.html").is_file()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "minutes=4" in code
    exec(code.replace("minutes=4", "changes=short"), {"short": short})

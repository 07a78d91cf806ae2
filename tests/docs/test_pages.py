"""The commands and the code of the pages for users, run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import datasets
import pytest
import torch
import typer
from hub_stand_in import asked_by_this_process
from typer.testing import CliRunner

from ddistill.augment import Normalisation
from ddistill.cli import app
from ddistill.synthetic import SyntheticSet, load_synthetic, save_synthetic

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FEW = ["--set", "budget.outer_steps=1", "--set", "budget.speedup=1", "--device", "cpu"]
FEW += ["--set", "evaluation.epochs=1", "--set", "evaluation.repeats=1", "--set", "evaluation.baselines=[]"]
SHORT = [*FEW, "--set", "method.inner_steps=1", "--set", "method.network_samples=16"]
SHORT += ["--set", "model_augmentation.pool_size=1", "--set", "model_augmentation.pool_epochs=1"]
NARROW = ["--set", "network.width=8"]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Those of ddistill in a page, without their comments."""
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("ddistill ")]


def told(text: str) -> list[list[str]]:
    """Every command of ddistill that a page shows, whatever stands before it."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.match(r"(?:\$ |torchrun .*? -m )?ddistill (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


def as_a_user(words: list[str]) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_publish(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets cache"))
    as_a_user(["distill", "digits", "--recipe", "dm", "--out", "runs/digits", *FEW, *NARROW])
    images = SyntheticSet(
        *(torch.rand(10, 3, 8, 8), torch.arange(10), tuple("abcdefghij"), 1, "single"),
        Normalisation((0.5,) * 3, (0.2,) * 3),
    )
    about = {"accuracy": {"mean": 50.0, "std": 1.0, "runs": [50.0]}, "recipe": {"data": {"source": "cifar10"}}}
    save_synthetic(images, tmp_path / "runs" / "cifar10" / "distilled", about)
    text = page("publish.md").replace("OWNER/NAME", "someone/digits")
    asked = commands(text)
    assert [words[0] for words in asked] == ["push", "push", "evaluate", "export", "export", "export"]
    with asked_by_this_process(monkeypatch, tmp_path) as hub:
        for words in asked:
            short = ["--epochs", "1", "--device", "cpu"] if words[0] == "evaluate" else []
            as_a_user([*words, *short])
        assert hub.sets["someone/digits"].private
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            found: dict = {}
            exec(block.replace('"someone/digits", split', '"look", split'), found)
            assert len(found["train"]) == 10
    assert torch.equal(torch.load("set.pt", weights_only=True)["images"], load_synthetic("runs/digits").images)
    assert len(list(Path("folder").glob("*/*.png"))) == 10
    assert json.loads(Path("entry/scores.json").read_text())["hlr"] == 34.8


def test_every_format_of_the_page_is_one_and_none_is_missing():
    from ddistill.synthetic.export import FORMATS

    assert set(re.findall(r"^\| `(\w+)` \|", page("publish.md"), re.MULTILINE)) == set(FORMATS)


def test_my_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page("my_network.md")
    code, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Path("mine.py").write_text(code)
    asked = commands(text)
    assert [words[0] for words in asked] == ["distill", "evaluate", "distill"]
    for words in asked:
        narrow = NARROW if "evaluation.network.name=mine" in words else []
        short = [*SHORT, *narrow] if words[0] == "distill" else ["--repeats", "1", "--device", "cpu"]
        as_a_user([*words, *short])
    assert "name: mine" in Path("runs/mine/recipe.yaml").read_text()
    assert "    name: mine" in Path("runs/judged/recipe.yaml").read_text()
    found: dict = {}
    exec(use, found)
    assert len(found["judged"].runs) == 1
    assert len(found["train"]) == 10


def test_many_machines_names_what_there_is():
    """Its commands start several processes: `test_distributed.py` and `test_on_ray.py` run such ones."""
    text = page("many_machines.md")
    assert re.findall(r"^torchrun .* -m ddistill (\w+)", text, re.MULTILINE) == ["distill", "evaluate"]
    assert commands(text)[0][:2] == ["reproduce", "table5"]
    help_ = CliRunner().invoke(app, ["reproduce", "--help"], env={"COLUMNS": "200"}).output
    assert "ray[://ADDRESS]" in help_


PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("methods/*.md")])


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_every_command_of_every_page_is_one_that_the_command_takes(path):
    group = typer.main.get_command(app)
    for verb, *words in told(path.read_text(encoding="utf-8")):
        group.commands[verb].make_context(verb, words)  # an option or argument that is not there is an error


def test_the_readme_shows_commands_and_every_link_of_the_pages_leads_somewhere():
    assert len(told((ROOT / "README.md").read_text(encoding="utf-8"))) >= 5
    for path in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target).exists(), (path.name, target)


def test_the_commands_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [words for words in commands((ROOT / "README.md").read_text(encoding="utf-8")) if "runs/digits" in words]
    assert [words[0] for words in asked] == ["distill", "evaluate", "push"]
    for words in asked:
        # every network there is takes minutes
        words = [{"all": "mlp", "hub:OWNER/NAME": "hub:someone/digits"}.get(word, word) for word in words]
        short = {"distill": [*SHORT, *NARROW], "evaluate": ["--device", "cpu"], "push": []}[words[0]]
        as_a_user([*words, *short])
    assert Path("look/README.md").is_file()

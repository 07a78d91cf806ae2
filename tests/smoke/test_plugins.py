"""A user's file with a method, a network and augmentations, by every door: command, Python, torchrun, Ray."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"
SCRIPT = str(Path(sys.executable).with_name("ddistill"))
CHANGES = {
    "method.name": "mean",
    "method.real_batch": 8,
    "network.name": "perceptron",
    "network.width": 16,
    "evaluation.training.augment.operations": ["crop", "fade", "noise"],
    "evaluation.epochs": 2,
    "evaluation.repeats": 2,
    "evaluation.baselines": [],
    "budget.outer_steps": 3,
}
WORDS = [word for field, value in CHANGES.items() for word in ("--set", f"{field}={json.dumps(value)}")]
DISTILL = ["distill", "digits", "--recipe", "dm", "--device", "cpu", *WORDS]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder outside of the package with the file, and the run that the command made there."""
    folder = tmp_path_factory.mktemp("user")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "mine.py").write_text("\n\n".join(code))
    started(folder, SCRIPT, *DISTILL, "--plugin", "mine.py", "--out", "run")
    return folder


def started(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    about = {**os.environ, "OMP_NUM_THREADS": "1", "DDISTILL_CACHE": str(folder / "cache")}
    done = subprocess.run(words, cwd=folder, env=about, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def images(run: Path) -> bytes:
    return (run / "distilled" / "stored.safetensors").read_bytes()


def accuracies(run: Path) -> list[float]:
    return json.loads((run / "summary.json").read_text())["accuracy"]["runs"]


def test_the_run_keeps_the_name_of_its_plugin(place):
    assert json.loads((place / "run" / "summary.json").read_text())["execution"]["plugins"] == ["mine.py"]
    assert "--plugin mine.py" in (place / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    "words",
    [["evaluate", "run"], [*DISTILL[:4], "--out", "run", "--resume"], ["distill", "--recipe", "run/recipe.yaml"]],
)
def test_without_the_plugin_one_line_names_it(place, words):
    said = started(place, SCRIPT, *words, code=2).stderr
    assert said.startswith("ddistill: ")
    assert said.count("\n") == 1
    assert "it was made with --plugin mine.py: give that too" in said


def test_the_command_resumes_evaluates_and_repeats_it(place):
    plugin = ["--plugin", "mine.py"]
    again = started(place, SCRIPT, *DISTILL, *plugin, "--out", "run", "--resume")
    assert "distilled" in again.stdout
    judged = started(place, SCRIPT, "evaluate", "run", *plugin, "--network", "perceptron,width=16", "--epochs", "1")
    assert "perceptron" in judged.stdout
    started(place, SCRIPT, "distill", "--recipe", "run/recipe.yaml", *plugin, "--out", "again")
    assert images(place / "again") == images(place / "run")
    assert accuracies(place / "again") == accuracies(place / "run")


@pytest.mark.parametrize("verb", ["plan", "pretrain", "recipes", "reproduce"])
def test_every_command_that_resolves_a_recipe_takes_plugins(place, verb):
    words = {
        "plan": [*DISTILL[1:4], *WORDS],
        "pretrain": ["digits", "--set", "network.name=perceptron", "--set", "model_augmentation.pool_size=1"],
        "recipes": ["dm"],
        "reproduce": ["list"],
    }[verb]
    short = ["--set", "model_augmentation.pool_epochs=1"] if verb == "pretrain" else []
    started(place, SCRIPT, verb, *words, *short, "--plugin", "mine.py")
    said = started(place, SCRIPT, verb, *words, *short, "--plugin", "nobody.py", code=2).stderr
    assert said == "ddistill: plugin 'nobody.py': no such file; give a path to a .py file or a dotted module\n"


@pytest.mark.parametrize("way", ["import mine", "ddistill.load_plugin('mine.py')"])
def test_python_gives_the_same_images(place, way):
    name = way.split()[0]
    code = f"import ddistill\n{way}\nddistill.distill('digits', 'dm', out={name!r}, changes={CHANGES!r})\n"
    started(place, sys.executable, "-c", code)
    assert images(place / name) == images(place / "run")


def test_two_processes_of_torchrun_give_the_same_images(place):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ddistill"]
    started(place, *launch, *DISTILL, "--plugin", "mine", "--out", "two")
    assert images(place / "two") == images(place / "run")
    assert json.loads((place / "two" / "summary.json").read_text())["execution"]["processes"] == 2


RAY = """
import sys
from pathlib import Path

import ddistill
from ddistill import recipes, reproduce

ddistill.load_plugin("mine.py")
recipe = recipes.find("dm-digits").changed({changes!r})
cells = [reproduce.Cell({{"data": "digits", "seed": seed}}, recipe.changed({{"run.seed": seed}})) for seed in (0, 1)]
found = reproduce.run_cells_on_ray(cells, Path("on ray"), reproduce.Sources({{}}))
print([list(one.accuracy) for one in found])
"""


def test_tasks_of_ray_give_the_same_accuracies(place):
    pytest.importorskip("ray", reason="needs the package ray: pip install 'ddistill[ray]'")
    (place / "on_ray.py").write_text(RAY.format(changes=CHANGES))
    said = started(place, sys.executable, "on_ray.py").stdout
    first, second = json.loads(said.splitlines()[-1])
    assert first == accuracies(place / "run")
    assert second != first

"""A user's file with a method, a network and augmentations, by every door: command, Python, torchrun, Ray."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddistill.methods import registry
from ddistill.methods.registry import register_method
from ddistill.networks import NETWORKS, register_network
from ddistill.runtime import plugins
from ddistill.runtime.errors import UserError
from ddistill.runtime.settings import Settings

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
POOL = ["--set", "model_augmentation.pool_size=1", "--set", "model_augmentation.pool_epochs=1"]
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
        "pretrain": ["digits", "--set", "training.augment.operations=[crop, fade]", *POOL],
        "recipes": ["dm"],
        "reproduce": ["list"],
    }[verb]
    started(place, SCRIPT, verb, *words, "--plugin", "mine.py")
    said = started(place, SCRIPT, verb, *words, "--plugin", "nobody.py", code=2).stderr
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
found = reproduce.run_cells_on_ray(cells, Path("on ray"), reproduce.DataSources({{}}))
print([list(one.accuracy) for one in found])
"""


def test_tasks_of_ray_give_the_same_accuracies(place):
    pytest.importorskip("ray", reason="needs the package ray: pip install 'ddistill[ray]'")
    (place / "on_ray.py").write_text(RAY.format(changes=CHANGES))
    said = started(place, sys.executable, "on_ray.py").stdout
    first, second = json.loads(said.splitlines()[-1])
    assert first == accuracies(place / "run")
    assert second != first


# --------------------------------------------------------------------------------------------- loading, in this process


@pytest.fixture
def fresh(monkeypatch, tmp_path) -> Path:
    """A folder to work in, and nothing of what a test loads stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_registrants", set())
    monkeypatch.setattr(plugins, "_installed", False)
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    for name in ("one_of_mine", "pack", "pack.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_module_is_loaded_once_whatever_it_is_called(fresh):
    (fresh / "one_of_mine.py").write_text("ones = []\n")
    (fresh / "pack").mkdir()
    (fresh / "pack" / "__init__.py").touch()
    (fresh / "pack" / "inner.py").write_text("import one_of_mine\n")
    first = plugins.load_plugin("one_of_mine.py")
    assert plugins.load_plugin(fresh / "one_of_mine.py") is plugins.load_plugin("one_of_mine") is first
    assert plugins.load_plugin("pack.inner").one_of_mine is first
    assert plugins.plugin_names() == sorted(
        ["one_of_mine.py", str(fresh / "one_of_mine.py"), "one_of_mine", "pack.inner"]
    )
    assert (str(fresh / "one_of_mine.py"), str(fresh)) in plugins.to_elsewhere()
    # what travels names no folder of this machine, and is known again by its name
    assert plugins.travelling(plugins.plugin_names()) == ["one_of_mine", "one_of_mine.py", "pack.inner"]
    assert plugins.missing_plugins(["one_of_mine.py", "/elsewhere/one_of_mine.py"]) == ""


def test_a_file_whose_name_is_taken_by_another_module_is_loaded_all_the_same(fresh):
    (fresh / "json.py").write_text("mine = True\n")
    assert plugins.load_plugin("json.py").mine
    assert plugins.load_plugin("./json.py").mine
    assert not hasattr(json, "mine")


@pytest.mark.parametrize(
    ("plugin", "text", "words"),
    [
        ("nobody.py", None, "plugin 'nobody.py': no such file"),
        ("nobody.at.all", None, "plugin 'nobody.at.all': no such module in .* or among those installed"),
        (
            "one_of_mine.py",
            "import nobody_at_all",
            "cannot be loaded: ModuleNotFoundError: No module named 'nobody_at_all'",
        ),
        (
            "one_of_mine",
            "import nobody_at_all",
            "cannot be loaded: ModuleNotFoundError: No module named 'nobody_at_all'",
        ),
        ("one_of_mine.py", "1 / 0", "plugin 'one_of_mine.py' cannot be loaded: ZeroDivisionError: division by zero"),
        ("one_of_mine.py", "raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("one_of_mine.py", "(", "cannot be loaded: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(fresh, plugin, text, words):
    if text is not None:
        (fresh / "one_of_mine.py").write_text(text)
    with pytest.raises(UserError, match=words) as refusal:
        plugins.load_plugin(plugin)
    assert "\n" not in str(refusal.value)
    assert plugins.plugin_names() == []


def test_installed_plugins_are_loaded_once_and_those_that_fail_are_named(fresh, monkeypatch):
    loaded = []

    class Entry:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.value, self.fails = name, f"{name}.module", fails

        def load(self) -> None:
            loaded.append(self.name)
            if self.fails:
                raise ImportError("no such thing")

    entries = [Entry("bad", True), Entry("good", False)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "ddistill.plugins" else [])
    with (
        pytest.warns(
            UserWarning, match=r"the installed plugin 'bad' \(bad.module\) cannot be loaded: ImportError"
        ) as told,
        pytest.raises(UserError, match="unknown method 'men'"),
    ):
        registry.settings_class("men")
    plugins.load_installed()
    assert len(told) == 1
    assert loaded == ["bad", "good"]


def test_what_an_import_registers_is_named_by_its_module(fresh):
    (fresh / "one_of_mine.py").write_text(
        "from ddistill.networks import register\nregister('of mine', lambda classes, channels, size: None)\n"
    )
    sys.path.append(str(fresh))
    try:
        __import__("one_of_mine")
        assert plugins.plugin_names() == ["one_of_mine"]
        assert plugins.to_elsewhere() == [("one_of_mine", str(fresh))]
        assert plugins.missing_plugins(["one_of_mine"]) == ""
        assert "--plugin other.py: give that too" in plugins.missing_plugins(["one_of_mine", "other.py"])
    finally:
        NETWORKS.pop("of mine", None)


def test_a_method_that_is_registered_wrongly_is_refused(fresh):
    class NoSettings:
        pass

    class Other(Settings):
        name: str = "other"

        @property
        def needs(self) -> None:
            """Nothing."""

    with pytest.raises(UserError, match="NoSettings needs an annotation `settings: MySettings`"):
        register_method("mine")(NoSettings)
    with pytest.raises(UserError, match="the field `name` of Other must be 'mine', got 'other'"):
        register_method("mine", Other)(NoSettings)
    with pytest.raises(UserError, match="network name 'convnet' is taken"):
        register_network("convnet")(NoSettings)
    register_method("other", Other)(NoSettings)
    with pytest.raises(UserError, match="method name 'other' is taken"):
        register_method("other", Other)(type("Another", (), {}))

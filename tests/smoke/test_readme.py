"""The code of the README and of the page about a run, as it stands there (with a recipe cut down to seconds)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddistill

ROOT = Path(__file__).parents[2]
TEXT = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/a_run.md"))
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
TINY = {
    "network.width": 8,
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "method.inner_steps": 1,
    "method.network_samples": 16,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 1,
    "evaluation.epochs": 2,
    "evaluation.repeats": 1,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, auto_precision):
    folder = tmp_path_factory.mktemp("readme")
    ddistill.distill("digits", ipc=1, out=folder / "runs" / "digits", changes=TINY)
    return folder


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-W", "ignore::ResourceWarning", "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_there_are_the_snippets_that_are_run_here():
    assert len(SNIPPETS) == 3


def test_the_library_snippet_distils_and_gives_a_data_set(tmp_path):
    code = SNIPPETS[0].replace("ipc=1,", f"ipc=1, changes={TINY},")
    assert code != SNIPPETS[0]
    result = run(code + "\nassert len(train_set) == 10 and train_set[0][0].shape == (1, 8, 8)", tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("snippet", "check"),
    [
        (
            1,
            "assert len(train) == 10 and train[0]['image'].size == (8, 8)\n"
            "assert len(train.features['label'].names) == 10",
        ),
        (
            2,
            "assert stored['images'].shape == (10, 1, 8, 8) and len(about['class_names']) == 10\n"
            "assert len(about['normalisation']['mean']) == 1 and about['decoder']['factor'] == 1",
        ),
    ],
    ids=["datasets", "safetensors"],
)
def test_the_artifact_loads_without_this_package(snippet, check, workplace):
    blocked = "import sys; sys.modules['ddistill'] = None\n"
    if snippet == 2:
        blocked += "sys.modules['torch'] = None\n"
    result = run(f"{blocked}{SNIPPETS[snippet]}\n{check}", workplace)
    assert result.returncode == 0, result.stderr


def test_the_decoded_copy_alone_trains_a_network(workplace):
    code = """
import json, torch
from datasets import load_dataset
train = load_dataset("runs/digits/distilled", split="train").with_format("torch")
about = json.load(open("runs/digits/distilled/synthetic.json"))
mean, std = (torch.tensor(about["normalisation"][k]).view(-1, 1, 1) for k in ("mean", "std"))
images = (torch.stack([row["image"] for row in train]).float() / 255 - mean) / std
labels = torch.stack([row["label"] for row in train])
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
loss = lambda: torch.nn.functional.cross_entropy(net(images), labels)
before = loss().item()
optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(100):
    optimiser.zero_grad(); loss().backward(); optimiser.step()
assert loss().item() < before / 2
"""
    result = run("import sys; sys.modules['ddistill'] = None\n" + code, workplace)
    assert result.returncode == 0, result.stderr


def test_every_path_of_the_folder_tree_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text[text.index("## Folders") :]
    rooms = re.findall(r"^  (\w+/|\w+\.py)", tree, flags=re.MULTILINE)
    assert len(rooms) >= 12
    assert not [room for room in rooms if not (ROOT / "ddistill" / room).exists()]

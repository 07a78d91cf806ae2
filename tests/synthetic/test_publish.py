"""Pushing to the hub, against a stand-in of its HTTP interface; the folder by `datasets` alone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import ddistill
from ddistill.cli import app
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import read_checked_json, write_checked_json
from ddistill.synthetic import load_synthetic, save_synthetic

from .conftest import made

# of the hub's client, in its own code
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
KINDS = ("colour", "grey", "whitened")
NAME = "hub:someone/tiny"
ALONE = """
import json, sys
sys.modules["ddistill"] = None
import numpy as np
from datasets import load_dataset
for what in sys.argv[1:]:
    rows = load_dataset(what, split="train")
    found = {"names": rows.features["label"].names, "labels": rows["label"][:], "columns": rows.column_names}
    found["pixels"] = [np.asarray(image).astype(int).tolist() for image in rows["image"]]
    print(json.dumps(found))
"""


def by_datasets_alone(*what: str, home: Path, **more: str) -> list[dict]:
    """What a fresh interpreter without this package loads."""
    environment = {**os.environ, "HF_HOME": str(home), **more}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *what], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(one: ddistill.synthetic.SyntheticSet, other: ddistill.synthetic.SyntheticSet) -> bool:
    """Whether two sets are the same to the bit."""
    whitenings = [made.normalisation.whitening for made in (one, other)]
    maps = [None if found is None else (found.mean.tolist(), found.matrix.tolist()) for found in whitenings]
    alike = [
        (s.class_names, s.learned_rate, s.factor, s.decoder, s.normalisation.mean, s.normalisation.std)
        for s in (one, other)
    ]
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and maps[0] == maps[1]
        and alike[0] == alike[1]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pushed_comes_back_to_the_bit(kind, hub, tmp_path):
    folder = save_synthetic(made(kind), tmp_path / "run" / "distilled", {})
    page = ddistill.push(tmp_path / "run", NAME)
    assert page == f"{hub.address}/datasets/someone/tiny"
    sent = hub.files("someone/tiny")
    assert {name.split("/")[0] for name in sent} >= {"README.md", "data", "stored.safetensors", "synthetic.json"}
    assert same(load_synthetic(NAME), made(kind))
    hub.broken = 503  # a copy is in the cache
    assert same(load_synthetic(NAME), load_synthetic(folder))


def test_soft_labels_come_back_to_the_bit(hub, tmp_path):
    soft = replace(made("colour"), targets=torch.rand(20, 3).softmax(1).half())
    save_synthetic(soft, tmp_path / "run" / "distilled", {})
    ddistill.push(tmp_path / "run", NAME)
    found = load_synthetic(NAME)
    assert same(found, soft)
    assert torch.equal(found.targets, soft.targets)


def test_a_dry_run_sends_nothing_and_is_loaded_by_datasets_alone(hub, tmp_path):
    folders = []
    for kind in KINDS:
        save_synthetic(made(kind), tmp_path / kind / "distilled", {})
        folders.append(ddistill.push(tmp_path / kind, NAME, dry_run=tmp_path / f"dry {kind}", licence="mit"))
    assert hub.asked == []
    rows = by_datasets_alone(*folders, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    for kind, folder, found in zip(KINDS, folders, rows, strict=True):
        images, labels = made(kind).decoded()
        pixels = images.clamp(0, 1).mul(255).round().int().permute(0, 2, 3, 1)
        assert found["pixels"] == (pixels.squeeze(3) if kind == "grey" else pixels).tolist()
        assert (found["labels"], found["names"]) == (labels.tolist(), list(made(kind).class_names))
        assert found["columns"] == ["image", "label", *(["pixels"] if kind == "whitened" else [])]
        card = Path(folder, "README.md").read_text()
        assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
        assert f'load_synthetic("{NAME}")' in card
        assert 'load_dataset("someone/tiny"' in card


def test_datasets_and_the_command_read_it_from_the_hub(hub, tmp_path):
    changes = {"budget.outer_steps": 1, "budget.speedup": 1, "network.width": 4, "evaluation.epochs": 1}
    changes |= {"evaluation.repeats": 1, "evaluation.baselines": ()}
    run = ddistill.distill("digits", "dm", out=tmp_path / "run", changes=changes)
    ddistill.push(tmp_path / "run", NAME)
    assert f"{run.summary['accuracy']['mean']:.1f}" in hub.files("someone/tiny")["README.md"].decode()
    judged = ddistill.evaluate(NAME)  # its own data and protocol
    assert judged.runs == ddistill.evaluate(tmp_path / "run").runs
    said = CliRunner().invoke(app, ["evaluate", NAME, "--data", "digits", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    (found,) = by_datasets_alone("someone/tiny", home=tmp_path / "home", HF_ENDPOINT=hub.address)
    assert found["labels"] == run.synthetic.decoded()[1].tolist()


def test_the_command_pushes_and_says_what_stands_against_it(hub, tmp_path):
    save_synthetic(made("colour"), tmp_path / "run" / "distilled", {})
    dry = CliRunner().invoke(app, ["push", str(tmp_path / "run"), NAME, "--dry-run", str(tmp_path / "dry")])
    assert dry.exit_code == 0, dry.output
    assert (tmp_path / "dry" / "README.md").is_file()
    done = CliRunner().invoke(app, ["push", str(tmp_path / "run"), NAME, "--private"])
    assert done.exit_code == 0, done.output
    assert hub.sets["someone/tiny"].private
    refused = CliRunner().invoke(app, ["push", str(tmp_path / "run"), "tiny"])
    assert refused.exit_code == 2


def test_a_set_of_the_hub_is_distilled_again_by_either_spelling(hub, tmp_path):
    from ddistill.data.which import which

    assert which(NAME).place == which("someone/tiny").place == "someone/tiny"


def test_nothing_of_the_machine_is_in_what_is_sent(hub, tmp_path, monkeypatch):
    home = tmp_path / "home of zaphod"
    for number in range(8):
        path = home / "pictures" / ("ant", "bee")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number * 30, np.uint8)).save(path)
    for name in ("HOME", "USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, str(home) if name == "HOME" else f"zaphods-{name.lower()}")
    changes = {"budget.outer_steps": 1, "budget.speedup": 1, "network.width": 4, "evaluation.epochs": 1}
    changes |= {"evaluation.repeats": 1, "data.test_fraction": 0.5, "evaluation.baselines": (), "synthetic.factor": 1}
    ddistill.distill(str(home / "pictures"), "dm", out=home / "run", changes=changes)
    ddistill.push(home / "run", NAME)
    files = hub.files("someone/tiny")
    secrets = ["zaphod", str(tmp_path), socket.gethostname(), "hf_writes"]
    assert len(files) == 5
    for name, data in files.items():
        assert not [word for word in secrets if word.encode() in name.encode() + data], name


def test_an_artifact_that_names_a_place_here_is_refused(hub, tmp_path):
    save_synthetic(made("colour"), tmp_path / "distilled", {"recipe": {"data": {"source": str(tmp_path)}}})
    with pytest.raises(UserError, match="place on this machine"):
        ddistill.push(tmp_path, NAME)
    assert "someone/tiny" not in hub.sets


def test_pushing_again_replaces_the_images_and_keeps_what_the_owner_filled_in(hub, tmp_path):
    for kind in ("whitened", "colour"):
        save_synthetic(made(kind), tmp_path / kind / "distilled", {})
    ddistill.push(tmp_path / "whitened", NAME)
    files = dict(hub.files("someone/tiny"))
    filled = re.sub(r"\*To be filled.*", "My own ants, CC0.", files["README.md"].decode())
    filled = filled.replace("license: unknown", "license: cc0-1.0")
    first = hub.sets["someone/tiny"].commit(files | {"README.md": filled.encode(), "notes.txt": b"mine"})
    ddistill.push(tmp_path / "colour", NAME)
    now = hub.files("someone/tiny")
    assert "whitening.safetensors" not in now
    assert now["notes.txt"] == b"mine"
    assert len([name for name in now if name.startswith("data/")]) == 1
    card = now["README.md"].decode()
    assert "My own ants, CC0." in card
    assert "license: cc0-1.0" in card
    assert "filled in by" not in card
    assert same(load_synthetic(NAME), made("colour"))
    assert same(load_synthetic(f"{NAME}@{first}"), made("whitened"))


def test_another_data_set_of_that_name_is_left_alone(hub, tmp_path):
    from hub_stand_in import Repository

    hub.sets["someone/tiny"] = Repository()
    before = hub.sets["someone/tiny"].commit({"README.md": b"# mine", "train.csv": b"1,2"})
    save_synthetic(made("colour"), tmp_path, {})
    with pytest.raises(UserError, match=r"another data set \('train.csv', 1 files\)"):
        ddistill.push(tmp_path, NAME)
    assert hub.sets["someone/tiny"].head == before
    with pytest.raises(UserError, match="not a set of this program"):
        load_synthetic(NAME)


def test_a_private_set_is_private_and_a_public_one_is_not_called_so(hub, tmp_path, monkeypatch):
    save_synthetic(made("colour"), tmp_path, {})
    ddistill.push(tmp_path, NAME, private=True)
    assert hub.sets["someone/tiny"].private
    ddistill.push(tmp_path, NAME)  # stays so
    assert hub.sets["someone/tiny"].private
    assert same(load_synthetic(NAME), made("colour"))
    hub.sets["someone/tiny"].private = False
    with pytest.raises(UserError, match="is on the hub and public"):
        ddistill.push(tmp_path, NAME, private=True)
    hub.sets["someone/tiny"].private = True
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another's cache"))
    with pytest.raises(UserError, match=r"no data set 'someone/tiny' that is open to you.*log in"):
        load_synthetic(NAME)


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        (None, NAME, "no token on this machine: log in with `hf auth login`, or put a token into HF_TOKEN"),
        ("hf_old", NAME, "does not take this token"),
        ("hf_reads", NAME, "does not let you write to 'someone/tiny'.*write permission"),
        ("hf_writes", "hub:another/tiny", "does not let you write to 'another/tiny'.*OWNER is you"),
        ("hf_writes", "hub:tiny", "write hub:OWNER/NAME"),
        ("hf_writes", "someone/tiny", "write hub:OWNER/NAME"),
        ("hf_writes", "hub:someone/a--b", "no name that the hub takes"),
        ("hf_writes", "hub:someone/ü", "write hub:OWNER/NAME"),
        ("hf_writes", f"{NAME}@main", "leave @main out"),
    ],
)
def test_what_stands_against_a_push_is_said_in_words(token, name, words, hub, tmp_path, monkeypatch):
    save_synthetic(made("colour"), tmp_path, {})
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words):
        ddistill.push(tmp_path, name)
    assert not [asked for asked in hub.asked if asked.startswith("PUT")]


def test_no_network_and_a_hub_out_of_order_are_said_in_words(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    save_synthetic(made("colour"), tmp_path, {})
    with pytest.raises(UserError, match="no data set 'someone/none' that is open to you"):
        load_synthetic("hub:someone/none")
    hub.broken = 429
    with pytest.raises(UserError, match="too many requests"):
        ddistill.push(tmp_path, NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"could not be reached.*check the network"):
        ddistill.push(tmp_path, NAME)
    with pytest.raises(UserError, match="could not be reached"):
        load_synthetic(NAME)


def test_a_run_that_is_none_and_a_folder_that_is_taken_are_refused(hub, tmp_path):
    with pytest.raises(UserError, match="no distilled set"):
        ddistill.push(tmp_path, NAME, dry_run=tmp_path / "dry")
    save_synthetic(made("colour"), tmp_path / "run", {})
    with pytest.raises(UserError, match=r"--dry-run .* is not empty"):
        ddistill.push(tmp_path / "run", NAME, dry_run=tmp_path)
    about = read_checked_json(tmp_path / "run" / "synthetic.json")
    write_checked_json(tmp_path / "run" / "synthetic.json", {**about, "class_names": ["x"]})
    with pytest.raises(UserError, match="do not fit together"):
        ddistill.push(tmp_path / "run", NAME)
    assert hub.sets == {}

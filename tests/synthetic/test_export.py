"""Exports, each read by its own consumer, or by a stand-in of the same rules."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ddistill
from ddistill.cli import app
from ddistill.data import DataSettings, load_data
from ddistill.runtime.errors import UserError
from ddistill.synthetic import SyntheticSet, import_pt, save_synthetic
from ddistill.synthetic.export import folder_names

from .conftest import made

KINDS = ("colour", "grey", "whitened")
HARD = (
    ("b/c", "<b>a</b>", "a b"),
    ("Cat", "cat", "CAT"),
    ("train", "test", "x"),
    ("..", ".", " "),
    ("con", "nul.txt", "ok"),
    ("é", "ü", "日本"),
    ("x" * 300, "y" * 300, "-x"),
    ("1", "2", "10"),
    ("a\nb", "a\x00b", "`$(rm)`"),
)


@pytest.fixture
def run(tmp_path):
    """A function that makes an artifact of a set and gives its folder."""

    def make(synthetic: SyntheticSet, about: dict | None = None) -> Path:
        return save_synthetic(synthetic, tmp_path / "run" / "distilled", about or {})

    return make


def as_bytes(synthetic: SyntheticSet) -> torch.Tensor:
    return synthetic.decoded()[0].clamp(0, 1).mul(255).round().byte()


def image_folder(root: Path) -> list[tuple[str, list[np.ndarray]]]:
    """What torchvision's ImageFolder makes of a folder: class folders by name, in each the images by path."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return [
        (
            name,
            [
                np.asarray(Image.open(Path(where) / file))
                for where, _, files in sorted(os.walk(root / name, followlinks=True))
                for file in sorted(files)
                if file.lower().endswith((".png", ".jpg"))
            ],
        )
        for name in classes
    ]


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_an_image_folder_gives_images_and_labels_by_the_rules_of_torchvision(kind, run, tmp_path):
    synthetic = made(kind)
    ddistill.export(run(synthetic), "imagefolder", tmp_path / "out")
    found = image_folder(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert about["classes"] == list(synthetic.class_names)
    assert about["folders"] == [name for name, _ in found]
    _, labels = synthetic.decoded()
    assert [len(images) for _, images in found] == torch.bincount(labels).tolist()
    images = torch.from_numpy(np.stack([image for _, images in found for image in images]))
    assert torch.equal(images if kind == "grey" else images.permute(0, 3, 1, 2), as_bytes(synthetic).squeeze(1))


def test_torchvision_reads_an_image_folder(run, tmp_path):
    try:
        from torchvision.datasets import ImageFolder
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported here ({type(error).__name__}); the stand-in has its rules")
    ddistill.export(run(made("colour")), "imagefolder", tmp_path / "out")
    found = ImageFolder(str(tmp_path / "out"))
    assert found.targets == made("colour").decoded()[1].tolist()


@pytest.mark.parametrize("names", HARD)
def test_names_that_are_no_folder_names_keep_the_order_of_the_labels(names, run, tmp_path):
    folders = folder_names(names)
    assert sorted(folders) == folders
    assert len({name.casefold() for name in folders}) == len(names)
    assert all(name.isascii() and name.replace("_", "").isalnum() and len(name) < 80 for name in folders)
    synthetic = replace(made("grey"), class_names=names)
    ddistill.export(run(synthetic), "imagefolder", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["classes"] == list(names)
    assert [len(images) for _, images in image_folder(tmp_path / "out")] == [3, 1, 1]


def test_many_classes_are_numbered_so_that_they_sort():
    names = tuple(f"n{number}" for number in range(1000))
    folders = folder_names(names)
    assert sorted(folders) == folders
    assert folders[7] == "007_n7"
    assert folder_names(("airplane", "automobile", "fire engine")) == ["airplane", "automobile", "fire engine"]


@pytest.mark.parametrize("names", [("ant", "bee", "cow"), ("train", "test", "val")])
def test_datasets_and_this_program_read_an_image_folder(names, run, tmp_path):
    synthetic = replace(made("colour"), class_names=names)
    ddistill.export(run(synthetic), "imagefolder", tmp_path / "out")
    cache = str(tmp_path / "cache")
    for rows in (
        datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache),
        datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=cache),
    ):
        assert rows["label"][:] == synthetic.decoded()[1].tolist()
    if names[0] == "ant":
        real = load_data(str(tmp_path / "out"), DataSettings(test_fraction=0.25))
        assert real.class_names == names


def test_a_whitened_set_is_refused_where_png_would_lose_and_nothing_is_left(run, tmp_path):
    folder = run(made("whitened"))
    with pytest.raises(UserError, match="cut off; choose torch, numpy or webdataset"):
        ddistill.export(folder, "imagefolder", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("kind", KINDS)
def test_torch_loads_tensors_alone(kind, run, tmp_path):
    synthetic = made(kind)
    assert ddistill.export(run(synthetic), "torch", tmp_path / "set.pt") == len(synthetic.decoded()[0])
    found = torch.load(tmp_path / "set.pt", weights_only=True)
    images, labels = synthetic.decoded()
    assert torch.equal(found["images"], images)
    assert torch.equal(found["labels"], labels)
    assert found["class_names"] == list(synthetic.class_names)
    assert torch.equal(by_hand(found), synthetic.to_dataset().tensors[0])


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_loads_arrays_without_pickle(kind, run, tmp_path):
    synthetic = made(kind)
    ddistill.export(run(synthetic), "numpy", tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files if name != "class_names"}
        assert file["class_names"].tolist() == list(synthetic.class_names)
    assert torch.equal(found["labels"], synthetic.decoded()[1])
    assert torch.equal(by_hand(found), synthetic.to_dataset().tensors[0])


def by_hand(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """Images as a network is to see them, by what an export says."""
    images = (found["images"] - found["mean"].view(1, -1, 1, 1)) / found["std"].view(1, -1, 1, 1)
    if "whitening_matrix" in found:
        flat = images.flatten(1) - found["whitening_mean"]
        images = (flat @ found["whitening_matrix"]).view_as(images)
    return images


def test_soft_labels_and_a_learned_rate_are_in_torch_and_numpy(run, tmp_path):
    shares = torch.rand(20, 3).softmax(1).half()
    folder = run(replace(made("colour"), targets=shares, learned_rate=0.0125))
    ddistill.export(folder, "torch", tmp_path / "set.pt")
    ddistill.export(folder, "numpy", tmp_path / "set.npz")
    assert torch.equal(torch.load(tmp_path / "set.pt", weights_only=True)["soft_labels"], shares.float())
    with np.load(tmp_path / "set.npz") as found:
        assert np.array_equal(found["soft_labels"], shares.float().numpy())
        assert found["learned_rate"] == np.float32(0.0125)


@pytest.mark.parametrize("kind", KINDS)
def test_webdataset_shards_are_read_by_datasets(kind, run, tmp_path, monkeypatch):
    synthetic = made(kind)
    monkeypatch.setattr("ddistill.synthetic.export.SHARD_BYTES", 600)
    ddistill.export(run(synthetic), "webdataset", tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("train-*.tar"))
    assert len(shards) > 1
    rows = datasets.load_dataset(
        "webdataset", data_files=list(map(str, shards)), split="train", cache_dir=str(tmp_path / "cache")
    )
    images, labels = synthetic.decoded()
    suffix = "npy" if kind == "whitened" else "png"
    found = [torch.as_tensor(np.array(row[suffix])) for row in rows]
    if kind == "colour":
        found = [image.permute(2, 0, 1) for image in found]
    wanted = images if kind == "whitened" else as_bytes(synthetic).squeeze(1)
    assert sorted(one.tolist() for one in found) == sorted(one.tolist() for one in wanted)
    for image, label, about in zip(found, rows["cls"], rows["json"], strict=True):
        assert any(torch.equal(image, one) for one in wanted[labels == label])
        assert about == {"label": label, "class": synthetic.class_names[label]}
    assert rows["cls"][:3] == [0, 1, 2]  # classes take turns
    with tarfile.open(shards[0]) as shard:
        assert {(entry.uname, entry.uid, entry.mtime) for entry in shard} == {("", 0, 0)}


def test_a_torch_file_is_read_back_by_import(run, tmp_path):
    real = load_data("digits")
    images = torch.rand(10, 1, 8, 8)
    synthetic = replace(made("grey"), images=images, labels=torch.arange(10), class_names=real.class_names)
    ddistill.export(run(synthetic), "torch", tmp_path / "set.pt")
    assert torch.equal(import_pt(tmp_path / "set.pt", real).synthetic.images, images)


@pytest.mark.parametrize(
    ("to", "path", "words"),
    [
        ("tourch", "x", "did you mean torch"),
        ("torch", "x", r"ends in .pt, such as '.*x.pt'"),
        ("numpy", ".", r"ends in .npz, such as '.*set.npz'"),
        ("torch", "there.pt", "there already"),
        ("imagefolder", "there.pt", "PATH .* is a file"),
        ("imagefolder", "run", "PATH .* is not empty"),
        ("webdataset", "there.pt/x", "PATH .* cannot be written"),
        ("torch", "there.pt/x.pt", "PATH .* cannot be written"),
    ],
)
def test_a_path_or_format_that_cannot_be_is_refused(to, path, words, run, tmp_path):
    folder = run(made("colour"))
    (tmp_path / "there.pt").write_text("mine")
    with pytest.raises(UserError, match=words):
        ddistill.export(folder, to, tmp_path / path)
    assert (tmp_path / "there.pt").read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run", "there.pt"]


def test_an_export_that_fails_midway_leaves_nothing(run, tmp_path, monkeypatch):
    def fails(_pixels):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddistill.synthetic.export.png", fails)
    for to in ("imagefolder", "webdataset"):
        with pytest.raises(KeyboardInterrupt):
            ddistill.export(run(made("colour")), to, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run"]


def test_the_command_exports_and_an_empty_folder_will_do(run, tmp_path):
    folder = run(made("colour"))
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["export", str(folder), "--to", "webdataset", str(tmp_path / "empty")])
    assert (done.exit_code, done.output.split()[:2]) == (0, ["20", "images"])
    refused = CliRunner().invoke(app, ["export", str(folder), "--to", "torch", str(tmp_path / "x.pt"), "--full", "80"])
    assert refused.exit_code == 2

"""One artifact among many: `datasets` gives each its own images, whatever was loaded before."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml

import ddistill
from ddistill.augment import Normalisation
from ddistill.synthetic import SyntheticSet, load_synthetic, save_synthetic
from ddistill.whitening import Whitening

NAMES = ("ant", "bee")
LOADED = """
import json, sys, zlib
import datasets
import numpy as np
for words in json.loads(sys.argv[1]):
    rows = datasets.load_dataset(*words[:1], **(words[1] if words[1:] else {}), split="train")
    means = [round(float(np.asarray(picture).mean())) for picture in rows["image"]]
    every_pixel = zlib.crc32(b"".join(np.asarray(picture).tobytes() for picture in rows["image"]))
    print(json.dumps([means, rows["label"][:], rows.features["label"].names, every_pixel]))
"""


def grey(*levels: int, names: tuple[str, ...] = NAMES, side: int = 8) -> SyntheticSet:
    """Flat stored images of those levels, 0 to 255, two of each class."""
    images = torch.stack([torch.full((3, side, side), level / 255) for level in levels])
    labels = torch.arange(len(names)).repeat_interleave(len(levels) // len(names))
    return SyntheticSet(images, labels, names, 1, "single", Normalisation((0.4, 0.5, 0.6), (0.2, 0.2, 0.2)))


def by_datasets(home: Path, *asked: list) -> list[list]:
    """What one process of a user's is given by each call: levels, labels, class names, a checksum of every pixel."""
    result = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(asked)],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def parquets(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data").iterdir())


def test_one_process_is_given_the_images_of_each_artifact_that_it_asks_for(tmp_path):
    sets = {
        "levels": grey(10, 20, 30, 40),
        "more": grey(10, 20, 30, 40, 50, 60),
        "pixel": grey(10, 20, 30, 40),
        "names": grey(10, 20, 30, 40, names=("ant", "cow")),
        "labels": grey(10, 20, 30, 40),
        "first": grey(1, 2, 3, 4),
    }
    sets["pixel"].images[0, 0, 0, 0] = 1.0
    sets["labels"].labels[1] = 1
    asked = [[str(save_synthetic(made, tmp_path / name / "distilled", {}))] for name, made in sets.items()]
    found = by_datasets(tmp_path / "hf", *asked)
    levels = {name: [round(float(image.mean()) * 255) for image in made.images] for name, made in sets.items()}
    assert [means for means, *_ in found] == list(levels.values())
    assert [labels for _, labels, *_ in found] == [made.labels.tolist() for made in sets.values()]
    assert [names for _, _, names, _ in found] == [list(made.class_names) for made in sets.values()]
    assert len({parquets(Path(folder))[0] for (folder,) in asked}) == len(sets)


def test_a_later_process_is_given_another_runs_images_and_those_of_a_rerun_in_the_same_folder(tmp_path):
    home, a, b = tmp_path / "hf", tmp_path / "a" / "distilled", tmp_path / "b" / "distilled"
    save_synthetic(grey(10, 20), a, {})
    save_synthetic(grey(30, 40), b, {})
    assert [row[0] for row in by_datasets(home, [str(a)])] == [[10, 20]]
    assert [row[0] for row in by_datasets(home, [str(b)], [str(a)])] == [[30, 40], [10, 20]]
    save_synthetic(grey(50, 60), a, {})
    assert [row[0] for row in by_datasets(home, [str(a)], [str(b)])] == [[50, 60], [30, 40]]
    save_synthetic(grey(10, 20), a, {})  # as it was once
    assert [row[0] for row in by_datasets(home, [str(a)])] == [[10, 20]]


def test_in_one_process_a_rerun_in_the_same_folder_gives_the_new_images(tmp_path):
    found = []
    for level in (10, 30):
        folder = save_synthetic(grey(level, level + 10), tmp_path / "distilled", {})
        files = str(folder / "data" / "*.parquet")
        for words in ((str(folder),), ("parquet", None, str(folder / "data")), ("parquet", None, None, files)):
            rows = datasets.load_dataset(*words, split="train", cache_dir=str(tmp_path / "cache"))
            found.append([picture.getpixel((0, 0))[0] for picture in rows["image"]])
    assert found == [[10, 20]] * 3 + [[30, 40]] * 3


def test_the_parquet_builder_and_a_folder_given_by_data_files_tell_artifacts_apart(tmp_path):
    a, b = (save_synthetic(grey(*levels), tmp_path / name, {}) for name, levels in (("a", (10, 20)), ("b", (30, 40))))
    asked = [["parquet", {"data_files": str(folder / "data" / "*.parquet")}] for folder in (a, b)]
    asked += [[str(folder), {"data_files": "data/*.parquet"}] for folder in (a, b)]
    assert [row[0] for row in by_datasets(tmp_path / "hf", *asked)] == [[10, 20], [30, 40]] * 2


def test_a_copy_elsewhere_has_the_images_and_outlives_a_change_of_the_first(tmp_path):
    first = save_synthetic(grey(10, 20), tmp_path / "run" / "distilled", {})
    copy = Path(shutil.copytree(first, tmp_path / "copy" / "distilled"))
    home = tmp_path / "hf"
    assert [row[0] for row in by_datasets(home, [str(first)], [str(copy)])] == [[10, 20]] * 2
    save_synthetic(grey(70, 80), first, {})
    assert [row[0] for row in by_datasets(home, [str(copy)], [str(first)])] == [[10, 20], [70, 80]]


@pytest.mark.parametrize("before", ["train-00000-of-00001.parquet", "train-00000-of-00001-0123456789abcdef.parquet"])
def test_no_parquet_of_before_stays_and_the_card_names_the_one_that_is_there(tmp_path, before):
    folder = save_synthetic(grey(10, 20), tmp_path / "distilled", {})
    (folder / "data" / parquets(folder)[0]).rename(folder / "data" / before)
    (folder / "data" / "notes.txt").write_text("a user's own")
    save_synthetic(grey(30, 40), folder, {})
    kept, name = parquets(folder)
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert kept == "notes.txt"
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": f"data/{name}"}]
    assert f"data/{name}" in json.loads((folder / "synthetic.json").read_text())["files"]


def test_the_name_follows_from_the_contents_alone(tmp_path):
    one, same = (save_synthetic(grey(10, 20), tmp_path / name, about) for name, about in (("a", {}), ("b", {"x": 1})))
    assert parquets(one) == parquets(same)


def test_an_artifact_of_an_earlier_version_is_read(tmp_path):
    from ddistill.runtime.storage import read_checked_json, write_checked_json

    folder = save_synthetic(grey(10, 20), tmp_path / "distilled", {})
    old = "data/train-00000-of-00001.parquet"
    (name,) = parquets(folder)
    (folder / "data" / name).rename(folder / old)
    about = read_checked_json(folder / "synthetic.json")
    about["files"][old] = about["files"].pop(f"data/{name}")
    write_checked_json(folder / "synthetic.json", about)
    assert torch.equal(load_synthetic(folder).images, grey(10, 20).images)


def test_an_extended_run_leaves_the_new_images_alone(tmp_path):
    changes = {
        "budget.outer_steps": 1,
        "budget.speedup": 1,
        "method.inner_steps": 1,
        "method.network_samples": 16,
        "method.image_lr": 1.0,
        "network.width": 8,
        "model_augmentation.pool_size": 1,
        "model_augmentation.pool_epochs": 1,
        "evaluation.epochs": 1,
        "evaluation.repeats": 1,
        "evaluation.baselines": (),
    }
    run, home = tmp_path / "run", tmp_path / "hf"
    ddistill.distill("digits", out=run, changes=changes)
    before = by_datasets(home, [str(run / "distilled")])
    ddistill.distill("digits", out=run, changes=changes, resume=True)
    assert by_datasets(home, [str(run / "distilled")]) == before
    ddistill.distill("digits", out=run, changes={**changes, "budget.outer_steps": 3}, resume="extend")
    after = by_datasets(home, [str(run / "distilled")])
    pixels = load_synthetic(run).decoded()[0].mul(255).round().byte()
    assert after != before
    assert after[0][3] == zlib.crc32(pixels.numpy().tobytes())
    assert len(parquets(run / "distilled")) == 1


def test_a_whitened_set_keeps_its_exact_pixels_where_png_is_cut_off(tmp_path):
    beyond = replace(grey(10, 20, 30, 40), images=torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    whitening = Whitening(torch.zeros(192), torch.eye(192))
    beyond = replace(beyond, normalisation=replace(beyond.normalisation, whitening=whitening))
    folder = save_synthetic(beyond, tmp_path / "distilled", {})
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).with_format("torch")
    assert torch.equal(torch.stack([row["pixels"] for row in rows]), beyond.images)
    other = save_synthetic(replace(beyond, images=beyond.images * 1.001), tmp_path / "other", {})
    assert parquets(folder) != parquets(other)
    assert datasets.load_dataset(
        str(save_synthetic(grey(1, 2), tmp_path / "plain", {})), split="train", cache_dir=str(tmp_path / "cache")
    ).column_names == ["image", "label"]


def test_the_card_tells_what_the_set_is_and_no_name_is_markup(tmp_path):
    names = ("<b>ant</b> | [x](y) `t`", "no", "a/b\nü")
    about = {
        "data": {"name": "<script>`x`"},
        "accuracy": {"mean": 51.26, "std": 1.0, "runs": [50.26, 52.26]},
        "baselines": {"random": {"mean": 40.0, "std": 0.0, "runs": [40.0], "images": 3}},
        "evaluation": {"epochs": 5, "network": {"name": "convnet"}},
    }
    folder = save_synthetic(grey(10, 20, 30, names=names), tmp_path / "distilled", about)
    card = (folder / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == dict(zip("012", names, strict=True))
    assert found["dataset_info"]["splits"][0]["num_examples"] == 3
    assert (found["license"], found["task_categories"]) == ("unknown", ["image-classification"])
    for words in (
        "| this set | 3 | 51.3 | 1.0 | 2 |",
        "| random real images, equal storage | 3 | 40.0 | 0.0 | 1 |",
        "`` <script>`x` ``",
        "`` <b>ant</b> | [x](y) `t` ``",
        "`a/b ü`",
        "epochs: 5",
        "To be filled in",
    ):
        assert words in body


def test_the_code_of_the_card_gives_what_to_dataset_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = grey(10, 20, 30, 40)
    folder = save_synthetic(made, tmp_path / "distilled", {})
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    for block in (block.replace("path/to/this/folder", str(folder)) for block in blocks):
        found: dict = {}
        exec(block, found)
        images = found["images"] if "images" in found else found["train"].tensors[0]
        assert torch.allclose(images, made.to_dataset().tensors[0], atol=0.5 / 255 / 0.2)


SORTED_OTHERWISE = ("10", "9", "a", "B", "é", "Ünder", "Zebra", "كلب", "猫", "0", "-1", "2" * 200)
"""Names whose order as text, as numbers, in small letters and by their bytes is not theirs."""


def test_ranks_and_names_survive_names_that_sort_otherwise(tmp_path):
    assert list(SORTED_OTHERWISE) not in (sorted(SORTED_OTHERWISE), sorted(SORTED_OTHERWISE, key=str.casefold))
    levels = [20 * rank for rank in range(len(SORTED_OTHERWISE)) for _ in range(2)]
    made = grey(*levels, names=SORTED_OTHERWISE)
    folder = save_synthetic(made, tmp_path / "distilled", {})
    again = load_synthetic(folder)
    assert again.class_names == SORTED_OTHERWISE
    assert torch.equal(again.labels, made.labels)
    images, labels = again.to_dataset().tensors
    assert labels.tolist() == made.labels.tolist()
    back = again.normalisation.inverse(images).mean(dim=(1, 2, 3))
    assert [round(float(value) * 255) for value in back] == levels
    ((means, ranks, names, _),) = by_datasets(tmp_path / "hf", [str(folder)])
    assert means == levels
    assert ranks == made.labels.tolist()
    assert names == list(SORTED_OTHERWISE)


def test_a_thousand_classes_of_ten_are_written_and_read(tmp_path):
    names = tuple(f"n{(7919 * rank) % 100_003:08d}" for rank in range(1000))
    images = torch.rand(10_000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(1000).repeat_interleave(10)
    made = SyntheticSet(images, labels, names, 1, "single", Normalisation((0.5,) * 3, (0.2,) * 3))
    again = load_synthetic(save_synthetic(made, tmp_path / "distilled", {}))
    assert again.class_names == names
    assert torch.equal(again.images, images)
    ((_, ranks, found, _),) = by_datasets(tmp_path / "hf", [str(tmp_path / "distilled")])
    assert found == list(names)
    assert ranks == labels.tolist()


def test_the_card_of_a_coreset_says_that_its_images_are_real(tmp_path):
    from ddistill.methods.coresets import EL2N, Coreset
    from ddistill.methods.registry import METHODS
    from ddistill.synthetic.card import CHOOSE

    assert {name for name, (_, made) in METHODS.items() if issubclass(made, Coreset | EL2N)} == set(CHOOSE)
    for name, words in (("herding", "2 real images"), ("dm", "2 synthetic images")):
        about = {"recipe": {"method": {"name": name}, "data": {"source": "digits"}}}
        card = (save_synthetic(grey(10, 20), tmp_path / name, about) / "README.md").read_text()
        assert words in card
        assert ("These are real images" in card) == (name == "herding")

"""What is written for DD-Ranking, read as version 0.2.0 of it reads; its score by the formula of its paper."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import ddistill
from ddistill.runtime.errors import UserError
from ddistill.synthetic import SyntheticSet, save_synthetic
from ddistill.synthetic.ddranking import label_robust_score

from .conftest import made

READ = (
    *("dataset", "real_data_path", "ipc", "model_name", "data_aug_func", "aug_params", "optimizer", "lr_scheduler"),
    *("weight_decay", "momentum", "step_size", "num_eval", "im_size", "num_epochs", "real_batch_size"),
    *("syn_batch_size", "save_path", "use_zca", "use_torchvision", "custom_train_trans", "custom_val_trans"),
    *("num_workers", "device", "random_data_format", "random_data_path", "eval_full_data"),
)
"""Keys that its evaluator for hard labels asks its settings for."""
MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
ABOUT = {
    "recipe": {"name": "idc-ma-cifar10", "method": {"name": "idc"}, "data": {"source": "cifar10"}},
    "evaluation": {"network": {"name": "convnet", "width": 32.0, "depth": 3}, "epochs": 300, "training": {"lr": 0.02}},
    "accuracy": {"mean": 50.0, "std": 1.0, "runs": [49.0, 51.0]},
    "baselines": {"random": {"mean": 30.0, "std": 0.0, "runs": [30.0], "images": 20}},
}


def cifar(classes: int = 10, each: int = 2) -> SyntheticSet:
    images = torch.rand(classes * each, 3, 8, 8)
    labels = torch.arange(classes).repeat_interleave(each)
    return replace(made("colour"), images=images, labels=labels, class_names=tuple(map(str, range(classes))))


def test_its_reader_is_given_normalised_images_class_by_class_and_stored_images_per_class(tmp_path):
    synthetic = cifar()
    save_synthetic(synthetic, tmp_path / "run", ABOUT)
    ddistill.export(tmp_path / "run", "ddranking", tmp_path / "out", full=85.0, reference="https://arxiv.org/abs/1")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert set(config) == set(READ)
    assert (config["dataset"], config["ipc"], config["im_size"]) == ("CIFAR10", 2, [8, 8])
    assert (config["model_name"], config["num_epochs"], config["step_size"]) == ("ConvNet-3", 300, 151)
    images, labels = (torch.load(tmp_path / "out" / f"{name}.pt", weights_only=True) for name in ("images", "labels"))
    # factor 2: four decoded images of each stored one
    assert labels.tolist() == [label for label in range(10) for _ in range(config["ipc"] * 4)]
    pixels = images.numpy() * STD.reshape(1, 3, 1, 1) + MEAN.reshape(1, 3, 1, 1)
    assert np.allclose(pixels, synthetic.decoded()[0].numpy(), atol=1e-6)
    (row,) = csv.DictReader((tmp_path / "out" / "row.csv").read_text().splitlines())
    assert list(row) == ["method", "method_reference", "verified", "date", "dataset", "ipc", "label_type", "hlr", "ior"]
    assert (row["method"], row["dataset"], row["ipc"], row["hlr"], row["ior"]) == (
        *("idc-ma-cifar10", "CIFAR10", "2"),
        *("35.0", "20.0"),
    )
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["lrs"] == pytest.approx((np.exp(0.1 - 0.175) - np.exp(-1)) / (np.e - 1 / np.e), abs=1e-4)
    about = (tmp_path / "out" / "README.md").read_text()
    assert "128 filters, here 32" in about
    assert "syn_lr=0.02" in about


def test_a_learned_rate_is_the_rate_that_it_is_given(tmp_path):
    save_synthetic(replace(cifar(), learned_rate=0.0125), tmp_path / "run", ABOUT)
    ddistill.export(tmp_path / "run", "ddranking", tmp_path / "out")
    assert "syn_lr=0.0125" in (tmp_path / "out" / "README.md").read_text()


def test_without_the_accuracy_on_all_images_hlr_is_left_open(tmp_path):
    save_synthetic(cifar(), tmp_path / "run", ABOUT)
    ddistill.export(tmp_path / "run", "ddranking", tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "row.csv").read_text().splitlines())
    assert (row["hlr"], row["ior"]) == ("", "20.0")
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == {"hlr": None, "ior": 20.0, "lrs": None}


# NCFM on CIFAR-100, 10 images per class: three evaluations that DD-Ranking's program wrote down, in points. The scores
# were computed by hand as (exp(a + 1) - 1) / (exp(2) - 1)
PUBLISHED = [(16.14, 24.45, 0.28699), (16.18, 24.85, 0.28779), (17.36, 23.09, 0.28131)]


@pytest.mark.parametrize(("hlr", "ior", "lrs"), PUBLISHED)
def test_the_score_of_published_rows(hlr, ior, lrs):
    assert label_robust_score(hlr / 100, ior / 100) == pytest.approx(lrs, abs=1e-5)
    alpha = 0.5 * ior - 0.5 * hlr  # in per cent, as version 0.2.0 has it: beyond its own bounds of 0 and 1
    assert (np.exp(alpha) - np.exp(-1)) / (np.e - 1 / np.e) > 1


@pytest.mark.parametrize(("hlr", "ior", "lrs"), [(-1, 1, 1.0), (1, -1, 0.0)])
def test_the_score_is_from_0_to_1(hlr, ior, lrs):
    assert label_robust_score(hlr, ior) == pytest.approx(lrs)


@pytest.mark.parametrize(
    ("synthetic", "source", "dataset", "words"),
    [
        (cifar(), "digits", None, "give --dataset, one of: CIFAR10"),
        (cifar(), None, "CIFAR", "did you mean CIFAR10"),
        (cifar(9), "cifar10", None, "has 10 classes in RGB; the set has 9 of 3 channels"),
        (made("colour"), None, "CIFAR10", "the set has 3"),
        (
            replace(cifar(), labels=torch.tensor([0, 0, 0, *range(1, 10)]), images=torch.rand(12, 3, 8, 8)),
            "cifar10",
            None,
            "equally many images of each class; this one has 1 to 3",
        ),
        (replace(cifar(), normalisation=made("whitened").normalisation), "cifar10", None, "whitened"),
    ],
)
def test_what_it_cannot_take_is_refused_with_the_next_step(synthetic, source, dataset, words, tmp_path):
    save_synthetic(synthetic, tmp_path / "run", {"recipe": {"data": {"source": source}}})
    with pytest.raises(UserError, match=words):
        ddistill.export(tmp_path / "run", "ddranking", tmp_path / "out", dataset=dataset)
    assert not (tmp_path / "out").exists()

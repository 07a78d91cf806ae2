"""ZCA whitening: the map, what it does to a step on the images, and its way through a run and an artifact."""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from torch.nn import functional as F

from ddistill import distill, evaluate, load_synthetic
from ddistill.augment import Normalisation
from ddistill.data import load_data
from ddistill.data.settings import DataSettings
from ddistill.engine import distill_data
from ddistill.methods.image_optimiser import ImageSGD
from ddistill.recipes import find
from ddistill.runtime.errors import UserError
from ddistill.synthetic import SyntheticSet, save_synthetic
from ddistill.whitening import EPSILON, zca

TINY = {
    "network.width": 8,
    "budget.outer_steps": 4,
    "model_augmentation.pool_size": 1,
    "evaluation.epochs": 3,
    "evaluation.repeats": 1,
    "data.whitening": "zca",
}


@pytest.fixture(scope="module")
def whitened():
    return load_data("digits", DataSettings(whitening="zca"))


def pil_to_tensor(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture))[None]


def pixels(data) -> torch.Tensor:
    return data.train.images.float() / 255


def test_pixels_are_uncorrelated_but_for_the_epsilon(whitened):
    rows = whitened.normalisation(pixels(whitened)).flatten(1).double()
    covariance = torch.cov(rows.T)
    plain = torch.cov(pixels(whitened).flatten(1).double().T)
    values, vectors = torch.linalg.eigh(plain)
    expected = (vectors * (values / (values + EPSILON))) @ vectors.T
    torch.testing.assert_close(covariance, expected, atol=1e-4, rtol=0)
    assert rows.mean(dim=0).abs().max() < 1e-4
    assert torch.equal(whitened.whitening.matrix, load_data("digits", DataSettings(whitening="zca")).whitening.matrix)


def test_the_metric_is_the_inverse_square_of_the_map(whitened):
    matrix, metric = whitened.whitening.matrix.double(), whitened.whitening.metric.double()
    torch.testing.assert_close(metric @ matrix @ matrix, torch.eye(64).double(), atol=1e-3, rtol=0)


def test_a_step_on_pixels_is_the_step_on_whitened_images(whitened):
    """Against gradient descent with momentum on whitened images, as the program of TM does it."""
    start = whitened.train.images[:5].float() / 255
    goal = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    to_white = whitened.whitening
    white = to_white(start).requires_grad_()
    theirs = torch.optim.SGD([white], lr=0.3, momentum=0.5)
    labels = torch.zeros(len(start), dtype=torch.int64)
    space = whitened.normalisation
    synthetic = SyntheticSet(start.clone(), labels, ("a",), 1, "single", space)
    ours = ImageSGD(synthetic, 0.3, 0.5, space)
    for _ in range(4):
        theirs.zero_grad()
        F.mse_loss(white.sin(), goal, reduction="sum").backward()
        theirs.step()
        pixels = synthetic.images.clone().requires_grad_()
        F.mse_loss(to_white(pixels).sin(), goal, reduction="sum").backward()
        ours.step(pixels.grad)
    torch.testing.assert_close(to_white(synthetic.images), white.detach(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(space.inverse(space(start)), start, atol=1e-3, rtol=1e-3)


def test_whitening_travels_with_the_artifact_and_pictures_stay_pixels(tmp_path):
    run = distill("digits", "tm", out=tmp_path / "run", changes=TINY)
    plain = distill("digits", "tm", changes={**TINY, "data.whitening": None})
    assert run.summary["accuracy"] != plain.summary["accuracy"]
    stored = load_synthetic(tmp_path / "run")
    assert torch.equal(stored.images, run.synthetic.images)
    assert (stored.images < 0).any()  # free to move; the pictures are cut off
    pictures = load_dataset(str(tmp_path / "run" / "distilled"), split="train", cache_dir=str(tmp_path / "datasets"))
    shown = torch.stack([pil_to_tensor(picture) for picture in pictures["image"]])
    assert torch.equal(shown, (stored.images.clamp(0, 1) * 255).round().to(torch.uint8))
    assert torch.equal(stored.normalisation.whitening.matrix, run.synthetic.normalisation.whitening.matrix)
    images, _ = stored.to_dataset().tensors
    assert torch.equal(images, stored.normalisation.whitening(stored.decoded()[0]))  # of raw pixels
    assert evaluate(tmp_path / "run").as_dict() == run.summary["accuracy"]
    assert "whitening.safetensors" in (tmp_path / "run" / "distilled" / "README.md").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "whitened tensors" in page
    assert "load_dataset" not in page  # its PNG files are cut off
    save_synthetic(plain.synthetic, tmp_path / "run" / "distilled", {})
    assert not (tmp_path / "run" / "distilled" / "whitening.safetensors").exists()
    assert load_synthetic(tmp_path / "run").normalisation.whitening is None


def test_a_map_of_normalised_images_of_an_earlier_version_is_read_as_it_was_written(tmp_path, whitened):
    """Until 2026-11-26 the map was one of normalised images; the artifact says by what."""
    plain = load_data("digits")
    before = Normalisation(*plain.statistics, whitened.whitening)
    images, labels = pixels(whitened)[:10], torch.arange(10)
    save_synthetic(SyntheticSet(images, labels, plain.class_names, 1, "single", before), tmp_path, {})
    trained, _ = load_synthetic(tmp_path).to_dataset().tensors
    torch.testing.assert_close(trained, whitened.whitening((images - plain.statistics[0][0]) / plain.statistics[1][0]))


def test_a_damaged_map_is_refused(tmp_path, whitened):
    run = distill_data(whitened, find("random", 1, "digits").changed({**TINY, "budget.outer_steps": 1}))
    save_synthetic(run.synthetic, tmp_path, {})
    path = tmp_path / "whitening.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 8
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum of whitening"):
        load_synthetic(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(tmp_path)


def test_large_images_are_refused():
    with pytest.raises(UserError, match="at most 4800 values"):
        zca(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


def test_large_images_are_refused_before_anything_is_written(tmp_path):
    part = [(np.full((64, 64, 3), 20 * index, dtype=np.uint8), index % 2) for index in range(8)]
    with pytest.raises(UserError, match="at most 4800 values"):
        distill((part, part), "random", out=tmp_path / "run", changes={"data.whitening": "zca"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["idc", "dsa", "dm", "cafe"])
def test_every_kind_of_method_takes_whitened_images(whitened, family):
    few = {"method.inner_steps": 1, "method.network_samples": 16} if family == "idc" else {}
    recipe = find(family, 1, "digits").changed({**TINY, "budget.outer_steps": 1, **few})
    if family == "cafe":
        recipe = recipe.changed({"method.max_inner_steps": 1})
    run = distill_data(whitened, recipe)
    start = distill_data(whitened, find("random", 1, "digits").changed({**TINY, "budget.outer_steps": 1}))
    assert torch.isfinite(run.synthetic.images).all()
    assert not torch.equal(run.synthetic.images, start.synthetic.images)

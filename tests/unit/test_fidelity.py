"""Settings and conventions of the published programs, as numbers: of Acc-DD (model augmentation), IDC,
DatasetCondensation (DC, DSA, DM), CAFE and MTT (TM)."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from unit.test_model_augmentation import toy_factory
from unit.test_other_methods import CLASSES, make_context, nothing

from ddistill import distill, evaluate, load_synthetic, recipes
from ddistill.api import import_set, resolve
from ddistill.data import DataSettings, load_data
from ddistill.engine import Observer, networks_for
from ddistill.errors import UserError
from ddistill.methods import CAFE, CAFESettings, cafe
from ddistill.methods.cafe import discriminate
from ddistill.model_augmentation import NetworkFactory, Wanted, train_networks
from ddistill.training import ImageSet, Safety, Trainer
from ddistill.whitening import zca

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


# ------------------------------------------------------------------------------------------- 1: rates of a pool


@pytest.mark.parametrize(
    ("epochs", "lr", "rates"),
    [
        (2, 0.01, [0.01, 0.01]),
        (5, 0.1, [0.1, 0.1, 0.1, 0.1, 0.02]),
        (10, 0.01, [0.01] * 7 + [0.002, 0.002, 0.0004]),
    ],
)
def test_a_pool_is_trained_at_the_published_rates(epochs, lr, rates, tmp_path, monkeypatch):
    used, run_epoch = [], Trainer.run_epoch

    def noted(self, draws, lr, **how):
        used.append(lr)
        run_epoch(self, draws, lr, **how)

    monkeypatch.setattr(Trainer, "run_epoch", noted)
    factory = toy_factory()
    factory.training = factory.training.model_copy(update={"lr": lr})
    train_networks(factory, "data", Wanted(1, epochs, 0), folder=tmp_path)
    assert used == pytest.approx(rates, rel=1e-12)


def test_snapshots_and_experts_keep_the_rates_of_their_own_programs():
    assert [Wanted(1, 60, 0, kind).falls_over for kind in ("pool", "snapshots", "trajectories")] == [61, 60, None]


def test_a_pool_of_the_rates_before_is_not_taken_for_one_of_these(tmp_path):
    identity = Wanted(1, 2, 0).identity(toy_factory(), "data")
    assert identity["falls_over"] == 3
    assert "falls_over" not in Wanted(1, 2, 0, "trajectories").identity(toy_factory(), "data")


# ------------------------------------------------------------------------- 3: constants that images are normalised by


@pytest.mark.parametrize(
    ("data", "mean", "std"),
    [
        ("cifar10", CIFAR_MEAN, CIFAR_STD),
        ("cifar100", CIFAR_MEAN, CIFAR_STD),
        ("svhn", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        ("mnist", (0.1307,), (0.3081,)),
        ("fashion_mnist", (0.2861,), (0.3530,)),
        ("imagenet-10", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("imagenette", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
@pytest.mark.parametrize("family", ["idc", "idc-ma", "dc", "dsa", "dm", "cafe", "tgdd", "random"])
def test_recipes_of_known_sets_normalise_by_the_constants_of_the_programs(family, data, mean, std):
    images = (coloured if len(mean) == 3 else grey)("a set")
    real = load_data(images).normalised_as(recipes.find(family, 1, data).data)
    assert (real.normalisation.mean, real.normalisation.std) == (mean, std)


def test_pixel_steps_of_methods_that_normalise_are_those_of_the_programs():
    """A step on normalised images is one on pixels, times the std twice: 0.2023 for 0.2470 and so on."""
    real = load_data(coloured("a set"))
    published = real.normalised_as(DataSettings(constants="cifar10")).normalisation
    gradient = torch.ones(1, 3, 2, 2)
    expected = torch.tensor(CIFAR_STD).square().view(1, 3, 1, 1).expand(gradient.shape)
    torch.testing.assert_close(published.pull_back(gradient), expected)


def coloured(name: str, size: int = 8, shift: int = 0):
    draws = np.random.default_rng(0)
    images = draws.integers(0, 200, (24, size, size, 3), dtype=np.uint8) + np.uint8(shift)
    part = Named((image, index % 2) for index, image in enumerate(images))
    part.name = name
    return part, part


def grey(name: str):
    part = Named((image[:, :, :1], label) for image, label in coloured(name)[0])
    return part, part


class Named(list):
    name = ""


def write_folder(root: Path, size: int, like: tuple | None = None) -> Path:
    """A folder of two classes; ``like``: with this mean and std of each channel."""
    from PIL import Image

    draws = np.random.default_rng(1)
    for part in ("train", "test"):
        for number, name in enumerate(("a", "b")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(6):
                pixels = draws.random((size, size, 3))
                if like:
                    pixels = (pixels - pixels.mean((0, 1))) / pixels.std((0, 1)) * np.array(like[1]) + np.array(like[0])
                else:
                    pixels = pixels * 0.3 + 0.1 * number
                Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(folder / f"{index}.png")
    return root


TRUE_CIFAR = (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)


@pytest.mark.parametrize("recipe", ["idc-ma", "dm", "idc-ma-cifar10", "tm", "tm-cifar10"])
def test_images_of_ones_own_stay_with_what_was_measured_whatever_their_folder_is_called(recipe, tmp_path):
    real, complete = resolve(write_folder(tmp_path / "cifar10", 32), recipe)
    assert complete.data.constants == "measured"
    assert complete.data.whitening is None
    assert (real.normalisation.mean, real.normalisation.std) == (real.mean, real.std)


@pytest.mark.parametrize("recipe", ["idc-ma", "dm-cifar10", "tm"])
def test_a_copy_of_a_known_set_is_normalised_as_published(recipe, tmp_path):
    real, complete = resolve(write_folder(tmp_path / "cifar10", 32, TRUE_CIFAR), recipe)
    assert complete.data.constants == "cifar10"
    assert complete.data.whitening == ("zca" if recipe == "tm" else None)
    assert real.constants == (CIFAR_MEAN, CIFAR_STD)


def test_the_choice_is_the_users_and_constants_of_other_channels_are_refused(tmp_path):
    folder = write_folder(tmp_path / "mine", 32)
    real, complete = resolve(folder, "idc-ma", changes={"data.constants": "imagenet"})
    assert real.normalisation.std == (0.229, 0.224, 0.225)
    _, complete = resolve(write_folder(tmp_path / "cifar10", 32, TRUE_CIFAR), changes={"data.constants": "measured"})
    assert complete.data.constants == "measured"
    with pytest.raises(UserError, match=r"constants=mnist are of images with 1 channels.*have 3.*=measured"):
        resolve(folder, "idc-ma", changes={"data.constants": "mnist"})
    with pytest.raises(UserError, match=r"measured.*cifar10"):
        resolve("digits", "idc-ma", changes={"data.constants": "cifar"})


TINY = {
    "network.width": 8,
    "budget.outer_steps": 1,
    "method.inner_steps": 1,
    "method.network_samples": 16,
    "evaluation.epochs": 2,
    "evaluation.repeats": 1,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 1,
}


def test_the_constants_travel_with_the_artifact_and_judge_it(tmp_path):
    constants = {**TINY, "data.constants": "mnist"}
    run = distill("digits", "idc-ma", out=tmp_path / "run", changes=constants)
    measured = distill("digits", "idc-ma", changes=TINY)
    assert not torch.equal(run.synthetic.images, measured.synthetic.images)
    assert run.summary["baselines"] != measured.summary["baselines"]
    stored = load_synthetic(tmp_path / "run" / "distilled")
    assert (stored.normalisation.mean, stored.normalisation.std) == ((0.1307,), (0.3081,))
    images, _ = stored.to_dataset().tensors
    torch.testing.assert_close(images, (stored.decoded()[0] - 0.1307) / 0.3081)
    assert "[0.1307]" in (tmp_path / "run" / "distilled" / "README.md").read_text()
    assert evaluate(tmp_path / "run").as_dict() == run.summary["accuracy"]
    again = distill(None, run.recipe)
    assert torch.equal(again.synthetic.images, run.synthetic.images)


def test_networks_that_were_trained_under_other_constants_are_not_reused():
    found = []
    for how in ({}, {"data.constants": "mnist"}, {"data.whitening": "zca"}):
        real, recipe = resolve("digits", "idc-ma", changes={**TINY, **how})
        factory = factory_of(real, recipe)
        found.append(networks_for(recipe, real, factory, Observer(), Safety()))
        assert not found[-1].reused
        assert networks_for(recipe, real, factory, Observer(), Safety()).reused
    assert len({store.folder for store in found}) == 3


def factory_of(real, recipe):
    source = ImageSet.of(real.train.images, real.train.labels, real, torch.device("cpu"))
    return NetworkFactory(recipe.network, recipe.training, source, real.num_classes)


def test_an_imported_set_of_a_known_set_is_read_by_the_constants_that_its_program_wrote_with(tmp_path):
    folder = write_folder(tmp_path / "cifar10", 32, TRUE_CIFAR)
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
    torch.save(((pixels - mean) / std, torch.tensor([0, 0, 1, 1])), tmp_path / "res.pt")
    made = import_set(tmp_path / "res.pt", folder, tmp_path / "theirs")
    torch.testing.assert_close(made.images, pixels, atol=1e-6, rtol=0)
    assert (made.normalisation.mean, made.normalisation.std) == (CIFAR_MEAN, CIFAR_STD)
    how = {"normalised": (CIFAR_MEAN, CIFAR_STD), "changes": {"data.constants": "measured"}}
    own = import_set(tmp_path / "res.pt", folder, tmp_path / "other", **how)
    torch.testing.assert_close(own.images, pixels, atol=1e-6, rtol=0)
    assert own.normalisation.std == pytest.approx(TRUE_CIFAR[1], abs=0.005)


# --------------------------------------------------------------------------------------------------- 8: whitening


def test_whitening_is_of_raw_pixels_with_a_tenth_added_to_their_variances():
    """One pixel of variance v over the images, unbiased, becomes 1 / sqrt(v + 0.1) of itself."""
    images = torch.tensor([0, 255, 0, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    found = zca(images)
    assert float(found.mean) == pytest.approx(0.5)
    assert float(found.matrix) == pytest.approx((1 / 3 + 0.1) ** -0.5, rel=1e-6)
    digits = load_data("digits", DataSettings(whitening="zca", constants="mnist")).normalisation
    assert (digits.mean, digits.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("data", "whitened"), [("cifar10", {1, 10, 20}), ("cifar100", {1, 10, 20}), ("mnist", set()), ("svhn", set())]
)
def test_tm_whitens_where_its_authors_do(data, whitened):
    asked = {ipc: recipes.find("tm", ipc, data).data.whitening for ipc in (1, 10, 20, 50)}
    assert asked == {ipc: "zca" if ipc in whitened else None for ipc in asked}


# ------------------------------------------------------------------------------------------------------- 9: CAFE


def test_the_discrimination_of_cafe_is_a_sum_over_real_images():
    """With all means alike it is n ln C, and a class mean is pulled by the sum of softmax less one-hot."""
    classes, images, length = 10, 2560, 4
    embeddings = torch.randn(images, length, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(classes).repeat_interleave(images // classes)
    loss, pull = discriminate(embeddings, labels, torch.zeros(classes, length))
    assert float(loss) == pytest.approx(2560 * np.log(10), rel=1e-5)
    expected = (torch.full((images, classes), 0.1) - F.one_hot(labels, classes)).T @ embeddings
    torch.testing.assert_close(pull, expected, atol=1e-3, rtol=1e-4)


def test_both_watches_of_cafe_see_128_fresh_real_images_of_each_class_and_both_act(monkeypatch):
    seen = []

    def noted(context, purpose, *how):
        positions = fast_cafe_draw(context, purpose, *how)
        if purpose.startswith("watched"):
            seen.append(positions)
        return positions

    fast_cafe_draw = cafe.draw_real
    monkeypatch.setattr(cafe, "draw_real", noted)
    usual = CAFESettings()
    assert (usual.window, usual.stop_matching_range, usual.stop_training_range) == (10, 0.04, 0.03)
    assert usual.max_network_epochs > usual.window
    settings = {"real_batch": 8, "max_inner_steps": 2, "stop_training_range": 0.0}
    method = CAFE(CAFESettings(**settings), make_context())
    method.outer_step(1, nothing)
    assert method.done.network_epochs == 2 * 10  # each training ended with its first full window, not at the bound
    assert [tuple(positions.shape) for positions in seen] == [(CLASSES, 1, 128)] * (2 + 20)
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))


def test_the_weight_of_discrimination_in_an_image_step_of_cafe_is_that_of_a_sum():
    """Against the batch mean it is as many times larger as there are real images in the step."""
    context = make_context()
    method = CAFE(CAFESettings(real_batch=8), context)
    found = [method._look(label, 0, method.draw(1)) for label in range(CLASSES)]
    embeddings, means = torch.cat([one for _, one, _ in found]), torch.stack([one for *_, one in found])
    labels = torch.arange(CLASSES).repeat_interleave(8)
    of_the_mean = torch.autograd.functional.jacobian(lambda m: F.cross_entropy(embeddings @ m.T, labels), means)
    method.image_step(0, method.draw(1))
    pulls = torch.stack([pull for _, pull in method.targets])
    torch.testing.assert_close(pulls, 0.01 * 8 * CLASSES * of_the_mean, atol=1e-5, rtol=1e-3)

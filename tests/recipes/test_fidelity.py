"""Settings and conventions of the published programs, as numbers: of Acc-DD (model augmentation), IDC,
DatasetCondensation (DC, DSA, DM), CAFE and MTT (TM)."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matched import CLASSES, make_context, nothing
from network_sources.test_sources import toy_factory
from torch.nn import functional as F

from ddistill import distill, evaluate, load_synthetic, recipes
from ddistill.api import import_set, resolve
from ddistill.augment import imagenet
from ddistill.data import DataSettings, load_data
from ddistill.engine import Builder, Observer
from ddistill.methods import CAFE, CAFESettings, IDCSettings, build_method, cafe
from ddistill.methods.cafe import discriminate
from ddistill.network_sources import (
    FreshSource,
    TrajectorySource,
    Wanted,
    load_into,
    train_networks,
)
from ddistill.network_sources.training import copy_of
from ddistill.networks import build_network, network_of
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution
from ddistill.runtime.randomness import generator
from ddistill.synthetic import initial_set
from ddistill.synthetic.decode import bound_counts, decoded_count
from ddistill.training import EAGER, Trainer
from ddistill.whitening import zca

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@pytest.fixture
def used(monkeypatch):
    """The rates of all epochs that are trained."""
    rates, run_epoch = [], Trainer.run_epoch

    def noted(self, draws, lr, **how):
        rates.append(lr)
        run_epoch(self, draws, lr, **how)

    monkeypatch.setattr(Trainer, "run_epoch", noted)
    return rates


# ------------------------------------------------------------------------------------------- 1: rates of a pool


@pytest.mark.parametrize(
    ("epochs", "lr", "rates"),
    [
        (2, 0.01, [0.01, 0.01]),
        (5, 0.1, [0.1, 0.1, 0.1, 0.1, 0.02]),
        (10, 0.01, [0.01] * 7 + [0.002, 0.002, 0.0004]),
    ],
)
def test_a_pool_is_trained_at_the_published_rates(epochs, lr, rates, tmp_path, used):
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


# ------------------------------------------------------------------------------------------------- 2: precision


def test_an_image_gradient_in_bfloat16_is_near_that_of_float32_in_which_the_programs_compute():
    """Of a step of gradient matching: 8 to 10 % at full size, cosine 0.995."""
    found = {}
    for precision in ("fp32", "bf16"):
        context = make_context()
        context = replace(context, hot_path=replace(context.hot_path, precision=precision))
        method = build_method(IDCSettings(real_batch=16, network_samples=0), context)
        before = context.synthetic.images.clone()
        method.image_step(0, method.draw(1))
        found[precision] = (context.synthetic.images - before).flatten()
    exact, rounded = found["fp32"], found["bf16"]
    assert not torch.equal(exact, rounded)
    assert float((rounded - exact).norm() / exact.norm()) < 0.15
    assert float(F.cosine_similarity(exact, rounded, dim=0)) > 0.99


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
    assert (real.normalisation.mean, real.normalisation.std) == real.statistics
    assert not any("normalised" in line or "whitened" in line for line in real.account.lines)


@pytest.mark.parametrize("recipe", ["idc-ma", "dm-cifar10", "tm"])
def test_a_copy_of_a_known_set_is_normalised_as_published(recipe, tmp_path):
    real, complete = resolve(write_folder(tmp_path / "cifar10", 32, TRUE_CIFAR), recipe)
    assert complete.data.constants == "cifar10"
    assert complete.data.whitening == ("zca" if recipe == "tm" else None)
    assert real.constants == (CIFAR_MEAN, CIFAR_STD)
    said = "pixels are whitened" if recipe == "tm" else "mean 0.4914, 0.4822, 0.4465 and std 0.2023, 0.1994, 0.201"
    assert any(said in line for line in real.account.lines)


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
        found.append(pool_of(real, recipe))
        assert not found[-1].reused
        assert pool_of(real, recipe).reused
    assert len({store.folder for store in found}) == 3


def pool_of(real, recipe):
    builder = Builder(real, recipe, Execution(), Observer())
    return builder.networks(builder.factory(EAGER))


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


# ------------------------------------------------------------------------------------------------ 4: clamping


def test_images_are_judged_in_range_which_the_program_of_idc_does_not_see_to():
    context = make_context()
    context.synthetic.images[0] = 1.5
    assert float(context.synthetic.decoded()[0].max()) == 1.0


# -------------------------------------------------------------------------------------------- 5: published settings


def test_model_augmentation_keeps_the_settings_of_the_paper():
    """Not those that its evaluation script loads: image rate 0.02, 2000 steps, the best on the test set."""
    recipe = recipes.find("idc-ma", 10, "cifar10")
    assert (recipe.method.image_lr, recipe.budget.steps, recipe.evaluation.select) == (0.01, 400, "last")


# ------------------------------------------------------------------------------------- 10: networks trained beforehand


def test_a_fresh_network_is_trained_at_a_constant_rate_and_its_optimiser_goes_on(used):
    settings = recipes.find("idc", 10, "imagenet-10").model_augmentation
    assert (settings.fresh_epochs, settings.early_rate) == (10, "constant")
    factory = toy_factory()
    drawn = FreshSource(factory, 10, 0, constant=True).draw(1)
    assert used == [0.01] * 10
    assert float(max(momentum.abs().max() for momentum in drawn.momenta.values())) > 0

    # one more epoch from what was drawn is the eleventh of one training
    def more(momenta):
        module = factory.build("another")
        trainer = Trainer(module, factory.real, factory.training)
        load_into(module, drawn.weights)
        trainer.restart(momenta)
        trainer.run_epoch(generator(0, "fresh epoch", 1, 10), 0.01, filled=True)
        return copy_of(module.state_dict())

    whole = FreshSource(factory, 11, 0, constant=True).draw(1).weights
    assert all(torch.equal(whole[name], tensor) for name, tensor in more(drawn.momenta).items())
    assert not all(torch.equal(whole[name], tensor) for name, tensor in more(None).items())
    assert FreshSource(factory, 0, 0, constant=True).draw(1).momenta is None
    used.clear()
    assert FreshSource(factory, 3, 0).draw(1).momenta is None  # of herding and k-center: trained to the end
    assert used == pytest.approx([0.01, 0.01, 0.0004])


def test_the_momentum_of_a_fresh_network_reaches_the_outer_step(monkeypatch):
    taken, restart = [], Trainer.restart

    def noted(self, momenta=None):
        taken.append(None if momenta is None else float(sum(m.abs().sum() for m in momenta.values())))
        restart(self, momenta)

    monkeypatch.setattr(Trainer, "restart", noted)
    few = {**TINY, "budget.outer_steps": 2, "evaluation.baselines": ()}
    distill(
        "digits",
        "idc",
        changes={**few, "model_augmentation.fresh_epochs": 1, "model_augmentation.early_rate": "constant"},
    )
    assert len([amount for amount in taken if amount]) == 2


# ------------------------------------------------------------------------------------------------ 11: ImageNet-100


def test_idc_on_imagenet_100_trains_in_batches_of_128_and_draws_networks_that_were_stored_at_a_constant_rate():
    plain, augmented = (recipes.find(name, 10, "imagenet-100") for name in ("idc", "idc-ma"))
    assert (plain.training.batch, augmented.training.batch) == (128, 128)
    settings = plain.model_augmentation
    assert (settings.networks, settings.pool_epochs, settings.pool_size) == ("pool", 5, 10)
    assert (settings.fresh_epochs, settings.perturb, plain.budget.steps) == (0, False, 500)
    assert (settings.early_rate, augmented.model_augmentation.early_rate) == ("constant", "falling")
    assert Wanted(10, 5, 0, constant=True).falls_over is None


def test_a_pool_at_a_constant_rate_is_another_one(used):
    real, recipe = resolve("digits", "idc-ma", changes={**TINY, "model_augmentation.pool_epochs": 3})
    pools = []
    for rate in ("falling", "constant"):
        changed = recipe.changed({"model_augmentation.early_rate": rate})
        pools.append(pool_of(real, changed))
    assert used == pytest.approx([0.01, 0.01, 0.002, 0.01, 0.01, 0.01])
    assert pools[0].folder != pools[1].folder


# ---------------------------------------------------------------------------------------------------- 12: bound


@pytest.mark.parametrize(
    ("images", "factor", "counts", "decoded"),
    [
        (20, 3, [(3, 12), (2, 3), (1, 5)], 125),
        (50, 3, [(3, 8), (2, 3), (1, 39)], 123),
        (50, 2, [(2, 19), (1, 31)], 107),
        (10, 3, [(3, 10)], 90),
        (200, 3, [(1, 200)], 200),
    ],
)
def test_bound_takes_as_many_images_of_each_factor_as_the_program(images, factor, counts, decoded):
    assert bound_counts(images, factor) == counts
    assert decoded_count(images, factor, "bound") == decoded


# ---------------------------------------------------------------------------------------- 13: training on ImageNet


def test_imagenet_crops_are_drawn_anew_until_they_fit():
    """Against rejection, as torchvision's RandomResizedCrop does it: mean area 0.692 to 0.693, not 0.738."""
    uniforms = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0))
    height, width = imagenet.crop_sides(*uniforms)
    area, ratio = height * width, (width / height).log()
    assert float(area.mean()) == pytest.approx(0.6925, abs=0.002)
    draws = np.random.default_rng(0)
    areas, ratios = draws.uniform(0.5, 1, 400_000), draws.uniform(-np.log(4 / 3), np.log(4 / 3), 400_000)
    fits = areas * np.exp(np.abs(ratios)) <= 1
    assert float(areas[fits].mean()) == pytest.approx(float(area.mean()), abs=0.002)
    for ours, theirs in (
        (area, areas[fits]),
        (ratio, ratios[fits]),
        (ratio.abs() * area, (np.abs(ratios) * areas)[fits]),
    ):
        shares = np.linspace(0.05, 0.95, 10)
        assert np.quantile(ours.numpy(), shares) == pytest.approx(np.quantile(theirs, shares), abs=0.005)
    assert float(height.max()) <= 1.0
    assert float(width.max()) <= 1.0


def test_imagenet_colours_are_not_cut():
    row = torch.full((1, 12), 0.5)
    row[:, imagenet.SLOTS["brightness"]] = 1.0
    got = imagenet.color_jitter(torch.full((1, 3, 2, 2), 0.9), row)
    assert float(got.max()) == pytest.approx(0.9 * 1.4, rel=1e-6)


# ------------------------------------------------------------------------------------------------ 14, 15, 16: digits


def test_idc_on_mnist_uses_no_cutmix_and_no_cutout():
    for family in ("idc", "idc-ma"):
        recipe = recipes.find(family, 10, "mnist")
        assert (recipe.synthetic.factor, recipe.training.cutmix, recipe.evaluation.training.cutmix) == (2, 0.0, 0.0)
        assert recipe.method.augment.operations == ("color", "crop")
        assert recipe.evaluation.training.augment.operations == ("color", "crop", "scale", "rotate")
        assert recipe.method.scaled_image_lr(10, 28) == pytest.approx(1e-4)


def test_idc_on_fashion_mnist_cuts_out_and_scales_its_rate_from_32_pixels():
    recipe = recipes.find("idc", 10, "fashion_mnist")
    assert recipe.method.scaled_image_lr(10, 28) == pytest.approx(1e-4 * (28 / 32) ** 2)
    assert recipe.method.augment.operations == ("color", "crop", "cutout")
    assert (recipe.training.cutmix, recipe.evaluation.training.cutmix) == (0.5, 0.5)
    assert set(recipe.evaluation.training.augment.operations) == {"color", "crop", "flip", "scale", "rotate"}
    assert (recipe.method.distance, recipe.method.network_samples) == ("l1", 500)


@pytest.mark.parametrize(
    ("data", "flips"),
    [("mnist", False), ("svhn", False), ("fashion_mnist", True), ("cifar10", True), ("cifar100", True)],
)
@pytest.mark.parametrize("family", ["dsa", "dsa-ma"])
def test_dsa_does_not_flip_digits(family, data, flips):
    method = recipes.find(family, 10, data).method
    for augment in (method.augment, method.synthetic_training.augment):
        operations = ("color", "crop", "cutout", *(("flip",) if flips else ()), "scale", "rotate")
        assert (augment.rule, augment.operations) == ("dsa", operations)


# ------------------------------------------------------------------------------------------------ 17: students of TM


def test_students_start_from_epochs_below_max_start_epoch():
    class Asked:
        size = 1

        def __init__(self):
            self.epochs = []

        def weights(self, member, epoch):
            self.epochs.append(epoch)
            return {}

    asked = Asked()
    source = TrajectorySource(asked, 3, 2, 0)
    for step in range(60):
        source.draw(step)
    starts, targets = asked.epochs[::2], asked.epochs[1::2]
    assert set(starts) == {0, 1, 2}
    assert targets == [start + 2 for start in starts]


def test_an_expert_is_trained_no_longer_than_a_student_can_ask_for():
    short = {"model_augmentation.pool_epochs": 3, "method.max_start_epoch": 2, "method.expert_epochs": 2}
    recipes.find("tm", 1, "digits").changed(short)  # epochs 0 and 1, and two more
    with pytest.raises(UserError, match="epoch 4"):
        recipes.find("tm", 1, "digits").changed({**short, "method.max_start_epoch": 3})


# -------------------------------------------------------------------------------------------- 18: loops of DC and DSA


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (35, (30, 20)), (40, (40, 15)), (50, (50, 10))],
)
@pytest.mark.parametrize("family", ["dc", "dsa"])
def test_dc_and_dsa_loop_as_published(family, ipc, loops):
    method = recipes.find(family, ipc, "cifar10").method
    assert (method.inner_steps, method.network_epochs) == loops


# ---------------------------------------------------------------------------------------------------- 19: the start


@pytest.mark.parametrize("family", ["dc", "cafe"])
def test_dc_and_cafe_start_from_real_images_and_from_noise_where_asked_for(family):
    real, recipe = resolve("digits", family)
    assert recipe.synthetic.initialisation == "random"
    start = initial_set(recipe.synthetic, real, 0).images
    assert all(bool((real.train.images == (image * 255).round()).flatten(1).all(1).any()) for image in start)
    noise = initial_set(recipe.changed({"synthetic.init": "noise"}).synthetic, real, 0).images
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(noise.std()) == pytest.approx(0.25, abs=0.03)


# ------------------------------------------------------------------------------------------ 20: other architectures


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        ("resnet10,width=0.5,norm=batch", 1.23),
        ("resnet18,width=0.5,norm=batch", 2.80),
        ("densenet,width=0.375,norm=batch", 1.00),
        ("resnet10", 4.90),
        ("resnet18", 11.17),
        ("densenet", 6.96),
    ],
)
def test_a_width_gives_the_thin_networks_of_idcs_table(network, millions):
    module = build_network(network_of(network), 10, 3, 32, 0)
    assert round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2) == millions


def test_an_evaluation_says_how_many_parameters_its_network_has():
    real, recipe = resolve("digits", "random")
    wanted = recipe.evaluation.model_copy(update={"epochs": 1, "repeats": 1})
    judged = evaluate(initial_set(recipe.synthetic, real, 0), real, wanted, network="resnet10,width=0.125")
    expected = build_network(network_of("resnet10,width=0.125"), 10, 1, 8, 0)
    assert judged.protocol["parameters"] == sum(parameter.numel() for parameter in expected.parameters())

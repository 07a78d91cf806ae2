"""Augmentation of section 4 of the algorithm description: python -m pytest tests/augment/test_augment.py.

Each operation is compared with the one-image reference in float64, absolute tolerance 1e-5: the uniforms and what is
computed from them alone are float32.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from reference import siamese as reference
from torch.autograd import gradcheck

import ddistill
from ddistill.augment import (
    AugmentSettings,
    Normalisation,
    Pipeline,
    augment,
    check_registered,
    cutmix,
    draw_augment,
    draw_cutmix,
    imagenet,
    register_augmentation,
    seeded,
    siamese,
)
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError

TOLERANCE = 1e-5
OPERATIONS = ("flip", "color", "crop", "scale", "rotate", "cutout")


def images_of(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    """Normalised images without a zero pixel."""
    images = torch.randn(
        count, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return torch.where(images.abs() < 0.01, 0.01, images)


def uniforms_of(rows: int, seed: int) -> torch.Tensor:
    return torch.rand(rows, siamese.NUM_UNIFORMS, generator=torch.Generator().manual_seed(seed))


def by_reference(operation: str, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One image through the reference, its parameters computed from the uniforms as section 4 defines them."""
    draw = {name: float(u[slot]) for name, slot in siamese.SLOTS.items()}
    side = x.shape[-1]
    if operation == "flip":
        return reference.flip(x) if draw["flip"] < 0.5 else x
    if operation == "color":
        x = reference.brightness(x, draw["brightness"])
        x = reference.saturation(x, draw["saturation"])
        return reference.contrast(x, draw["contrast"])
    if operation == "crop":
        reach = math.floor(side * 0.125 + 0.5)
        dy, dx = (reach - math.floor(draw[name] * (2 * reach + 1)) for name in ("shift_y", "shift_x"))
        return reference.shift(x, dx, dy)
    if operation == "cutout":
        size = math.floor(side / 2 + 0.5)
        cy, cx = (math.floor(draw[name] * (side + 1 - size % 2)) for name in ("cutout_y", "cutout_x"))
        return reference.cutout(x, cy, cx, size)
    if operation == "scale":
        sx, sy = (1 / 1.2 + draw[name] * (1.2 - 1 / 1.2) for name in ("scale_x", "scale_y"))
        return reference.scale(x, sx, sy)
    return reference.rotate(x, (2 * draw["rotate"] - 1) * 15)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 9), (3, 12)])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-image"])
def test_an_operation_computes_what_the_reference_computes_image_by_image(operation, channels, side, shared):
    for seed in range(12):
        images = images_of(3, channels, side, seed)
        uniforms = uniforms_of(1 if shared else 3, seed)
        got = getattr(siamese, operation)(images, uniforms)
        rows = uniforms.expand(3, -1)
        expected = torch.stack([by_reference(operation, x, u) for x, u in zip(images, rows, strict=True)])
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("choice", [0, 1, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-image"])
def test_idc_applies_flip_color_one_geometric_operation_and_cutout_in_this_order(choice, shared):
    settings = AugmentSettings(operations=("cutout", "rotate", "color", "flip", "crop", "scale"), rule="idc")
    images, uniforms = images_of(3, 3, 8), uniforms_of(1 if shared else 3, 5)
    geometric = settings.alternatives[choice]
    assert sorted(settings.alternatives) == ["crop", "rotate", "scale"]
    expected = []
    for x, u in zip(images, uniforms.expand(3, -1), strict=True):
        for operation in ("flip", "color", geometric, "cutout"):
            x = by_reference(operation, x, u)
        expected.append(x)
    got = augment(settings, images, uniforms, choice)
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("choice", range(6))
def test_dsa_applies_exactly_the_chosen_operation(choice):
    settings = AugmentSettings(operations=OPERATIONS, rule="dsa")
    images, uniforms = images_of(2, 3, 8), uniforms_of(1, 11)
    uniforms[:, siamese.SLOTS["flip"]] = 0.2
    got = augment(settings, images, uniforms, choice)
    expected = torch.stack([by_reference(settings.alternatives[choice], x, uniforms[0]) for x in images])
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    assert not torch.equal(got, images)


@pytest.mark.parametrize("rule", ["idc", "dsa"])
def test_no_operation_leaves_images_as_they_are(rule):
    images = images_of(2, 3, 8)
    assert torch.equal(augment(AugmentSettings(operations=(), rule=rule), images, uniforms_of(1, 0), 0), images)


@pytest.mark.parametrize(("rule", "alternatives"), [("idc", 3), ("dsa", 6)])
def test_every_alternative_of_a_rule_is_drawn_about_equally_often(rule, alternatives):
    settings = AugmentSettings(operations=OPERATIONS, rule=rule)
    draws = draw_augment(settings, 600, 1, torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.tensor(draws.choices), minlength=alternatives)
    assert len(counts) == alternatives
    mean = 600 / alternatives
    assert float((counts - mean).abs().max()) < 5 * math.sqrt(mean)  # five standard deviations


def test_a_shared_draw_does_the_same_to_every_image_and_separate_draws_do_not():
    settings = AugmentSettings(operations=OPERATIONS)
    image = images_of(1, 3, 8)
    images = image.expand(4, -1, -1, -1)
    shared = augment(settings, images, uniforms_of(1, 2), 0)
    separate = augment(settings, images, uniforms_of(4, 2), 0)
    assert all(torch.equal(shared[0], other) for other in shared)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(separate, 2))


def test_one_call_augments_real_and_synthetic_images_as_two_calls_with_the_same_draw_do():
    settings = AugmentSettings(operations=OPERATIONS)
    real, synthetic, uniforms = images_of(3, 3, 8, 1), images_of(2, 3, 8, 2), uniforms_of(1, 3)
    both = augment(settings, torch.cat([real, synthetic]), uniforms, 1)
    apart = torch.cat([augment(settings, part, uniforms, 1) for part in (real, synthetic)])
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-12)


def test_draws_are_a_function_of_the_generator():
    settings = AugmentSettings()

    def draws(seed: int) -> siamese.AugmentDraws:
        return draw_augment(settings, 50, 3, torch.Generator().manual_seed(seed))

    first, again, other = draws(0), draws(0), draws(1)
    assert torch.equal(first.uniforms, again.uniforms)
    assert first.choices == again.choices
    assert not torch.equal(first.uniforms, other.uniforms)
    assert first.uniforms.shape[:2] == (50, 3)
    assert 0 <= float(first.uniforms.min()) < float(first.uniforms.max()) < 1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_flow_through_every_operation(operation, rows):
    settings = AugmentSettings(operations=(operation,), rule="dsa")
    images, uniforms = images_of(2, 2, 6).requires_grad_(), uniforms_of(rows, 8)
    assert gradcheck(lambda x: augment(settings, x, uniforms, 0), (images,), atol=1e-6)
    assert torch.autograd.grad(augment(settings, images, uniforms, 0).square().sum(), images)[0].abs().sum() > 0


@pytest.mark.parametrize("side", [8, 28, 32])
def test_crop_shifts_by_at_most_an_eighth_of_the_side_both_ways_and_reaches_every_shift(side):
    reach = math.floor(side * 0.125 + 0.5)
    position = torch.arange(1.0, side + 1).expand(1, 1, side, side)
    uniforms = uniforms_of(400, 1)
    moved = siamese.crop(position.expand(400, 1, side, side), uniforms)
    shifts = set()
    for picture in moved[:, 0]:
        row = picture[side // 2]  # inside for every vertical shift
        inside = row[row > 0]
        shift = int(inside[0]) - 1 if row[0] > 0 else int(inside[-1]) - side
        assert len(inside) == side - abs(shift)
        shifts.add(shift)
    assert shifts == set(range(-reach, reach + 1))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_cutout_zeroes_a_square_of_half_the_side_that_may_hang_over_the_border(side):
    holes = siamese.cutout(torch.ones(300, 1, side, side), uniforms_of(300, 2))[:, 0] == 0
    heights = holes.any(dim=2).sum(dim=1)
    widths = holes.any(dim=1).sum(dim=1)
    assert torch.equal(holes.sum(dim=(1, 2)), heights * widths)
    for sides in (heights, widths):
        assert int(sides.max()) == side // 2
        assert side // 4 <= int(sides.min()) < side // 2
    assert holes.any(dim=0).all()


@pytest.mark.parametrize("operation", ["scale", "rotate"])
def test_resampling_puts_zeros_outside_and_never_overshoots(operation):
    moved = getattr(siamese, operation)(torch.ones(200, 1, 16, 16), uniforms_of(200, 3))
    assert float(moved.max()) <= 1 + TOLERANCE
    assert float(moved[:, 0, 8, 8].min()) == pytest.approx(1, abs=1e-5)
    assert float(moved[:, 0, 0, 0].min()) == pytest.approx(0, abs=0.3)
    assert float(moved.min()) < 0.5


def test_the_pipeline_normalises_before_it_augments_so_that_zeros_are_the_mean_colour():
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.4)
    pipeline = Pipeline(AugmentSettings(operations=("cutout",)), Normalisation(mean, std))
    grey = torch.tensor(mean).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(pipeline(grey, uniforms_of(1, 0), 0), torch.zeros(2, 3, 8, 8), rtol=0, atol=1e-6)
    one_up = grey + torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(pipeline.normalise(one_up), torch.ones(2, 3, 8, 8), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ CutMix


@pytest.mark.parametrize("box", [(2, 5, 1, 8), (0, 8, 0, 8), (3, 3, 0, 8), (0, 1, 7, 8)])
def test_cutmix_takes_the_box_from_the_partner_and_the_label_share_is_the_area_outside_it(box):
    images = images_of(4, 3, 8)
    partner = torch.tensor([2, 0, 3, 1])
    mixed, share = cutmix(images, torch.tensor(box), partner)
    expected = torch.stack([reference.cutmix(images[i], images[int(partner[i])], box) for i in range(4)])
    assert torch.equal(mixed, expected)
    assert float(share) == pytest.approx(1 - (box[1] - box[0]) * (box[3] - box[2]) / 64, abs=1e-7)


def test_cutmix_boxes_lie_in_the_image_and_their_sides_follow_the_drawn_share():
    side = 64
    draws = draw_cutmix(1.0, 2000, 3, side, torch.Generator().manual_seed(0))
    top, bottom, left, right = draws.box.unbind(1)
    assert int(draws.box.min()) >= 0
    assert int(draws.box.max()) <= side
    assert bool((bottom >= top).all())
    assert bool((right >= left).all())
    inside = (top > 0) & (bottom < side) & (left > 0) & (right < side)  # boxes that the border does not cut
    assert int(inside.sum()) > 100
    assert torch.equal((bottom - top)[inside], (right - left)[inside])
    # Beta(1, 1): half of all uncut areas would be above half the image; at the border they lose some, never gain.
    area = ((bottom - top) * (right - left)).double() / side**2
    assert 0.2 < float(area.mean()) < 0.5
    assert float(area.max()) > 0.9


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 0.42, 0.56), (1.0, 0.95, 1)])
def test_cutmix_is_applied_to_the_stated_share_of_batches(probability, low, high):
    draws = draw_cutmix(probability, 1000, 2, 32, torch.Generator().manual_seed(1))
    top, bottom, left, right = draws.box.unbind(1)
    applied = ((bottom > top) & (right > left)).double().mean()
    assert low <= float(applied) <= high


def test_cutmix_with_probability_0_leaves_images_and_labels_as_they_are():
    images = images_of(4, 3, 8)
    draws = draw_cutmix(0.0, 20, 4, 8, torch.Generator().manual_seed(2))
    for box, keys in zip(draws.box, draws.keys, strict=True):
        mixed, share = cutmix(images, box, keys.argsort())
        assert torch.equal(mixed, images)
        assert float(share) == 1.0


def test_cutmix_draws_are_a_function_of_the_generator():
    first, again, other = (draw_cutmix(0.5, 30, 4, 32, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.box, again.box)
    assert torch.equal(first.keys, again.keys)
    assert not torch.equal(first.box, other.box)
    assert not torch.equal(first.keys, other.keys)


# ---------------------------------------------------------------------------------------------------- ImageNet


def identity_row() -> torch.Tensor:
    """Uniforms that stand for: the whole image, no flip, factors 1, no lighting."""
    row = torch.full((1, siamese.NUM_UNIFORMS), 0.5)
    row[:, imagenet.SLOTS["area"]] = 1.0  # with a ratio of 1, the only one of which all of the area fits
    return row


def unit_images(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_augmentation_keeps_the_shape_is_repeatable_and_differs_between_images(channels):
    images = unit_images(1, channels, 16).expand(5, channels, 16, 16)
    uniforms = uniforms_of(5, 7)
    first, again = (imagenet.imagenet_augment(images, uniforms) for _ in range(2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(first, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_augmentation_can_leave_an_image_as_it_is(channels):
    images = unit_images(3, channels, 16)
    got = imagenet.imagenet_augment(images, identity_row().expand(3, -1))
    torch.testing.assert_close(got, images, rtol=0, atol=1e-5)


def test_imagenet_augmentation_of_many_images_is_that_of_few_at_a_time(monkeypatch):
    images, uniforms = torch.rand(7, 3, 10, 10), uniforms_of(7, 3)
    whole = imagenet.imagenet_augment(images, uniforms)
    monkeypatch.setattr(imagenet, "CACHED_BYTES", 2 * images[0].nbytes)
    torch.testing.assert_close(imagenet.imagenet_augment(images, uniforms), whole, rtol=0, atol=1e-6)


def test_the_resized_crop_cuts_0_5_to_1_of_the_area_inside_the_image_with_ratio_3_4_to_4_3():
    side = 64
    ramp = (torch.arange(side) + 0.5) / side  # the value of a pixel is its position
    grid = torch.stack([ramp[:, None].expand(side, side), ramp.expand(side, side)])
    cropped = imagenet.resized_crop(grid.expand(500, 2, side, side), uniforms_of(500, 4))
    # Two inner pixels give the scale of an axis; the outer ones lie on the border of the image.
    height = (cropped[:, 0, 48, 32] - cropped[:, 0, 16, 32]) * 2
    width = (cropped[:, 1, 32, 48] - cropped[:, 1, 32, 16]) * 2
    area, ratio = height * width, width / height
    assert 0.5 - 1e-3 < float(area.min()) < 0.55
    assert 0.9 < float(area.max()) <= 1 + 1e-3
    assert 3 / 4 - 1e-3 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 4 / 3 + 1e-3
    assert float((height / 2 + (0.5 - cropped[:, 0, 31:33, 32].mean(dim=1)).abs()).max()) < 0.5 + 1e-2


def test_the_flip_mirrors_the_image():
    images, row = unit_images(2, 3, 8), identity_row()
    row[:, imagenet.SLOTS["flip"]] = 0.1
    got = imagenet.imagenet_augment(images, row.expand(2, -1))
    torch.testing.assert_close(got, images.flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("u", "factor"), [(0.0, 0.6), (0.25, 0.8), (0.75, 1.2)])
def test_brightness_multiplies_by_1_plus_or_minus_0_4(u, factor):
    images, row = unit_images(2, 3, 8) * 0.8, identity_row()
    row[:, imagenet.SLOTS["brightness"]] = u
    torch.testing.assert_close(imagenet.color_jitter(images, row.expand(2, -1)), images * factor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_contrast_and_saturation_shrink_towards_the_grey_level(name):
    images, row = unit_images(2, 3, 8) * 0.5 + 0.25, identity_row()
    row[:, imagenet.SLOTS[name]] = 0.0
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    base = grey.mean(dim=(2, 3), keepdim=True) if name == "contrast" else grey
    expected = base + 0.6 * (images - base)
    torch.testing.assert_close(imagenet.color_jitter(images, row.expand(2, -1)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(("brightness", "contrast", "saturation"))))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_colour_jitter_is_that_of_its_parts_in_any_order(order, channels):
    images, uniforms = unit_images(4, channels, 8), uniforms_of(4, 2)
    expected, luma = images, torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1.0]).view(1, -1, 1, 1)
    for name in order:
        grey = (expected * luma).sum(dim=1, keepdim=True)
        base = {"brightness": 0.0, "contrast": grey.mean(dim=(2, 3), keepdim=True), "saturation": grey}[name]
        factor = 0.6 + 0.8 * uniforms[:, imagenet.SLOTS[name]].view(-1, 1, 1, 1)
        expected = (expected - base) * factor + base
    torch.testing.assert_close(imagenet.color_jitter(images, uniforms), expected, rtol=0, atol=1e-5)


def test_lighting_adds_one_colour_to_a_whole_image_with_the_spread_of_the_components():
    images = torch.full((4000, 3, 2, 2), 0.5)
    shift = imagenet.lighting(images, uniforms_of(4000, 6)) - images
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-7)
    covariance = torch.cov(shift[:, :, 0, 0].T).double()
    vectors = torch.tensor(imagenet.PCA_VECTORS, dtype=torch.float64)
    expected = vectors @ torch.diag(torch.tensor([0.02175, 0.00188, 0.00045], dtype=torch.float64) ** 2) @ vectors.T
    torch.testing.assert_close(covariance, expected, rtol=0.12, atol=2e-6)


def test_the_imagenet_rule_augments_before_it_normalises():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pipeline = Pipeline(AugmentSettings(operations=(), rule="imagenet"), Normalisation(mean, std))
    images, uniforms = unit_images(3, 3, 8), uniforms_of(3, 1)
    expected = pipeline.normalise(imagenet.imagenet_augment(images, uniforms))
    torch.testing.assert_close(pipeline(images, uniforms, 0), expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- registered ones


@pytest.fixture
def mirrored(monkeypatch):
    """An operation of a user: upside down where its first number is below a half."""
    monkeypatch.setattr(siamese, "OPERATIONS", dict(siamese.OPERATIONS))

    @register_augmentation("upside down", numbers=2)
    def upside_down(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        assert uniforms.shape[1] == 2
        return torch.where(uniforms[:, :1, None, None] < 0.5, images.flip(2), images)

    return upside_down


@pytest.mark.parametrize("rule", ["idc", "dsa"])
def test_a_registered_operation_does_not_deal_the_numbers_of_others_anew(mirrored, rule):
    plain = AugmentSettings(operations=("color", "crop"), rule="idc")
    more = AugmentSettings(operations=("color", "crop", "upside down"), rule=rule)
    before, after = (draw_augment(s, 40, 3, torch.Generator().manual_seed(7)) for s in (plain, more))
    assert before.uniforms.shape == (40, 3, siamese.NUM_UNIFORMS)
    assert torch.equal(after.uniforms[..., : siamese.NUM_UNIFORMS], before.uniforms)
    assert rule == "dsa" or after.choices == before.choices
    own = after.uniforms[..., siamese.NUM_UNIFORMS :]
    assert own.shape == (40, 3, 2)
    assert 0.3 < float((own[:, 0, 0] < 0.5).float().mean()) < 0.7


def test_the_numbers_of_a_registered_operation_follow_from_its_name_and_the_place_of_the_generator(mirrored):
    register_augmentation("twin", numbers=2)(lambda images, _uniforms: images)
    settings = AugmentSettings(operations=("upside down", "twin"))
    draws = torch.Generator().manual_seed(1)
    first, second = (draw_augment(settings, 5, 1, draws).uniforms[..., siamese.NUM_UNIFORMS :] for _ in range(2))
    again = draw_augment(settings, 5, 1, torch.Generator().manual_seed(1)).uniforms[..., siamese.NUM_UNIFORMS :]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first[..., :2], first[..., 2:])


def test_a_registered_operation_is_applied_after_the_others(mirrored):
    images = images_of(4, 3, 8)
    settings = AugmentSettings(operations=("upside down", "color"))
    draws = draw_augment(settings, 1, 1, torch.Generator().manual_seed(0))
    for number in (0.1, 0.9):
        draws.uniforms[0, 0, siamese.NUM_UNIFORMS] = number
        expected = siamese.color(images, draws.uniforms[0])
        expected = expected.flip(2) if number < 0.5 else expected
        assert torch.equal(augment(settings, images, draws.uniforms[0], 0), expected)


def test_a_callable_that_draws_by_itself_is_wrapped():
    apply = seeded(lambda images: images + torch.rand(1))
    images, uniforms = images_of(4, 3, 8), torch.tensor([[0.3], [0.6]])
    before = torch.get_rng_state()
    first, again, other = (apply(images, u) for u in (uniforms[:1], uniforms[:1], uniforms[1:]))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_names_and_numbers_of_operations_are_checked(mirrored):
    with pytest.raises(UserError, match="augmentation name 'color' is taken"):
        register_augmentation("color")(mirrored)
    with pytest.raises(UserError, match="needs at least 1 number, got 0"):
        register_augmentation("still", numbers=0)(mirrored)
    register_augmentation("upside down", numbers=2)(mirrored)


def test_operations_that_the_fixed_pipeline_would_ignore_are_refused():
    assert AugmentSettings(rule="imagenet").operations == ()
    with pytest.raises(
        UserError, match=r"evaluation\.training\.augment: rule imagenet is a fixed pipeline.*operations=\[\]"
    ):
        Recipe().changed({"evaluation.training.augment.rule": "imagenet"})


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (
            lambda images, _uniforms: images[:1],
            r"float32 of shape \(1, 3, 8, 8\).*must give images of that kind",
        ),
        (lambda images, _uniforms: images[..., :4], r"shape \(2, 3, 8, 4\)"),
        (lambda images, _uniforms: images.double(), "torch.float64"),
        (lambda _images, _uniforms: None, "NoneType"),
        (lambda images, _uniforms: images.mul_(0.5), "changes the images that it is given"),
        (lambda images, _uniforms: images / 0.0, "not finite"),
        (lambda images, _uniforms: images.detach() * 0.5, "no gradient through"),
        (lambda images, uniforms: images * uniforms, "does not work for images of shape.*RuntimeError"),
        (lambda images: images, "does not work.*TypeError"),
    ],
)
def test_an_operation_that_does_not_keep_its_promise_is_refused_before_a_run(mirrored, operation, words):
    register_augmentation("broken", numbers=2)(operation)
    with pytest.raises(UserError, match=f"augmentation 'broken' .*{words}") as refusal:
        check_registered(AugmentSettings(operations=("upside down", "broken")), 3, 8)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="augmentation 'broken'"):
        ddistill.distill("digits", changes={"evaluation.training.augment.operations": ["broken"]})

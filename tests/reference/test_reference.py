"""Hand-computed checks of the reference itself."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from . import convnet, matching, perturbation, selection, siamese

MEAN = [0.4]
STD = [0.25]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_network(parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    return convnet.convnet_forward(parameters, images, depth=2, norm="instance")


def small_parameters(classes: int = 3, seed: int = 0) -> dict[str, Tensor]:
    shapes = convnet.convnet_shapes(depth=2, width=3, channels=1, size=8, classes=classes)
    return convnet.draw_parameters(shapes, seed)


# ------------------------------------------------------------------------------------------------------ networks


def test_parameter_counts() -> None:
    assert convnet.count(convnet.convnet_shapes()) == 320_010
    # stem 9,536; blocks 73,984, 230,144, 919,040, 3,673,088; classifier 5,130
    assert convnet.count(convnet.resnet_ap_shapes()) == 4_910_922


def test_convnet_without_norm_by_hand() -> None:
    parameters = {
        "blocks.0.conv.weight": torch.ones(1, 1, 3, 3, dtype=torch.float64),
        "blocks.0.conv.bias": tensor([-1.0]),
        "classifier.weight": tensor([[2.0], [-1.0]]),
        "classifier.bias": tensor([0.0, 1.0]),
    }
    images = tensor([[[[1.0, 1.0], [1.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.5]]]])
    # every 3x3 window sees the whole 2x2 image: 4 - 1 = 3 and relu(0.5 - 1) = 0
    assert_close(convnet.convnet_forward(parameters, images, 1, "none"), tensor([[6.0, -2.0], [0.0, 1.0]]))


def test_convnet_instance_norm_by_hand() -> None:
    centre = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    centre[0, 0, 1, 1] = 1
    parameters = {
        "blocks.0.conv.weight": centre,
        "blocks.0.conv.bias": tensor([7.0]),
        "blocks.0.norm.weight": tensor([2.0]),
        "blocks.0.norm.bias": tensor([0.0]),
        "classifier.weight": tensor([[1.0]]),
        "classifier.bias": tensor([0.0]),
    }
    logits = convnet.convnet_forward(parameters, tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 1, "instance")
    # mean 2.5, variance 1.25; after ReLU 2 * (0.5 + 1.5) / sd remains, averaged over four pixels
    assert_close(logits, tensor([[2 * 2 / 4 / math.sqrt(1.25 + 1e-5)]]))


@pytest.mark.parametrize(("size", "features"), [(28, 16), (32, 16), (16, 4)])
def test_convnet_sizes(size: int, features: int) -> None:
    shapes = convnet.convnet_shapes(width=2, channels=1, size=size, classes=4)
    assert shapes["classifier.weight"] == (4, 2 * features)
    logits = convnet.convnet_forward(convnet.draw_parameters(shapes, 0), uniform(2, 1, size, size, seed=1), 3)
    assert logits.shape == (2, 4)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_resnet_ap_sizes(size: int) -> None:
    shapes = convnet.resnet_ap_shapes(size=size, classes=5, widths=(2, 3, 4, 5))
    parameters = convnet.draw_parameters(shapes, 0)
    assert set(shapes) == set(parameters)
    assert "blocks.0.shortcut.conv.weight" not in shapes
    assert convnet.resnet_ap_forward(parameters, uniform(2, 3, size, size, seed=1)).shape == (2, 5)


def test_resnet_ap_block_order_by_hand() -> None:
    centre = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    centre[0, 0, 1, 1] = 1
    wide = {
        "b.conv1.weight": centre,
        "b.conv2.weight": centre,
        "b.shortcut.conv.weight": torch.zeros(1, 1, 1, 1, dtype=torch.float64),
    }
    x = tensor([[[[-1.0, 1.0, 2.0, 4.0]] * 2]])
    # ReLU before the pool: (0 + 1) / 2 and (2 + 4) / 2
    assert_close(convnet.resnet_ap_block(wide, "b", x, 2, "none"), tensor([[[[0.5, 3.0]]]]))
    normed = {
        "b.conv1.weight": centre,
        "b.conv2.weight": torch.zeros_like(centre),
        "b.shortcut.conv.weight": torch.ones(1, 1, 1, 1, dtype=torch.float64),
    }
    for name in ("b.norm1", "b.norm2", "b.shortcut.norm"):
        normed[f"{name}.weight"] = tensor([1.0])
        normed[f"{name}.bias"] = tensor([5.0 if name == "b.norm2" else 0.0])
    x = tensor([[[[0.0, 0.0, 1.0, 3.0]] * 2]])
    # shortcut: pool gives 0 and 2, whose norm is -1 and 1 / sqrt(1 + eps)
    one = 1 / math.sqrt(1 + 1e-5)
    assert_close(convnet.resnet_ap_block(normed, "b", x, 2, "instance"), tensor([[[[5 - one, 5 + one]]]]))


# ----------------------------------------------------------------------------------------------------- distances


def test_distances_by_hand() -> None:
    g_real = {
        "blocks.0.conv.weight": tensor([[[[3.0, 4.0]]], [[[1.0, 0.0]]]]),
        "blocks.0.conv.bias": tensor([100.0, 100.0]),
        "classifier.weight": tensor([[1.0, 1.0], [2.0, 0.0]]),
    }
    g_syn = {
        "blocks.0.conv.weight": tensor([[[[4.0, 3.0]]], [[[-2.0, 0.0]]]]),
        "blocks.0.conv.bias": tensor([0.0, 0.0]),
        "classifier.weight": tensor([[1.0, -1.0], [0.0, 0.0]]),
    }
    assert_close(matching.distance_mse(g_real, g_syn), tensor(1.0 + 1 + 9))
    assert_close(matching.distance_l1(g_real, g_syn), tensor(1.0 + 1 + 3))
    # cosines 24/25 and -1 in the convolution, 0 and 0 (a zero filter) in the classifier
    assert_close(matching.distance_cosine(g_real, g_syn), tensor(1 / 25 + 2 + 1 + 1), atol=3e-6, rtol=0)


def test_cosine_of_a_zero_filter_has_a_finite_gradient() -> None:
    g_real = {"blocks.0.conv.weight": tensor([[[[1.0, 2.0]]]])}
    silent = torch.zeros(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    loss = matching.distance_cosine(g_real, {"blocks.0.conv.weight": silent})
    (gradient,) = torch.autograd.grad(loss, silent)
    assert loss.item() == 1
    assert_close(gradient, tensor([[[[-1.0, -2.0]]]]) / matching.COSINE_EPS)


def test_matched_names() -> None:
    parameters = small_parameters()
    convolutions = ["blocks.0.conv.weight", "blocks.1.conv.weight"]
    assert matching.matched_names(parameters, matching.distance_mse) == convolutions
    assert matching.matched_names(parameters, matching.distance_l1) == convolutions
    assert matching.matched_names(parameters, matching.distance_cosine) == [*convolutions, "classifier.weight"]


# ------------------------------------------------------------------------------------------------------ decoding


def test_decode_single_by_hand() -> None:
    a = tensor([[[0.0, 1.0], [0.2, 0.4]]])
    b = tensor([[[0.1, 0.3], [0.5, 0.7]]])
    decoded = matching.decode_single(torch.stack([a, b]), 2)
    # cells are single pixels, so each decoded image is constant: a then b, cell by cell, row by row
    expected = [0.0, 0.1, 1.0, 0.3, 0.2, 0.5, 0.4, 0.7]
    assert decoded.shape == (8, 1, 2, 2)
    for image, value in zip(decoded, expected, strict=True):
        assert_close(image, torch.full((1, 2, 2), value, dtype=torch.float64))


def test_decode_single_upsamples_bilinearly() -> None:
    row = [0.0, 1.0, 0.0, 0.0]
    decoded = matching.decode_single(tensor([[[row] * 4]]), 2)
    # pixel centres at -0.25, 0.25, 0.75, 1.25 of the two-pixel cell, clamped at the ends
    assert_close(decoded[0, 0, 0], tensor([0.0, 0.25, 0.75, 1.0]))
    assert_close(decoded[1], torch.zeros(1, 4, 4, dtype=torch.float64))


def test_decode_single_pads_with_a_half() -> None:
    decoded = matching.decode_single(torch.ones(1, 1, 5, 5, dtype=torch.float64), 3)
    assert decoded.shape == (9, 1, 5, 5)
    # cells of 2; the last column of cells holds the pixel values 1 and 0.5
    right = decoded[2, 0, 0]
    assert_close(right[[0, 2, 4]], tensor([1.0, 0.75, 0.5]))
    assert_close(decoded[0], torch.ones(1, 5, 5, dtype=torch.float64))
    assert_close(decoded[8, 0, 4, 4], tensor(0.5))


def test_decode_factor_one_changes_nothing() -> None:
    images = uniform(2, 3, 5, 5, seed=0)
    assert_close(matching.decode_single(images, 1), images, rtol=0, atol=0)


def test_decode_multi() -> None:
    images = uniform(2, 1, 6, 6, seed=0)
    decoded = matching.decode_multi(images, 3)
    assert decoded.shape[0] == 2 * (1 + 4 + 9)
    assert_close(decoded[:2], images)
    assert_close(decoded[10:], matching.decode_single(images, 3))


def test_bound_counts() -> None:
    assert matching.bound_counts(10, 3) == [(3, 10), (2, 0), (1, 0)]
    # 20 images, as the program: 9k <= 128 - 20 -> k = 12 (20 left for 8); 4k <= 20 - 8 -> 3; 5 left: 125 in all
    assert matching.bound_counts(20, 3) == [(3, 12), (2, 3), (1, 5)]
    assert matching.bound_counts(3, 2, bound=6) == [(2, 0), (1, 3)]
    assert matching.bound_counts(3, 2, bound=7) == [(2, 1), (1, 2)]
    assert matching.bound_counts(4, 2, bound=4) == [(2, 0), (1, 4)]
    assert matching.bound_counts(5, 2, bound=4) == [(2, 0), (1, 5)]


def test_decode_bound() -> None:
    images = uniform(3, 1, 4, 4, seed=0)
    decoded = matching.decode_bound(images, 2, bound=7)
    assert_close(decoded, torch.cat([matching.decode_single(images[:1], 2), images[1:]]))
    assert matching.decode_bound(uniform(20, 1, 3, 3, seed=0), 3).shape[0] == 125


# ------------------------------------------------------------------------------------------------------ matching


@pytest.mark.parametrize("distance", [matching.distance_mse, matching.distance_l1, matching.distance_cosine])
def test_image_gradient_against_finite_differences(distance: matching.Distance) -> None:
    parameters = small_parameters()
    real, syn = uniform(4, 1, 8, 8, seed=1), uniform(2, 1, 8, 8, seed=2)
    real_labels, syn_labels = torch.full((4,), 1), torch.full((2,), 1)

    def loss_of(images: Tensor) -> float:
        arguments = (small_network, parameters, real, real_labels, images, syn_labels, distance)
        return matching.class_loss_and_image_gradient(*arguments)[0].item()

    loss, gradient = matching.class_loss_and_image_gradient(
        small_network, parameters, real, real_labels, syn, syn_labels, distance
    )
    assert loss.item() > 0
    assert gradient.abs().max() > 1e-6
    step = 1e-6
    for index in [(0, 0, 0, 0), (0, 0, 3, 5), (1, 0, 7, 7), (1, 0, 4, 2)]:
        higher, lower = syn.clone(), syn.clone()
        higher[index] += step
        lower[index] -= step
        slope = (loss_of(higher) - loss_of(lower)) / (2 * step)
        assert gradient[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_equal_images_have_no_loss() -> None:
    images = uniform(2, 1, 8, 8, seed=0)
    labels = torch.full((2,), 0)
    loss, gradient = matching.class_loss_and_image_gradient(
        small_network, small_parameters(), images, labels, images, labels, matching.distance_mse
    )
    assert loss.item() == pytest.approx(0)
    assert_close(gradient, torch.zeros_like(gradient))


def own_gradient(stored: Tensor, real: Tensor, c: int, factor: int) -> Tensor:
    """The chain rule through normalise and decode by hand-made Jacobian: both are affine in the stored images."""
    decoded = matching.decode_single(stored, factor)
    _, outer = matching.class_loss_and_image_gradient(
        small_network,
        small_parameters(),
        matching.normalise(real, MEAN, STD),
        torch.full((real.shape[0],), c),
        matching.normalise(decoded, MEAN, STD),
        torch.full((decoded.shape[0],), c),
        matching.distance_mse,
    )
    gradient = torch.zeros_like(stored).flatten()
    origin = matching.decode_single(torch.zeros_like(stored), factor)
    for k in range(gradient.numel()):
        unit = torch.zeros(gradient.numel(), dtype=torch.float64)
        unit[k] = 1
        effect = matching.decode_single(unit.reshape(stored.shape), factor) - origin
        gradient[k] = (outer * effect).sum() / STD[0]
    return gradient.reshape(stored.shape)


def test_momentum_series_of_one_pass_and_the_next() -> None:
    stored = uniform(3, 1, 1, 8, 8, seed=3)
    real = [uniform(4, 1, 8, 8, seed=4 + c) for c in range(3)]
    lr = 0.01
    own = [own_gradient(stored[c], real[c], c, 2) for c in range(3)]
    arguments = (real, MEAN, STD, 2, matching.decode_single, matching.distance_mse, lr)
    first, buffer, losses = matching.class_loop(small_network, small_parameters(), stored, None, *arguments)
    assert buffer is not None
    assert len(losses) == 3
    for c, series in enumerate([1.75, 1.5, 1.0]):  # 1 + 1/2 + 1/4, 1 + 1/2, 1
        assert own[c].abs().max() > 0
        assert_close(first[c], stored[c] - lr * series * own[c])
    for c, left in enumerate([0.25, 0.5, 1.0]):
        assert_close(buffer[c], left * own[c])
    # zeros are the same start as no buffer
    zeros = torch.zeros_like(stored)
    again, _, _ = matching.class_loop(small_network, small_parameters(), stored, zeros, *arguments)
    assert_close(again, first, rtol=0, atol=0)

    # next pass: class c first drifts for c steps, then has its own step, then moves on for the later classes
    second, _, _ = matching.class_loop(small_network, small_parameters(), first, buffer, *arguments)
    for c in range(3):
        x, v = first[c], buffer[c]
        for step in range(3):
            v = 0.5 * v
            if step == c:
                v = v + own_gradient(x, real[c], c, 2)
            x = x - lr * v
        assert_close(second[c], x)


def test_class_loop_clamps_and_augments() -> None:
    stored = uniform(2, 1, 1, 8, 8, seed=3) * 3 - 1
    real = [uniform(2, 1, 8, 8, seed=4 + c) for c in range(2)]
    seen = []

    def augment(images: Tensor) -> Tensor:
        seen.append(images.shape[0])
        return torch.stack([siamese.flip(image) for image in images])

    options = (MEAN, STD, 2, matching.decode_single, matching.distance_l1, 0.0)
    parameters = small_parameters()
    result, _, _ = matching.class_loop(
        small_network, parameters, stored, None, real, *options, augment=augment, clamp=True
    )
    assert_close(result, stored.clamp(0, 1))
    assert seen == [6, 6]
    kept, _, _ = matching.class_loop(small_network, parameters, stored, None, real, *options)
    assert_close(kept, stored)
    with pytest.raises(ValueError, match="subset"):
        matching.class_loop(small_network, parameters, uniform(1, 33, 1, 8, 8, seed=0), None, real, *options)


# --------------------------------------------------------------------------------- perturbation and selection


def test_filter_normalised_by_hand() -> None:
    weight = tensor([[3.0, 4.0], [0.0, 0.0]])
    direction = tensor([[0.0, 2.0], [1.0, 1.0]])
    assert_close(perturbation.filter_normalised(direction, weight), tensor([[0.0, 5.0], [0.0, 0.0]]))


def test_perturb_by_hand() -> None:
    parameters = {"w": tensor([[3.0, 4.0]]), "b": tensor([1.0])}
    draws = [{"w": tensor([[2.0, 0.0]])}, {"w": tensor([[0.0, -7.0]])}]
    perturbed = perturbation.perturb(parameters, draws, [0.1, -0.02])
    assert_close(perturbed["w"], tensor([[3.5, 4.1]]))
    assert_close(perturbed["b"], tensor([1.0]))
    assert_close(parameters["w"], tensor([[3.0, 4.0]]))


def test_average() -> None:
    members = [{"w": tensor([[1.0, 2.0]])}, {"w": tensor([[3.0, 5.0]])}, {"w": tensor([[5.0, 5.0]])}]
    assert_close(selection.average(members)["w"], tensor([[3.0, 4.0]]))


# ------------------------------------------------------------------------------------------------- augmentation

PICTURE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]


def test_colour_operations() -> None:
    x = tensor([[[1.0, 4.0]], [[3.0, 0.0]]])
    assert_close(siamese.brightness(x, 0.75), tensor([[[1.25, 4.25]], [[3.25, 0.25]]]))
    assert_close(siamese.saturation(x, 0.25), tensor([[[1.5, 3.0]], [[2.5, 1.0]]]))
    assert_close(siamese.contrast(x, 1.0), tensor([[[0.5, 5.0]], [[3.5, -1.0]]]))
    for operation in (siamese.brightness, siamese.saturation, siamese.contrast):
        assert_close(operation(x, 0.5), x)


def test_shift_and_flip() -> None:
    x = tensor([PICTURE])
    assert_close(siamese.shift(x, 1, 0), tensor([[[0.0, 1.0, 2.0], [0.0, 4.0, 5.0], [0.0, 7.0, 8.0]]]))
    assert_close(siamese.shift(x, 0, -2), tensor([[[7.0, 8.0, 9.0], [0.0] * 3, [0.0] * 3]]))
    assert_close(siamese.flip(x), tensor([[[3.0, 2.0, 1.0], [6.0, 5.0, 4.0], [9.0, 8.0, 7.0]]]))


def test_cutout_and_cutmix() -> None:
    x = tensor([PICTURE])
    assert_close(siamese.cutout(x, 1, 2, 2), tensor([[[1.0, 0.0, 0.0], [4.0, 0.0, 0.0], [7.0, 8.0, 9.0]]]))
    assert_close(siamese.cutout(x, 0, 0, 3), tensor([[[0.0, 0.0, 3.0], [0.0, 0.0, 6.0], [7.0, 8.0, 9.0]]]))
    mixed = siamese.cutmix(x, -x, (1, 3, 0, 2))
    assert_close(mixed, tensor([[[1.0, 2.0, 3.0], [-4.0, -5.0, 6.0], [-7.0, -8.0, 9.0]]]))


def test_scale_and_rotate() -> None:
    x = tensor([PICTURE])
    assert_close(siamese.scale(x, 1.0, 1.0), x)
    assert_close(siamese.rotate(x, 0.0), x)
    # twice the sampling step about the centre: read at columns -1.5, 0.5, 2.5 and 4.5
    line = tensor([[[2.0, 4.0, 6.0, 8.0]] * 4])
    assert_close(siamese.scale(line, 2.0, 1.0)[0, 0], tensor([0.0, 3.0, 7.0, 0.0]))
    # a quarter turn counterclockwise: what was at the bottom comes to the right
    turned = tensor([[[3.0, 6.0, 9.0], [2.0, 5.0, 8.0], [1.0, 4.0, 7.0]]])
    assert_close(siamese.rotate(x, 90.0), turned)


def test_operations_are_differentiable() -> None:
    x = uniform(2, 4, 4, seed=0).requires_grad_(True)
    y = siamese.brightness(siamese.saturation(siamese.contrast(x, 0.2), 0.7), 0.9)
    y = siamese.rotate(siamese.scale(siamese.shift(siamese.flip(y), 1, -1), 1.1, 0.9), 10.0)
    y = siamese.cutmix(siamese.cutout(y, 1, 1, 2), torch.zeros_like(y), (3, 4, 3, 4))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.abs().sum() > 0

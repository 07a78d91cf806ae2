"""The pieces of `ddistill.data`: sampler, decoding of images, facts, held-out images."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddistill.data import KNOWN_SETS, DataSettings, class_batches, epoch_batches, short_names, subset_classes
from ddistill.data.facts import known_name
from ddistill.data.images import Unreadable, decode, decode_split
from ddistill.data.labels import NoLabelError, as_label, held_out, listed
from ddistill.data.real_data import channel_statistics
from ddistill.data.tables import part_name
from ddistill.runtime.randomness import generator

ROOT = Path(__file__).parents[2]

# Sampler


@pytest.mark.parametrize(
    ("count", "batch", "steps"), [(1, 1, 1), (5, 2, 9), (3, 8, 4), (100, 64, 10), (7, 7, 3), (4, 3, 0)]
)
def test_batches_are_passes_without_replacement(count, batch, steps):
    drawn = class_batches(count, batch, steps, generator(0, "test"))
    assert drawn.shape == (steps, batch)
    assert drawn.dtype == torch.int64
    order = drawn.flatten()
    for start in range(0, len(order), count):
        chunk = order[start : start + count].tolist()
        assert len(set(chunk)) == len(chunk)
        assert set(chunk) <= set(range(count))


def test_batches_depend_on_the_generator_alone():
    first, same, other = (class_batches(50, 8, 20, generator(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    before = torch.get_rng_state()
    class_batches(50, 8, 20, generator(0, "test"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("count", "batch", "steps"), [(5000, 128, 1), (10, 5, 1), (10, 3, 2), (9, 2, 4)])
def test_the_first_of_a_pass_are_those_of_the_whole_pass(count, batch, steps):
    keys = torch.rand((1, count), dtype=torch.float64, generator=generator(0, "test"))
    expected = keys.argsort(dim=1)[0, : batch * steps].view(steps, batch)
    assert torch.equal(class_batches(count, batch, steps, generator(0, "test")), expected)


def test_every_position_is_equally_likely_to_come_first():
    firsts = torch.stack([class_batches(4, 1, 1, generator(0, "test", i)) for i in range(2000)])
    shares = torch.bincount(firsts.flatten(), minlength=4) / 2000
    assert shares.sub(0.25).abs().max() < 0.05  # five standard deviations


def test_epoch_batches_are_the_same_over_the_whole_set():
    assert torch.equal(epoch_batches(30, 4, 5, generator(0, "a")), class_batches(30, 4, 5, generator(0, "a")))


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_batches_refuse_nonsense(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        class_batches(*arguments, generator(0, "a"))


# Decoding


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("1", False),
        ("L", False),
        ("LA", False),
        ("P", True),
        ("RGB", True),
        ("RGBA", True),
        ("CMYK", True),
        ("YCbCr", True),
    ],
)
def test_modes(mode, colour):
    image = Image.fromarray(noise(5, 5, 3)).convert(mode)
    got = decode(encoded(image, "tiff" if mode in ("CMYK", "YCbCr") else "png"), None, None)
    assert got.colour is colour
    assert got.pixels.shape == (3 if colour else 1, 5, 5)
    expected = np.asarray(image.convert("RGB" if colour else "L"))
    np.testing.assert_array_equal(got.pixels, expected.transpose(2, 0, 1) if colour else expected[None])


def test_palette_with_transparency_warns_nobody():
    image = Image.fromarray(noise(5, 5, 3)).convert("P")
    assert decode(encoded(image, transparency=bytes(range(256))), None, None).pixels.shape == (3, 5, 5)


def test_sixteen_bits_keep_their_range():
    deep = np.array([[0, 65535], [257, 32896]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(deep)), None, None).pixels.tolist() == [[[0, 255], [1, 128]]]


def test_float_images_must_lie_in_the_unit_range():
    good = encoded(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), "tiff")
    assert decode(good, None, None).pixels.tolist() == [[[0, 255]]]
    with pytest.raises(Unreadable, match=r"\[0, 1\]"):
        decode(encoded(Image.fromarray(np.array([[0.0, 2.0]], np.float32)), "tiff"), None, None)


def test_exif_turns_images_upright():
    wide = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    got = decode(encoded(wide, exif=exif), None, None).pixels
    np.testing.assert_array_equal(got, np.asarray(wide.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1))


def test_resizing_takes_the_central_square():
    strip = np.zeros((4, 12), np.uint8)
    strip[:, 3:9] = 200  # the square and what the filter sees beside it
    got = decode(strip, 2, None)
    assert "resized" in got.marks
    assert got.pixels.tolist() == [[[200, 200], [200, 200]]]
    assert "resized" not in decode(strip[:, :4], 4, None).marks


def test_shrinking_is_antialiased():
    checks = np.indices((16, 16)).sum(axis=0).astype(np.uint8) % 2 * 255
    assert np.abs(decode(checks, 4, 1).pixels.astype(int) - 127).max() < 20


def test_a_callers_image_stays_as_it_is():
    image = Image.fromarray(noise(6, 4, 3))
    before = image.tobytes()
    decode(image, 2, 1)
    assert (image.mode, image.size, image.tobytes()) == ("RGB", (4, 6), before)


def test_parts_keep_positions_over_many_chunks():
    images = [np.full((2, 2), i % 256, np.uint8) for i in range(500)]
    positions = np.random.default_rng(1).permutation(500)
    part = decode_split(((str(i), image) for i, image in enumerate(images)), positions, size=None, channels=None)
    assert part.pixels[positions, 0, 0, 0].tolist() == [i % 256 for i in range(500)]
    assert part.readable.all()
    assert (part.grey, part.colour, part.marks) == (500, 0, {})


def test_colour_that_comes_late_makes_all_images_rgb():
    images = [np.full((2, 2), 7, np.uint8)] * 130 + [np.full((2, 2, 3), (1, 2, 3), np.uint8)]
    part = decode_split(((str(i), image) for i, image in enumerate(images)), range(131), size=None, channels=None)
    assert part.pixels.shape == (131, 3, 2, 2)
    assert part.pixels[0].tolist() == [[[7, 7], [7, 7]]] * 3
    assert part.pixels[130, :, 0, 0].tolist() == [1, 2, 3]


def test_statistics_of_flat_and_of_extreme_images():
    assert channel_statistics(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)) == (pytest.approx((0.2,)), (1.0,))
    halves = torch.tensor([0, 255], dtype=torch.uint8).repeat(4, 2, 1)[:, :, None]
    mean, std = channel_statistics(halves)
    assert mean == pytest.approx((0.5, 0.5))
    assert std == pytest.approx((0.5, 0.5))


# Labels and facts


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33, 0.5])
def test_held_out_leaves_two_of_each_class(fraction):
    labels = np.repeat([0, 1, 2, 3], [2, 3, 10, 101])
    mask = held_out(labels, fraction, 0, "test")
    counts = np.bincount(labels[mask], minlength=4).tolist()
    assert counts[:2] == [0, 1]
    assert counts[2:] == [max(1, round(fraction * n)) for n in (10, 101)]
    np.testing.assert_array_equal(mask, held_out(labels, fraction, 0, "test"))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3),
        (np.int32(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor([3]), 3),
        (np.array(3), 3),
        (3.0, 3),
        (True, True),
        ("cat", "cat"),
        (["cat"], "cat"),
        (np.array([2.0]), 2),
        (float("nan"), None),
        (None, None),
    ],
)
def test_as_label(value, label):
    assert as_label(value) == label
    assert type(as_label(value)) is type(label)


@pytest.mark.parametrize("value", [0.5, [0, 1], [], b"cat", torch.tensor([0.0, 1.0]), 1j])
def test_no_label(value):
    with pytest.raises(NoLabelError):
        as_label(value)


def test_listed():
    assert listed(["a"]) == "'a'"
    assert listed([1, 2, 3, 4, 5]) == "1, 2, 3 and 2 more"


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/validation-00001-of-00009-ab12.parquet", "validation"),
        ("unsup-00000-of-00001.parquet", "unsup"),
        ("test/data-00000-of-00001.arrow", "test"),
        ("pets.parquet", None),
        ("Testing.csv", "Testing"),
        ("split=dev/part-0.parquet", "dev"),
        ("contest.parquet", None),
        ("valid.parquet", "valid"),
        ("pets-test.parquet", "test"),
    ],
)
def test_part_name(file, part):
    assert part_name(file) == part


def test_facts():
    assert (KNOWN_SETS["cifar10"].hub_id, KNOWN_SETS["cifar10"].settings.size) == ("uoft-cs/cifar10", 32)
    assert KNOWN_SETS["cifar100"].settings.label_column == "fine_label"
    assert KNOWN_SETS["mnist"].settings.channels == KNOWN_SETS["fashion_mnist"].settings.channels == 1
    assert KNOWN_SETS["svhn"].config == "cropped_digits"
    assert known_name("FashionMNIST") == known_name("zalando-datasets/fashion_mnist") == "fashion_mnist"
    assert known_name("ILSVRC/imagenet-1k") == "imagenet-1k"
    assert known_name("nothing") is None
    assert {"digits", "cifar10", "imagenet-10"} <= set(short_names())


def test_imagenet_subsets():
    for name, facts in KNOWN_SETS.items():
        if facts.settings.classes:
            classes = subset_classes(name)
            assert len(set(classes)) == len(classes) == (100 if name == "imagenet-100" else 10)
    assert subset_classes("imagenette")[:2] == ("n01440764", "n02102040")


def test_every_setting_has_a_sentence():
    for name, field in DataSettings.model_fields.items():
        assert field.description, name


def test_importing_stays_light():
    heavy = "{'datasets', 'sklearn', 'PIL', 'pyarrow'}"
    code = f"import sys, ddistill.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"

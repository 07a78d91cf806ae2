"""Pixels: transparency, more than 8 bits, floats, masks, damaged files; decided for a whole set, and said."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data.made import classes, parts, picture, refused
from PIL import Image, ImageFile

from ddistill.data import DataSettings, RealData, load_data
from ddistill.data.images import decode
from ddistill.data.pixels import Extremes, Tone, Unreadable, judged
from ddistill.runtime.errors import UserError

SHARE = {"test_fraction": 0.25}


def two_classes(root: Path, images: dict[str, list], ending: str = "png", **options) -> Path:
    """A folder per class with these Pillow images or arrays."""
    for name, some in images.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(some):
            made = image if isinstance(image, Image.Image) else Image.fromarray(image)
            made.save(root / name / f"{i}.{ending}", **options)
    return root


def levels(data: RealData, c: int) -> set[int]:
    return set(data.class_images(c).unique().tolist())


# Transparency

ALPHA = np.zeros((8, 8), np.uint8)
ALPHA[:, 3:5] = 255


def ink(mode: str) -> Image.Image:
    """A black bar, two pixels wide, on a transparent ground."""
    if mode == "P":
        image = Image.new("P", (8, 8))
        image.putdata((ALPHA > 0).astype(np.uint8).ravel().tolist())
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 0
        return image
    if mode in ("tRNS of L", "tRNS of RGB"):
        image = Image.fromarray(np.where(ALPHA > 0, 0, 7).astype(np.uint8))
        image = image.convert("RGB") if mode.endswith("RGB") else image
        image.info["transparency"] = (7, 7, 7) if mode.endswith("RGB") else 7
        return image
    image = Image.new("L" if mode in ("LA", "PA") else "RGB", (8, 8), 0)
    image.putalpha(Image.fromarray(ALPHA))
    return image if mode != "PA" else image.convert("RGBA").convert("PA")


def saved(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    through = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    image.save(path, **through)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS of L", "tRNS of RGB"])
@pytest.mark.parametrize(("background", "ground"), [(None, 255), ("black", 0), ("#808080", 128)])
def test_transparent_pixels_are_put_on_a_ground(tmp_path, mode, background, ground):
    for name in ("bar", "other"):
        for i in range(4):
            saved(ink(mode), tmp_path / name / f"{i}.png")
    data = load_data(tmp_path, DataSettings(**SHARE, background=background))
    assert data.train.images[0, :, :, 3:5].unique().tolist() == [0]
    assert data.train.images[0, :, :, :3].unique().tolist() == [ground]
    assert f"8 given images are transparent: put on {background or 'white'} (data.background)" in data.origin.notes


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_images_in_memory_are_put_on_the_same_ground(mode):
    data = load_data([(ink(mode), i % 2) for i in range(8)], DataSettings(**SHARE, background="red"))
    assert data.train.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert data.train.images[0, :, 0, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("ending", ["webp", "gif", "tif", "tga"])
def test_transparency_of_other_formats(tmp_path, ending):
    two_classes(
        tmp_path,
        {"a": [ink("RGBA")] * 4, "b": [ink("RGBA")] * 4},
        ending,
        **({"lossless": True} if ending == "webp" else {}),
    )
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert data.channels == (1 if ending == "gif" else 3)  # its palette is grey
    assert data.train.images[0, :, 0, 0].unique().tolist() == [255]
    assert data.train.images[0, :, 0, 3].unique().tolist() == [0]


def test_half_transparent_pixels_are_mixed():
    image = Image.new("RGBA", (2, 2), (100, 0, 0, 128))
    assert decode(image, None, None).pixels[:, 0, 0].tolist() == [177, 127, 127]


def test_opaque_images_with_an_opacity_are_not_noted(tmp_path):
    opaque = picture("red").convert("RGBA")
    data = load_data([(opaque, i % 2) for i in range(8)], DataSettings(**SHARE))
    assert not any("transparent" in note for note in data.origin.notes)
    np.testing.assert_array_equal(data.train.images[0].permute(1, 2, 0).numpy(), np.asarray(picture("red")))


@pytest.mark.parametrize("name", ["whit", "#12", "", "rgb(1,2)"])
def test_a_ground_of_no_colour(name):
    with pytest.raises(ValueError, match="name of a colour"):
        DataSettings(background=name)


@pytest.mark.parametrize(
    ("kind", "top", "opaque"),
    [("uint16", 4095, 65535), ("uint16", 65535, 255), ("float32", 255, 1), ("float32", 1, 255), ("int64", 255, 255)],
)
@pytest.mark.parametrize("colours", [1, 3])
def test_opacity_has_a_range_of_its_own(kind, top, opaque, colours):
    plain = np.repeat(ramp(0, top, kind)[:, :, None], colours, axis=2)
    alpha = np.full((16, 16, 1), opaque, kind)
    alpha[0] = 0
    for value_range in (None, (0, top)):
        data = load_data(
            [(np.concatenate([plain, alpha], axis=2), i % 2) for i in range(8)],
            DataSettings(**SHARE, value_range=value_range),
        )
        assert data.train.images[0, :, 0].unique().tolist() == [255]
        assert data.train.images[0, 0, -1, [0, -1]].tolist() == [240, 255]


def test_opacity_that_means_nothing_is_refused():
    strange = np.dstack([np.zeros((8, 8)), np.full((8, 8), -1.0)])
    refused([(strange, i % 2) for i in range(8)], "its opacity runs from -1 to -1", **SHARE)


def test_a_range_is_of_colours_before_they_are_put_on_the_ground():
    array = np.dstack([np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 128, np.uint8)])
    for image in (array, Image.fromarray(array)):
        data = load_data([(image, i % 2) for i in range(8)], DataSettings(**SHARE, value_range=(0, 200)))
        assert data.train.images.unique().tolist() == [191]


# Grey


def grey_alpha_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits of grey and as many of opacity, which Pillow does not write."""
    rows = np.stack([levels, np.full_like(levels, 65535)], axis=-1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, 4, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("form", ["gif", "palette", "palette with a transparent red", "16 bits and opacity"])
def test_grey_images_stay_grey_in_every_file(tmp_path, form):
    shown = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for path in (tmp_path / name / f"{i}.{'gif' if form == 'gif' else 'png'}" for name in "ab" for i in range(4)):
        path.parent.mkdir(exist_ok=True)
        if form.startswith("16"):
            path.write_bytes(grey_alpha_png(shown.astype(np.uint16) * 257))
            continue
        image = Image.fromarray(shown)
        image = image if form == "gif" else image.convert("P")
        if form.endswith("red"):
            image.putpalette([255, 0, 0] + [level for c in range(1, 256) for level in (c, c, c)])
        image.save(path, **({"transparency": 0} if form.endswith("red") else {}))
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert data.channels == 1
    assert not any("grey" in note for note in data.origin.notes)
    np.testing.assert_array_equal(data.train.images[0, 0].numpy().ravel()[1:], shown.ravel()[1:])


def test_a_palette_with_a_colour_is_colour(tmp_path):
    root = two_classes(tmp_path, {"a": [picture("red").convert("P")] * 4, "b": [picture("blue").convert("P")] * 4})
    assert load_data(root, DataSettings(**SHARE)).channels == 3


# More than 8 bits


def ramp(low: float, high: float, kind: str, side: int = 16) -> np.ndarray:
    return np.linspace(low, high, side * side).reshape(side, side).astype(kind)


@pytest.mark.parametrize(
    ("low", "high", "kind", "ending"),
    [
        (0, 255, "uint16", "png"),
        (0, 1023, "uint16", "png"),
        (100, 4095, "uint16", "tif"),
        (0, 65535, "uint16", "png"),
        (0, 262143, "int32", "tif"),
        (-1000, 3000, "int32", "tif"),
    ],
)
def test_deep_grey_is_scaled_by_the_range_of_the_training_images(tmp_path, low, high, kind, ending):
    dark = low + (high - low) / 4
    images = {"bright": [ramp(low, high, kind)] * 4, "dark": [ramp(low, dark, kind)] * 4}
    data = load_data(two_classes(tmp_path, images, ending), DataSettings(**SHARE))
    assert levels(data, 0) >= {0, 255}
    assert len(levels(data, 0)) > 200
    assert max(levels(data, 1)) in (63, 64)  # a dark image stays dark: the range is that of the set
    assert any(f"{low} is black and {high} white" in note and "8 given images" in note for note in data.origin.notes)


def test_the_range_is_of_the_wanted_training_images_and_others_are_cut(tmp_path):
    for part, top in (("train", 1000), ("test", 4000)):
        classes_of = {"a": [ramp(0, top, "uint16")] * 3, "b": [ramp(0, top // 2, "uint16")] * 3}
        two_classes(tmp_path / part, {**classes_of, "c": [ramp(0, 60000, "uint16")] * 3})
    data = load_data(tmp_path, DataSettings(classes=("a", "b")))
    assert max(levels(data, 0)) == 255
    assert (data.test.images[0] == 255).double().mean() > 0.7
    assert any("0 is black and 1000 white" in note for note in data.origin.notes)
    assert "6 test images have values outside of that range, which were cut" in data.origin.notes


def test_a_range_can_be_fixed(tmp_path):
    root = two_classes(tmp_path, {"a": [ramp(0, 4095, "uint16")] * 4, "b": [ramp(0, 2047, "uint16")] * 4})
    data = load_data(root, DataSettings(**SHARE, value_range=(0, 65535)))
    assert (max(levels(data, 0)), max(levels(data, 1))) == (16, 8)
    assert any("as data.value_range says" in note for note in data.origin.notes)
    with pytest.raises(ValueError, match="smaller one first"):
        DataSettings(value_range=(5, 5))


def test_only_the_test_part_is_deep(tmp_path):
    two_classes(tmp_path / "train", {"a": [ramp(0, 255, "uint8")] * 3, "b": [ramp(0, 255, "uint8")] * 3})
    two_classes(tmp_path / "test", {"a": [ramp(0, 900, "uint16")] * 3})
    message = refused(tmp_path, "3 of 3 test images", "no training image has", "data.value_range=[LOW, HIGH]")
    assert message.count("no training image has") == 1
    assert "skip_unreadable" not in message
    data = load_data(tmp_path, DataSettings(value_range=(0, 900)))  # which no value of 8 bits reaches
    assert levels(data, 0) == set(range(256))
    assert data.test.images.max() == 255
    assert "6 train images have 8 bits, where data.value_range goes beyond: they stay as they are" in data.origin.notes
    assert "0 is black and 900 white in the test images, as data.value_range says" in data.origin.notes


@pytest.mark.parametrize(("kind", "top"), [("int64", 255), ("uint16", 255), ("float32", 1), ("float64", 255)])
def test_a_kind_of_the_test_part_alone_that_needs_no_range(kind, top):
    train = [(ramp(0, 255, "uint8"), i % 2) for i in range(4)]
    test = [(ramp(0, top / (1 + i), kind), i % 2) for i in range(2)]  # a dark image stays dark
    data = load_data((train, test))
    assert [int(image.max()) for image in data.test.images] in ([255, 127], [255, 128])
    assert not any("as the training images run" in note for note in data.origin.notes)


def test_a_range_is_not_for_bytes_and_floats_at_once():
    train = [(ramp(0, 255, "uint8"), i % 2) for i in range(4)]
    test = [(ramp(-0.1, 1.1, "float32"), i % 2) for i in range(2)]
    refused((train, test), "data.value_range=[LOW, HIGH]")
    refused((train, test), "for images of 8 bits or for floats, not for both", value_range=(0, 1))


def test_a_colour_that_stands_for_transparency_in_deep_grey(tmp_path):
    deep = ramp(0, 4095, "uint16")
    deep[:4] = 77
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(deep).save(tmp_path / name / f"{i}.png", transparency=77)
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert data.train.images[0, 0, :4].unique().tolist() == [255]


def test_colours_of_16_bits_are_said_to_be_halved(tmp_path):
    deep = np.full((8, 8, 3), 40_000, ">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in deep)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(content)
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert levels(data, 0) == {40_000 >> 8}
    assert any(note.startswith("8 given images hold 16 bits a channel") for note in data.origin.notes)


# Floats


@pytest.mark.parametrize(("top", "white"), [(1.0, 1), (255.0, 255), (0.3, 1), (60.0, 255)])
def test_floats_are_recognised_for_the_set(tmp_path, top, white):
    root = two_classes(tmp_path, {"a": [ramp(0, top, "float32")] * 4, "b": [ramp(0, top / 5, "float32")] * 4}, "tif")
    data = load_data(root, DataSettings(**SHARE))
    assert max(levels(data, 0)) == pytest.approx(255 * top / white, abs=0.6)
    assert max(levels(data, 1)) == pytest.approx(255 * top / 5 / white, abs=0.6)
    assert any(f"0 is black and {white} white" in note for note in data.origin.notes)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 2.0, ["[0, 1]", "0 to 255"]),
        (0.0, 1.02, ["1.02"]),
        (-1.0, 1.0, ["-1", "not normalised"]),
        (0.0, 4095.0, ["4095"]),
        (0.0, 16.0, ["16", "dark"]),
    ],
)
def test_floats_that_may_mean_two_things_are_refused(low, high, words):
    images = [(ramp(low, high, "float32"), i % 2) for i in range(8)]
    refused(images, *words, "data.value_range=[LOW, HIGH]", "item 0 of the train data set", **SHARE)
    data = load_data(images, DataSettings(**SHARE, value_range=(low, high)))
    assert levels(data, 0) >= {0, 255}


def test_floats_of_another_kind_in_the_test_part_are_refused():
    unit, whole = [[(ramp(0, top, "float32"), i % 2) for i in range(4)] for top in (1, 255)]
    refused((unit, whole), "item 0 of the test data set", "255", "data.value_range")


@pytest.mark.parametrize("kind", ["deep", "whole", "float"])
def test_the_scale_is_found_once(kind):
    asked = []

    def survey(of):
        asked.append(of)
        return Extremes(0.0, "a", 200.0, "b")

    tone = Tone(survey=survey, alone=False)
    array = np.array([[0, 200]], {"deep": "uint16", "whole": "int64", "float": "float32"}[kind])
    found = [tone.scale(kind, array) for _ in range(3)]
    assert asked == [kind]
    assert found == [(0.0, 200.0 if kind == "deep" else 255.0)] * 3
    with pytest.raises(Unreadable, match="no training image"):
        Tone(survey=lambda _: None, alone=False).scale(kind, array)


def test_the_extremes_name_the_images():
    with pytest.raises(UserError, match=r"^dark has the value -3"):
        judged("float", Extremes(-3.0, "dark", 1.0, "bright"))
    with pytest.raises(UserError, match=r"^bright has the value 300"):
        judged("float", Extremes(0.0, "dark", 300.0, "bright"))


# In memory

CASES = {
    "uint16": lambda a: a.astype(np.uint16) * 16,
    "int64": lambda a: a.astype(np.int64),
    "int64 tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1).long(),
    "int8": lambda a: (a.astype(np.int16) - 128).astype(np.int8),
    "uint32": lambda a: a.astype(np.uint32) * 1000,
    "int32 beyond 255": lambda a: a.astype(np.int32) * 16,
    "float64": lambda a: a / 255,
    "float16": lambda a: (a / 255).astype(np.float16),
    "bfloat16": lambda a: torch.from_numpy(a).permute(2, 0, 1).bfloat16(),
    "floats to 255": lambda a: a.astype(np.float32),
    "channels last": torch.from_numpy,
    "channels first": lambda a: a.transpose(2, 0, 1),
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.uint8).reshape(a.shape),
    "opaque": lambda a: np.concatenate([a, np.full((*a.shape[:2], 1), 255, np.uint8)], axis=2),
}


@pytest.mark.parametrize("form", CASES)
def test_arrays_and_tensors_of_every_kind(form):
    shown = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1) * 17
    shown = np.concatenate([shown, shown[:, :, :1]], axis=2).astype(np.uint8)
    images = [(CASES[form](shown), i % 2) for i in range(8)]
    data = load_data(images, DataSettings(**SHARE))
    got = data.train.images[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(got - shown).max() <= 1
    assert data.fingerprint == load_data(images, DataSettings(**SHARE)).fingerprint


def test_what_was_assumed_of_arrays_is_said():
    first = load_data([(picture_array(), i % 2) for i in range(8)], DataSettings(**SHARE))
    assert not any("read as" in note for note in first.origin.notes)
    turned = load_data([(picture_array().transpose(2, 0, 1), i % 2) for i in range(8)], DataSettings(**SHARE))
    assert "images were read as [channels, height, width], since only that fits" in turned.origin.notes
    assert turned.fingerprint == first.fingerprint


def picture_array() -> np.ndarray:
    return np.asarray(picture("green")).copy()


def test_a_transform_of_datasets_is_refused():
    import datasets

    rows = {"image": [picture("red")] * 8, "label": [0, 1] * 4}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    turned = table.with_transform(lambda batch: batch)
    for changed in (turned, datasets.DatasetDict({"train": turned})):
        refused(changed, "'train'", "transform", "with_format(None)", **SHARE)
    grey = table.cast_column("image", datasets.Image(mode="L"))
    refused(grey, "mode 'L'", "data.channels=1", **SHARE)
    assert load_data(grey, DataSettings(**SHARE, channels=1)).channels == 1
    load_data(table.with_format("torch"), DataSettings(**SHARE))
    load_data(table.with_format("numpy", columns=["label"]), DataSettings(**SHARE))


# Masks, flat images, frames, damage, warnings


def test_masks_of_0_and_1_get_a_note_with_the_way_out(tmp_path):
    mask = np.indices((8, 8)).sum(0).astype(np.uint8) % 2
    root = two_classes(tmp_path, {"a": [mask] * 4, "b": [1 - mask] * 4})
    data = load_data(root, DataSettings(**SHARE))
    assert any("hold only 0 and 1" in note and "data.value_range=[0, 1]" in note for note in data.origin.notes)
    spread = load_data(root, DataSettings(**SHARE, value_range=(0, 1)))
    assert levels(spread, 0) == {0, 255}
    assert not any("only 0 and 1" in note for note in spread.origin.notes)


def test_images_of_one_colour_are_counted(tmp_path):
    flat = [np.full((8, 8, 3), (9, 9, i), np.uint8) for i in range(2)]
    noisy = [np.asarray(picture("red", i)) for i in range(6)]
    data = load_data(two_classes(tmp_path, {"a": flat + noisy, "b": noisy}), DataSettings(**SHARE))
    counts = [int(note.split()[0]) for note in data.origin.notes if "of one colour only" in note]
    assert sum(counts) == 2


def test_the_first_of_several_frames_is_taken_and_said(tmp_path):
    frames = [picture(colour) for colour in ("red", "blue")]
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            frames[0].save(tmp_path / name / f"{i}.tif", save_all=True, append_images=frames[1:])
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert data.train.images[0].double().mean((1, 2))[0] > 200
    assert "8 given images hold several frames, of which the first is taken" in data.origin.notes


def test_reasons_are_shown_for_the_first_three(tmp_path):
    root = parts(tmp_path / "s", "train", "test", count=8)
    whole = (root / "train" / "red" / "0.png").read_bytes()
    for i, content in enumerate((b"", b"text", whole[:90], b"GIF89a", whole[:100])):
        (root / "train" / "blue" / f"{i}.png").write_bytes(content)
    message = refused(
        root, "5 of 16 train images", "'train/blue/0.png' (it is no image that Pillow can read)", "truncated"
    )
    assert "<_io" not in message
    assert "3.png" not in message
    data = load_data(root, DataSettings(skip_unreadable=True))
    assert [line for line in data.account.left_out if "5 of 16 train images cannot be read" in line]


def test_warnings_of_image_libraries_are_one_line(tmp_path, monkeypatch, capsys):
    root = classes(tmp_path / "s", 4)
    plain = ImageFile.ImageFile.load

    def warn(self):
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return plain(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", warn)
    data = load_data(root, DataSettings(**SHARE))
    (line,) = [note for note in data.origin.notes if "warned" in note]
    assert line.endswith("times while it read given images: Corrupt EXIF data")
    assert capsys.readouterr().err == ""


def test_a_huge_image_is_named_and_not_decoded(tmp_path, monkeypatch):
    root = classes(tmp_path / "s", 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    refused(root, "8 of 8 given images", "DecompressionBombError", **SHARE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    data = load_data(root, DataSettings(**SHARE))
    assert any("could be decompression bomb" in note for note in data.origin.notes)


# One part unlike the other


@pytest.mark.parametrize("grey", ["train", "test"])
def test_a_grey_part_beside_one_in_colour_is_said(tmp_path, grey):
    parts(tmp_path, "train", "test")
    for path in (tmp_path / grey).rglob("*.png"):
        Image.open(path).convert("L").save(path)
    data = load_data(tmp_path)
    count = len(data.train if grey == "train" else data.test)
    assert [note for note in data.origin.notes if "grey" in note] == [
        f"{count} grey {grey} images were converted to RGB"
    ]
    assert load_data(tmp_path).origin.notes == data.origin.notes


def test_floats_to_one_beside_floats_to_255_are_refused():
    whole, unit = [[(ramp(0, top, "float32"), i % 2) for i in range(4)] for top in (255, 1)]
    message = refused((whole, unit), "all test images lie in 0 to 1", "0 to 255", "the same range")
    assert "value_range" not in message  # which would make the training images white
    for part in ("train", "test"):
        mixed = [*unit[:2], *whole[2:]]
        pair = (mixed, whole) if part == "train" else (whole, mixed)
        refused(pair, f"of 2 of 4 {part} images lie in 0 to 1, those of the others in 0 to 255", "[0, 255]")
        load_data(pair, DataSettings(value_range=(0, 255)))
    black = [(np.zeros((16, 16), "float32"), 0), *whole]
    assert load_data((black, whole)).train.images.max() == 255


def test_a_test_part_that_a_range_makes_black_is_told_so(tmp_path):
    for part, top in (("train", 65535), ("test", 255)):
        two_classes(tmp_path / part, {"a": [ramp(0, top, "uint16")] * 3, "b": [ramp(0, top // 2, "uint16")] * 3})
    data = load_data(tmp_path)
    (note,) = [note for note in data.origin.notes if "all but black" in note]
    assert note.endswith("give both parts in the same range")
    assert "value_range=[0, 1]" not in note


def test_colours_of_16_bits_in_ppm_files_are_said_to_be_halved(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.ppm").write_bytes(
                b"P6 8 8 65535\n" + np.full((8, 8, 3), 4000 + i, ">u2").tobytes()
            )
    data = load_data(tmp_path, DataSettings(**SHARE))
    assert any(note.startswith("8 given images hold 16 bits a channel") for note in data.origin.notes)

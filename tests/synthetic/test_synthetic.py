"""The synthetic set, its decoder, first images and files: python -m pytest tests/synthetic/test_synthetic.py.

Decoding is compared with the reference in float64, absolute tolerance 1e-12.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from operator import attrgetter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from reference import matching as reference
from safetensors.torch import load_file, save_file

from ddistill.augment import Normalisation
from ddistill.data import RealData, Split
from ddistill.data.real_data import Origin
from ddistill.recipe import build
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import file_checksum, fingerprint
from ddistill.synthetic import (
    SyntheticSet,
    SyntheticSettings,
    artifact_folder,
    initial_set,
    load_synthetic,
    random_set,
    save_synthetic,
)
from ddistill.synthetic.artifact import DESCRIPTION, STORED
from ddistill.synthetic.decode import bound_counts, decode, decoded_count

NAMES = ("ant", "bee", "cow")
COUNTS = (9, 12, 8)
DECODERS = {"single": reference.decode_single, "multi": reference.decode_multi, "bound": reference.decode_bound}


def real_data(side: int = 8, channels: int = 3, counts: tuple[int, ...] = COUNTS) -> RealData:
    """Random images; all differ."""
    draws = torch.Generator().manual_seed(side)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.randint(0, 256, (len(labels), channels, side, side), dtype=torch.uint8, generator=draws)
    part = Split(images, labels)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return RealData(Origin("toy", "toy"), part, None, part, NAMES[: len(counts)], (mean, std), "f" * 64)


def stored_set(factor: int = 2, decoder: str = "single", channels: int = 3, side: int = 8) -> SyntheticSet:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    images = torch.rand(6, channels, side, side, generator=torch.Generator().manual_seed(1))
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return SyntheticSet(images, labels, NAMES, factor, decoder, Normalisation(mean, std))


# ---------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("decoder", ["single", "multi", "bound"])
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize(("side", "count"), [(8, 3), (28, 2), (6, 40), (5, 60), (6, 130)])
def test_decoding_agrees_with_the_reference(decoder, factor, side, count):
    stored = torch.rand(
        count, 2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side)
    ).requires_grad_()
    got, expected = decode(stored, factor, decoder), DECODERS[decoder](stored, factor)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert decoded_count(count, factor, decoder) == len(expected)


def test_224_px_in_three_are_cells_of_75_px_padded_with_grey():
    stored = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
    decoded = decode(stored, 3, "single")
    assert decoded.shape == (9, 1, 224, 224)
    torch.testing.assert_close(decoded, reference.decode_single(stored, 3), rtol=0, atol=1e-12)
    # One pixel of 75 is padding of 0.5 in the last row and column; it fills the border of the upsampled cell.
    reaches_border = [bool((cell[0, -1] == 0.5).all()) for cell in decoded]
    assert reaches_border == [False] * 6 + [True] * 3
    assert [bool((cell[0, :, -1] == 0.5).all()) for cell in decoded] == [False, False, True] * 3


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 3), (8, 3), (28, 3)])
def test_cells_come_row_by_row_and_all_images_of_a_cell_together(side, factor):
    cell = -(-side // factor)
    index = torch.arange(side) // cell
    number = index[:, None] * factor + index[None, :]  # of the cell at each pixel
    stored = torch.stack([number + 100 * image for image in range(2)])[:, None].double()
    centres = decode(stored, factor, "single")[:, 0, side // 3, side // 3]
    expected = [cell_number + 100 * image for cell_number in range(factor**2) for image in range(2)]
    torch.testing.assert_close(centres, torch.tensor(expected).double(), rtol=0, atol=1e-9)


def test_multi_is_the_concatenation_of_all_factors():
    stored = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = [decode(stored, factor, "single") for factor in (1, 2, 3)]
    assert torch.equal(decode(stored, 3, "multi"), torch.cat(parts))
    assert torch.equal(parts[0], stored)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_bound_decodes_every_image_and_at_most_128_where_that_is_possible(factor):
    for images in range(1, 200):
        counts = bound_counts(images, factor)
        assert counts == [pair for pair in reference.bound_counts(images, factor) if pair[1]]
        assert sum(count for _, count in counts) == images
        assert decoded_count(images, factor, "bound") <= max(128, images)


# ------------------------------------------------------------------------------------------------ first images


def nearest(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    side = picture.shape[-1]
    rows = [row * side // height for row in range(height)]
    columns = [column * side // width for column in range(width)]
    return picture[:, rows][:, :, columns]


@pytest.mark.parametrize(("side", "factor", "ipc"), [(8, 2, 2), (9, 2, 2), (8, 3, 1), (6, 2, 1)])
def test_mix_fills_every_cell_with_a_different_real_image_of_the_class_by_nearest_neighbour(side, factor, ipc):
    data = real_data(side, counts=(9, 12, 9))
    start = initial_set(SyntheticSettings(ipc=ipc, factor=factor), data, seed=0)
    assert start.images.shape == (3 * ipc, 3, side, side)
    assert start.labels.tolist() == [c for c in range(3) for _ in range(ipc)]
    cell = -(-side // factor)
    for c in range(3):
        pictures = data.class_images(c).numpy() / np.float32(255)
        used = []
        for stored in start.images[start.class_slice(c)].numpy():
            for top in range(0, side, cell):
                for left in range(0, side, cell):
                    content = stored[:, top : top + cell, left : left + cell]
                    matches = [
                        i for i, p in enumerate(pictures) if np.allclose(nearest(p, *content.shape[1:]), content)
                    ]
                    assert len(matches) == 1
                    used += matches
        assert len(set(used)) == len(used) == ipc * factor**2


@pytest.mark.parametrize("settings", [SyntheticSettings(ipc=2, factor=1), SyntheticSettings(ipc=2, init="random")])
def test_random_stores_whole_real_images_without_repetition(settings):
    data = real_data()
    start = initial_set(settings, data, seed=3)
    for c in range(3):
        own = data.class_images(c).float() / 255
        matches = [
            i for stored in start.images[start.class_slice(c)] for i, p in enumerate(own) if torch.equal(p, stored)
        ]
        assert len(matches) == len(set(matches)) == 2


def test_noise_is_normal_around_grey_with_spread_a_quarter_cut_to_the_range():
    data = real_data(32)
    images = initial_set(SyntheticSettings(ipc=10, init="noise"), data, seed=0).images
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert float(images.mean()) == pytest.approx(0.5, abs=0.005)
    cut = float(((images == 0) | (images == 1)).float().mean())
    assert cut == pytest.approx(0.0455, abs=0.004)  # beyond two deviations
    assert float(images[(images > 0) & (images < 1)].std()) == pytest.approx(0.25 * 0.8796, abs=0.004)


@pytest.mark.parametrize("init", ["mix", "random", "noise"])
def test_first_images_are_a_function_of_the_seed(init):
    settings, data = SyntheticSettings(ipc=1, init=init), real_data()
    first, again, other = (initial_set(settings, data, seed).images for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_first_images_of_a_class_do_not_depend_on_the_other_classes():
    data = real_data()
    plain = initial_set(SyntheticSettings(ipc=1), data, seed=0)
    more = initial_set(SyntheticSettings(ipc=1, ipc_by_class={"ant": 2}), data, seed=0)
    assert more.counts == [2, 1, 1]
    assert torch.equal(plain.images[1:], more.images[2:])


def test_ipc_by_class_changes_the_number_of_images_of_the_named_classes():
    settings = SyntheticSettings(ipc=1, ipc_by_class={"bee": 3})
    start = initial_set(settings, real_data(), seed=0)
    assert start.counts == [1, 3, 1]
    assert start.offsets == [0, 1, 4, 5]
    assert [start.decoded_per_class(c) for c in range(3)] == [4, 12, 4]
    assert torch.bincount(start.decoded()[1]).tolist() == [4, 12, 4]


@pytest.mark.parametrize(("decoded", "expected"), [(False, [1, 2, 1]), (True, [4, 8, 4])])
def test_the_random_baseline_holds_as_many_real_images_as_are_stored_or_decoded(decoded, expected):
    data = real_data()
    baseline = random_set(SyntheticSettings(ipc=1, ipc_by_class={"bee": 2}), data, seed=0, decoded=decoded)
    assert torch.bincount(baseline.decoded()[1]).tolist() == expected
    own = data.train.images.float() / 255
    assert all(any(torch.equal(image, real) for real in own) for image in baseline.decoded()[0])


def test_ipc_by_class_takes_numbers_as_names():
    assert SyntheticSettings(ipc=1, ipc_by_class={7: 2}).counts(("6", "7")) == [1, 2]


def test_the_random_baseline_gives_all_it_has_where_a_class_holds_fewer():
    baseline = random_set(SyntheticSettings(ipc=3, init="noise"), real_data(), seed=0, decoded=True)
    assert torch.bincount(baseline.labels).tolist() == [9, 12, 8]


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        (SyntheticSettings(factor=5), 8, r"factor 5.*8-px.*at most 4"),
        (SyntheticSettings(ipc_by_class={"dog": 1}), 8, r"'dog'.*ant.*bee.*cow"),
        (SyntheticSettings(ipc=3), 8, r"ipc 3.*12 real images.*'cow' has 8.*at most 2"),
        (SyntheticSettings(ipc=10, factor=1), 8, r"ipc 10.*'cow' has 8.*at most 8"),
        (SyntheticSettings(ipc=1, factor=4), 8, r"16 real images.*'cow' has 8.*use synthetic\.init=noise"),
    ],
)
def test_what_the_data_cannot_fill_is_refused_with_what_they_can(settings, size, words):
    with pytest.raises(UserError, match=words) as refusal:
        settings.check(NAMES, list(COUNTS), size)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("init", "ipc", "factor"), [("mix", 2, 2), ("random", 8, 2), ("noise", 50, 4)])
def test_the_largest_legal_ipc_is_accepted(init, ipc, factor):
    SyntheticSettings(ipc=ipc, init=init, factor=factor).check(NAMES, list(COUNTS), 8)


def test_the_ipc_that_a_refusal_names_is_accepted():
    settings = SyntheticSettings(ipc=9)
    with pytest.raises(UserError) as refusal:
        settings.check(NAMES, [30, 20, 12], 8)
    named = int(str(refusal.value).split("at most ")[1].split(",")[0])
    settings.model_copy(update={"ipc": named}).check(NAMES, [30, 20, 12], 8)


@pytest.mark.parametrize(
    "values", [{"ipc": 0}, {"factor": 0}, {"decode": "double"}, {"init": "zeros"}, {"ipc_by_class": {"bee": 0}}]
)
def test_illegal_settings_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        build(SyntheticSettings, values)


# ------------------------------------------------------------------------------------------------------ the set


@pytest.mark.parametrize("decoder", ["single", "multi", "bound"])
def test_evaluation_decodes_with_single_class_by_class_whatever_matching_does(decoder):
    synthetic = stored_set(2, decoder)
    images, labels = synthetic.decoded()
    expected = [reference.decode_single(synthetic.images[synthetic.labels == c], 2) for c in range(3)]
    torch.testing.assert_close(images, torch.cat(expected), rtol=0, atol=1e-6)
    assert labels.tolist() == [0] * 8 + [1] * 4 + [2] * 12
    matched = synthetic.decode_class(synthetic.images[:2])
    torch.testing.assert_close(matched, DECODERS[decoder](synthetic.images[:2], 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_decoded_images_are_cut_to_the_range_and_the_stored_ones_stay_as_they_are(factor):
    synthetic = stored_set(factor)
    synthetic.images.mul_(3).sub_(1)
    before = synthetic.images.clone()
    images, _ = synthetic.decoded()
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert torch.equal(synthetic.images, before)


def test_to_dataset_gives_decoded_images_normalised_by_the_sets_own_mean_and_spread():
    synthetic = stored_set()
    images, labels = synthetic.decoded()
    dataset = synthetic.to_dataset()
    got = torch.stack([image for image, _ in dataset])
    by = synthetic.normalisation.mean, synthetic.normalisation.std
    torch.testing.assert_close(got, reference.normalise(images, *by), rtol=0, atol=1e-5)
    assert [int(label) for _, label in dataset] == labels.tolist()


def test_to_dataset_refuses_other_labels():
    with pytest.raises(UserError, match=r"'sft'; did you mean soft\?"):
        stored_set().to_dataset("sft")


def test_a_snapshot_is_cut_to_the_range_and_does_not_follow_later_changes():
    synthetic = stored_set()
    synthetic.images[0, 0, 0, 0] = 1.5
    snapshot = synthetic.snapshot()
    kept = snapshot.images.clone()
    assert float(kept[0, 0, 0, 0]) == 1.0
    assert float(synthetic.images[0, 0, 0, 0]) == 1.5
    synthetic.images.zero_()
    synthetic.labels.zero_()
    assert torch.equal(snapshot.images, kept)
    assert snapshot.labels.tolist() == [0, 0, 1, 2, 2, 2]


# ----------------------------------------------------------------------------------------------------- artifact


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_synthetic(stored_set(), tmp_path / "distilled", {"seed": 3})


@pytest.mark.parametrize("decoder", ["single", "multi", "bound"])
@pytest.mark.parametrize(("channels", "side", "factor"), [(1, 8, 1), (3, 8, 3), (3, 9, 2)])
def test_an_artifact_gives_back_the_same_bits(tmp_path, decoder, channels, side, factor):
    synthetic = stored_set(factor, decoder, channels, side)
    folder = save_synthetic(synthetic, tmp_path / "set", {"accuracy": {"mean": 50.0, "std": 1.0, "runs": [50.0]}})
    loaded = load_synthetic(folder)
    assert torch.equal(loaded.images, synthetic.images)
    assert torch.equal(loaded.labels, synthetic.labels)
    for name in ("class_names", "factor", "decoder", "normalisation.mean", "normalisation.std"):
        assert attrgetter(name)(loaded) == attrgetter(name)(synthetic)


def test_an_artifact_is_found_in_its_run_and_keeps_what_was_said_about_it(saved):
    assert artifact_folder(saved) == saved
    assert artifact_folder(saved.parent) == saved
    assert torch.equal(load_synthetic(saved.parent).images, stored_set().images)
    assert json.loads((saved / DESCRIPTION).read_text())["seed"] == 3


def test_saving_again_replaces_the_artifact_and_leaves_no_other_file(saved):
    def names() -> list[str]:
        return sorted(re.sub("-[0-9a-f]{16}", "", path.name) for path in saved.rglob("*"))

    before = names()
    save_synthetic(stored_set(factor=1), saved, {})
    assert load_synthetic(saved).factor == 1
    assert names() == before


@pytest.mark.parametrize("channels", [1, 3])
def test_datasets_reads_the_decoded_images_labels_and_class_names(tmp_path, channels):
    synthetic = stored_set(channels=channels)
    folder = save_synthetic(synthetic, tmp_path / "set", {})
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "hub"), split="train")
    images, labels = synthetic.decoded()
    pixels = np.stack([np.asarray(picture) for picture in rows["image"]]).reshape(len(rows), 8, 8, channels)
    exact = images.double().numpy().transpose(0, 2, 3, 1) * 255
    assert pixels.dtype == np.uint8
    assert float(np.abs(pixels - exact).max()) <= 0.5 + 1e-4  # rounding to the nearest whole number
    assert list(rows["label"]) == labels.tolist()
    assert rows.features["label"].names == list(NAMES)


def test_loading_never_unpickles(saved, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    assert load_synthetic(saved).class_names == NAMES


class Exploit:
    """What a hostile pickle holds; unpickling it would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_named_as_safetensors_is_refused_and_not_run(saved, tmp_path):
    trap = tmp_path / "was-run"
    (saved / STORED).write_bytes(pickle.dumps(Exploit(trap)))
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(saved)
    assert not trap.exists()


def change_description(folder: Path, change) -> None:
    """Change it as somebody would who also makes the checksums right again."""
    about = json.loads((folder / DESCRIPTION).read_text())
    about.pop("sha256")
    change(about)
    about["files"][STORED] = file_checksum(folder / STORED)
    (folder / DESCRIPTION).write_text(json.dumps({**about, "sha256": fingerprint(about)}))


def test_a_change_without_a_new_checksum_is_refused(saved):
    text = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(text.replace('"factor": 2', '"factor": 1'))
    with pytest.raises(UserError, match="changed since it was written"):
        load_synthetic(saved)


DESCRIPTIONS = {
    "another format": lambda about: about.update(format=99),
    "the format of before": lambda about: about.update(format=1),
    "no format": lambda about: about.pop("format"),
    "no class names": lambda about: about.pop("class_names"),
    "class names of another type": lambda about: about.update(class_names=[1, 2, 3]),
    "class names null": lambda about: about.update(class_names=None),
    "too few class names": lambda about: about.update(class_names=["ant", "bee"]),
    "too many class names": lambda about: about.update(class_names=[*NAMES, "dog"]),
    "no decoder": lambda about: about.pop("decoder"),
    "decoder of another type": lambda about: about.update(decoder="single"),
    "unknown decoder": lambda about: about["decoder"].update(matching="triple"),
    "factor 0": lambda about: about["decoder"].update(factor=0),
    "factor beyond the side": lambda about: about["decoder"].update(factor=9),
    "factor a text": lambda about: about["decoder"].update(factor="2"),
    "factor null": lambda about: about["decoder"].update(factor=None),
    "no normalisation": lambda about: about.pop("normalisation"),
    "mean of one channel": lambda about: about["normalisation"].update(mean=[0.5]),
    "mean of texts": lambda about: about["normalisation"].update(mean=["a", "b", "c"]),
    "std a number": lambda about: about["normalisation"].update(std=0.5),
    "mean not finite": lambda about: about["normalisation"].update(mean=[float("nan")] * 3),
    "std 0": lambda about: about["normalisation"].update(std=[0.0, 0.0, 0.0]),
    "std not finite": lambda about: about["normalisation"].update(std=[float("inf")] * 3),
    "mean beyond any float": lambda about: about["normalisation"].update(mean=[10**400] * 3),
}


@pytest.mark.parametrize("damage", list(DESCRIPTIONS))
def test_a_description_that_does_not_fit_is_refused(saved, damage):
    change_description(saved, DESCRIPTIONS[damage])
    with pytest.raises(UserError) as refusal:
        load_synthetic(saved)
    assert str(saved) in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "1", "[" * 100_000, '{"format": 1}', "\x00", '{"format": 1} trailing']
)
def test_a_description_that_is_no_description_is_refused(saved, text):
    (saved / DESCRIPTION).write_text(text)
    with pytest.raises(UserError):
        load_synthetic(saved)


def test_a_description_that_is_not_utf_8_is_refused(saved):
    (saved / DESCRIPTION).write_bytes(b'{"format": 1, "x": "\xff\xfe"}')
    with pytest.raises(UserError):
        load_synthetic(saved)


def tensors_with(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    synthetic = stored_set()
    return {"images": synthetic.images, "labels": synthetic.labels} | changes


IMAGES = stored_set().images
TENSORS = {
    "no images": {"labels": torch.arange(3)},
    "no labels": {"images": IMAGES},
    "images of another type": tensors_with(images=IMAGES.half()),
    "labels of another type": tensors_with(labels=torch.tensor([0, 0, 1, 2, 2, 2], dtype=torch.int32)),
    "images not square": tensors_with(images=IMAGES[:, :, :, :5].contiguous()),
    "images without channels": tensors_with(images=IMAGES[:, 0].contiguous()),
    "images of other channels": tensors_with(images=IMAGES[:, :1].contiguous()),
    "fewer labels": tensors_with(labels=torch.tensor([0, 1, 2])),
    "labels not sorted": tensors_with(labels=torch.tensor([0, 1, 0, 2, 2, 2])),
    "labels beyond the classes": tensors_with(labels=torch.tensor([0, 0, 1, 2, 2, 3])),
    "a class without images": tensors_with(labels=torch.tensor([0, 0, 0, 2, 2, 2])),
    "negative labels": tensors_with(labels=torch.tensor([-1, 0, 1, 2, 2, 2])),
    "images above 1": tensors_with(images=IMAGES + 0.5),
    "images not finite": tensors_with(images=IMAGES.clone().fill_(float("nan"))),
}


@pytest.mark.parametrize("damage", TENSORS)
def test_tensors_that_do_not_fit_the_description_are_refused(saved, damage):
    save_file(TENSORS[damage], saved / STORED)
    with pytest.raises(UserError, match=r"damaged: ValueError: the checksum of stored\.safetensors"):
        load_synthetic(saved)
    change_description(saved, lambda about: None)
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(saved)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, 200, 2000])
def test_a_truncated_tensor_file_is_refused(saved, length):
    (saved / STORED).write_bytes((saved / STORED).read_bytes()[:length])
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(saved)


@pytest.mark.parametrize("name", [STORED, DESCRIPTION])
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserError, match=r"damaged|no distilled set"):
        load_synthetic(saved)


def test_a_folder_in_place_of_the_tensor_file_is_refused(saved):
    (saved / STORED).unlink()
    (saved / STORED).mkdir()
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(saved)


@pytest.mark.parametrize("name", [STORED, DESCRIPTION])
def test_every_flipped_bit_is_refused_in_one_line(saved, name):
    whole = (saved / name).read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draws.integers(len(whole))] ^= 1 << int(draws.integers(8))
        (saved / name).write_bytes(bytes(damaged))
        with pytest.raises(UserError) as refusal:
            load_synthetic(saved)
        assert "\n" not in str(refusal.value)


def test_a_save_that_is_interrupted_leaves_nothing_that_loads_as_whole(saved, monkeypatch):
    monkeypatch.setattr("ddistill.synthetic.artifact._write_parquet", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_synthetic(stored_set(factor=1), saved, {})
    with pytest.raises(UserError, match="no distilled set"):
        load_synthetic(saved)


def test_an_artifact_can_be_moved(saved, tmp_path):
    shutil.move(saved, tmp_path / "elsewhere")
    assert torch.equal(load_synthetic(tmp_path / "elsewhere").images, stored_set().images)


def test_the_tensor_file_holds_plain_float32_images_in_the_range(saved):
    tensors = load_file(saved / STORED)
    assert sorted(tensors) == ["images", "labels"]
    assert tensors["images"].dtype == torch.float32
    assert torch.equal(tensors["images"], stored_set().images)

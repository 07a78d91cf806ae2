"""`load_data` on every kind of source: python -m pytest tests/data/test_load.py."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from ddistill.data import DataSettings, RealData, load_data
from ddistill.data import hub as hub_module
from ddistill.data import load as load_module
from ddistill.runtime.storage import cache_folder

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NAMES = ("bird", "cat", "dog")
COUNTS = {"train": (6, 4, 5), "test": (2, 3, 2)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))


def pixels(part: str, c: int, i: int, size: int = 8) -> np.ndarray:
    """An image [size, size, 3] whose first pixel tells its part, class and number."""
    noise = np.random.default_rng([len(part), c, i]).integers(0, 256, (size, size, 3), dtype=np.uint8)
    noise[0, 0] = (len(part), c, i)
    return noise


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def rows(part: str) -> list[tuple[np.ndarray, int]]:
    """Images and labels of one part, classes interleaved, class order of numbers kept."""
    pairs = [(pixels(part, c, i), c, i) for c in range(3) for i in range(COUNTS[part][c])]
    return [(image, c) for image, c, i in sorted(pairs, key=lambda pair: pair[2])]


def folder_tree(root: Path, parts=("train", "test")) -> Path:
    for part in parts:
        for c, name in enumerate(NAMES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(COUNTS[part][c]):
                (folder / f"{i}.png").write_bytes(png(pixels(part, c, i)))
    return root


def features():
    import datasets

    return datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})


def dataset(part: str):
    import datasets

    values = [{"img": {"bytes": png(image), "path": None}, "label": label} for image, label in rows(part)]
    return datasets.Dataset.from_list(values, features=features())


def plain_table(part: str, **columns: list) -> pa.Table:
    """Parquet without any remark on what its columns mean."""
    images = [{"bytes": png(image), "path": f"{i}.png"} for i, (image, _) in enumerate(rows(part))]
    return pa.table({"image": images, "label": [label for _, label in rows(part)], **columns})


def check_contents(data: RealData, names=NAMES) -> None:
    assert data.class_names == names
    assert (data.num_classes, data.channels, data.size) == (3, 3, 8)
    assert data.class_counts.tolist() == list(COUNTS["train"])
    assert data.class_offsets.tolist() == [0, 6, 10, 15]
    for part, split in (("train", data.train), ("test", data.test)):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert len(split) == sum(COUNTS[part])
        expected = [pixels(part, c, i).transpose(2, 0, 1) for c in range(3) for i in range(COUNTS[part][c])]
        np.testing.assert_array_equal(split.images.numpy(), np.stack(expected))
        assert split.labels.tolist() == [c for c in range(3) for _ in range(COUNTS[part][c])]
    scaled = data.train.images.double() / 255
    np.testing.assert_allclose(data.statistics[0], scaled.mean(dim=(0, 2, 3)).numpy(), rtol=1e-12)
    np.testing.assert_allclose(data.statistics[1], scaled.std(dim=(0, 2, 3), correction=0).numpy(), rtol=1e-12)


def test_digits_needs_no_network_and_has_a_fixed_test_part():
    first, second = load_data("digits"), load_data("digits", seed=5)
    assert (first.num_classes, first.channels, first.size) == (10, 1, 8)
    assert len(first.train) + len(first.test) == 1797
    assert first.class_names == tuple("0123456789")
    assert torch.equal(first.test.images, second.test.images)
    assert first.fingerprint == second.fingerprint
    shares = torch.bincount(first.test.labels) / (torch.bincount(first.test.labels) + first.class_counts)
    assert shares.sub(0.2).abs().max() < 0.01
    assert first.train.images.max() == 255
    assert not cache_folder().exists()


def test_folders_with_parts(tmp_path):
    root = folder_tree(tmp_path / "pets")
    (root / "train" / "bird" / "notes.txt").write_text("no image")
    (root / "train" / "bird" / ".hidden.png").write_text("no image")
    (root / "train" / ".cache").mkdir()
    data = load_data(root)
    check_contents(data)
    assert data.name == "pets"
    assert data.source == str(root)
    assert load_data(str(root)).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_folders_take_validation_as_test(tmp_path, name):
    root = folder_tree(tmp_path / "pets")
    (root / "test").rename(root / name)
    check_contents(load_data(root))


def test_folders_with_named_parts(tmp_path):
    root = folder_tree(tmp_path / "pets")
    (root / "train").rename(root / "old")
    check_contents(load_data(root, DataSettings(train_split="old", test_split="test")))


def test_folders_without_parts_split_a_test_part_off(tmp_path):
    root = folder_tree(tmp_path / "pets") / "train"
    settings = DataSettings(test_fraction=0.25)
    data, again = load_data(root, settings), load_data(root, settings, seed=3)
    assert torch.bincount(data.test.labels).tolist() == [2, 1, 1]
    assert data.class_counts.tolist() == [4, 3, 4]
    assert torch.equal(data.test.images, again.test.images)
    ids = {tuple(image[:, 0, 0].tolist()) for split in (data.train, data.test) for image in split.images}
    assert len(ids) == 15


def test_a_class_may_be_called_train(tmp_path):
    root = folder_tree(tmp_path / "vehicles") / "train"
    (root / "bird").rename(root / "train")
    data = load_data(root, DataSettings(test_fraction=0.25))
    assert data.class_names == ("cat", "dog", "train")


def test_images_deeper_in_a_class_folder_count(tmp_path):
    root = folder_tree(tmp_path / "pets")
    (root / "train" / "bird" / "images").mkdir()
    (root / "train" / "bird" / "0.png").rename(root / "train" / "bird" / "images" / "0.png")
    assert load_data(root).class_counts.tolist() == [6, 4, 5]


def test_markup_in_class_folders_stays_text(tmp_path):
    root = folder_tree(tmp_path / "pets")
    names = ("<script>alert('x')<", "[red]cat[_red]", "{{dog}} & %s")
    for part in ("train", "test"):
        for old, new in zip(NAMES, names, strict=True):
            (root / part / old).rename(root / part / new)
    check_contents(load_data(root), names)
    assert load_data(root).class_names == names


@pytest.mark.parametrize(
    "layout",
    [
        {"train": "train-00000-of-00001.parquet", "test": "test-00000-of-00001.parquet"},
        {"train": "data/train-00000-of-00001.parquet", "test": "data/validation-00000-of-00001.parquet"},
        {"train": "train/0.parquet", "test": "test/0.parquet"},
        {"train": "pets_train.parquet", "test": "pets_val.parquet"},
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_parquet(tmp_path, layout, declared):
    root = tmp_path / "set"
    for part, name in layout.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if declared:
            dataset(part).to_parquet(root / name)
        else:
            pa.parquet.write_table(plain_table(part), root / name)
    check_contents(load_data(root), NAMES if declared else ("0", "1", "2"))


def test_parquet_in_several_shards(tmp_path):
    for part in ("train", "test"):
        whole = dataset(part)
        for shard in range(2):
            whole.shard(2, shard, contiguous=True).to_parquet(tmp_path / f"{part}-0000{shard}-of-00002.parquet")
    check_contents(load_data(tmp_path))


def test_one_parquet_file(tmp_path):
    dataset("train").to_parquet(tmp_path / "pets.parquet")
    data = load_data(tmp_path / "pets.parquet", DataSettings(test_fraction=0.2))
    assert len(data.train) + len(data.test) == 15
    assert data.class_names == NAMES


def test_text_labels_and_bytes_column(tmp_path):
    for part in ("train", "test"):
        table = pa.table({"raw": [png(image) for image, _ in rows(part)], "kind": [NAMES[c] for _, c in rows(part)]})
        pa.parquet.write_table(table, tmp_path / f"{part}.parquet")
    check_contents(load_data(tmp_path))


def test_named_columns(tmp_path):
    for part in ("train", "test"):
        table = plain_table(part, id=list(range(len(rows(part)))), thumb=[png(image) for image, _ in rows(part)])
        pa.parquet.write_table(table, tmp_path / f"{part}.parquet")
    data = load_data(tmp_path, DataSettings(image_column="thumb", label_column="label"))
    check_contents(data, ("0", "1", "2"))


def test_images_by_path_in_a_table(tmp_path):
    for part in ("train", "test"):
        images = []
        for i, (image, _) in enumerate(rows(part)):
            (tmp_path / f"{part}{i}.png").write_bytes(png(image))
            images.append({"bytes": None, "path": f"{part}{i}.png"})
        labels = [label for _, label in rows(part)]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        pa.parquet.write_table(pa.table({"image": pa.array(images, kind), "y": labels}), tmp_path / f"{part}.parquet")
    check_contents(load_data(tmp_path), ("0", "1", "2"))


def test_saved_to_disk(tmp_path):
    import datasets

    datasets.DatasetDict({part: dataset(part) for part in ("train", "test")}).save_to_disk(tmp_path / "both")
    check_contents(load_data(tmp_path / "both"))
    dataset("train").save_to_disk(tmp_path / "one")
    assert len(load_data(tmp_path / "one", DataSettings(test_fraction=0.2)).test) == 3


def test_arrow_files(tmp_path):
    for part in ("train", "test"):
        table = plain_table(part)
        with pa.OSFile(str(tmp_path / f"{part}.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    check_contents(load_data(tmp_path), ("0", "1", "2"))


def test_datasets_objects():
    import datasets

    both = datasets.DatasetDict({part: dataset(part) for part in ("train", "test")})
    check_contents(load_data(both))
    check_contents(load_data((both["train"], both["test"])))
    reordered = both["train"].select(range(14, -1, -1))
    assert load_data((reordered, both["test"])).class_counts.tolist() == [6, 4, 5]


@pytest.mark.parametrize("given", ["uoft-cs/cifar10", "CIFAR10"])
def test_hub_layout(monkeypatch, tmp_path, given):
    """The hub's own reader, on files in the hub's layout: only where they come from is replaced."""
    import datasets

    asked = []

    def fetch(hub_id, config):
        asked.append((hub_id, config))
        files = {part: str(tmp_path / f"{part}-00000-of-00001.parquet") for part in ("train", "test")}
        return datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))

    for part in ("train", "test"):
        dataset(part).to_parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    monkeypatch.setattr(hub_module, "_probe", lambda hub_id: None)
    monkeypatch.setattr(hub_module, "declared_classes", lambda *_: list(NAMES))
    monkeypatch.setattr(hub_module, "fetch", fetch)
    data = load_data(given, DataSettings(size=8))
    check_contents(data)
    assert data.name == "cifar10"
    assert data.source == "cifar10"
    load_data(given, DataSettings(size=8))
    assert asked == [("uoft-cs/cifar10", None)]  # the second load is from the cache
    assert load_data(given).size == 32  # the known size
    assert "15 train images were cropped or scaled to 32x32 pixels" in load_data(given).origin.notes


def test_two_label_columns_are_decided_by_facts(monkeypatch):
    import datasets

    def fetch(hub_id, config):
        parts = {part: dataset(part).rename_column("label", "fine_label") for part in ("train", "test")}
        return datasets.DatasetDict({k: v.add_column("coarse_label", [0] * len(v)) for k, v in parts.items()})

    monkeypatch.setattr(hub_module, "_probe", lambda hub_id: None)
    monkeypatch.setattr(hub_module, "declared_classes", lambda *_: None)
    monkeypatch.setattr(hub_module, "fetch", fetch)
    assert load_data("cifar100").class_names == NAMES


class Pairs(torch.utils.data.Dataset):
    """A map-style data set that shows its images in a given form."""

    def __init__(self, part: str, form, classes=None) -> None:
        self.items = [(form(image), label) for image, label in rows(part)]
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


FORMS = {
    "pillow": Image.fromarray,
    "numpy": lambda a: a,
    "numpy float": lambda a: (a / 255).astype(np.float32),
    "tensor": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "tensor float": lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255,
    "tensor int64": lambda a: torch.from_numpy(a).permute(2, 0, 1).long(),
}


@pytest.mark.parametrize("form", FORMS)
def test_map_style_data_sets(form):
    train, test = Pairs("train", FORMS[form], NAMES), Pairs("test", FORMS[form])
    check_contents(load_data((train, test)))


def test_map_style_data_set_alone():
    data = load_data(Pairs("train", FORMS["numpy"]), DataSettings(test_fraction=0.5))
    assert data.class_counts.tolist() == [3, 2, 3]
    assert data.class_names == ("0", "1", "2")
    assert data.name == "pairs"


def test_tensor_data_set_of_grey_images():
    images = torch.arange(6 * 16).reshape(6, 1, 4, 4).to(torch.uint8)
    data = load_data(torch.utils.data.TensorDataset(images, torch.tensor([0, 1] * 3)), DataSettings(test_fraction=0.3))
    assert (data.channels, data.size) == (1, 4)
    grey = load_data(
        torch.utils.data.TensorDataset(images[:, 0], torch.tensor([0, 1] * 3)), DataSettings(test_fraction=0.3)
    )
    assert grey.fingerprint == data.fingerprint


def test_fingerprint_is_of_contents(tmp_path):
    folders = load_data(folder_tree(tmp_path / "pets"))
    memory = load_data((Pairs("train", FORMS["numpy"], NAMES), Pairs("test", FORMS["numpy"])))
    held = load_data(tmp_path / "pets", DataSettings(validation_fraction=0.3), seed=4)
    other_names = load_data((Pairs("train", FORMS["numpy"]), Pairs("test", FORMS["numpy"])))
    assert folders.fingerprint == memory.fingerprint == held.fingerprint != other_names.fingerprint
    assert len(folders.fingerprint) == 64


def test_validation_is_disjoint_by_seed_and_by_class():
    whole = load_data("digits")
    settings = DataSettings(validation_fraction=0.1)
    first, same, other = (load_data("digits", settings, seed=seed) for seed in (1, 1, 2))
    assert first.validation is not None
    assert other.validation is not None
    assert torch.equal(first.validation.images, same.validation.images)
    assert not torch.equal(first.validation.images, other.validation.images)
    assert len(first.train) + len(first.validation) == len(whole.train)
    together = torch.cat([first.train.images, first.validation.images]).flatten(1).tolist()
    assert sorted(together) == sorted(whole.train.images.flatten(1).tolist())
    expected = (whole.class_counts * 0.1).round().long()
    assert torch.bincount(first.validation.labels).tolist() == expected.tolist()
    assert first.statistics != whole.statistics
    assert torch.equal(first.test.images, whole.test.images)


def test_unequal_classes(tmp_path):
    data = load_data(folder_tree(tmp_path / "pets"))
    assert data.origin.notes == ("classes differ in size: 4 training images of 'cat' to 6 of 'bird'",)
    assert [len(data.class_images(c)) for c in range(3)] == [6, 4, 5]
    assert data.class_images(1)[2, :, 0, 0].tolist() == [5, 1, 2]
    assert data.class_images(1).data_ptr() == data.train.images[6:].data_ptr()
    with pytest.raises(IndexError, match="class 3"):
        data.class_images(3)


def test_size_and_channels_can_be_set(tmp_path):
    root = folder_tree(tmp_path / "pets")
    data = load_data(root, DataSettings(size=4, channels=1))
    assert (data.size, data.channels) == (4, 1)
    assert "15 colour train images were converted to grey" in data.origin.notes
    assert "7 test images were cropped or scaled to 4x4 pixels" in data.origin.notes
    assert load_data("digits", DataSettings(size=16, channels=3)).train.images.shape[1:] == (3, 16, 16)


def test_grey_images_in_a_colour_set_are_noted(tmp_path):
    root = folder_tree(tmp_path / "pets")
    grey = pixels("train", 0, 0)[:, :, 0]
    Image.fromarray(grey).save(root / "train" / "bird" / "0.png")
    data = load_data(root)
    assert "1 grey train images were converted to RGB" in data.origin.notes
    np.testing.assert_array_equal(data.train.images[0].numpy(), np.stack([grey] * 3))


def test_a_grey_train_part_follows_a_colour_test_part(tmp_path):
    root = folder_tree(tmp_path / "pets")
    for file in (root / "train").rglob("*.png"):
        Image.open(file).convert("L").save(file)
    data = load_data(root)
    assert data.train.images.shape[1] == data.test.images.shape[1] == len(data.statistics[0]) == 3


def test_unreadable_images_can_be_skipped(tmp_path):
    root = folder_tree(tmp_path / "pets")
    (root / "train" / "bird" / "2.png").write_bytes(b"not an image")
    data = load_data(root, DataSettings(skip_unreadable=True))
    assert data.class_counts.tolist() == [5, 4, 5]
    reason = "it is no image that Pillow can read"
    assert f"left out: 1 of 15 train images cannot be read: 'train/bird/2.png' ({reason})" in data.origin.notes
    assert data.class_images(0)[:, 2, 0, 0].tolist() == [0, 1, 3, 4, 5]


def test_classes_can_be_chosen_and_only_they_are_decoded(tmp_path):
    root = folder_tree(tmp_path / "pets")
    (root / "train" / "cat" / "0.png").write_bytes(b"not an image")
    data = load_data(root, DataSettings(classes=("dog", "bird")))
    assert data.class_names == ("dog", "bird")
    assert data.class_counts.tolist() == [5, 6]
    assert data.class_images(0)[:, 1, 0, 0].tolist() == [2] * 5
    assert torch.bincount(data.test.labels).tolist() == [2, 2]


def test_an_imagenet_subset_of_a_local_copy(tmp_path):
    from ddistill.data import subset_classes

    names = sorted((*subset_classes("imagenette"), "n00000001"))
    for part in ("train", "val"):
        for c, name in enumerate(names):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / part / name / f"{i}.JPEG").write_bytes(png(pixels(part, c, i)))
    data = load_data(tmp_path, DataSettings(classes="imagenette"))
    assert data.class_names == subset_classes("imagenette")
    assert len(data.train) == 20


def test_progress_is_reported(tmp_path):
    seen = []
    load_data(folder_tree(tmp_path / "pets"), on_progress=lambda *event: seen.append(event))
    assert seen == [("decoding train images", 15, 15), ("decoding test images", 7, 7)]


def cached_file() -> Path:
    (found,) = (cache_folder() / "data").rglob("*.safetensors")
    return found


def test_decoded_once(tmp_path, monkeypatch):
    root = folder_tree(tmp_path / "pets")
    first = load_data(root)
    monkeypatch.setattr(load_module, "_decode", lambda *_: pytest.fail("decoded again"))
    second = load_data(root, DataSettings(validation_fraction=0.2), seed=9)
    check_contents(load_data(root))
    assert second.fingerprint == first.fingerprint
    assert second.origin.notes == first.origin.notes


def test_the_cache_follows_files_and_settings(tmp_path):
    root = folder_tree(tmp_path / "pets")
    first = load_data(root)
    assert load_data(root, DataSettings(size=4)).size == 4
    file = root / "train" / "cat" / "0.png"
    file.write_bytes(png(pixels("train", 9, 9)))
    os.utime(file, ns=(1, 1))
    assert load_data(root).fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    root = folder_tree(tmp_path / "pets")
    first = load_data(root)
    file = cached_file()
    whole = file.read_bytes()
    middle = len(whole) // 2
    broken = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "foreign": b"\x02\0\0\0\0\0\0\0{}",
    }
    file.unlink()
    file.write_bytes(broken[damage])
    assert load_data(root).fingerprint == first.fingerprint
    assert cached_file().read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder should be")
    monkeypatch.setenv("DDISTILL_CACHE", str(blocked))
    data = load_data(folder_tree(tmp_path / "pets"))
    assert any(note.startswith("decoded images could not be kept in ") for note in data.origin.notes)


def test_cifar10():
    if not (SHARED / "cifar10").is_dir():
        pytest.skip(f"needs CIFAR-10 in {SHARED / 'cifar10'}")
    data = load_data(SHARED / "cifar10", DataSettings(classes=("cat", "ship")))
    assert data.class_names == ("cat", "ship")
    assert data.train.images.shape == (10000, 3, 32, 32)
    assert data.test.images.shape == (2000, 3, 32, 32)
    assert data.class_counts.tolist() == [5000, 5000]
    assert data.origin.notes == ()
    # Ships are bluer than cats, so labels and images belong together.
    blue = [data.class_images(c).float().mean(dim=(0, 2, 3)) for c in range(2)]
    assert blue[1][2] - blue[1][0] > 5 > blue[0][2] - blue[0][0]
    assert load_data(SHARED / "cifar10", DataSettings(classes=("cat", "ship"))).fingerprint == data.fingerprint


def test_the_hubs_reader_itself(monkeypatch, tmp_path):
    """What is asked of `datasets`, on a local folder in the hub's layout in place of an id."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    root = tmp_path / "set"
    for part in ("train", "test"):
        dataset(part).to_parquet(root / "data" / f"{part}-00000-of-00001.parquet")
    assert hub_module.declared_classes(str(root), None, "label") in (None, list(NAMES))
    check_contents(load_data(hub_module.fetch(str(root), None)))


# What a user should know of the images


def test_images_of_both_parts_and_of_two_classes_are_told(tmp_path):
    from data.made import classes, fill, parts

    parts(tmp_path / "a", "train", "test")
    notes = load_data(tmp_path / "a").account.lines
    assert any("6 of 6 test images are in the training part, too" in note for note in notes)
    classes(tmp_path / "b")
    fill(tmp_path / "b" / "rouge", "red")
    notes = load_data(tmp_path / "b", DataSettings(test_fraction=0.25)).account.lines
    assert any("training images are in two classes" in note and "'red' and 'rouge'" in note for note in notes)
    parts(tmp_path / "c", "train")
    for number, colour in enumerate(("red", "blue")):
        fill(tmp_path / "c" / "test" / colour, colour, first=10 * (number + 1))
    assert not any("pixel for pixel" in note for note in load_data(tmp_path / "c").account.lines)


def test_a_data_set_that_changes_from_reading_to_reading_is_told():
    class Random:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.rand(3, 4, 4), index % 2

    share = DataSettings(test_fraction=0.25)
    assert any("change from one reading to the next" in note for note in load_data(Random(), share).account.lines)
    steady = [Random()[index] for index in range(8)]
    assert not any("one reading to the next" in note for note in load_data(steady, share).account.lines)

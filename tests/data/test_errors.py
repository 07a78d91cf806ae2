"""Bad data: every message is one line that names the value and what to do about it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ddistill.data import DataSettings, load_data
from ddistill.data import hub as hub_module
from ddistill.runtime.errors import UserError


def png(number: int, size=(8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number % 256, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def refused(source, *words: str, **settings) -> str:
    """The message with which ``source`` is refused, which must hold all ``words``."""
    with pytest.raises(UserError) as caught:
        load_data(source, DataSettings(**settings))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def table(path: Path, labels, **columns) -> Path:
    count = len(labels or next(iter(columns.values())))
    images = [{"bytes": png(i), "path": None} for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"image": images, "label": labels, **columns}
    pa.parquet.write_table(pa.table({name: value for name, value in content.items() if value is not None}), path)
    return path


def parts(root: Path, train, test, **columns) -> Path:
    table(root / "train.parquet", train, **columns)
    table(root / "test.parquet", test)
    return root


def declared(root: Path, train, test, names=("cat", "dog", "fox")) -> Path:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    for part, labels in (("train", train), ("test", test)):
        values = [{"image": {"bytes": png(i), "path": None}, "label": label} for i, label in enumerate(labels)]
        datasets.Dataset.from_list(values, features=features).to_parquet(root / f"{part}.parquet")
    return root


def folders(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i}.png").write_bytes(png(i))
    return root


# Finding the source


def test_unknown_short_name():
    refused("cifar1", "unknown data set", "'cifar1'", "did you mean cifar10", "digits")


@pytest.mark.parametrize("source", ["/no/such/place", "./missing", "pets.parquet", Path("missing")])
def test_missing_path(source):
    refused(source, "no such file or folder", repr(str(source)))


def test_file_of_another_kind(tmp_path):
    (tmp_path / "data.txt").write_text("a,b")
    refused(tmp_path / "data.txt", "data.txt", ".arrow, .csv, .jsonl, .parquet, .tsv")


def test_the_folder_of_a_run(tmp_path):
    parts(tmp_path, "train", "test")
    (tmp_path / "recipe.yaml").write_text("name: a")
    (tmp_path / "log.jsonl").write_text("")
    refused(tmp_path, "the folder of a run", "--recipe ")


def test_hub_out_of_reach(monkeypatch):
    def offline(hub_id):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(hub_module, "_probe", offline)
    refused("someone/cifar-100x", "'someone/cifar-100x'", "hub could not be reached", "no route to host", "cifar100")
    refused("mnist", "'ylecun/mnist'", "hub could not be reached", "path of a local copy")


def test_hub_reader_fails(monkeypatch):
    def broken(hub_id, config):
        raise RuntimeError("scripts are not run")

    monkeypatch.setattr(hub_module, "_probe", lambda hub_id: None)
    monkeypatch.setattr(hub_module, "declared_classes", lambda *_: None)
    monkeypatch.setattr(hub_module, "fetch", broken)
    refused("someone/pets", "'someone/pets'", "scripts are not run")


def test_hub_imagenet_without_wordnet_ids(monkeypatch):
    monkeypatch.setattr(hub_module, "_probe", lambda hub_id: None)
    monkeypatch.setattr(hub_module, "declared_classes", lambda *_: ["tench, Tinca tinca", "goldfish"])
    monkeypatch.setattr(hub_module, "fetch", lambda *_: pytest.fail("fetched in vain"))
    refused("imagenette", "'ILSVRC/imagenet-1k'", "WordNet id", "data.classes=SUBSET", "local copy")


@pytest.mark.parametrize("source", [3, [1, 2], object()])
def test_not_a_data_set(source):
    if isinstance(source, list):
        refused(source, "item 0 of the train data set", "'int'", "(image, label)", test_fraction=0.2)
    else:
        refused(source, type(source).__name__, "map-style data set")


def test_tuple_of_three():
    refused((1, 2, 3), "(train, test)", "3 items")


def test_options_without_meaning(tmp_path):
    refused("digits", "data.label_column='y'", "digits", label_column="y")
    refused(folders(tmp_path, a=2, b=2), "data.image_column='x'", "image folders", image_column="x")


@pytest.mark.parametrize(
    "field", [{"validation_fraction": 0.6}, {"test_fraction": 0.0}, {"size": 0}, {"channels": 2}, {"sise": 3}]
)
def test_settings_out_of_range(field):
    with pytest.raises(ValidationError):
        DataSettings(**field)


# Parts


def test_missing_test_part(tmp_path):
    expected = ("no test part", "data.test_split=NAME", "data.test_fraction=0.2")
    refused(folders(tmp_path / "f", a=2, b=2), *expected)
    refused(table(tmp_path / "t.parquet", [0, 1, 0, 1]), *expected)
    refused(torch.utils.data.TensorDataset(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])), *expected)


def test_named_parts_that_are_not_there(tmp_path):
    root = parts(tmp_path, [0, 0, 1, 1], [0, 1])
    refused(root, "'eval'", "data.test_split", "train", test_split="eval")
    refused(root, "'big'", "data.train_split", "test", train_split="big")
    refused(root, "both name 'train'", test_split="train")
    refused(folders(tmp_path / "f", a=2, b=2), "'big'", "data.train_split", train_split="big")


def test_no_part_called_train(tmp_path):
    for name in ("small", "big"):
        table(tmp_path / f"{name}-00000-of-00001.parquet", [0, 1, 0, 1])
    refused(tmp_path, "data.train_split=NAME", "small", "big")


def test_two_folders_of_one_part(tmp_path):
    for name in ("full", "cropped"):
        table(tmp_path / name / "train-00000-of-00001.parquet", [0, 1, 0, 1])
    refused(tmp_path, "'cropped', 'full'", "'train'", test_fraction=0.2)


# Folders


def test_folder_without_classes(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    refused(tmp_path, "no class folders", "ROOT/CLASS/", test_fraction=0.2)


def test_empty_class_folder(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, train__fox=0, test__cat=1)
    refused(root, "'train/fox'", "no image")


def test_empty_class_folder_of_a_set_that_was_read_before(tmp_path):
    root = folders(tmp_path / "d", red=4, blue=4)
    load_data(root, DataSettings(test_fraction=0.25))
    for name in ("green", "test tube"):
        (root / name).mkdir()
        refused(root, name, "no image in the class folder", test_fraction=0.25)
        (root / name).rmdir()


def test_test_class_that_train_lacks(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1, test__emu=1)
    refused(root, "'emu'", "test part")


def test_one_class(tmp_path):
    refused(folders(tmp_path / "f", cat=3), "one class ('cat')", "at least two", test_fraction=0.2)
    refused(parts(tmp_path / "t", [0, 0, 0], [0]), "one class ('0')")


def test_class_with_a_single_image(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=1, test__cat=1)
    refused(root, "a single image of the class 'dog'")


def test_class_left_with_a_single_image_after_skipping(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1)
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    refused(root, "a single image of the class 'dog'", skip_unreadable=True)


def test_unreadable_images_are_counted_and_three_are_named(tmp_path):
    root = folders(tmp_path, train__cat=5, train__dog=2, test__cat=1)
    whole = png(0)
    for i, content in enumerate((b"", b"text", whole[: len(whole) // 2], b"GIF89a")):
        (root / "train" / "cat" / f"{i}.png").write_bytes(content)
    message = refused(
        root, "4 of 7 train images", "'train/cat/0.png'", "'train/cat/2.png'", "data.skip_unreadable=true"
    )
    assert "3.png" not in message


def test_all_images_unreadable(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1)
    (root / "test" / "cat" / "0.png").write_bytes(b"")
    refused(root, "1 of 1 test images", skip_unreadable=True)


def test_sizes_that_differ(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1)
    (root / "train" / "dog" / "0.png").write_bytes(png(0, (6, 6)))
    refused(root, "'train/dog/0.png'", "6x6", "8x8", "data.size=")
    (root / "train" / "dog" / "0.png").write_bytes(png(0))
    (root / "test" / "cat" / "0.png").write_bytes(png(0, (10, 10)))
    refused(root, "'test/cat/0.png'", "10x10", "8x8", "data.size=")


def test_images_that_are_not_square(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1)
    (root / "train" / "cat" / "0.png").write_bytes(png(0, (6, 9)))
    refused(root, "9x6", "not square", "data.size=")


# Tables


def test_no_image_column(tmp_path):
    refused(
        table(tmp_path / "t.parquet", [0, 1], image=None), "no column of images", "label (int64)", test_fraction=0.2
    )


def test_no_label_column(tmp_path):
    path = table(tmp_path / "t.parquet", [0, 1], label=None, weight=[0.5, 0.5])
    refused(path, "no column of labels", "weight (double)", "image (struct", test_fraction=0.2)


def test_two_label_columns(tmp_path):
    path = table(tmp_path / "t.parquet", None, fine=[0, 1, 0, 1], coarse=[0, 0, 1, 1])
    refused(path, "fine, coarse", "data.label_column=NAME", test_fraction=0.2)
    path = table(tmp_path / "t.parquet", [0, 1, 0, 1], target=[0, 0, 1, 1])
    refused(path, "label, target", "data.label_column=NAME", test_fraction=0.2)


def test_two_image_columns(tmp_path):
    path = table(tmp_path / "t.parquet", [0, 1], depth=[{"bytes": png(0), "path": None}] * 2)
    refused(path, "image, depth", "data.image_column=NAME", test_fraction=0.2)


def test_named_columns_that_do_not_fit(tmp_path):
    path = table(tmp_path / "t.parquet", [0, 1], weight=[0.5, 0.5])
    refused(path, "'lable'", "data.label_column", "label (int64)", label_column="lable", test_fraction=0.2)
    refused(path, "'weight'", "labels", label_column="weight", test_fraction=0.2)
    refused(path, "'img'", "data.image_column", "image (struct", image_column="img", test_fraction=0.2)
    refused(path, "'label'", "images", image_column="label", test_fraction=0.2)


def test_test_part_without_the_column(tmp_path):
    table(tmp_path / "train.parquet", [0, 1, 0, 1])
    table(tmp_path / "test.parquet", [0, 1], label=None, kind=[0, 1])
    refused(tmp_path, "'label'", "'test'", "kind (int64)")


def test_negative_label(tmp_path):
    refused(parts(tmp_path, [0, 1, -1, -2], [0, 1]), "label -2, -1", "train part", "data.train_split")


def test_unlabelled_test_part(tmp_path):
    refused(declared(tmp_path, [0, 0, 1, 1, 2, 2], [-1, -1]), "label -1", "without a label", "data.test_split=NAME")


def test_gaps_in_labels(tmp_path):
    refused(parts(tmp_path, [0, 0, 1, 1, 4, 4], [0]), "none of 2", "up to 4", "train part")
    refused(parts(tmp_path / "ids", [10**12, 10**12, 7, 7], [7]), "none of 0, 1", str(10**12))


def test_declared_class_without_images(tmp_path):
    refused(declared(tmp_path, [0, 0, 1, 1], [0]), "no image of the class 'fox'", "train part")


def test_test_label_that_train_lacks(tmp_path):
    refused(parts(tmp_path / "n", [0, 0, 1, 1], [0, 5]), "label 5", "test part")
    root = table(tmp_path / "s" / "train.parquet", ["cat", "cat", "dog", "dog"]).parent
    table(root / "test.parquet", ["cat", "emu"])
    refused(root, "'emu'", "test part")


def test_empty_labels(tmp_path):
    refused(parts(tmp_path, [0, 1, None], [0]), "1 empty labels", "train part", "data.classes")


def test_damaged_table(tmp_path):
    path = table(tmp_path / "t.parquet", [0, 1] * 50)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "t.parquet", "cannot be read", test_fraction=0.2)
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])
    refused(path, "t.parquet", "cannot be read", test_fraction=0.2)


def test_damaged_saved_set(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{")
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    refused(tmp_path, "saved data set", str(tmp_path))


# Classes


def test_wanted_classes(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, train__fox=2, test__cat=1)
    refused(root, "'foxx'", "data.classes", "'fox'", classes=("cat", "foxx"))
    refused(root, "'cat' more than once", classes=("cat", "dog", "cat"))
    refused(root, "'imagenett'", "imagenette", classes="imagenett")
    refused(root, "WordNet id", "local copy", classes="imagenette")
    refused(root, "no image in its test part", classes=("dog", "fox"))
    refused(root, "one class ('cat')", classes=("cat",))


# Data sets in memory


class Items(torch.utils.data.Dataset):
    def __init__(self, *items, classes=None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


GOOD = torch.zeros(3, 4, 4)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((torch.full((3, 4, 4), float("nan")), 0), ["not finite"]),
        ((torch.full((3, 4, 4), float("inf")), 0), ["not finite"]),
        ((GOOD - 1, 0), ["-1", "[0, 1]", "not normalised", "data.value_range=[LOW, HIGH]"]),
        ((GOOD + 2, 0), ["2", "[0, 1]", "data.value_range=[LOW, HIGH]"]),
        ((GOOD + 256, 0), ["256", "[0, 1]"]),
        ((GOOD.to(torch.complex64), 0), ["complex64"]),
        ((torch.zeros(5, 4, 6), 0), ["[5, 4, 6]", "[channels, height, width]"]),
        ((np.zeros((5, 4, 6), np.uint8), 0), ["[5, 4, 6]", "[height, width, channels]"]),
        ((torch.zeros(3, 0, 4), 0), ["[3, 0, 4]"]),
        (("a.png", 0), ["'str'", "Pillow image"]),
        ((GOOD, 0.5), ["0.5", "whole number"]),
        ((GOOD, torch.tensor(1.5)), ["whole number"]),
        ((GOOD, [0, 1]), ["2 labels in one"]),
        ((GOOD, "cat"), ["'cat'", "whole number"]),
        ((GOOD, True), ["True", "whole number"]),
        ({"picture": GOOD, "label": 0}, ["'dict'", "(image, label)"]),
        ((GOOD, 0, 0), ["'tuple'", "(image, label)"]),
    ],
)
def test_bad_item(item, words):
    good = [(GOOD, 0), (GOOD, 0), (GOOD, 1), (GOOD, 1)]
    dataset = Items(*good, item)
    refused(dataset, "item 4 of the train data set", *words, test_fraction=0.2)
    refused((Items(*good), dataset), "item 4 of the test data set", *words)


def test_label_beyond_the_class_names():
    items = Items((GOOD, 0), (GOOD, 0), (GOOD, 2), classes=["cat", "dog"])
    refused(items, "label 2", "0 to 1", test_fraction=0.2)


def test_no_items():
    refused(Items(), "no image", "train part", test_fraction=0.2)


def test_damaged_pillow_image():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "png")
    items = [(Image.open(io.BytesIO(png(i))), i % 2) for i in range(4)]
    items.append((Image.open(io.BytesIO(buffer.getvalue()[:120])), 0))
    refused(Items(*items), "1 of 5 given images", "item 4 of the train data set", test_fraction=0.2)


def test_validation_that_holds_nothing_out(tmp_path):
    root = folders(tmp_path, train__cat=2, train__dog=2, test__cat=1)
    refused(root, "data.validation_fraction=0.1", "too small", validation_fraction=0.1)


def test_arrays_of_images_and_labels_are_told_to_be_paired():
    images, labels = np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8, int)
    for source in ((images, labels), ((images, labels), (images, labels))):
        refused(source, "'ndarray'", "expected a pair (image, label)", "list(zip(images, labels))")


def test_a_table_of_pandas_is_told_the_way():
    import pandas

    table = pandas.DataFrame({"image": [GOOD for _ in range(4)], "label": [0, 1] * 2})
    refused(table, "a table of pandas", "list(zip(table['image'], table['label']))", test_fraction=0.25)

"""Names of parts, and the contents that a source stands for: which files belong to it, and when they have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from data.made import check, fill, parts, picture, png, refused, rows, write_table

from ddistill.data import DataSettings, load_data
from ddistill.data.files import find_files, image_suffixes
from ddistill.data.splits import choose_splits, is_part_word, role_of
from ddistill.runtime.errors import UserError

SHARE = {"test_fraction": 0.25}


@pytest.mark.parametrize(
    ("name", "role", "word"),
    [
        ("train", "train", True),
        ("TRAINING", "train", True),
        ("Test", "test", True),
        ("testing", "test", True),
        ("eval", "test", True),
        ("Dev", "validation", True),
        ("valid", "validation", True),
        ("train_images", "train", True),
        ("trainset", "train", True),
        ("val2017", "validation", True),
        ("1_train", "train", True),
        ("seg_test", "test", False),
        ("my-val-images", "validation", False),
        ("PrivateTest", "test", False),
        ("imagesTr", None, False),
        ("train_val", None, False),
        ("trainval", None, False),
        ("contest", None, False),
        ("restrain", None, False),
        ("invalid", None, False),
        ("latest", None, False),
        ("", None, False),
    ],
)
def test_words_of_parts(name, role, word):
    assert (role_of(name), is_part_word(name)) == (role, word)


@pytest.mark.parametrize(
    ("available", "settings", "chosen"),
    [
        (["train", "test"], {}, ("train", "test")),
        (["Train", "VAL", "Test"], {}, ("Train", "Test")),
        (["training", "dev"], {}, ("training", "dev")),
        (["train", "validation", "val"], {}, ("train", "validation")),
        (["pets"], {}, ("pets", None)),
        (["a", "b"], {"train_split": "b", "test_split": "a"}, ("b", "a")),
        (["train", "test", "val"], {"test_split": "val"}, ("train", "val")),
    ],
)
def test_parts_are_chosen_by_role(available, settings, chosen):
    assert choose_splits("x", available, DataSettings(**settings)) == chosen


@pytest.mark.parametrize(
    ("available", "settings", "words"),
    [
        (["test"], {}, "no part 'train'"),
        (["a", "b"], {}, "data.train_split=NAME: a, b"),
        (["train", "val", "dev"], {}, "'val', 'dev'"),
        (["Train", "TRAIN"], {}, "data.train_split=Train"),
        (["train", "test"], {"test_split": "train"}, "both name 'train'"),
        (["train", "test"], {"test_split": "eval"}, "no part 'eval' (data.test_split); it has: train, test"),
    ],
)
def test_parts_that_cannot_be_told(available, settings, words):
    with pytest.raises(UserError) as caught:
        choose_splits("x", available, DataSettings(**settings))
    assert words in str(caught.value)


def test_nothing_below_imports_what_is_above():
    """`splits` lies below `sources`, so that no two modules of the room import each other."""
    home = Path(__file__).parents[2] / "ddistill" / "data"
    uses = {
        path.stem: {
            line.split("ddistill.data.")[1].split(" ")[0]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip().startswith("from ddistill.data.")
        }
        for path in home.glob("*.py")
        if path.stem != "__init__"
    }
    while free := {name for name, used in uses.items() if not used & set(uses)}:
        uses = {name: used for name, used in uses.items() if name not in free}
    assert not uses


# Files


def test_every_ending_of_pillow_is_known():
    endings = {
        ".png",
        ".jfif",
        ".jpe",
        ".avif",
        ".jp2",
        ".tga",
        ".webp",
        ".pcx",
        ".ico",
        ".qoi",
        ".pgm",
        ".tiff",
        ".dds",
    }
    assert endings <= image_suffixes()
    assert not {".txt", ".pdf", ".mpg", ".h5", ".csv", ""} & image_suffixes()


def test_what_lies_below_a_folder(tmp_path):
    fill(tmp_path / "a", "red", 2)
    fill(tmp_path / "a", "red", 1, "", 7)
    (tmp_path / "a" / "README").write_text("text")
    (tmp_path / "a" / "x.csv").write_text("a,b")
    (tmp_path / "a" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "0.png").write_bytes(png("red"))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    found = find_files(tmp_path)
    assert found.images == [f"{folder}/{name}" for folder in "ab" for name in ("0.png", "1.png", "7")]
    assert found.tables == ["a/x.csv", "b/x.csv"]
    assert found.folders == ["a", "b"]
    assert found.left_out == (
        "2 pictures in formats that are not read (write them as PNG or JPEG): 'a/IMG_1.HEIC', 'b/IMG_1.HEIC'",
        "2 files that are no images: 'a/README', 'b/README'",
        "1 link that leads nowhere: 'gone'",
        "hidden files and folders: 1",
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path):
    parts(tmp_path, "train", "test")
    (tmp_path / "train" / "red").chmod(0)
    try:
        refused(tmp_path, "train/red", "cannot be read")
    finally:
        (tmp_path / "train" / "red").chmod(0o700)


def test_a_hidden_file_is_no_change(tmp_path, monkeypatch):
    from ddistill.data import load

    parts(tmp_path, "train", "test")
    first = load_data(tmp_path)
    (tmp_path / "train" / ".DS_Store").write_text("x")
    monkeypatch.setattr(load, "_decode", lambda *_: pytest.fail("decoded again"))
    second = load_data(tmp_path)
    assert second.fingerprint == first.fingerprint
    assert first.account.left_out == ()
    assert second.account.left_out == ("hidden files and folders: 1",)


# Tables that name files


def as_csv(path: Path, names: list[str]) -> None:
    lines = [f"{name},{colour}" for name, (colour, _) in zip(names, rows(), strict=True)]
    path.write_text("\n".join(["file_name,label", *lines]))


def as_jsonl(path: Path, names: list[str]) -> None:
    pairs = zip(names, rows(), strict=True)
    path.write_text("".join(json.dumps({"path": name, "label": colour}) + "\n" for name, (colour, _) in pairs))


def as_parquet(path: Path, names: list[str]) -> None:
    import pandas

    pandas.DataFrame({"image": names, "label": [colour for colour, _ in rows()]}).to_parquet(path)


def as_struct(path: Path, names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pa.parquet.write_table(pa.table({"image": images, "label": [colour for colour, _ in rows()]}), path)


def as_arrow(path: Path, names: list[str]) -> None:
    import pyarrow as pa

    table = pa.table({"file_name": names, "label": [colour for colour, _ in rows()]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", as_csv),
        ("t.jsonl", as_jsonl),
        ("t.parquet", as_parquet),
        ("struct.parquet", as_struct),
        ("t.arrow", as_arrow),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_table_follows_the_files_that_it_names(tmp_path, name, write, absolute):
    home = tmp_path / "pictures"
    home.mkdir()
    names = []
    for number, row in enumerate(rows()):
        (home / f"{number}.png").write_bytes(png(*row))
        names.append(str(home / f"{number}.png") if absolute else f"../pictures/{number}.png")
    (tmp_path / "table").mkdir()
    write(tmp_path / "table" / name, names)
    first = load_data(tmp_path / "table" / name, DataSettings(**SHARE))
    assert first.class_names == ("blue", "red")
    assert load_data(tmp_path / "table" / name, DataSettings(**SHARE)).fingerprint == first.fingerprint
    picture("green").save(home / "0.png")
    os.utime(home / "0.png", ns=(1, 1))
    second = load_data(tmp_path / "table" / name, DataSettings(**SHARE))
    assert second.fingerprint != first.fingerprint
    (home / "1.png").unlink()
    refused(tmp_path / "table" / name, "1 of 8 given images", "no such file", **SHARE)


# Rows that tell their part


def dataset_of_rows(where: Path, words: list[str], column: str = "split"):
    """A `datasets` object of 7 pictures of each class and a column of words."""
    import datasets

    path = write_table(where / "rows.parquet", 7, label={"red": 0, "blue": 1}, **{column: words})
    return datasets.Dataset.from_parquet(str(path), cache_dir=str(where / "hf"))


WORDS = ["train"] * 10 + ["test"] * 4
DIVIDED = ({"0": ("red", 5), "1": ("blue", 5)}, {"0": ("red", 2), "1": ("blue", 2)})


@pytest.mark.parametrize("form", ["saved", "saved parts", "object", "one part", "part called Training"])
def test_rows_of_a_data_set_that_tell_their_part_are_divided(tmp_path, form):
    import datasets

    whole = dataset_of_rows(tmp_path, WORDS)
    if form.startswith("saved"):
        (datasets.DatasetDict(train=whole) if form == "saved parts" else whole).save_to_disk(str(tmp_path / "saved"))
        source: Any = tmp_path / "saved"
    else:
        source = {"object": whole, "one part": datasets.DatasetDict(train=whole)}.get(
            form, datasets.DatasetDict({"Training": whole})
        )
    check(source, *DIVIDED, **SHARE)


@pytest.mark.parametrize("form", ["pair", "parts", "saved"])
def test_parts_that_hold_rows_of_another_are_refused(tmp_path, form):
    import datasets

    whole = dataset_of_rows(tmp_path, WORDS)
    both = datasets.DatasetDict(train=whole, test=whole)
    if form == "saved":
        both.save_to_disk(str(tmp_path / "saved"))
    source: Any = {"pair": (whole, whole), "parts": both, "saved": tmp_path / "saved"}[form]
    refused(source, "part 'train' holds rows whose column 'split' says 'test'")


@pytest.mark.parametrize("column", ["fold", "usage", "data set"])
def test_a_column_of_nothing_but_words_of_parts_tells_them(tmp_path, column):
    table = write_table(
        tmp_path / "t.parquet", 7, label={"red": 0, "blue": 1}, **{column: ["Training"] * 10 + ["PublicTest"] * 4}
    )
    check(table, *DIVIDED, **SHARE)


@pytest.mark.parametrize(("column", "other"), [("label", "test"), ("kind", "car")])
def test_classes_that_are_called_like_parts_stay_classes(tmp_path, column, other):
    table = write_table(tmp_path / "t.parquet", 4, **{column: {"red": "train", "blue": other}})
    check(table, {other: ("blue", 3), "train": ("red", 3)}, {other: ("blue", 1), "train": ("red", 1)}, **SHARE)


def test_a_test_table_without_labels_is_refused_with_a_way_out(tmp_path):
    write_table(tmp_path / "train.parquet", label={"red": 0, "blue": 1})
    write_table(tmp_path / "test.parquet", name={"red": "x", "blue": "y"})
    refused(tmp_path, "no column 'label' in its 'test' part", "data.test_split=NAME", "data.test_fraction=0.2")


def test_parts_of_a_dictionary_that_serve_as_neither_are_named():
    some = [(picture(colour, i), colour) for colour, i in rows()]
    data = load_data({"Train": some, "unlabeled": some, "Test": some})
    assert "left out: the part 'unlabeled': neither the training nor the test part" in data.account.lines
    refused(None, "cannot read data from 'NoneType'")

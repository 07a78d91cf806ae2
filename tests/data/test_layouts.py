"""A table of layouts and files: what each is taken for, or the words that refuse it and name the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from data.made import NAMES, check, classes, fill, parts, picture, refused, rows, write_table

from ddistill.data import DataSettings, load_data
from ddistill.recipe import build
from ddistill.runtime.words import read_values

BOTH = {name: (name, 4) for name in sorted(NAMES)}
FEWER = {name: (name, 3) for name in sorted(NAMES)}
WORDS = {"red": "red", "blue": "blue"}
NUMBERS = {"red": 0, "blue": 1}
NUMBERED = {"0": ("red", 4), "1": ("blue", 4)}
NUMBERED_FEWER = {"0": ("red", 3), "1": ("blue", 3)}


@dataclass
class Layout:
    """``make`` builds it below a folder; the source is ``at`` a path below that."""

    make: Callable[[Path], Any]
    train: dict[str, tuple[str, int]] = field(default_factory=lambda: BOTH)
    test: dict[str, tuple[str, int]] = field(default_factory=lambda: FEWER)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    at: str = ""


def tree(*names: str, then: Callable[[Path], Any] | None = None) -> Callable[[Path], Any]:
    def make(root: Path) -> Any:
        parts(root, *names)
        return then(root) if then else None

    return make


def flat(root: Path, part: str, count: int, write: Callable[[Path, list[dict]], None] | None, prefix: str = "") -> None:
    """Pictures without class folders, and a table that names them."""
    found = []
    for number, (colour, i) in enumerate(rows(count)):
        (root / part).mkdir(parents=True, exist_ok=True)
        picture(colour, i).save(root / part / f"{number}.png")
        found.append({"file_name": f"{prefix}{number}.png", "label": colour, "split": part})
    if write:
        write(root / part, found)


def as_csv(folder: Path, found: list[dict], name: str = "metadata.csv", columns=("file_name", "label")) -> None:
    lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in found)]
    (folder / name).write_text("\n".join(lines) + "\n")


def as_jsonl(folder: Path, found: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def as_parquet(folder: Path, found: list[dict]) -> None:
    import pandas

    pandas.DataFrame(found)[["file_name", "label"]].to_parquet(folder / "metadata.parquet")


def flat_parts(write: Callable[[Path, list[dict]], None] | None) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        flat(root, "train", 4, write)
        flat(root, "test", 3, write)

    return make


def one_csv(name: str, *columns: str, prefix: str = "{part}/", home: str = "") -> Callable[[Path], Any]:
    """One table for pictures in two folders."""

    def make(root: Path) -> Any:
        found: list[dict] = []
        for part, count in (("train", 4), ("test", 3)):
            within = prefix.format(part=part)
            (root / home / within).mkdir(parents=True, exist_ok=True)
            for number, (colour, i) in enumerate(rows(count)):
                picture(colour, i).save(root / home / within / f"{part}{number}.png")
                row = {"file_name": f"{within}{part}{number}.png", "label": colour, "split": part, "id": len(found)}
                found.append({**row, "base": f"{part}{number}.png", "path": row["file_name"]})
        as_csv(root, found, name, columns)

    return make


def tables(**files: dict[str, Any]) -> Callable[[Path], None]:
    """Parquet files by name ('/' is '__'): columns, and ``count``."""

    def make(root: Path) -> None:
        for name, about in files.items():
            write_table(root / f"{name.replace('__', '/')}.parquet", **about)

    return make


def shards(*numbers: int, of: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for number in numbers:
            write_table(root / f"train-{number:05d}-of-{of:05d}.parquet", 2, label=NUMBERS)
        write_table(root / "test-00000-of-00001.parquet", 3, label=NUMBERS)

    return make


def link_classes(root: Path) -> None:
    parts(root / "there", "train", "test")
    for part in ("train", "test"):
        (root / "here" / part).mkdir(parents=True)
        for name in NAMES:
            (root / "here" / part / name).symlink_to(root / "there" / part / name)


def accents(root: Path) -> None:
    """One name in two forms: e with an accent, and e followed by the accent."""
    for part, name, count in (("train", "caf\u00e9", 4), ("test", "cafe\u0301", 3)):
        fill(root / part / name, "red", count)
        fill(root / part / "blue", "blue", count)


TWICE = {"train": {"label": NUMBERS}, "test": {"label": NUMBERS, "count": 3}}
SHARE = {"test_fraction": 0.25}
SHARED = {"train": {n: (n, 3) for n in sorted(NAMES)}, "test": {n: (n, 1) for n in sorted(NAMES)}, "settings": SHARE}
COUNTS = (("train", 4), ("test", 3))
SPLIT_ROWS = ["train"] * 10 + ["test"] * 4
SPLIT = {"train": {"0": ("red", 5), "1": ("blue", 5)}, "test": {"0": ("red", 2), "1": ("blue", 2)}}

LAYOUTS: dict[str, Layout] = {
    # Parts in folders
    "usual": Layout(tree("train", "test")),
    "capitals": Layout(tree("Train", "Test")),
    "shouted": Layout(tree("TRAIN", "VAL")),
    "training, testing": Layout(tree("training", "testing")),
    "train, dev": Layout(tree("train", "dev")),
    "Training, valid": Layout(tree("Training", "valid")),
    "train, eval": Layout(tree("train", "eval")),
    "train, evaluation": Layout(tree("train", "evaluation")),
    "words in names": Layout(tree("seg_train", "seg_test")),
    "sets": Layout(tree("training_set", "test_set")),
    "joined": Layout(tree("trainset", "valset")),
    "years": Layout(tree("train2017", "val2017")),
    "wrapped": Layout(lambda r: parts(r / "data", "train", "test"), notes=("'data'", "passed through")),
    "wrapped twice": Layout(lambda r: parts(r / "a" / "b", "Train", "Test")),
    "a folder within a class": Layout(
        tree("train", "test", then=lambda r: fill(r / "train" / "red" / "more", "red", 2)),
        train={"blue": ("blue", 4), "red": ("red", 6)},
        notes=("2 images in folders within class folders, such as 'train/red/more',",),
    ),
    "images in every class": Layout(
        lambda r: [fill(r / p / n / "images", n, c) for n in NAMES for p, c in (("train", 4), ("test", 3))],
        notes=("8 images in folders within class folders, such as 'train/blue/images', 'train/red/images',",),
    ),
    "an empty part": Layout(
        lambda r: (classes(r / "data" / "train"), (r / "data" / "Test").mkdir()),
        **SHARED,
        notes=("left out: the folder 'data/Test', which holds no image",),
    ),
    "an empty part beside classes": Layout(
        lambda r: (classes(r), (r / "test").mkdir()), **SHARED, notes=("the folder 'test', which holds no image",)
    ),
    "a part that is a link to the other": Layout(
        lambda r: (classes(r / "train"), (r / "test").symlink_to(r / "train")),
        test=BOTH,
        notes=("8 files are in the training part and in the test part, too",),
    ),
    "no image at all": Layout(
        lambda r: [(r / n).mkdir(parents=True) or (r / n / "0.npy").write_bytes(b"") for n in NAMES],
        refused=("has no image", "2 files that are no images: 'blue/0.npy', 'red/0.npy'", "ROOT/CLASS"),
    ),
    "a class of pictures that are not read": Layout(
        lambda r: (classes(r), (r / "green").mkdir(), (r / "green" / "IMG_1.HEIC").write_bytes(b"ftypheic")),
        refused=("class folder 'green'", "1 picture in formats that are not read (write them as PNG or JPEG): "),
    ),
    "doubled": Layout(lambda r: (classes(r / "train" / "train"), classes(r / "test" / "test", 3))),
    "images in parts": Layout(lambda r: (classes(r / "train" / "images"), classes(r / "test" / "images", 3))),
    "class over part": Layout(lambda r: [fill(r / n / p, n, c) for n in NAMES for p, c in (("train", 4), ("test", 3))]),
    "stray in a part": Layout(
        tree("train", "test", then=lambda r: picture("green").save(r / "train" / "preview.png")),
        notes=("1 image beside the class folders: 'train/preview.png'",),
    ),
    "stray beside parts": Layout(
        tree("train", "test", then=lambda r: picture("green").save(r / "logo.png")),
        notes=("1 image beside the parts: 'logo.png'",),
    ),
    "stray beside classes": Layout(
        lambda r: (classes(r), picture("green").save(r / "preview.png")), **SHARED, notes=("'preview.png'",)
    ),
    "stray beside a wrapper": Layout(
        lambda r: (parts(r / "d", "train", "test"), picture("green").save(r / "x.png")), notes=("'x.png'",)
    ),
    "three parts": Layout(tree("train", "test", "val"), notes=("the folder 'val'",)),
    "third part named": Layout(
        tree("train", "test", "val"),
        test={n: (n, 2) for n in sorted(NAMES)},
        settings={"test_split": "val"},
        notes=("the folder 'test'",),
    ),
    "unknown beside parts": Layout(
        tree("train", "test", "extra"), refused=("'extra'", "'test', 'train'", "data.train_split=NAME")
    ),
    "unknown left out": Layout(
        tree("train", "test", "extra"),
        settings={"train_split": "train", "test_split": "test"},
        notes=("images in the folder 'extra'",),
    ),
    "two parts in a name": Layout(tree("train", "test", "trainval"), refused=("'trainval'",)),
    "two of a kind": Layout(tree("train", "val", "dev"), refused=("'dev', 'val'", "data.test_split=dev")),
    "two of a kind, one plain": Layout(tree("train", "Train", "test"), test={n: (n, 2) for n in sorted(NAMES)}),
    "only a test part": Layout(tree("test"), settings=SHARE, refused=("no part 'train'", "data.train_split=NAME")),
    "flat parts": Layout(flat_parts(None), refused=("'test', 'train'", "no class folders", "metadata.csv")),
    "flat parts, advice": Layout(flat_parts(None), settings=SHARE, refused=("no class folders", "data.classes=")),
    "flat test part": Layout(
        lambda r: (classes(r / "train"), fill(r / "test", "red")), refused=("'test'", "data.test_split=NAME")
    ),
    "boxes": Layout(
        lambda r: (fill(r / "images" / "train", "red"), fill(r / "images" / "val", "red")),
        refused=("no class folders",),
    ),
    "two sets": Layout(lambda r: parts(r / "a", "train") and parts(r / "b", "train"), refused=("'a'", "path")),
    "class called train": Layout(
        lambda r: classes(r, names={"red": "red", "train": "blue"}),
        train={"red": ("red", 3), "train": ("blue", 3)},
        test={"red": ("red", 1), "train": ("blue", 1)},
        settings=SHARE,
        notes=("'train' is a class",),
    ),
    "flat test beside classes": Layout(
        lambda r: (classes(r), fill(r / "test", "green")),
        settings=SHARE,
        refused=("'test'", "'blue', 'red'", "data.classes=[blue, red]"),
    ),
    "flat test beside classes, advice": Layout(
        lambda r: (classes(r), fill(r / "test", "green")),
        train=SHARED["train"],
        test=SHARED["test"],
        settings={**SHARE, "classes": ("blue", "red")},
    ),
    "valid and invalid": Layout(
        lambda r: classes(r, names={"valid": "red", "invalid": "blue"}),
        settings=SHARE,
        refused=("'valid'", "data.classes=[invalid]"),
    ),
    "valid and invalid, chosen": Layout(
        lambda r: classes(r, names={"valid": "red", "invalid": "blue"}),
        train={"valid": ("red", 3), "invalid": ("blue", 3)},
        test={"valid": ("red", 1), "invalid": ("blue", 1)},
        settings={**SHARE, "classes": ("valid", "invalid")},
    ),
    "no test part": Layout(lambda r: classes(r), refused=("no test part", "data.test_fraction=0.2")),
    "nothing": Layout(lambda r: (r / "a").mkdir(parents=True), refused=("no class folders",)),
    # Files and links
    "endings": Layout(
        lambda r: (
            [
                fill(r / p / n, n, 1, e, i)
                for p in ("train", "test")
                for n in NAMES
                for i, e in enumerate((".jpg", ".jfif", ".tga", "")[: 4 if p == "train" else 3])
            ]
            and None
        )
    ),
    "other files": Layout(
        tree("train", "test", then=lambda r: (r / "train" / "red" / "a.txt").write_text("")),
        notes=("1 file that is no image: 'train/red/a.txt'",),
    ),
    "text without an ending": Layout(
        tree("train", "test", then=lambda r: (r / "LICENSE").write_text("MIT")), notes=("'LICENSE'",)
    ),
    "linked classes": Layout(link_classes, at="here"),
    "links to nowhere": Layout(
        tree("train", "test", then=lambda r: (r / "train" / "red" / "9.png").symlink_to("/gone")),
        notes=("1 link that leads nowhere: 'train/red/9.png'",),
    ),
    "loop": Layout(
        tree("train", "test", then=lambda r: (r / "train" / "red" / "up").symlink_to(r)), refused=("'", "back")
    ),
    "link to itself": Layout(
        tree("train", "test", then=lambda r: (r / "me").symlink_to("me")), refused=("me", "remove")
    ),
    # Classes
    "accents": Layout(
        accents,
        train={"blue": ("blue", 4), "caf\u00e9": ("red", 4)},
        test={"blue": ("blue", 3), "caf\u00e9": ("red", 3)},
    ),
    "test lacks a class": Layout(
        lambda r: (classes(r / "train"), fill(r / "test" / "red", "red", 3)),
        test={"red": ("red", 3)},
        notes=("no image of the class 'blue'",),
    ),
    "test knows another": Layout(
        lambda r: (classes(r / "train"), classes(r / "test", 3, (*NAMES, "green"))), refused=("'green'",)
    ),
    "test knows another, advice": Layout(
        lambda r: (classes(r / "train"), classes(r / "test", 3, (*NAMES, "green"))),
        train={n: (n, 4) for n in NAMES},
        test={n: (n, 3) for n in NAMES},
        settings={"classes": NAMES},
    ),
    "groups of classes": Layout(
        lambda r: (classes(r / "warm", names=("red", "green")), classes(r / "cold", names=("blue",))),
        settings=SHARE,
        refused=("'cold', 'warm'", "'cold/blue'", "data.classes=[cold, warm]"),
    ),
    "parts of unknown words": Layout(
        tree("one", "two"), settings=SHARE, refused=("'blue', 'red'", "'one', 'two'", "data.train_split=NAME")
    ),
    "parts of unknown words, named": Layout(tree("one", "two"), settings={"train_split": "one", "test_split": "two"}),
    "groups, the groups chosen": Layout(
        lambda r: [fill(r / n / i, n, 4) for n in NAMES for i in ("patient 1", "patient 2")],
        train={n: (n, 6) for n in NAMES},
        test={n: (n, 2) for n in NAMES},
        settings={**SHARE, "classes": NAMES},
    ),
    "groups, the inner ones chosen": Layout(
        lambda r: (classes(r / "warm", names=("red", "green")), classes(r / "cold", names=("blue",))),
        train=SHARED["train"],
        test=SHARED["test"],
        settings={**SHARE, "classes": ("blue", "red")},
    ),
    "empty class": Layout(
        tree("train", "test", then=lambda r: (r / "train" / "fox").mkdir()), refused=("'train/fox'", "no image")
    ),
    # Metadata files
    "metadata.csv": Layout(flat_parts(as_csv)),
    "metadata.jsonl": Layout(flat_parts(as_jsonl)),
    "metadata.parquet": Layout(flat_parts(as_parquet)),
    "metadata over parts": Layout(one_csv("metadata.csv", "file_name", "label"), notes=()),
    "metadata without labels": Layout(
        flat_parts(lambda f, r: as_csv(f, r, columns=("file_name",))), refused=("no column",)
    ),
    "metadata beats folders": Layout(
        lambda r: as_csv(
            classes(r / "x", names={"one": "red", "two": "blue"}),
            [{"file_name": f"{d}/{i}.png", "label": c} for d, c in (("one", "red"), ("two", "blue")) for i in range(4)],
        ),
        **SHARED,
    ),
    "csv names a file twice": Layout(
        lambda r: as_csv(fill(r, "red"), [{"file_name": "0.png", "label": n} for n in ("a", "b")], "x.csv"),
        settings=SHARE,
        refused=("'0.png' twice",),
        at="x.csv",
    ),
    "csv of files that are gone": Layout(
        lambda r: as_csv(fill(r, "red"), [{"file_name": "gone.png", "label": "a"}] * 4, "x.csv"),
        settings=SHARE,
        refused=("'gone.png'", "not there"),
        at="x.csv",
    ),
    # One table
    "csv with a split column": Layout(one_csv("all.csv", "file_name", "label", "split"), at="all.csv"),
    "csv, folder given": Layout(one_csv("all.csv", "path", "label", "split", prefix="")),
    "csv beside its folder": Layout(
        one_csv("all.csv", "base", "label", "split", prefix="", home="pics"),
        refused=("images",),
        at="all.csv",
    ),
    "csv beside its folder, named": Layout(
        one_csv("all.csv", "base", "label", "split", prefix="", home="pics"),
        settings={"image_column": "base"},
        at="all.csv",
    ),
    "csv and class folders": Layout(
        lambda r: as_csv(classes(r / "a"), [{"file_name": "red/0.png", "label": 0}] * 3, "labels.csv"),
        settings=SHARE,
        refused=("labels.csv", "give the path of the table"),
    ),
    "a csv for each of two flat parts": Layout(
        lambda r: [flat(r, p, c, lambda f, found: as_csv(f.parent, found, f"{f.name}.csv")) for p, c in COUNTS]
    ),
    "a csv for each of two flat parts in a folder": Layout(
        lambda r: [
            flat(r / "images", p, c, lambda f, found: as_csv(f.parent.parent, found, f"{f.name}.csv"))
            for p, c in COUNTS
        ]
    ),
    "a csv for each of two flat parts, with folders": Layout(
        lambda r: [
            flat(r / "all", p, c, lambda f, found: as_csv(f.parent.parent, found, f"{f.name}.csv"), f"all/{p}/")
            for p, c in COUNTS
        ]
    ),
    "a flag that does not vary within parts": Layout(
        tables(**{p: {"count": c, "label": NUMBERS, "is_valid": [True] * 2 * c} for p, c in COUNTS}),
        NUMBERED,
        NUMBERED_FEWER,
    ),
    "words of parts written in several ways": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": [*["train", "Train "] * 5, *["TEST", "test"] * 2]}), **SPLIT
    ),
    "words of parts written in several ways, one named": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": [*["train"] * 6, *["Train"] * 4, *["test"] * 4]}),
        train={"0": ("red", 3), "1": ("blue", 3)},
        test=SPLIT["test"],
        settings={"train_split": "train"},
        notes=("the part 'Train'",),
    ),
    "tsv": Layout(
        lambda r: (
            one_csv("all.csv", "file_name", "label", "split")(r),
            (r / "all.tsv").write_text((r / "all.csv").read_text().replace(",", "\t")),
        ),
        at="all.tsv",
    ),
    "split column": Layout(tables(all={"count": 7, "label": NUMBERS, "split": SPLIT_ROWS}), **SPLIT),
    "split column in capitals": Layout(
        tables(all={"count": 7, "label": NUMBERS, "Subset": [w.upper() for w in SPLIT_ROWS]}), **SPLIT
    ),
    "split column with another value": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": [*SPLIT_ROWS[:-1], "spare"]}), refused=("'spare'", "'split'")
    ),
    "split column of no words": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": ["a"] * 10 + ["b"] * 4}), refused=("data.train_split=VALUE",)
    ),
    "split column of numbers": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": [int(word == "test") for word in SPLIT_ROWS]}),
        settings=SHARE,
        refused=("'split'", "data.train_split=VALUE"),
    ),
    "split column of numbers, named": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": [int(word == "test") for word in SPLIT_ROWS]}),
        **SPLIT,
        settings={"train_split": 0, "test_split": 1},
    ),
    "is_test": Layout(
        tables(all={"count": 7, "label": NUMBERS, "is_test": [word == "test" for word in SPLIT_ROWS]}),
        settings=SHARE,
        refused=("'is_test'", "data.split_column=is_test"),
    ),
    "is_test, named": Layout(
        tables(all={"count": 7, "label": NUMBERS, "is_test": [word == "test" for word in SPLIT_ROWS]}),
        **SPLIT,
        settings={"split_column": "is_test", "train_split": False, "test_split": True},
    ),
    "a shard of another style is missing": Layout(
        tables(train_1_of_3={"label": NUMBERS}, train_3_of_3={"label": NUMBERS}, test={"label": NUMBERS}),
        refused=("'train-2-of-3'", "data.missing_shards=accept"),
    ),
    "shards that count from one": Layout(
        tables(**{f"train-{n}-of-2": {"label": NUMBERS, "count": 2} for n in (1, 2)}, test=TWICE["test"]),
        NUMBERED,
        NUMBERED_FEWER,
    ),
    "csv of another system": Layout(
        lambda r: as_csv(classes(r), [{"file_name": f"red\\{i}.png", "label": 0} for i in range(4)], "x.csv"),
        settings=SHARE,
        refused=("names files that are not there", "'/' between folders"),
        at="x.csv",
    ),
    "csv names the files of both parts": Layout(
        lambda r: as_csv(
            classes(r),
            [
                {"file_name": f"{n}/{i}.png", "label": n, "split": part}
                for n in NAMES
                for part, some in (("train", (0, 1, 2, 3, 3)), ("test", (0, 1, 2)))
                for i in some
            ],
            "x.csv",
            ("file_name", "label", "split"),
        ),
        train={n: (n, 5) for n in sorted(NAMES)},
        notes=("6 files are in the training part and in the test part", "2 rows of the training part name a file"),
        at="x.csv",
    ),
    "split column, values named": Layout(
        tables(all={"count": 7, "label": NUMBERS, "split": ["a"] * 10 + ["b"] * 4}),
        **SPLIT,
        settings={"train_split": "a", "test_split": "b"},
    ),
    "split column by name": Layout(
        tables(all={"count": 7, "label": NUMBERS, "role": SPLIT_ROWS}), **SPLIT, settings={"split_column": "role"}
    ),
    "split column against the files": Layout(
        tables(train={"label": NUMBERS, "split": ["test"] * 8}, test={"label": NUMBERS}), refused=("'train'", "'split'")
    ),
    # Tables by part
    "Train.parquet": Layout(
        tables(Train={"label": NUMBERS}, Test={"label": NUMBERS, "count": 3}), NUMBERED, NUMBERED_FEWER
    ),
    "train, dev, test": Layout(tables(**TWICE, dev={"label": NUMBERS}), NUMBERED, NUMBERED_FEWER, notes=("'dev'",)),
    "hive": Layout(
        tables(**{"split=train__0": TWICE["train"], "split=test__0": TWICE["test"]}), NUMBERED, NUMBERED_FEWER
    ),
    "part folders": Layout(tables(Training__a=TWICE["train"], eval__a=TWICE["test"]), NUMBERED, NUMBERED_FEWER),
    "unknown file": Layout(
        tables(**TWICE, more={"label": NUMBERS}), refused=("'more.parquet'", "data.test_split=NAME")
    ),
    "unknown file left out": Layout(
        tables(**TWICE, more={"label": NUMBERS}),
        NUMBERED,
        NUMBERED_FEWER,
        {"train_split": "train", "test_split": "test"},
        notes=("'more.parquet'",),
    ),
    "all shards": Layout(shards(0, 1, of=2), NUMBERED, NUMBERED_FEWER),
    "a shard is missing": Layout(shards(0, 2, of=3), refused=("'train-00001-of-00003'", "data.missing_shards=accept")),
    "a missing shard accepted": Layout(
        shards(0, 2, of=3), NUMBERED, NUMBERED_FEWER, {"missing_shards": "accept"}, notes=("not whole",)
    ),
    "two kinds of table": Layout(
        lambda r: (tables(**TWICE)(r), as_csv(r, [{"file_name": "a.png", "label": 0}], "more.csv")),
        NUMBERED,
        NUMBERED_FEWER,
        notes=("'more.csv'",),
    ),
    "table and class folders": Layout(
        lambda r: (tables(**TWICE)(r), classes(r / "pics")), refused=("give the path of the table",)
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(tmp_path, name):
    layout, root = LAYOUTS[name], tmp_path / "set"
    root.mkdir()
    layout.make(root)
    source = root / layout.at
    if layout.refused:
        message = refused(source, *layout.refused, **layout.settings)
        assert "Traceback" not in message
        return
    data = check(source, layout.train, layout.test, **layout.settings)
    text = "\n".join((*data.origin.notes, *data.account.lines))
    for words in layout.notes:
        assert words in text, text


def test_the_table_is_long_enough():
    assert len(LAYOUTS) >= 60


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("file_name,label,y\n{0},red,0\n{1},blue,0\n", "2 columns that may be its labels"),
        ("file_name,label\n{0},rougé\n{1},blue\n", "UTF-8"),
        ("file_name,label\n{0},red\n{0},blue\n{1},blue\n", "twice, with different labels"),
        ("{0},red\n{1},blue\n", "no columns but a file"),
    ],
)
def test_a_table_that_names_the_images_and_cannot_be_taken_is_told_with_its_reason(tmp_path, table, reason):
    classes(tmp_path, names={"batch1": "red", "batch2": "blue"})
    (tmp_path / "labels.csv").write_text(table.format("batch1/0.png", "batch2/0.png"), encoding="latin-1")
    lines = load_data(tmp_path, DataSettings(test_fraction=0.25)).account.lines
    assert any(line.endswith("1 table that was not asked for: 'labels.csv'") for line in lines), lines
    (line,) = [line for line in lines if "labels of the images from a table, which cannot be taken" in line]
    assert reason in line


def test_a_table_that_cannot_be_taken_is_told_where_its_flat_images_are_refused(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part, "red")
    rows = "".join(f"{part}/{n}.png,{'ab'[n % 2]},0\n" for part in ("train", "test") for n in range(4))
    (tmp_path / "labels.csv").write_text("file_name,label,y\n" + rows)
    refused(tmp_path, "labels of the images from a table, which cannot be taken", "label_column")


def test_a_table_of_other_things_is_only_named(tmp_path):
    classes(tmp_path)
    (tmp_path / "notes.csv").write_text("date,text\n1,sunny\n")
    lines = load_data(tmp_path, DataSettings(test_fraction=0.25)).account.lines
    assert any(line.endswith("1 table that was not asked for: 'notes.csv'") for line in lines), lines


@pytest.mark.parametrize("names", [("1.10", "1.20"), ("null", "salt, pepper")])
def test_the_classes_that_a_refusal_names_can_be_pasted(tmp_path, names):
    for name in names:
        for inner in "xy":
            fill(tmp_path / name / f"{name}{inner}", "red")
    advice = refused(tmp_path, "data.classes=", test_fraction=0.25).rpartition("data.classes=")[2]
    settings = build(DataSettings, {"classes": read_values(advice, "data.classes"), "test_fraction": 0.25})
    assert load_data(tmp_path, settings).class_names == names

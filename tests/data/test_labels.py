"""Labels: which column, what values, which classes; of two parts, whatever each of them calls its classes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from data.made import check, parts, picture, pixels, png, refused, rows, write_table
from PIL import Image

from ddistill.data import DataSettings, load_data
from ddistill.data.labels import EMPTY, Labels, NoLabelError, agree, as_label, labels_of
from ddistill.runtime.errors import UserError

SHARE = {"test_fraction": 0.25}
NAMED = ({"blue": ("blue", 3), "red": ("red", 3)}, {"blue": ("blue", 1), "red": ("red", 1)})
NUMBERED = ({"0": ("red", 3), "1": ("blue", 3)}, {"0": ("red", 1), "1": ("blue", 1)})
FROM_ONE = ({"1": ("red", 3), "2": ("blue", 3)}, {"1": ("red", 1), "2": ("blue", 1)})
TEXT, FLAG = {"red": "red", "blue": "blue"}, [0, 0, 1, 1] * 2

# Which column


@pytest.mark.parametrize("name", ["label", "labels", "class", "target", "category", "y", "fine_label", "Label"])
@pytest.mark.parametrize("other", ["int", "ClassLabel"])
def test_a_column_called_label_comes_first(tmp_path, name, other):
    path = tmp_path / "t.parquet"
    write_table(path, **{name: TEXT, "flipped": FLAG})
    if other == "int":
        check(path, *NAMED, **SHARE)
    else:
        import datasets

        table = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hf"))
        data = load_data(table.cast_column("flipped", datasets.ClassLabel(names=["no", "yes"])), DataSettings(**SHARE))
        assert data.class_names == ("blue", "red")
        assert "flipped" in data.account.labels_from


@pytest.mark.parametrize(
    "values",
    [TEXT, {"red": 0.0, "blue": 1.0}, {"red": False, "blue": True}, {"red": [0], "blue": [1]}, {"red": 0, "blue": 1}],
)
def test_labels_of_every_type(tmp_path, values):
    write_table(tmp_path / "t.parquet", label=values, fold=FLAG)
    expected = NAMED if values is TEXT else NUMBERED
    if values["red"] is False:
        expected = tuple({new: part[old] for old, new in (("0", "False"), ("1", "True"))} for part in NUMBERED)
    check(tmp_path / "t.parquet", *expected, **SHARE)


def test_a_column_that_is_called_label_but_holds_none_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    for values in ([0.5, 1.5] * 4, [[0, 1], [1, 2]] * 4, [b"a", b"b"] * 4):
        write_table(path, label=values, fold=FLAG)
        named = {"image_column": "image"}
        refused(path, "'label'", "data.label_column=NAME", "fold (int64)", **SHARE, **named)
    data = load_data(path, DataSettings(**SHARE, image_column="image", label_column="fold"))
    assert data.class_names == ("0", "1")


def test_an_index_of_pandas_is_no_label(tmp_path):
    frame = pandas.DataFrame({"image": [png(*row) for row in rows()], "kind": [colour for colour, _ in rows()]})
    for number, index in enumerate(([0, 1] * 4, pandas.Index([0, 1] * 4, name="group"), [5] * 8)):
        path = tmp_path / f"{number}.parquet"
        frame.set_index(pandas.Index(index)).to_parquet(path)
        check(path, *NAMED, **SHARE)
    frame.assign(image=[f"{i}.png" for i in range(8)]).to_csv(tmp_path / "t.csv", index_label="Unnamed: 0")
    for i, (colour, seed) in enumerate(rows()):
        picture(colour, seed).save(tmp_path / f"{i}.png")
    check(tmp_path / "t.csv", *NAMED, **SHARE)


def test_columns_of_ids_and_names_are_no_labels(tmp_path):
    write_table(tmp_path / "t.parquet", kind=TEXT, image_id=list(range(8)), caption=[f"the {i}" for i in range(8)])
    check(tmp_path / "t.parquet", *NAMED, **SHARE)


@pytest.mark.parametrize(
    "columns",
    [
        {"kind": TEXT, "flag": FLAG},
        {"first": FLAG, "second": [0, 1] * 4},
        {"label": TEXT, "class": FLAG},
        {"coarse": [True, False] * 4, "fine": TEXT},
        {"a": [0.0, 1.0] * 4, "b": [[0], [1]] * 4},
    ],
)
def test_columns_that_may_both_be_meant_are_refused(tmp_path, columns):
    write_table(tmp_path / "t.parquet", **columns)
    refused(tmp_path / "t.parquet", ", ".join(columns), "data.label_column=NAME", **SHARE)
    last = list(columns)[-1]
    assert load_data(tmp_path / "t.parquet", DataSettings(**SHARE, label_column=last)).num_classes == 2


def test_declared_classes_win_over_numbers():
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["red", "blue"]), "fold": datasets.Value("int64")}
    )
    values = [{"image": {"bytes": png(colour, i), "path": None}, "kind": colour, "fold": i % 2} for colour, i in rows()]
    data = load_data(datasets.Dataset.from_list(values, features=features), DataSettings(**SHARE))
    assert data.class_names == ("red", "blue")


@pytest.mark.parametrize(("column", "count"), [("fine_label", 100), ("coarse_label", 20)])
def test_cifar100_has_two_label_columns(column, count, shared_data):
    from ddistill.data.sources import find_source

    found = find_source(shared_data / "cifar100", DataSettings(label_column=None if column == "fine_label" else column))
    parts = found.open()
    assert parts.train.labels.names is not None
    assert len(parts.train.labels.names) == count
    assert parts.labels_from.startswith(f"column '{column}'")
    assert "coarse_label" in parts.labels_from  # as the one that is used, or as the one that could be


# Values


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (2.0, 2),
        (np.float32(2), 2),
        (np.True_, True),
        (torch.tensor(True), True),
        (torch.tensor([[3]]), 3),
        (("cat",), "cat"),
        (np.str_("cat"), "cat"),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_label_in_plain_form(value, label):
    assert as_label(value) == label


@pytest.mark.parametrize("value", [0.25, [0, 1], [], {"a": 1}, b"cat", torch.zeros(2), float("inf")])
def test_what_is_no_label(value):
    with pytest.raises(NoLabelError):
        as_label(value)


@pytest.mark.parametrize("values", [[0, "cat"], ["cat", 1], [True, 1], [0, False], [1.0, "1"]])
def test_labels_of_several_kinds_are_refused(values):
    with pytest.raises(UserError, match=r"row 1 has the label .* of another kind"):
        labels_of(values)


def test_empty_labels():
    assert labels_of([None, "a", float("nan")]).values.tolist() == [EMPTY, 0, EMPTY]
    with pytest.raises(UserError, match=r"2 empty labels.*data\.classes"):
        agree("x", labels_of([None, "a", None]), None, None)
    assert agree("x", labels_of([None, "a", "b"]), None, ("b", "a")).train.tolist() == [-1, 1, 0]


# Classes that a user names


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ({"red": 1, "blue": 2}, (1, 2), FROM_ONE),
        ({"red": 1, "blue": 2}, ["1", "2"], FROM_ONE),
        ({"red": 5, "blue": 9}, {5: "red", 9: "blue"}, tuple(dict(reversed(part.items())) for part in NAMED)),
        ({"red": 1.0, "blue": -1.0}, {-1: "blue", 1: "red"}, NAMED),
        ({"red": "yes", "blue": "no"}, {"no": "blue", "yes": "red"}, NAMED),
        ({"red": True, "blue": False}, {False: "blue", True: "red"}, NAMED),
        (TEXT, ("red", "blue"), tuple(dict(reversed(part.items())) for part in NAMED)),
    ],
)
def test_classes_select_order_and_rename(tmp_path, labels, classes, expected):
    write_table(tmp_path / "t.parquet", label=labels)
    check(tmp_path / "t.parquet", *expected, **SHARE, classes=classes)


def test_the_order_of_renamed_classes_is_part_of_the_cache(tmp_path):
    write_table(tmp_path / "t.parquet", label={"red": 1, "blue": 2})
    for classes in ({1: "a", 2: "b"}, {2: "b", 1: "a"}):
        data = load_data(tmp_path / "t.parquet", DataSettings(**SHARE, classes=classes))
        assert data.class_names == tuple(classes.values())


def test_two_classes_of_one_new_name_are_one(tmp_path):
    write_table(tmp_path / "t.parquet", 4, ("red", "blue", "green"), label={"red": 0, "blue": 1, "green": 7})
    settings = DataSettings(**SHARE, classes={7: "green", 0: "other", 1: "other"})
    data = load_data(tmp_path / "t.parquet", settings)
    assert data.class_names == ("green", "other")
    assert data.class_counts.tolist() == [3, 6]
    assert any("'0' as 'other'" in note for note in data.origin.notes)


def test_labels_from_one_and_gaps_name_the_way_out(tmp_path):
    write_table(tmp_path / "t.parquet", label={"red": 1, "blue": 3})
    message = refused(tmp_path / "t.parquet", "none of 0", "data.classes=[1, 3]", **SHARE)
    assert "do not count from 0" in message
    check(
        tmp_path / "t.parquet",
        {"1": ("red", 3), "3": ("blue", 3)},
        {"1": ("red", 1), "3": ("blue", 1)},
        classes=(1, 3),
        **SHARE,
    )


def test_images_of_other_classes_are_counted(tmp_path):
    parts(tmp_path / "s", "train", "test", inner=("red", "blue", "green"))
    data = load_data(tmp_path / "s", DataSettings(classes=("red", "green")))
    assert "left out: 4 training images of classes that data.classes does not name" in data.account.lines


# Two parts


class Pictures(list):
    """Pictures by colour; the label is the position of the colour, or what ``labels`` says."""

    def __init__(self, colours, labels=None, classes: Any = "own") -> None:
        super().__init__((picture(c, i), labels[c] if labels else k) for k, c in enumerate(colours) for i in range(4))
        if classes is not None:
            self.classes = list(colours) if classes == "own" else classes


FOUR = {"red": ("red", 4), "blue": ("blue", 4)}


@pytest.mark.parametrize(
    ("train", "test", "expected", "said"),
    [
        (Pictures(["red", "blue"]), Pictures(["blue", "red"]), FOUR, "matched by name"),
        (Pictures(["red", "blue"]), Pictures(["blue"]), {"blue": ("blue", 4)}, "no image of the class 'red'"),
        (Pictures(["red", "blue"]), Pictures(["red", "blue"], classes=None), FOUR, "read as those"),
        (Pictures(["red", "blue"], classes=None), Pictures(["red", "blue"]), FOUR, "read as those"),
        (Pictures(["red", "blue"]), Pictures(["red", "blue"], TEXT, None), FOUR, ""),
        (Pictures(["red", "blue"]), Pictures(["blue", "red"], None, ["blue", "red", "green"]), FOUR, "'green'"),
        (Pictures(["red", "blue"]), Pictures(["blue", "red"], None, ("blue", "red")), FOUR, "matched by name"),
    ],
)
def test_classes_of_two_parts_are_matched_by_name(train, test, expected, said):
    assert said in " ".join(check((train, test), FOUR, expected).origin.notes)


@pytest.mark.parametrize(
    ("labels", "others"),
    [
        ({"red": 0, "blue": 1}, {"red": "0", "blue": "1"}),
        ({"red": "0", "blue": "1"}, {"red": 0, "blue": 1}),
        ({"red": "01", "blue": "02"}, {"red": 1, "blue": 2}),
        ({"red": "1.0", "blue": "2.0"}, {"red": 1.0, "blue": 2.0}),
        ({"red": 0.0, "blue": 1.0}, {"red": 0, "blue": 1}),
    ],
)
def test_numbers_and_text_match_by_value(tmp_path, labels, others):
    write_table(tmp_path / "train.parquet", label=labels)
    write_table(tmp_path / "test.parquet", 3, label=others)
    names = {colour: str(value if not isinstance(value, float) else int(value)) for colour, value in labels.items()}
    check(
        tmp_path,
        {names[c]: (c, 4) for c in ("red", "blue")},
        {names[c]: (c, 3) for c in ("red", "blue")},
    )


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (Pictures(["red", "blue"]), Pictures(["red", "green"]), ("'green'", "test part")),
        (Pictures(["red", "blue"], TEXT, None), Pictures(["red", "blue"], classes=None), ("numbers", "text")),
        (Pictures(["red", "blue"], None, ["1", "0"]), Pictures(["red", "blue"], classes=None), ("positions", "names")),
        (Pictures(["red", "blue"]), Pictures(["red", "blue"], {"red": 0, "blue": 5}, None), ("5", "0 to 1")),
        (
            Pictures(["red", "blue"], None, ["crane", "crane"]),
            None,
            ("'crane'", "0, 1", "data.classes={0: NAME, 1: NAME"),
        ),
        (Pictures(["red", "blue"]), Pictures(["red", "blue"], None, ["red", "red"]), ("'red'", "test part")),
        (Pictures(["red", "blue"], None, ["caf\u00e9", "cafe\u0301"]), None, ("caf\u00e9", "0, 1")),
    ],
)
def test_classes_that_cannot_be_told_are_refused(train, test, words):
    if test is None:
        refused(train, *words, **SHARE)
    else:
        refused((train, test), *words)


def test_names_of_a_set_that_parts_are_taken_from():
    whole = Pictures(["red", "blue", "green"])
    train, test = torch.utils.data.Subset(whole, range(0, 12, 2)), torch.utils.data.Subset(whole, range(1, 12, 2))
    data = load_data({"train": train, "test": torch.utils.data.Subset(test, range(6))})
    assert data.class_names == ("red", "blue", "green")
    by_number = Pictures(["red", "blue"], classes=None)
    by_number.class_to_idx = {"blue": 1, "red": 0}
    assert load_data(by_number, DataSettings(**SHARE)).class_names == ("red", "blue")


def test_sets_of_parts_in_a_pair_are_refused():
    import datasets

    both = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"label": [0, 1]})})
    refused((both, both), "cannot read data from 'DatasetDict'")


@pytest.mark.parametrize("classes", [(), {}])
def test_no_class_named(classes):
    refused("digits", "data.classes names no class", classes=classes)


def test_a_dictionary_of_parts():
    some = Pictures(["red", "blue"])
    check({"Training": some, "dev": some}, FOUR, FOUR)
    check({"a": some, "b": some}, FOUR, FOUR, train_split="b", test_split="a")
    refused({"a": some, "b": some}, "no part 'train'", "data.train_split=NAME")


def test_names_that_differ_in_capitals_or_spaces_are_noted(tmp_path):
    write_table(tmp_path / "t.parquet", 4, ("red", "blue"), label={"red": "cat", "blue": "Cat "})
    data = load_data(tmp_path / "t.parquet", DataSettings(**SHARE))
    assert any("'Cat ', 'cat'" in note for note in data.origin.notes)


def test_a_fraction_that_sets_nothing_aside_is_refused(tmp_path):
    write_table(tmp_path / "t.parquet", 2, label=TEXT)
    refused(tmp_path / "t.parquet", "data.test_fraction=0.25", "takes three", **SHARE)


def test_two_classes_of_one_name_can_be_named_apart():
    twins = Pictures(["red", "blue"], None, ["crane", "crane"])
    data = load_data(twins, DataSettings(**SHARE, classes={0: "crane (bird)", 1: "crane (machine)"}))
    assert data.class_names == ("crane (bird)", "crane (machine)")
    assert data.class_images(0).double().mean((0, 2, 3))[0] > 200


def test_parts_of_datasets_with_classes_in_another_order():
    import datasets

    def part(names: list[str], count: int) -> Any:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        values = [{"image": {"bytes": png(c, i), "path": None}, "label": c} for c, i in rows(count)]
        return datasets.Dataset.from_list(values, features=features)

    both = datasets.DatasetDict({"Training": part(["red", "blue"], 4), "dev": part(["blue", "green", "red"], 3)})
    data = check(both, FOUR, {"red": ("red", 3), "blue": ("blue", 3)})
    assert any("'green'" in note for note in data.origin.notes)


def test_numbers_keep_their_order():
    labels = Labels(np.arange(12))
    assert agree("x", labels, None, None).names == tuple(map(str, range(12)))
    text = labels_of([str(i) for i in range(12)])
    agreed = agree("x", labels, text, None)
    assert agreed.test is not None
    assert agreed.test.tolist() == list(range(12))


def test_images_of_arrays_in_a_table_are_refused_in_words():
    table = pa.table({"image": [pixels("red").tolist()] * 4, "label": [0, 0, 1, 1]})
    import datasets

    refused(datasets.Dataset(table), "no column of images", "data.image_column", **SHARE)


def test_pillow_images_stay_open():
    kept = Pictures(["red", "blue"])
    load_data(kept, DataSettings(**SHARE))
    assert all(isinstance(image, Image.Image) and image.getpixel((0, 0)) for image, _ in kept)


# Values that are no labels, and tables that are not as they should be


def test_text_of_nothing_but_spaces_is_no_label(tmp_path):
    write_table(tmp_path / "t.parquet", label=["a", "b", "", " "] * 2)
    refused(tmp_path / "t.parquet", "4 empty labels", "NA, None", "data.classes", **SHARE)


def test_numbers_that_are_too_large_for_labels_are_passed_over(tmp_path):
    hashes = pa.array([2**63 + i for i in range(8)], pa.uint64())
    for name in ("label", "kind"):
        check(write_table(tmp_path / f"{name}.parquet", phash=hashes, **{name: TEXT}), *NAMED, **SHARE)
    table = write_table(tmp_path / "only.parquet", label=hashes)
    refused(table, "the numbers of column 'label' are too large", **SHARE)


def test_text_that_is_one_number_in_two_ways_is_refused_beside_numbers(tmp_path):
    write_table(tmp_path / "train.parquet", label=["01", "0", "1", "0"] * 2)
    write_table(tmp_path / "test.parquet", label={"red": 1, "blue": 0})
    refused(tmp_path, "'01', '1' are one number")


@pytest.mark.parametrize("part", ["train", "test"])
def test_wanted_classes_are_chosen_before_text_is_compared_with_numbers(tmp_path, part):
    text, other = ["0", "1", "junk", "1", "0", "1"], {"red": 0, "blue": 1}
    write_table(tmp_path / "train.parquet", 3, label=text if part == "train" else other)
    write_table(tmp_path / "test.parquet", 3, label=text if part == "test" else other)
    refused(tmp_path, "text ('0', '1', 'junk')")
    counts = {"train": (("red", 2), ("blue", 3)), "test": (("red", 3), ("blue", 3))}
    if part == "test":
        counts = {"train": counts["test"], "test": counts["train"]}
    check(tmp_path, *(dict(zip("01", counts[of], strict=True)) for of in ("train", "test")), classes=(0, 1))


def test_truth_values_have_the_names_that_a_set_declares():
    data = load_data(Pictures(["red", "blue"], {"red": False, "blue": True}, ["cat", "dog"]), DataSettings(**SHARE))
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_without_a_line_of_column_names_is_refused(tmp_path, ending):
    lines = []
    for number, (colour, seed) in enumerate(rows()):
        picture(colour, seed).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png{',' if ending == 'csv' else chr(9)}{colour}\n")
    table = tmp_path / f"t.{ending}"
    table.write_text("".join(lines))
    for columns in ({}, {"image_column": "0.png", "label_column": "red"}):
        refused(table, "'0.png', 'red'", "put a line of column names above it", **SHARE, **columns)


@pytest.mark.parametrize("value", [{"path": "{}"}, {"bytes": None, "path": "{}"}])
def test_paths_in_a_structure(tmp_path, value):
    lines = []
    for number, (colour, seed) in enumerate(rows()):
        picture(colour, seed).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": {**value, "path": f"{number}.png"}, "label": colour}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    check(tmp_path / "t.jsonl", *NAMED, **SHARE)
    (tmp_path / "1.png").unlink()
    refused(tmp_path / "t.jsonl", "1 of 8 given images", "no such file", **SHARE)


def test_a_table_of_many_columns_is_described_by_the_first(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(["label", *(f"pixel{i}" for i in range(784))]) + "\n" + "0," * 784 + "0")
    assert len(refused(tmp_path / "t.csv", "no column of images", "and 765 more", **SHARE)) < 700


class Broken(Pictures):
    """A set one of whose items is not there."""

    def __getitem__(self, index):
        return super().__getitem__(index) if index != 3 else {}["no file\n3"]


class Endless(Pictures):
    """A set that does not tell its length."""

    def __len__(self) -> int:
        raise TypeError("no end")


def test_what_a_set_of_ones_own_raises_is_told_in_a_line():
    refused(Broken(["red", "blue"]), "item 3 of the train data set cannot be had: KeyError", **SHARE)
    refused(Endless(["red", "blue"]), "the train data set does not tell how many items it has: TypeError", **SHARE)


# Files of one part


def shard(folder, number: int, labels: list[Any], names: list[str] | None = None, ending: str = "parquet") -> None:
    """One of two files, red and blue pictures in turn."""
    import datasets

    features = {"image": datasets.Image(), **({"label": datasets.ClassLabel(names=names)} if names else {})}
    schema = datasets.Features(features).arrow_schema.metadata if names else None
    table = pa.table({"image": [{"bytes": png(*row), "path": None} for row in rows()], "label": labels})
    path = folder / f"train-0000{number}-of-00002.{ending}"
    if ending == "parquet":
        pa.parquet.write_table(table.replace_schema_metadata(schema), path)
        return
    with pa.ipc.new_stream(str(path), table.replace_schema_metadata(schema).schema) as file:
        file.write_table(table.replace_schema_metadata(schema))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_of_a_part_that_number_their_classes_in_another_way(tmp_path, ending):
    shard(tmp_path, 0, [0, 1] * 4, ["red", "blue"], ending)
    shard(tmp_path, 1, [1, 0] * 4, ["blue", "red"], ending)
    refused(tmp_path, "'red' as 0 in 'train-00000", "'blue' as 0 in 'train-00001", "same labels", **SHARE)
    shard(tmp_path, 1, [0, 1] * 4, ["red", "blue"], ending)
    check(tmp_path, {"red": ("red", 6), "blue": ("blue", 6)}, {"red": ("red", 2), "blue": ("blue", 2)}, **SHARE)


@pytest.mark.parametrize(
    ("one", "other"), [(["red", "blue"], [0, 1]), ([False, True], [0, 3]), ([0, 1], ["red", "blue"])]
)
def test_files_of_a_part_with_labels_of_several_kinds(tmp_path, one, other):
    shard(tmp_path, 0, one * 4)
    shard(tmp_path, 1, other * 4)
    refused(tmp_path, "'label'", "train-00000", "train-00001", "same labels", **SHARE)


# csv as it comes


def csv_of(folder, template: str, head: str, named: dict[str, str] = TEXT, encoding: str = "utf-8"):
    """A csv file beside red and blue pictures, a line for each by a template."""
    lines = [head]
    for number, (colour, seed) in enumerate(rows()):
        picture(colour, seed).save(folder / f"{number}.png")
        lines.append(template.format(f"{number}.png", named[colour], number))
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("head", "template"),
    [
        ("file_name;label;score", "{};{};1,{}"),
        ("file_name\tlabel", "{}\t{}"),
        ("file_name|label", "{}|{}"),
        ("file_name, label", "{}, {}"),
        ('"file_name", "label"', '"{}", "{}"'),
        ("file_name,label", "{},{},"),
        ("\ufefffile_name;label", "{};{}"),
    ],
)
def test_csv_is_read_however_its_lines_are_divided(tmp_path, head, template):
    check(csv_of(tmp_path, template, head), *NAMED, **SHARE)


def test_codes_of_a_csv_are_no_numbers(tmp_path):
    seven, ten = {"red": "007", "blue": "010"}, {"red": "0", "blue": "1"}
    coded = ({"007": ("red", 3), "010": ("blue", 3)}, {"007": ("red", 1), "010": ("blue", 1)})
    check(csv_of(tmp_path, "{},{},0{}", "file_name,label,x", seven), *coded, **SHARE)
    check(csv_of(tmp_path, "{},{},{}", "file_name,label,x", ten), *NUMBERED, label_column="label", **SHARE)


@pytest.mark.parametrize(
    ("red", "blue"), [("1.20", "1.10"), ("NA", "EU"), ("null", "nan"), ("7", "007"), ("1e3", "1000")]
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_classes_of_a_csv_are_what_is_written(tmp_path, red, blue, quote):
    path = csv_of(tmp_path, f"{{}},{quote}{{}}{quote},0.{{}}", "file_name , label,score", {"red": red, "blue": blue})
    colours = sorted({red: "red", blue: "blue"}.items())
    check(path, *({name: (colour, count) for name, colour in colours} for count in (3, 1)), **SHARE)


def test_a_column_of_a_csv_that_the_user_names_is_read_as_written(tmp_path):
    path = csv_of(tmp_path, "{},{},{}", "file_name,version,label", {"red": "1.2", "blue": "1.10"})
    named = {"label_column": "version", **SHARE}
    check(path, *({"1.10": ("blue", count), "1.2": ("red", count)} for count in (3, 1)), **named)


def test_empty_fields_of_a_csv_are_no_class(tmp_path):
    path = csv_of(tmp_path, "{},{}", "file_name,label", {"red": "red", "blue": ""})
    refused(path, "4", "empty labels", **SHARE)


def test_numbers_of_a_csv_stay_numbers(tmp_path):
    for red, blue in (("0", "1"), ("0.0", "1.0")):
        check(csv_of(tmp_path, "{},{}", "file_name,label", {"red": red, "blue": blue}), *NUMBERED, **SHARE)


@pytest.mark.parametrize("lacking", ["image", "label"])
def test_a_shard_without_a_column_of_the_others_is_refused(tmp_path, lacking):
    parts = {"train-00000-of-00002": {}, "train-00001-of-00002": {lacking: "other"}, "test": {}}
    for name, renamed in parts.items():
        path = write_table(tmp_path / f"{name}.parquet", label=TEXT)
        pandas.read_parquet(path).rename(columns=renamed).to_parquet(path)
    refused(tmp_path, f"'train-00001-of-00002.parquet' has no column '{lacking}'", "it has", "other")


@pytest.mark.parametrize("spelling", ["Red", "red ", "RED"])
def test_a_class_of_the_test_part_in_another_spelling(tmp_path, spelling):
    write_table(tmp_path / "train.parquet", label=TEXT)
    write_table(tmp_path / "test.parquet", label={"red": spelling, "blue": "blue"})
    refused(tmp_path, repr(spelling), "'red'", "capitals or spaces only")


@pytest.mark.parametrize("names", [("train_full", "train_small"), ("fold0_train", "fold1_train")])
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_files_of_several_training_parts_are_not_one_part(tmp_path, names, ending):
    for name in (*names, "test"):
        if ending == "parquet":
            write_table(tmp_path / f"{name}.parquet", label=TEXT)
        else:
            csv_of(tmp_path, "{},{}", "file_name,label").rename(tmp_path / f"{name}.csv")
    refused(tmp_path, "several parts that may be its train part", *names)
    data = load_data(tmp_path, DataSettings(train_split=names[1]))
    assert len(data.train.labels) == 8


def test_numbered_files_of_a_part_are_one(tmp_path):
    for name in ("my_train_1", "my_train_2", "my_test"):
        write_table(tmp_path / f"{name}.parquet", label=TEXT)
    assert len(load_data(tmp_path).train.labels) == 16


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_csv_of_another_encoding(tmp_path, encoding):
    named = {"red": "rouge é", "blue": "bleu"}
    refused(csv_of(tmp_path, "{},{}", "file_name,label", named, encoding), "UTF-8", "save it so", **SHARE)


def test_names_with_control_characters_are_refused_and_can_be_renamed(tmp_path):
    table = write_table(tmp_path / "t.parquet", label={"red": "a\nb", "blue": "c"})
    refused(table, "'a\\nb'", "control character", "data.classes=", **SHARE)
    refused(table, "control character", classes=("c", "a\nb"), **SHARE)
    data = load_data(table, DataSettings(classes={"a\nb": "a b", "c": "c"}, **SHARE))
    assert data.class_names == ("a b", "c")


def test_items_may_be_dictionaries_of_image_and_label():
    items = [{"id": i, "label": i % 2, "image": picture(("red", "blue")[i % 2], i)} for i in range(8)]
    check(items, {"0": ("red", 3), "1": ("blue", 3)}, {"0": ("red", 1), "1": ("blue", 1)}, **SHARE)


@pytest.mark.parametrize("names", [{"cat": 0, "dog": 1}, np.array(["cat", "dog"])])
def test_classes_of_a_data_set_may_be_a_dictionary_or_an_array(names):
    class Items(list):
        classes = names

    items = Items((picture(("red", "blue")[i % 2], i), i % 2) for i in range(8))
    assert load_data(items, DataSettings(**SHARE)).class_names == ("cat", "dog")

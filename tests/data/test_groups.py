"""A second column of coarser labels: every class belongs to one group."""

import datasets
import pytest
from data.made import png, refused, rows, write_table

from ddistill.data import DataSettings, load_data
from ddistill.recipe import Recipe
from ddistill.reproduce.store import result_key

SHARE = {"test_fraction": 0.25}
COLOURS = ("red", "green", "blue", "grey")
KIND = {"red": "warm", "green": "cold", "blue": "cold", "grey": "none"}


@pytest.fixture
def path(tmp_path):
    return write_table(tmp_path / "t.parquet", colours=COLOURS, label={c: c for c in COLOURS}, kind=KIND)


def test_groups_follow_the_classes_whatever_their_order(path):
    for _ in range(2):  # also from the cache
        data = load_data(path, DataSettings(**SHARE, group_column="kind"))
        assert data.class_names == ("blue", "green", "grey", "red")
        assert data.origin.taken.groups == ("cold", "cold", "none", "warm")
    assert "their groups from column 'kind'" in "\n".join(data.account.lines)
    chosen = load_data(path, DataSettings(**SHARE, group_column="kind", classes=("red", "blue")))
    assert chosen.origin.taken.groups == ("warm", "cold")


def test_images_and_key_are_the_same_with_and_without_groups(path):
    data = load_data(path, DataSettings(**SHARE))
    grouped = load_data(path, DataSettings(**SHARE, group_column="kind"))
    assert data.origin.taken.groups == ()
    assert data.fingerprint == grouped.fingerprint
    recipe = Recipe()
    assert result_key(recipe.changed({"data.group_column": "kind"}), "x") == result_key(recipe, "x")


def test_the_column_of_groups_is_not_taken_for_the_labels(tmp_path):
    path = write_table(tmp_path / "t.parquet", colours=COLOURS, fine={c: c for c in COLOURS}, kind=KIND)
    refused(path, "fine, kind", "data.label_column=NAME", **SHARE)
    assert load_data(path, DataSettings(**SHARE, group_column="kind")).class_names == ("blue", "green", "grey", "red")


def test_declared_groups_and_numbers(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(COLOURS)),
            "kind": datasets.ClassLabel(names=["warm", "cold", "none"]),
            "number": datasets.Value("int64"),
        }
    )
    values = [
        {"image": {"bytes": png(c, i), "path": None}, "label": c, "kind": KIND[c], "number": len(KIND[c])}
        for c, i in rows(4, COLOURS)
    ]
    table = datasets.Dataset.from_list(values, features=features)
    taken = load_data(table, DataSettings(**SHARE, group_column="kind")).origin.taken
    assert taken.groups == ("warm", "cold", "cold", "none")
    assert load_data(table, DataSettings(**SHARE, group_column="number")).origin.taken.groups == ("4",) * 4


def test_a_class_in_several_groups_is_refused(tmp_path):
    kinds = ["warm", "cold"] * 8
    kinds[0] = "none"
    path = write_table(tmp_path / "t.parquet", colours=COLOURS, label={c: c for c in COLOURS}, kind=kinds)
    refused(path, "'red'", "'none' and 'warm'", "data.group_column", **SHARE, group_column="kind")
    merged = {"red": "all", "blue": "all", "green": "green"}
    refused(path, "'all'", "several groups", **SHARE, group_column="kind", classes=merged)


def test_what_cannot_be_groups_is_refused(path, tmp_path):
    refused(path, "no column 'kinds'", "data.group_column", "kind (string)", **SHARE, group_column="kinds")
    refused(path, "'image'", "cannot be its groups", **SHARE, group_column="image")
    refused(path, "is the column of labels", **SHARE, label_column="kind", group_column="kind")
    refused("digits", "data.group_column='kind' has no meaning for digits", group_column="kind")
    holes = write_table(tmp_path / "h.parquet", label={"red": "a", "blue": "b"}, kind={"red": "x", "blue": None})
    refused(holes, "4 training images without a group", **SHARE, group_column="kind")


def test_cifar100_has_twenty_groups_of_five(shared_data):
    from ddistill.data.labels import agree, groups_of
    from ddistill.data.sources import find_source

    parts = find_source(shared_data / "cifar100", DataSettings(group_column="coarse_label")).open()
    assert parts.train.groups is not None
    groups = groups_of("x", agree("x", parts.train.labels, None, None), parts.train.groups)
    assert len(groups) == 100
    assert {groups.count(one) for one in groups} == {5}

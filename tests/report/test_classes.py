"""What a page says of classes: their order, their groups, what is confused."""

from __future__ import annotations

import torch

from ddistill.evaluation import Confusion
from ddistill.report.classes import MANY_CLASSES, Classes

COUNT = 24
NAMES = [f"c{i}" for i in range(COUNT)]
GROUPS = [f"g{i % 3}" for i in range(COUNT)]


def classes(groups: list[str] | None = None, names: list[str] = NAMES) -> Classes:
    """Class i is right in i of 24 cases, else taken for the next one; class 5 has no test image."""
    true, predicted = [], []
    for label in range(COUNT):
        for case in range(COUNT if label != 5 else 0):
            true.append(label)
            predicted.append(label if case < label else (label + 1) % COUNT)
    confusion = Confusion.of(torch.tensor(true), [torch.tensor(predicted)], COUNT)
    return Classes.of(names, confusion, {"group": dict(zip(names, groups, strict=True))} if groups else {})


def test_the_best_come_first_and_those_without_a_test_image_last():
    assert classes().order() == [*(i for i in reversed(range(COUNT)) if i != 5), 5]


def test_classes_of_a_group_stand_together_the_best_group_first():
    order = classes(GROUPS).order()
    groups = [GROUPS[label] for label in order]
    assert groups == ["g2"] * 8 + ["g1"] * 8 + ["g0"] * 8  # class 5, of g2, is not counted
    assert order[:8] == [23, 20, 17, 14, 11, 8, 2, 5]
    means = classes(GROUPS).group_accuracies()
    assert means["g0"] == sum(range(0, COUNT, 3)) / 8 / COUNT * 100


def test_few_classes_keep_their_order():
    few = Classes(NAMES[: MANY_CLASSES - 1], [float(i) for i in range(MANY_CLASSES - 1)], [], None)
    assert not few.many
    assert few.order() == list(range(MANY_CLASSES - 1))


def test_without_an_evaluation_classes_keep_their_order_and_nothing_is_said():
    unknown = Classes.of(NAMES, None, {})
    assert unknown.order() == list(range(COUNT))
    assert unknown.pairs() == []
    assert unknown.matrix() == ""
    assert unknown.within_groups() is None


def test_pairs_name_the_group_of_both():
    first = classes(["a"] * 12 + ["b"] * 12).pairs()
    assert (first[0]["name"], first[0]["other"], first[0]["percent"], first[0]["within"]) == ("c0", "c1", 100.0, "a")
    border = next(pair for pair in first if pair["name"] == "c11")
    assert border["within"] == ""


def test_what_stays_within_the_group():
    halves = ["a"] * 12 + ["b"] * 12
    found = classes(halves)
    wrong = {label: COUNT - label for label in range(COUNT) if label != 5}
    kept = sum(count for label, count in wrong.items() if halves[label] == halves[(label + 1) % COUNT])
    assert found.within_groups() == 100.0 * kept / sum(wrong.values())


def test_a_matrix_is_of_groups_where_there_are_some_and_escapes_names():
    names = ["<i>", *NAMES[1:]]
    assert "&lt;i&gt;" in classes(names=names).matrix()
    assert "<i>" not in classes(names=names).matrix()
    assert classes(GROUPS).matrix().count("<rect") <= 9

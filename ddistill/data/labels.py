"""Checks of labels, choice of classes, and division of a part by class. All on int64 arrays [n]."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ddistill.data.facts import subset_classes
from ddistill.errors import UserError
from ddistill.randomness import generator

SHOWN = 3


def listed(values: Iterable[object], shown: int = SHOWN) -> str:
    """The first few values in quotes where they are text, and how many more there are.

    >>> listed(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    items = list(values)
    text = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in items[:shown])
    return text + (f" and {len(items) - shown} more" if len(items) > shown else "")


def check_labels(where: str, part: str, labels: np.ndarray, class_names: Sequence[str] | None) -> None:
    """Refuse an empty part and labels below 0 or, with ``class_names`` [C], from C on; ``where`` names the data set."""
    if not labels.size:
        raise UserError(f"{where} has no image in its {part} part")
    if int(labels.min()) < 0:
        below = np.unique(labels[labels < 0]).tolist()
        raise UserError(
            f"{where} has the label {listed(below)} in its {part} part, which marks images without a label; "
            f"name a labelled part with data.{'test' if part == 'test' else 'train'}_split=NAME"
        )
    if class_names is not None and int(labels.max()) >= len(class_names):
        above = np.unique(labels[labels >= len(class_names)]).tolist()
        raise UserError(
            f"{where} has the label {listed(above)} in its {part} part, but labels run from 0 to {len(class_names) - 1}"
        )


def number_names(where: str, train: np.ndarray, test: np.ndarray | None) -> tuple[str, ...]:
    """Class names '0' to 'C-1' for labels that have none; a UserError when they have gaps or test has more."""
    values = np.unique(train)
    # The first gap, if any, lies within the first len(values) numbers.
    gaps = np.setdiff1d(np.arange(len(values)), values)
    if gaps.size:
        raise UserError(
            f"{where} has labels up to {values[-1]} in its train part but none of {listed(gaps.tolist())}; "
            f"labels must run from 0 without gaps"
        )
    unknown = np.setdiff1d(test, values) if test is not None else np.empty(0)
    if unknown.size:
        raise UserError(f"{where} has the label {listed(unknown.tolist())} in its test part but not in its train part")
    return tuple(str(value) for value in values)


def wanted_classes(classes: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names that the setting ``data.classes`` stands for, in the order of their new labels."""
    names = subset_classes(classes) if isinstance(classes, str) else classes
    if names is not None and len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"data.classes names {listed(twice)} more than once")
    return names


def check_wanted(where: str, class_names: Sequence[str], wanted: Sequence[str]) -> None:
    """A UserError that names wanted classes which ``class_names`` lacks."""
    missing = [name for name in wanted if name not in set(class_names)]
    if not missing:
        return
    if all(_is_wordnet_id(name) for name in wanted) and not any(_is_wordnet_id(name) for name in class_names):
        raise UserError(
            f"the classes of {where} are not named by WordNet id, so data.classes cannot find {listed(missing)}; "
            f"give the path of a local copy whose class folders or label names are WordNet ids, and data.classes=SUBSET"
        )
    near = difflib.get_close_matches(missing[0], class_names, n=SHOWN, cutoff=0.6) or list(class_names)
    raise UserError(f"{where} lacks the class {listed(missing)} of data.classes; it has {listed(near, 5)}")


def _is_wordnet_id(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def renumbered(labels: np.ndarray, class_names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Labels by position in ``wanted``, -1 for classes that are not wanted."""
    table = np.full(len(class_names), -1, dtype=np.int64)
    index = {name: number for number, name in enumerate(class_names)}
    for new, name in enumerate(wanted):
        table[index[name]] = new
    return table[labels]


def check_classes(where: str, class_names: Sequence[str], train: np.ndarray, test: np.ndarray | None) -> None:
    """Refuse fewer than two classes, a class with fewer than two training images and an empty test part."""
    if len(class_names) < 2:
        raise UserError(f"{where} has one class ({listed(class_names)}); distillation needs at least two")
    counts = np.bincount(train, minlength=len(class_names))
    for few, text in ((0, "no image"), (1, "a single image")):
        names = [class_names[c] for c in np.flatnonzero(counts == few).tolist()]
        if names:
            raise UserError(
                f"{where} has {text} of the class {listed(names)} in its train part; each class needs at least two"
            )
    if test is not None and not test.size:
        raise UserError(f"{where} has no image in its test part; name another with data.test_split=NAME")


def held_out(labels: np.ndarray, fraction: float, seed: int, purpose: str) -> np.ndarray:
    """A mask, bool [n], of ``fraction`` of each class, chosen by ``seed`` and ``purpose``.

    At least one image of a class is held out and at least two stay, where the class has three.
    """
    mask = np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels).tolist():
        members = np.flatnonzero(labels == c)
        count = max(0, min(max(1, round(fraction * len(members))), len(members) - 2))
        order = torch.randperm(len(members), generator=generator(seed, purpose, c)).numpy()
        mask[members[order[:count]]] = True
    return mask


def size_remarks(class_names: Sequence[str], counts: list[int]) -> list[str]:
    """A remark when classes differ in size; nothing when they do not."""
    small, large = counts.index(min(counts)), counts.index(max(counts))
    if counts[small] == counts[large]:
        return []
    return [
        f"classes differ in size: {counts[small]} training images of {class_names[small]!r} "
        f"to {counts[large]} of {class_names[large]!r}"
    ]


def as_label(value: Any) -> int | None:
    """A whole number from an int, a NumPy integer or a tensor with one integer; None for anything else."""
    if isinstance(value, torch.Tensor):
        whole = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
        return int(value.item()) if whole and value.dtype != torch.bool else None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, bool | np.bool_):
        return None
    return int(value) if isinstance(value, int | np.integer) else None

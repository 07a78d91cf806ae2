"""The parts of a data set: the words that name them, and which one is distilled and which one is the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ddistill.data.labels import Labels, listed
from ddistill.data.pixels import Encoded
from ddistill.data.settings import DataSettings
from ddistill.runtime.errors import UserError

Role = Literal["train", "test", "validation"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""The words that `datasets` knows a part by."""
FILLERS = {"set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "split", "part", "files"}
SURE_SPLITS = {"split", "splits", "is_train", "is_training", "is_test", "is_val", "is_valid", "is_validation"}
"""Columns that can hardly be anything else."""
SPLIT_COLUMNS = {*SURE_SPLITS, "part", "partition", "subset", "set", "phase"}


@dataclass(frozen=True)
class RawSplit:
    """Labels of one part, and a way to read images of some rows, int64 [m] ascending, each with a name.

    ``origin`` says in words where the part came from. ``groups`` are coarser labels of the same images.
    """

    labels: Labels
    read: Callable[[np.ndarray], Iterator[tuple[str, Encoded]]]
    origin: str
    groups: Labels | None = None


@dataclass(frozen=True)
class RawSplits:
    """What a source holds.

    Attributes:
        train, test: the parts; ``test`` None: there is none.
        available: names of all parts.
        labels_from: in words, what the labels were taken from.
        left_out: in words, what is not used and why.
        notes: in words, what was assumed.
    """

    train: RawSplit
    test: RawSplit | None
    available: tuple[str, ...] = ("train",)
    labels_from: str = "the data set"
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def role_of(name: str) -> Role | None:
    """The part that a name stands for by the words in it; None without such a word, or with words of several parts.

    >>> [role_of(name) for name in ("Train", "seg_test", "valset", "dev-images", "PublicTest", "train_val", "contest")]
    ['train', 'test', 'validation', 'validation', 'test', None, None]
    """
    found = {ROLES[word] for word in _words(name) if word in ROLES}
    return found.pop() if len(found) == 1 else None


def part_word(name: str) -> str | None:
    """The word in a name that tells its part; None where `role_of` is None.

    >>> part_word("pets-val")
    'val'
    """
    return next((word for word in _words(name) if word in ROLES), None) if role_of(name) else None


def is_part_word(name: str) -> bool:
    """Whether a name is nothing but the word of a part: 'Training', 'test_set', 'train2017', not 'seg_train'."""
    words = [word for word in _words(name) if word not in FILLERS]
    return len(words) == 1 and words[0] in ROLES


def _words(name: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name).casefold())
    joined = (re.fullmatch(r"(\w+?)(?:set|data|images|imgs)", word) for word in words)
    return [match[1] if match and match[1] in ROLES else word for word, match in zip(words, joined, strict=True)]


def choose_splits(where: str, available: list[str], settings: DataSettings) -> tuple[str, str | None]:
    """Names of the training and the test part among those available; the second is None where there is none."""
    for option, wanted in (("train_split", settings.train_split), ("test_split", settings.test_split)):
        if wanted is not None and wanted not in available:
            raise UserError(f"{where} has no part {wanted!r} (data.{option}); it has: {', '.join(available)}")
    train = settings.train_split or _only(where, available, "train", "train_split")
    if train is None and len(available) == 1 and role_of(available[0]) is None:
        train = available[0]
    if train is None:
        raise UserError(f"{where} has no part 'train'; name one with data.train_split=NAME: {', '.join(available)}")
    others = [name for name in available if name != train]
    test = settings.test_split or _only(where, others, "test", "test_split")
    test = test or _only(where, others, "validation", "test_split")
    if test == train:
        raise UserError(f"data.train_split and data.test_split both name {train!r}; they must differ")
    return train, test


def _only(where: str, available: Iterable[str], role: Role, option: str) -> str | None:
    exact = {"train": ("train",), "test": ("test",), "validation": ("validation",)}[role]
    names = [name for name in available if role_of(name) == role]
    if len(names) > 1 and not set(exact) & set(names):
        raise UserError(
            f"{where} has several parts that may be its {role} part: {listed(names, 6)}; name one with data.{option}="
            f"{names[0]}"
        )
    return next((name for name in names if name in exact), names[0] if names else None)


def refuse_unknown(where: str, what: str, unknown: Iterable[str], known: Iterable[str], settings: DataSettings) -> bool:
    """Whether names of no known part stand beside those of parts and are left out, as the options name both parts.

    Raises:
        UserError: they do and the options do not name both.
    """
    unknown, known = sorted(unknown), sorted(known)
    if not unknown or not known:
        return False
    if settings.train_split is not None and settings.test_split is not None:
        return True
    raise UserError(
        f"{where} has the {what} {listed(unknown)} beside its parts {listed(known)}, and the name does not tell which "
        f"part that is: move it elsewhere, or name both parts that are to be used, data.train_split=NAME and "
        f"data.test_split=NAME, to leave it out"
    )


def unused(available: Iterable[str], train: str, test: str | None, *, of: str = "part") -> tuple[str, ...]:
    """A line about parts that are there and serve as neither."""
    names = [name for name in available if name not in (train, test)]
    if not names:
        return ()
    return (f"the {of}{'s' if len(names) > 1 else ''} {listed(names, 6)}: neither the training nor the test part",)


COLUMNS = ("image_column", "label_column", "group_column", "split_column")
"""Options that have a meaning for tables only."""


def refuse_options(kind: str, settings: DataSettings, *names: str) -> None:
    """A UserError for options that have no meaning for this kind of source."""
    for name in names:
        if getattr(settings, name) is not None:
            raise UserError(f"data.{name}={getattr(settings, name)!r} has no meaning for {kind}")

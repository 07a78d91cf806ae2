"""Labels as they come, the classes that two parts agree on, and the division of a part by class."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddistill.data.facts import subset_classes
from ddistill.runtime.errors import UserError
from ddistill.runtime.randomness import generator
from ddistill.runtime.words import class_list

SHOWN = 3
EMPTY = int(np.iinfo(np.int64).min)
"""The label of an image that has none."""
TRUTH = ("False", "True")
"""Names of the classes of truth values."""


@dataclass(frozen=True)
class Labels:
    """Labels of one part, int64 [n]: positions in ``names``, or bare numbers where there are no names.

    ``declared``: the names are a list that was given beside the labels; else they are the labels' own text.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None
    declared: bool = True

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Agreed:
    """Class names, and the labels of both parts by them, int64 [n], -1 for images to leave out; remarks."""

    names: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray | None
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


class NoLabelError(ValueError):
    """A value that cannot be a label; the text says what it is and what is expected."""


def listed(values: Iterable[object], shown: int = SHOWN) -> str:
    """The first few values in quotes where they are text, and how many more there are.

    >>> listed(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    items = list(values)
    text = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in items[:shown])
    return text + (f" and {len(items) - shown} more" if len(items) > shown else "")


def one_name(name: object) -> str:
    """A class name in the one form (NFC) in which it is compared: accents are written in two ways."""
    return unicodedata.normalize("NFC", str(name))


def as_label(value: Any) -> int | str | bool | None:
    """A label in plain form: a whole number (a whole float, too), text, a truth value, or one of these in a list, an
    array or a tensor.

    Returns:
        None for an empty value.

    Raises:
        NoLabelError: anything else.
    """
    plain = value
    if isinstance(plain, torch.Tensor | np.ndarray):
        plain = plain.tolist()
    while isinstance(plain, list | tuple) and len(plain) == 1:
        plain = plain[0]
    if isinstance(plain, np.generic):
        plain = plain.item()
    if isinstance(plain, list | tuple):
        raise NoLabelError(f"{len(plain)} labels in one; expected one class per image")
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    if plain is None or isinstance(plain, bool | int | str):
        return plain
    if isinstance(plain, float) and np.isnan(plain):
        return None
    raise NoLabelError(f"the label {value!r}; expected a whole number, text or a truth value")


_KINDS = {bool: "a truth value", int: "a whole number", str: "text"}


def labels_of(values: Sequence[Any], called: str = "row {}") -> Labels:
    """Labels from values of any kind that `as_label` takes, all of the same kind.

    Args:
        values: one per image.
        called: what the image of a number is called in an error.

    Raises:
        UserError: a value that is no label, or values of several kinds.
    """
    plain: list[int | str | bool | None] = []
    first: tuple[type, Any] | None = None
    for row, value in enumerate(values):
        try:
            label = as_label(value)
        except NoLabelError as error:
            raise UserError(f"{called.format(row)} has {error}") from None
        if label is not None:
            first = first or (type(label), label)
            if type(label) is not first[0]:
                raise UserError(
                    f"{called.format(row)} has the label {label!r}, {_KINDS[type(label)]}, where others are of another "
                    f"kind, such as {first[1]!r}, {_KINDS[first[0]]}"
                )
        plain.append(label)
    if first is None or first[0] is not str:
        numbers = np.array([EMPTY if label is None else int(label) for label in plain], dtype=np.int64)
        return Labels(numbers, TRUTH if first and first[0] is bool else None)
    return text_labels(plain)


def text_labels(values: Sequence[Any]) -> Labels:
    """Labels from text and, for images without one, None or nothing but spaces."""
    own = [one_name(value) if value is not None else "" for value in values]
    names = sorted({name for name in own if name.strip()})
    index = {name: number for number, name in enumerate(names)}
    found = [index.get(name, EMPTY) for name in own]
    return Labels(np.array(found, dtype=np.int64), tuple(names), declared=False)


def agree(
    where: str, train: Labels, test: Labels | None, classes: str | tuple[str, ...] | dict[str, str] | None
) -> Agreed:
    """The classes of both parts: matched by name where both have names, by value else; then those that are wanted.

    Args:
        where: names the data set in errors.
        train: labels of the training part.
        test: of the test part, if there is one.
        classes: the setting ``data.classes``.

    Raises:
        UserError: labels that mean nothing or may mean two things; classes that are not there.
    """
    wanted = wanted_classes(classes)
    notes: list[str] = []
    if test is not None:
        train, test = _alike(where, train, test, notes, wanted)
    if wanted is not None:
        chosen = _selected(where, train, test, wanted, notes)
        _refuse_control(where, chosen.names)
        return chosen
    for part, of in (("train", train), ("test", test)):
        if of is not None:
            check_labels(where, part, of)
    names, codes = _by_name(train)
    _refuse_twins(where, names)
    _refuse_control(where, names)
    alike = Counter(name.strip().casefold() for name in names)
    if close := [name for name in names if alike[name.strip().casefold()] > 1]:
        notes.append(
            f"classes whose names differ only in capitals or spaces are classes of their own: {listed(close, 4)}"
        )
    if train.names is None:
        _refuse_gaps(where, train.values)
    return Agreed(names, codes, _matched(where, names, test, notes) if test is not None else None, tuple(notes), ())


def groups_of(where: str, agreed: Agreed, groups: Labels) -> tuple[str, ...]:
    """The name of the group that each class belongs to, from the groups of the training images.

    Raises:
        UserError: images without a group, or a class in several.
    """
    used = agreed.train >= 0
    codes, values = agreed.train[used], groups.values[used]
    empty = values == EMPTY if groups.names is None else (values < 0) | (values >= len(groups.names))
    if empty.any():
        raise UserError(
            f"{where} has {int(empty.sum())} training images without a group (data.group_column); give each image one"
        )
    found: dict[int, str] = {}
    for code, value in np.unique(np.stack([codes, values], axis=1), axis=0).tolist():
        name = groups.names[value] if groups.names is not None else str(value)
        if found.setdefault(code, name) != name:
            raise UserError(
                f"{where} puts images of the class {agreed.names[code]!r} into several groups, {found[code]!r} and "
                f"{name!r} (data.group_column); a class belongs to one: mend the column or leave the option out"
            )
    return tuple(found[code] for code in range(len(agreed.names)))


def check_labels(where: str, part: str, labels: Labels) -> None:
    """Refuse an empty part, images without a label, labels below 0 and, with names [C], labels from C on."""
    values = labels.values
    option = f"data.{part}_split=NAME"
    if not values.size:
        raise UserError(f"{where} has no image in its {part} part")
    empty = int((values == EMPTY).sum())
    if empty:
        raise UserError(
            f"{where} has {empty} empty labels in its {part} part; give every image a label (in a csv the words NA, "
            f"None and null are empty, too), or choose the classes to keep with data.classes"
        )
    if int(values.min()) < 0:
        below = np.unique(values[values < 0]).tolist()
        raise UserError(
            f"{where} has the label {listed(below)} in its {part} part, which marks images without a label; "
            f"name a labelled part with {option}, or choose the classes to keep with data.classes"
        )
    if labels.names is not None and int(values.max()) >= len(labels.names):
        above = np.unique(values[values >= len(labels.names)]).tolist()
        raise UserError(
            f"{where} has the label {listed(above)} in its {part} part, but labels run from 0 to "
            f"{len(labels.names) - 1}, as there are names for {len(labels.names)} classes"
        )


def _alike(
    where: str, train: Labels, test: Labels, notes: list[str], wanted: dict[str, str] | None
) -> tuple[Labels, Labels]:
    """Both parts with names, or both with bare numbers; text that is no number counts if it is ``wanted`` only."""
    if (train.names is None) == (test.names is None):
        return train, test
    bare, named, part = (train, test, "training") if train.names is None else (test, train, "test")
    named = _numerals_only(named, wanted) if wanted is not None and not named.declared else named
    assert named.names is not None
    values = _numerals(named.names)
    if not named.declared:
        if values is None:
            raise UserError(
                f"{where} has numbers for labels in one part and text ({listed(named.names)}) in the other; give both "
                f"parts the same kind of label"
            )
        twice = [name for name, value in zip(named.names, values, strict=True) if (values == value).sum() > 1]
        if twice:
            raise UserError(
                f"{where} has numbers for labels in one part and text in the other, in which {listed(twice)} are one "
                f"number: write each label in one way"
            )
        notes.append("labels are numbers in one part and text in the other; they were matched by value")
        if train is bare:
            table = np.append(values, EMPTY)
            return bare, Labels(table[np.where(named.values == EMPTY, len(values), named.values)])
        spelled = dict(zip(values.tolist(), named.names, strict=True))
        return named, text_labels([None if v == EMPTY else spelled.get(v, str(v)) for v in bare.values.tolist()])
    by_position = Labels(bare.values, named.names)
    if values is not None and values.tolist() != list(range(len(values))):
        used = np.unique(bare.values[bare.values >= 0])
        if np.isin(used, values).all():
            if not used.size or used[-1] < len(values):
                raise UserError(
                    f"{where} has the numbers {listed(used.tolist())} for labels in its {part} part, which may be "
                    f"names of the other part's classes ({listed(named.names)}) or their positions from 0; give both "
                    f"parts labels of the same kind, or text in place of numbers"
                )
            index = {value: number for number, value in enumerate(values.tolist())}
            found = [index.get(value, EMPTY) for value in bare.values.tolist()]
            by_position = Labels(np.array(found, dtype=np.int64), named.names)
    notes.append(f"labels of the {part} part are numbers; they were read as those of the other part's named classes")
    return (by_position, named) if train is bare else (named, by_position)


def _numerals_only(named: Labels, wanted: dict[str, str]) -> Labels:
    """Labels whose text is a number or is wanted; the others are empty."""
    assert named.names is not None
    own = [*named.names, None]
    kept = [name if name is not None and (name in wanted or _numerals([name]) is not None) else None for name in own]
    places = np.where(named.values == EMPTY, len(named.names), named.values)
    return text_labels([kept[place] for place in places.tolist()])


def _numerals(names: Sequence[str]) -> np.ndarray | None:
    """The numbers, int64, that all names are; None where one is no number."""
    found = []
    for name in names:
        if re.fullmatch(r"[-+]?\d{1,18}(\.0*)?", name.strip()) is None:
            return None
        found.append(int(name.strip().split(".")[0]))
    return np.array(found, dtype=np.int64)


def _by_name(labels: Labels) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of all classes, and labels by position in them; what is no class is -1."""
    if labels.names is None:
        values, codes = np.unique(labels.values, return_inverse=True)
        kept = values != EMPTY
        codes = np.where(kept[codes], codes - int((~kept).sum()), -1) if not kept.all() else codes
        return tuple(str(value) for value in values[kept].tolist()), codes.astype(np.int64)
    names = tuple(one_name(name) for name in labels.names)
    strange = (labels.values < 0) | (labels.values >= len(names))
    return names, np.where(strange, -1, labels.values)


def _refuse_twins(where: str, names: Sequence[str]) -> None:
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        places = [place for place, name in enumerate(names) if name == twins[0]]
        pairs = ", ".join(f"{place}: NAME" for place in places)
        raise UserError(
            f"{where} has {len(places)} classes of the one name {twins[0]!r} (the labels {listed(places)}); give each "
            f"a name of its own, there or with data.classes={{{pairs}, ...}}"
        )


def _refuse_control(where: str, names: Sequence[str]) -> None:
    """Names go into lines, pictures and files."""
    broken = [name for name in names if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)]
    if broken:
        raise UserError(
            f"{where} has the class {listed(broken)}, whose name holds a line break or another control character; "
            f"name it anew, there or with data.classes={{OLD: NEW, ...}}"
        )


def _refuse_gaps(where: str, train: np.ndarray) -> None:
    """A UserError when numbers do not run from 0 without gaps, which names both readings."""
    values = np.unique(train)
    # The first gap, if any, lies within the first len(values) numbers.
    gaps = np.setdiff1d(np.arange(len(values)), values)
    if gaps.size:
        raise UserError(
            f"{where} has labels up to {values[-1]} in its train part but none of {listed(gaps.tolist())}: either "
            f"images of these are missing, or the labels do not count from 0; "
            f"data.classes={class_list(values.tolist(), 8)} takes the {len(values)} that are there as the classes"
        )


def _matched(where: str, names: tuple[str, ...], test: Labels, notes: list[str]) -> np.ndarray:
    """Labels of the test part by the train part's class names."""
    own, codes = _by_name(test)
    index = {name: number for number, name in enumerate(names)}
    unknown = [own[c] for c in np.unique(codes).tolist() if own[c] not in index]
    if unknown:
        alike = {name.strip().casefold(): name for name in names}
        for name in unknown:
            if name.strip().casefold() in alike:
                raise UserError(
                    f"{where} has the label {name!r} in its test part and {alike[name.strip().casefold()]!r} in its "
                    f"train part, which differ in capitals or spaces only: write them in one way"
                )
        shown = unknown if test.names is not None else [int(name) for name in unknown]
        raise UserError(
            f"{where} has the label {listed(shown)} in its test part but not in its train part; choose the classes to "
            f"keep with data.classes"
        )
    _refuse_twins(f"the test part of {where}", own)
    extra = [name for name in own if name not in index]
    if extra:
        notes.append(f"the test part also knows the class {listed(extra)}, of which it has no image")
    if test.declared and own != names[: len(own)] and test.names is not None:
        notes.append("the test part numbers its classes in another way; they were matched by name")
    return np.array([index.get(name, -1) for name in own], dtype=np.int64)[codes]


def _selected(where: str, train: Labels, test: Labels | None, wanted: dict[str, str], notes: list[str]) -> Agreed:
    """What is left after ``data.classes``: -1 marks images of other classes."""
    own, codes = _by_name(train)
    chosen = resolve_wanted(where, own, wanted, by_number=train.names is not None and train.declared)
    names = tuple(dict.fromkeys(chosen.values()))
    position = {old: names.index(new) for old, new in chosen.items()}
    mapped = _table(range(len(own)), position)[codes]
    other_mapped = None
    if test is not None:
        others, other_codes = _by_name(test)
        keys: list[Any] = list(range(len(own)))
        places: dict[Any, int] = dict(position)
        if others != own:
            _refuse_twins(where, own)
            _refuse_twins(f"the test part of {where}", others)
            keys, places = list(others), {own[old]: new for old, new in position.items()}
        other_mapped = _table(keys, places)[other_codes]
    left_out = []
    for part, new in (("training", mapped), ("test", other_mapped)):
        count = int((new < 0).sum()) if new is not None else 0
        if count:
            left_out.append(f"{count} {part} images of classes that data.classes does not name")
    renamed = [f"{old!r} as {new!r}" for old, new in wanted.items() if old != new]
    if renamed:
        notes.append(f"data.classes takes {', '.join(renamed[:10])}{', ...' if len(renamed) > 10 else ''}")
    return Agreed(names, mapped, other_mapped, tuple(notes), tuple(left_out))


def _table(keys: Iterable[Any], position: dict[Any, int]) -> np.ndarray:
    """New labels by old ones; the last entry stands for what is no class, which -1 finds."""
    return np.array([*(position.get(key, -1) for key in keys), -1], dtype=np.int64)


def wanted_classes(classes: str | tuple[str, ...] | dict[str, str] | None) -> dict[str, str] | None:
    """Classes that the setting ``data.classes`` stands for, in the order of their new labels: old name to new name."""
    if classes is None:
        return None
    if isinstance(classes, dict):
        wanted = {one_name(old): one_name(new) for old, new in classes.items()}
        if not wanted:
            raise UserError("data.classes names no class")
        return wanted
    names = [one_name(name) for name in (subset_classes(classes) if isinstance(classes, str) else classes)]
    if not names:
        raise UserError("data.classes names no class")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"data.classes names {listed(twice)} more than once")
    return {name: name for name in names}


def resolve_wanted(
    where: str, class_names: Sequence[str], wanted: dict[str, str], *, by_number: bool = True
) -> dict[int, str]:
    """Positions of wanted classes, given by name or, with ``by_number``, by position, and their new names.

    Raises:
        UserError: classes that ``class_names`` lacks.
    """
    index = {one_name(name): number for number, name in enumerate(class_names)}
    found: dict[int, str] = {}
    missing = []
    for old, new in wanted.items():
        place = index.get(old)
        if place is not None and list(class_names).count(old) > 1:
            _refuse_twins(where, class_names)
        if place is None and by_number and old.isdecimal() and int(old) < len(class_names):
            place, new = int(old), class_names[int(old)] if new == old else new
        if place is None:
            missing.append(old)
        elif place in found:
            raise UserError(f"data.classes names the class {class_names[place]!r} of {where} more than once")
        else:
            found[place] = new
    if not missing:
        return found
    if all(_is_wordnet_id(name) for name in wanted) and not any(_is_wordnet_id(name) for name in class_names):
        raise UserError(
            f"the classes of {where} are not named by WordNet id, so data.classes cannot find {listed(missing)}; "
            f"give the path of a local copy whose class folders or label names are WordNet ids, and data.classes=SUBSET"
        )
    near = difflib.get_close_matches(missing[0], class_names, n=SHOWN, cutoff=0.6) or list(class_names)
    raise UserError(f"{where} lacks the class {listed(missing)} of data.classes; it has {listed(near, 5)}")


def _is_wordnet_id(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def check_classes(where: str, class_names: Sequence[str], train: np.ndarray, test: np.ndarray | None) -> None:
    """Refuse fewer than two classes, a class with fewer than two training images and an empty test part."""
    if len(class_names) < 2:
        raise UserError(f"{where} has one class ({listed(class_names)}); distillation needs at least two")
    counts = np.bincount(train, minlength=len(class_names))
    for few, text in ((0, "no image"), (1, "a single image")):
        names = [class_names[c] for c in np.flatnonzero(counts == few).tolist()]
        if names:
            raise UserError(
                f"{where} has {text} of the class {listed(names)} in its train part; each class needs at least two, or "
                f"choose the classes to keep with data.classes"
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

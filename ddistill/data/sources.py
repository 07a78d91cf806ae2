"""From what a user names to labelled parts whose images can be read: digits, the hub, folders, tables, data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddistill.data.facts import KNOWN_SETS
from ddistill.data.images import Encoded
from ddistill.data.settings import DataSettings
from ddistill.data.which import UNSAID, Which, which
from ddistill.errors import UserError

TEST_NAMES = ("test", "validation", "valid", "val")
DIGITS_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Part:
    """Labels int64 [n] of one part, and a way to read images of some rows, int64 [m] ascending, each with a name."""

    labels: np.ndarray
    read: Callable[[np.ndarray], Iterator[tuple[str, Encoded]]]


@dataclass(frozen=True)
class Parts:
    """What a source holds. ``class_names`` None: labels are bare numbers."""

    class_names: tuple[str, ...] | None
    train: Part
    test: Part | None
    available: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Source:
    """A data set that was found but not read.

    ``contents`` identifies what is read, for the cache of decoded images; None when it must not be cached.
    ``settings`` are the user's, with facts of a known set filled in. ``which`` is what the user's words stood for.
    """

    name: str
    text: str
    settings: DataSettings
    contents: dict[str, Any] | None
    open: Callable[[], Parts]
    which: Which = UNSAID


def find_source(source: Any, settings: DataSettings) -> Source:
    """The data set that ``source`` stands for; a UserError when there is none. Reads no image."""
    meant = which(source)
    return replace(_found(meant.place, settings), which=meant)


def _found(place: Any, settings: DataSettings) -> Source:
    if isinstance(place, Path):
        return _local(place, settings)
    if not isinstance(place, str):
        return _object(place, settings)
    if place == "digits":
        return _digits(settings)
    if place in KNOWN_SETS:
        return _known(place, place, settings)
    return _hub(place.rsplit("/", 1)[1], place, place, None, settings)


def choose_parts(where: str, available: list[str], settings: DataSettings) -> tuple[str, str | None]:
    """Names of the training and the test part among those available; the second is None where there is none."""
    for option, wanted in (("train_split", settings.train_split), ("test_split", settings.test_split)):
        if wanted is not None and wanted not in available:
            raise UserError(f"{where} has no part {wanted!r} (data.{option}); it has: {', '.join(available)}")
    train = settings.train_split or ("train" if "train" in available else None)
    if train is None and len(available) == 1:
        train = available[0]
    if train is None:
        raise UserError(f"{where} has no part 'train'; name one with data.train_split=NAME: {', '.join(available)}")
    others = [name for name in TEST_NAMES if name in available and name != train]
    test = settings.test_split or (others[0] if others else None)
    if test == train:
        raise UserError(f"data.train_split and data.test_split both name {train!r}; they must differ")
    return train, test


def refuse_options(kind: str, settings: DataSettings, *names: str) -> None:
    """A UserError for options that have no meaning for this kind of source."""
    for name in names:
        if getattr(settings, name) is not None:
            raise UserError(f"data.{name}={getattr(settings, name)!r} has no meaning for {kind}")


def _digits(settings: DataSettings) -> Source:
    refuse_options("digits", settings, "image_column", "label_column", "train_split", "test_split")

    def read() -> Parts:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        names = tuple(str(name) for name in bunch.target_names)
        return Parts(names, array_part("digits", list(images), bunch.target.astype(np.int64)), None)

    fraction = settings.test_fraction or DIGITS_TEST_FRACTION
    return Source("digits", "digits", settings.model_copy(update={"test_fraction": fraction}), None, read)


def array_part(name: str, images: list[Encoded], labels: np.ndarray) -> Part:
    """A part whose images are in memory."""
    return Part(labels, lambda rows: ((f"{row} of {name}", images[row]) for row in rows.tolist()))


def _known(name: str, text: str, settings: DataSettings) -> Source:
    facts = KNOWN_SETS[name]
    own = {
        field: getattr(facts, field)
        for field in ("size", "channels", "image_column", "label_column", "train_split", "test_split", "classes")
        if getattr(settings, field) is None
    }
    return _hub(name, text, facts.hub_id, facts.config, settings.model_copy(update=own))


def _hub(name: str, text: str, hub_id: str, config: str | None, settings: DataSettings) -> Source:
    from ddistill.data.hub import open_hub

    contents = {"kind": "hub", "id": hub_id, "config": config}
    return Source(name, text, settings, contents, lambda: open_hub(hub_id, config, settings))


def _local(path: Path, settings: DataSettings) -> Source:
    from ddistill.data.folders import file_names, open_folders, suffix_of, walk
    from ddistill.data.tables import TABLE_SUFFIXES, open_files, open_saved

    path = path.expanduser()
    if not path.exists():
        raise UserError(f"no such file or folder: {str(path)!r}")
    root = path if path.is_dir() else path.parent
    digest, suffixes = hashlib.sha256(), set()
    for file in walk(path):  # there may be millions: nothing is kept of each
        digest.update(f"{file.relative}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "surrogateescape"))
        suffixes.add(suffix_of(file.relative))
    contents = {"kind": "files", "root": str(root.resolve()), "files": digest.hexdigest()}
    saved = path.is_dir() and any((root / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))

    def read() -> Parts:
        files = file_names(path)
        if saved and ".arrow" in suffixes:
            return open_saved(path, settings)
        if suffixes & TABLE_SUFFIXES:
            tables = [file for file in files if suffix_of(file) in TABLE_SUFFIXES]
            return open_files(path, root, tables, settings)
        if path.is_file():
            kinds = ", ".join(sorted(TABLE_SUFFIXES))
            raise UserError(f"{str(path)!r} is no data file; give a folder or a file that ends in {kinds}")
        return open_folders(path, files, settings)

    return Source(path.resolve().name, str(path), settings, contents, read)


def _object(source: Any, settings: DataSettings) -> Source:
    from ddistill.data.in_memory import open_datasets
    from ddistill.data.tables import is_table, open_tables

    if isinstance(source, tuple):
        if len(source) != 2:
            raise UserError(f"a tuple of data sets must be (train, test); this one has {len(source)} items")
        train, test = source
    else:
        train, test = source, None
    name = type(train).__name__.lower()
    if is_table(train):
        return Source(name, type(train).__name__, settings, None, lambda: open_tables(train, test, settings))
    for part in (train, test):
        if part is not None and not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
            raise UserError(
                f"cannot read data from {type(part).__name__!r}: give a name, a path, "
                f"a map-style data set of (image, label), or a tuple (train, test) of two"
            )
    refuse_options("a data set object", settings, "image_column", "label_column", "train_split", "test_split")
    return Source(name, type(train).__name__, settings, None, lambda: open_datasets(train, test))

"""From what a user names to labelled parts whose images can be read: digits, the hub, folders, tables, data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ddistill.data.facts import KNOWN_SETS
from ddistill.data.files import TABLE_SUFFIXES, Found, Tally, facts_of, find_files, suffix_of, walk
from ddistill.data.labels import Labels, listed
from ddistill.data.settings import DataSettings
from ddistill.data.splits import COLUMNS, RawSplit, RawSplits, choose_splits, is_part_word, refuse_options, unused
from ddistill.data.which import UNSAID, Which, which
from ddistill.runtime.errors import UserError

DIGITS_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class DataSource:
    """A data set that was found but not read.

    ``contents`` identifies what is read, for the cache of decoded images; None when it must not be cached.
    ``settings`` are the user's, with facts of a known set filled in. ``left_out``: in words, what was passed over when
    it was found, and does not count as a change of the contents. ``which`` is what the user's words stood for.
    """

    name: str
    text: str
    settings: DataSettings
    contents: dict[str, Any] | None
    open: Callable[[], RawSplits]
    left_out: tuple[str, ...] = ()
    which: Which = UNSAID


def find_source(source: Any, settings: DataSettings) -> DataSource:
    """The data set that ``source`` stands for; a UserError when there is none. Reads no image."""
    meant = which(source)
    return replace(_found(meant.place, settings), which=meant)


def _found(place: Any, settings: DataSettings) -> DataSource:
    if isinstance(place, Path):
        return _local(place, settings)
    if not isinstance(place, str):
        return _object(place, settings)
    if place == "digits":
        return _digits(settings)
    if place in KNOWN_SETS:
        return _known(place, place, settings)
    return _hub(place.rsplit("/", 1)[1], place, place, None, settings)


def _digits(settings: DataSettings) -> DataSource:
    refuse_options("digits", settings, *COLUMNS, "train_split", "test_split")

    def read() -> RawSplits:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        labels = Labels(bunch.target.astype(np.int64), tuple(str(name) for name in bunch.target_names))
        part = RawSplit(
            labels, lambda rows: ((f"{row} of digits", images[row]) for row in rows.tolist()), "scikit-learn"
        )
        return RawSplits(part, None)

    fraction = settings.test_fraction or DIGITS_TEST_FRACTION
    return DataSource("digits", "digits", settings.model_copy(update={"test_fraction": fraction}), None, read)


def _known(name: str, text: str, settings: DataSettings) -> DataSource:
    facts = KNOWN_SETS[name]
    usual = {
        field: getattr(facts.settings, field)
        for field in facts.settings.model_fields_set
        if getattr(settings, field) is None
    }
    return _hub(name, text, facts.hub_id, facts.config, settings.model_copy(update=usual))


def _hub(name: str, text: str, hub_id: str, config: str | None, settings: DataSettings) -> DataSource:
    from ddistill.data.hub import open_hub

    contents = {"kind": "hub", "id": hub_id, "config": config}
    return DataSource(name, text, settings, contents, lambda: open_hub(hub_id, config, settings))


def _local(path: Path, settings: DataSettings) -> DataSource:
    from ddistill.data.tables import holds_images, named_facts

    if path.is_file() and suffix_of(path.name) not in TABLE_SUFFIXES:
        kinds = ", ".join(sorted(TABLE_SUFFIXES))
        raise UserError(f"{str(path)!r} is no data file; give a folder or a file that ends in {kinds}")
    if (path / "recipe.yaml").is_file() and (path / "log.jsonl").is_file():
        raise UserError(
            f"{str(path)!r} is the folder of a run, whose images are distilled ones; its recipe names the real ones: "
            f"--recipe {path / 'recipe.yaml'}"
        )
    found, digest, tables = Found(), hashlib.sha256(), []
    entries = [(path.name, path)] if path.is_file() else walk(path, found)
    for relative, entry in entries:  # there may be millions: nothing is kept of each
        digest.update(facts_of(relative, entry).line)
        if suffix_of(relative) in TABLE_SUFFIXES:
            tables.append(relative)
    digest.update(f"{found.dangling.count}{sorted(found.folders)}".encode())  # an empty folder may be a class
    root, read = path if path.is_dir() else path.parent, lambda: _open_local(path, settings)
    if any(suffix_of(table) not in (".parquet", ".arrow") or not holds_images(root / table) for table in tables):
        parts = read()  # the files that a table names may lie anywhere; they belong to the contents
        read = lambda: parts  # noqa: E731
        for file in named_facts(parts):
            digest.update(file.line)
    contents = {"kind": "files", "root": str(root.resolve()), "files": digest.hexdigest()}
    hidden = (f"hidden files and folders: {found.hidden}",) if found.hidden else ()
    return DataSource(path.resolve().name, str(path), settings, contents, read, hidden)


def _open_local(path: Path, settings: DataSettings) -> RawSplits:
    """Parts of a file or folder: a saved data set, tables, a metadata file beside images, or class folders."""
    from ddistill.data.folders import looks_like_classes, open_folders
    from ddistill.data.tables import open_files, open_saved

    if path.is_file():
        return open_files(path, path.parent, [path.name], settings)
    found = find_files(path)
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    if saved and any(suffix_of(table) == ".arrow" for table in found.tables):
        return open_saved(path, settings)
    where = repr(str(path))
    whole = [table for table in found.tables if suffix_of(table) in (".parquet", ".arrow")]
    metadata = [table for table in found.tables if _is_metadata(table)]
    homes = {PurePosixPath(image).parent for image in found.images}
    flat = all(is_part_word(home.name) for home in homes) and len({home.parent for home in homes}) == 1
    tables = metadata if metadata and found.images else whole or found.tables
    classes = looks_like_classes(found.images) and not metadata
    fault = _fault(path, tables, settings) if classes and tables else None
    readable = bool(tables) and fault is None
    folders = classes and not (flat and readable)
    if folders and (whole or readable):
        raise UserError(
            f"{where} has folders of images, such as {found.images[0]!r}, and the table {listed(tables)}, which has "
            f"images or names them, too; give the path of the table to take it, or move it elsewhere to take the others"
        )
    if folders:
        tables = []
    unread = Tally()
    for table in found.tables:
        if table not in tables:
            unread.add(table)
    other = unread.said("table that was not asked for", "tables that were not asked for")
    if fault and not tables and _mentions(path, found):
        other = (*other, f"labels of the images from a table, which cannot be taken: {fault}")
    try:
        parts = (
            open_files(path, path, tables, settings, found.images) if tables else open_folders(path, found, settings)
        )
    except UserError as error:
        raise UserError("; left out: ".join((str(error), *other[1:]))) from error
    return replace(parts, left_out=(*parts.left_out, *other, *replace(found, hidden=0).left_out))


def _is_metadata(table: str) -> bool:
    """Whether `datasets` takes a file for the metadata of the images beside it."""
    name = Path(table)
    return name.stem.lower() == "metadata" and name.suffix.lower() != ".arrow"


def _fault(path: Path, tables: list[str], settings: DataSettings) -> str | None:
    """Why tables cannot be read as images and labels; None: they can."""
    from ddistill.data.tables import open_files

    try:
        open_files(path, path, tables, settings)
    except UserError as error:
        return str(error)
    return None


def _mentions(path: Path, found: Found) -> bool:
    """Whether a table, however it is written, holds the name of an image beside it."""
    names = [PurePosixPath(image).name.encode() for image in found.images[:100]]
    for table in found.tables:
        with (path / table).open("rb") as file:
            text = file.read(1 << 20)
        if any(name in text for name in names):
            return True
    return False


def _object(source: Any, settings: DataSettings) -> DataSource:
    from ddistill.data.in_memory import open_datasets
    from ddistill.data.tables import is_table, open_tables

    left_out: tuple[str, ...] = ()
    if isinstance(source, dict) and not is_table(source):
        train_name, test_name = choose_splits("the dictionary", [str(name) for name in source], settings)
        left_out = unused(map(str, source), train_name, test_name)
        settings = settings.model_copy(update={"train_split": None, "test_split": None})
        train, test = source[train_name], source[test_name] if test_name is not None else None
    elif isinstance(source, tuple):
        if len(source) != 2:
            raise UserError(f"a tuple of data sets must be (train, test); this one has {len(source)} items")
        train, test = source
    else:
        train, test = source, None
    name = type(train).__name__.lower()
    if is_table(train):
        return DataSource(
            name, type(train).__name__, settings, None, lambda: open_tables(train, test, settings), left_out
        )
    for part in (train, test):
        if (part is not None or part is train) and not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
            raise UserError(
                f"cannot read data from {type(part).__name__!r}: give a name, a path, "
                f"a map-style data set of (image, label), or a tuple (train, test) of two"
            )
    refuse_options("a data set object", settings, *COLUMNS, "train_split", "test_split")
    return DataSource(name, type(train).__name__, settings, None, lambda: open_datasets(train, test), left_out)

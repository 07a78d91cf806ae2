"""Tables with a column of images, or of their files, and one of labels: parquet, arrow, csv, `datasets` objects."""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddistill.data.columns import (
    LABEL_NAMES,
    Table,
    base_of,
    described,
    folder_names,
    group_column,
    image_column,
    label_column,
    label_values,
    names_files,
    refuse_missing,
    refuse_other_kinds,
    split_names,
)
from ddistill.data.files import FileFacts, Tally, facts_of, image_suffixes, suffix_of
from ddistill.data.labels import Labels, listed
from ddistill.data.pixels import Encoded
from ddistill.data.settings import DataSettings
from ddistill.data.splits import (
    RawSplit,
    RawSplits,
    choose_splits,
    is_part_word,
    part_word,
    refuse_unknown,
    role_of,
    unused,
)
from ddistill.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

ROWS_AT_ONCE = 256
SEPARATORS = ",;\t|"
"""Of the values of a line."""
_SHARD = re.compile(r"(.*?)[-_. ]?(\d+)[-_]of[-_](\d+)(.*)")
_NUMBER = re.compile(r"[-_. ]*\d+$")
WHOLE = r"-?(?:0|[1-9]\d*)(?:\.0*)?"
"""A whole number as text, not 007 and not 1.10."""


def open_saved(path: Path, settings: DataSettings) -> RawSplits:
    """Parts of a folder that `save_to_disk` wrote."""
    import datasets

    where = repr(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{where} cannot be read as a saved data set: {one_line(error)}") from error
    parts = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    tables = {name: _dataset_table(part, path, f"the saved part {name!r}") for name, part in parts.items()}
    return _parts(where, _by_rows(where, tables, settings), settings)


def open_files(
    path: Path, root: Path, files: list[str], settings: DataSettings, images: list[str] | None = None
) -> RawSplits:
    """Parts of tables, given by their paths below ``root``; file and folder names or a column tell the parts.

    Args:
        path: as the user gave it.
        root: the folder.
        files: the tables.
        settings: the user's.
        images: image files below the root, of which those that no table names are reported.

    Raises:
        UserError: tables that cannot be read, or whose parts, images or labels cannot be told.
    """
    where = repr(str(path))
    kinds = {suffix_of(file) for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"{where} has tables of several kinds: {', '.join(sorted(kinds))} ({listed(files)}); give the path of one"
        )
    notes = _missing_shards(where, files, settings)
    groups: dict[str | None, list[str]] = defaultdict(list)
    for file in files:
        groups[None if path.is_file() else part_name(file, settings)].append(file)
    groups = _by_stem(groups)
    unknown = groups.pop(None, [])
    left_out: tuple[str, ...] = ()
    if unknown and groups:
        names = [name for name in groups if name is not None]
        refuse_unknown(where, f"file{'s' if len(unknown) > 1 else ''}", unknown, names, settings)
        left_out = (f"{len(unknown)} files whose part is unknown: {listed(unknown)}",)
    elif unknown:
        groups["train"] = unknown
    tables: dict[str, Table] = {}
    divided = groups.get("train") is unknown
    for name in ["train"] if divided else filter(None, choose_splits(where, list(map(str, groups)), settings)):
        folders = sorted({str(Path(file).parent) for file in groups[name]})
        if len(folders) > 1 and not any("=" in folder for folder in folders):
            raise UserError(
                f"{where} has files of the part {name!r} in the folders {listed(folders)}; give one of them"
            )
        tables[name] = replace(_file_table(root, groups[name], settings.label_column), part="" if divided else name)
    if divided:
        tables = _divided(where, tables["train"], settings)
    else:
        _check_split_column(where, tables, settings)
    parts = _parts(where, tables, settings, tuple(tables) if divided else tuple(map(str, groups)))
    named = _not_named(root, parts, images) if images else ()
    return replace(parts, notes=(*notes, *parts.notes), left_out=(*left_out, *named, *parts.left_out))


def _stem(file: str) -> str:
    """The name of a file without its ending and without what numbers the shards."""
    shard = _SHARD.fullmatch(Path(file).stem)
    return shard[1] if shard else Path(file).stem


def part_name(file: str, settings: DataSettings | None = None) -> str | None:
    """The part that a file belongs to, by its name in the hub's layout, else by its folders or the words in its name.

    >>> [part_name(f) for f in ("data/train-00000-of-00002.parquet", "Test/part7.parquet", "my_val.parquet", "x.arrow")]
    ['train', 'Test', 'val', None]
    """
    path = Path(file)
    asked = {settings.train_split, settings.test_split} if settings else set()
    shard, base = _SHARD.fullmatch(path.stem), _stem(file)
    if base in asked:
        return base
    folders = [folder.partition("=")[2] or folder for folder in reversed(path.parts[:-1])]
    if shard and base and base != "data" and (role_of(base) or not any(map(is_part_word, folders))):
        return base
    if is_part_word(base):
        return base
    within = next((folder for folder in folders if is_part_word(folder) or folder in asked), None)
    return within or part_word(base)


def _by_stem(groups: dict[str | None, list[str]]) -> dict[str | None, list[str]]:
    """Files of one part by the whole of their names where these differ in more than a number: train_full, train_small.

    What lies in a folder of the part belongs to it whatever its name is.
    """
    parted: dict[str | None, list[str]] = defaultdict(list)
    for name, files in groups.items():
        stems = {file: _NUMBER.sub("", _stem(file)) for file in files}
        named = {file for file in files if role_of(stems[file]) and name not in Path(file).parts[:-1]}
        several = len({stems[file] for file in named}) > 1
        for file in files:
            parted[stems[file] if several and file in named else name].append(file)
    return parted


def _missing_shards(where: str, files: list[str], settings: DataSettings) -> tuple[str, ...]:
    """Refuse shards of which some are missing; a line about them where the user accepts that."""
    shards: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for file in files:
        match = _SHARD.fullmatch(Path(file).stem)
        if match:
            head = str(Path(file).parent / match[1]) if match[1] else str(Path(file).parent)
            shards[(head, match[3])].add(int(match[2]))
    missing = []
    for (head, total), there in shards.items():
        first = 1 if int(total) in there and 0 not in there else 0
        gone = sorted(set(range(first, int(total) + first)) - there)
        if gone:
            names = [f"{Path(head).name}-{number:0{len(total)}d}-of-{total}" for number in gone]
            missing.append(f"{len(gone)} of the {int(total)} files {Path(head).name!r} ({listed(names)})")
    if missing and settings.missing_shards is None:
        raise UserError(
            f"{where} lacks {'; '.join(missing)}: fetch them, or read what is there with data.missing_shards=accept"
        )
    return tuple(f"the data are not whole: {line} are missing" for line in missing)


def _divided(where: str, table: Table, settings: DataSettings) -> dict[str, Table]:
    """Parts of one table by a column that tells them, or by the folders of the files that it names."""
    found = split_names(where, table, settings)
    if found is not None:
        return table.divided(found[1], f"rows where {found[0]!r} is", found[0])
    column = image_column(where, table, settings.image_column)
    names = folder_names(where, table, column, settings) if names_files(table, column) else None
    return table.divided(names, "files in the folder") if names else {"train": table}


def _by_rows(where: str, tables: dict[str, Table], settings: DataSettings) -> dict[str, Table]:
    """Parts of tables whose rows may tell theirs: of the only one, if it is the training part; else both must agree."""
    (first, *others) = tables
    if not others and role_of(first) in ("train", None):
        divided = _divided(where, tables[first], settings)
        return tables if list(divided) == ["train"] and divided["train"] is tables[first] else divided
    chosen = [name for name in choose_splits(where, list(tables), settings) if name is not None]
    _check_split_column(where, {name: tables[name] for name in chosen}, settings)
    return tables


def _check_split_column(where: str, tables: dict[str, Table], settings: DataSettings) -> None:
    """Refuse files of one part that hold rows of another, by a column that tells the part."""
    for name, table in tables.items():
        found = split_names(where, table, settings, parted=True)
        strange = {row for row in found[1] if row is not None and role_of(row) != role_of(name)} if found else set()
        if found and strange:
            raise UserError(
                f"{where}: the part {name!r} holds rows whose column {found[0]!r} says "
                f"{listed(sorted(strange))}; give the path of one table, or take the column out"
            )


def _not_named(root: Path, parts: RawSplits, images: list[str]) -> tuple[str, ...]:
    """A line about image files that no row names."""
    named = {os.path.realpath(path) for path in named_files(parts)}
    if not named:
        return ()
    tally = Tally()
    for image in images:
        if os.path.realpath(root / image) not in named:
            tally.add(image)
    rows = "no row of the training or the test part names"
    return tally.said(f"image that {rows}", f"images that {rows}")


def named_files(parts: RawSplits) -> Iterator[Path]:
    """Files that the images of a source lie in, as far as its tables name them."""
    for part in (parts.train, parts.test):
        if part is not None and isinstance(part.read, _Reader):
            yield from part.read.paths()


def named_facts(parts: RawSplits) -> Iterator[FileFacts]:
    """Those files as they are now."""
    return (facts_of(str(path), path) for path in named_files(parts))


def is_table(value: Any) -> bool:
    """Whether a value is a `datasets` Dataset or DatasetDict, found without importing that library."""
    return type(value).__module__.split(".")[0] == "datasets"


def open_tables(train: Any, test: Any | None, settings: DataSettings, where: str | None = None) -> RawSplits:
    """Parts of `datasets` objects: one or two Datasets, or a DatasetDict; ``where`` is the name for messages."""
    where = where or f"the {type(train).__name__}"
    if isinstance(train, dict):
        found = train if test is None else {**train, "test": test}
    else:
        found = {"train": train} if test is None else {"train": train, "test": test}
    for name, part in found.items():
        if not hasattr(part, "data") or isinstance(part, dict):
            raise UserError(f"cannot read data from {type(part).__name__!r}; give a Dataset that is not streamed")
        if (getattr(part, "format", None) or {}).get("type") == "custom":
            raise UserError(
                f"part {name!r} of {where} has a transform, which would not be applied: give it without one, "
                f"dataset.with_format(None), or with the transform applied by dataset.map"
            )
    tables = {name: _dataset_table(part, Path(), f"part {name!r} of {where}") for name, part in found.items()}
    return _parts(where, _by_rows(where, tables, settings), settings)


def _dataset_table(dataset: Any, folder: Path, origin: str) -> Table:
    import pyarrow.dataset

    flat = dataset.flatten_indices() if dataset._indices is not None else dataset
    return Table(pyarrow.dataset.dataset(flat.data.table), flat.features, folder, origin)


def _file_table(root: Path, files: list[str], labels: str | None = None) -> Table:
    """The rows of some files; ``labels`` is their column, where the user named it."""
    import datasets
    import pyarrow as pa
    import pyarrow.dataset

    paths = [str(root / file) for file in files]
    suffix = suffix_of(files[0])
    with _reading(f"the table {listed(paths)}"):
        if suffix == ".parquet":
            hive = (
                {"partitioning": "hive", "partition_base_dir": str(root)} if "=" in str(Path(files[0]).parent) else {}
            )
            rows = pyarrow.dataset.dataset(paths, format="parquet", **hive)
            schemas = [fragment.physical_schema for fragment in rows.get_fragments()] if len(paths) > 1 else []
        else:
            tables = [_read_table(path, suffix, labels) for path in paths]
            rows, schemas = pyarrow.dataset.dataset(pa.concat_tables(tables)), [table.schema for table in tables]
        features = datasets.Features.from_arrow_schema(rows.schema)
        shards = tuple(zip(files, map(datasets.Features.from_arrow_schema, schemas), strict=False))
    return Table(rows, features, (root / files[0]).parent, listed(files), shards=shards)


def _read_table(path: str, suffix: str, labels: str | None = None) -> pa.Table:
    import pyarrow as pa

    if suffix in (".csv", ".tsv"):
        frame = _read_csv(path, "\t" if suffix == ".tsv" else ",", labels)
        if any(suffix_of(str(name)) in image_suffixes() for name in frame.columns):
            raise UserError(
                f"the first line of the table {path!r} names no columns but a file, {listed(map(str, frame.columns))}: "
                f"put a line of column names above it, such as file_name,label"
            )
        return pa.Table.from_pandas(frame, preserve_index=False)
    if suffix == ".jsonl":
        import pyarrow.json

        return pyarrow.json.read_json(path)
    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def _read_csv(path: str, separator: str, labels: str | None = None) -> pandas.DataFrame:
    """The rows of a csv file, whichever separator its first line has; spaces around one are none of a value's.

    Text is what is written, so that NA is a class like others. Labels are numbers only where all of them are whole.

    Raises:
        UserError: it is not written in UTF-8.
    """
    import pandas

    def read(**options: Any) -> pandas.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pandas.errors.ParserWarning)  # of what a line has beyond its last column
            return pandas.read_csv(path, sep=separator, skipinitialspace=True, **options)

    try:
        frame, options = read(), {}
        others = [mark for mark in SEPARATORS if frame.shape[1] == 1 and mark in str(frame.columns[0])]
        if others:
            separator = others[0]
            frame = read()
    except UnicodeError:
        raise UserError(
            f"the table {path!r} is not written in UTF-8; save it so (in a spreadsheet: CSV UTF-8)"
        ) from None
    if not isinstance(frame.index, pandas.RangeIndex) and frame.iloc[:, -1].isna().all():
        options = {"index_col": False}  # lines end in a separator, so that the first value was taken for a row's name
        frame = read(**options)
    text = read(dtype=str, keep_default_na=False, **options)
    for name in frame.columns:
        values, there = frame[name], frame[name].notna()
        if pandas.api.types.is_bool_dtype(values):
            continue
        if pandas.api.types.is_numeric_dtype(values) and there.any():
            labelled = name.strip() == labels or name.strip().casefold() in LABEL_NAMES
            if _are_codes(text[name][there], labelled):
                frame[name] = text[name].where(there)
        elif values[there].map(type).eq(str).all():
            written = text[name].str.strip()
            frame[name] = written.where(written != "")
    frame.columns = frame.columns.str.strip()
    return frame


def _are_codes(text: pandas.Series[str], labels: bool) -> bool:
    """Whether the values of a column are no numbers, though they look so: 007 and 010, all of one length; of labels
    also 1.10, and 7 beside 007."""
    if labels:
        return not text.str.fullmatch(WHOLE).all()
    return bool(text.str.match(r"0\d").any() and text.str.len().nunique() == 1)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn errors of damaged tables into a UserError."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{what} cannot be read: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The text of an error without line breaks, cut to 200 characters."""
    return " ".join(str(error).split())[:200]


def holds_images(path: Path) -> bool:
    """Whether a parquet or arrow file holds its images itself, so that no file that it names can change."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if suffix_of(path.name) == ".arrow":
            table = _read_table(str(path), ".arrow")
            structs = [column for column in table.columns if pa.types.is_struct(column.type)]
            flat = [leaf for column in structs for chunk in column.chunks for leaf in chunk.flatten()]
            return any(pa.types.is_binary(leaf.type) and not leaf.null_count for leaf in [*flat, *table.columns])
        about = pyarrow.parquet.read_metadata(path)
        for number in range(about.num_columns):
            groups = [about.row_group(group).column(number) for group in range(about.num_row_groups)]
            if groups and groups[0].physical_type == "BYTE_ARRAY" and groups[0].path_in_schema.endswith("bytes"):
                return all(group.statistics is not None and group.statistics.null_count == 0 for group in groups)
        kinds = about.schema.to_arrow_schema()
        return any(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) for field in kinds)
    except (OSError, ValueError, pa.ArrowException):
        return True  # damaged: whoever opens it says so


def _parts(where: str, tables: dict[str, Table], settings: DataSettings, available: tuple[str, ...] = ()) -> RawSplits:
    available = available or tuple(tables)
    train_name, test_name = choose_splits(where, list(available), settings)
    table = tables[train_name]
    with _reading(f"the table of {where}"):
        images = image_column(where, table, settings.image_column)
        parting = {name for name in table.features if name.casefold() in ("split", "splits")}
        taken = {images, table.split, settings.split_column, *parting}
        if settings.label_column is None:
            taken.add(settings.group_column)
        column, others = label_column(where, table, settings.label_column, taken)
        grouping = group_column(where, table, settings.group_column, column)
    for labels in filter(None, (column, grouping)):
        refuse_other_kinds(where, table, labels)
    _refuse_lacking(table, images, column)
    mode = getattr(table.features[images], "mode", None)
    if mode and settings.channels is None:
        raise UserError(
            f"column {images!r} of {where} declares images of mode {mode!r}, which is not applied; say what is meant "
            f"with data.channels=1 (grey) or data.channels=3 (RGB)"
        )
    made = [_part(where, train_name, table, images, column)]
    if grouping is not None:
        made = [replace(made[0], groups=label_values(train_name, table, grouping))]
    if test_name:
        other = tables[test_name]
        for needed in (images, column):
            if needed not in other.features:
                raise UserError(
                    f"{where} has no column {needed!r} in its {test_name!r} part; it has {described(other)}; name "
                    f"another part with data.test_split=NAME, or give the training part alone, with "
                    f"data.test_fraction=0.2"
                )
        refuse_other_kinds(where, other, column)
        _refuse_lacking(other, images, column)
        made.append(_part(where, test_name, other, images, column))
    labels_from = f"column {column!r}"
    if others:
        labels_from += f" (data.label_column chooses another: {', '.join(others[:5])})"
    if grouping is not None:
        labels_from += f", their groups from column {grouping!r}"
    left_out = unused(available, train_name, test_name)
    notes = _named_twice(made)
    return RawSplits(made[0], made[1] if test_name else None, available, labels_from, left_out, notes)


def _refuse_lacking(table: Table, *columns: str) -> None:
    """A UserError for a file of a part without a column that another file of it has."""
    for file, features in table.shards:
        for column in columns:
            if column not in features and f"{column}=" not in file:  # a folder's name may give it
                raise UserError(
                    f"{file!r} has no column {column!r}, which other files of its part have; it has "
                    f"{listed(list(features), 6)}; call its columns as theirs are, or move it elsewhere"
                )


def _named_twice(parts: list[RawSplit]) -> tuple[str, ...]:
    """Lines about files that several rows name, of one part or of both."""
    readers = [part.read for part in parts if isinstance(part.read, _Reader) and part.read.by_name]
    files = [list(map(str, reader.paths())) for reader in readers]
    lines = []
    for part, names in zip(("training", "test"), files, strict=False):
        again = len(names) - len(set(names))
        if again:
            lines.append(f"{again} rows of the {part} part name a file that another one names, too")
    both = sorted(set(files[0]) & set(files[1])) if len(files) > 1 else []
    if both:
        lines.append(f"{len(both)} files are in the training part and in the test part, too: {listed(both)}")
    return tuple(lines)


def _part(where: str, name: str, table: Table, images: str, column: str) -> RawSplit:
    with _reading(f"column {column!r} of {where}"):
        labels = label_values(name, table, column)
    by_name = names_files(table, images)
    if by_name:
        folder = base_of(table, images)
        if folder is None:
            refuse_missing(where, table, images)
        table = replace(table, folder=folder)
        _refuse_two_labels(where, table, images, labels)
    return RawSplit(labels, _Reader(where, table, images, name, by_name), table.origin)


def _refuse_two_labels(where: str, table: Table, images: str, labels: Labels) -> None:
    """A UserError for a file that two rows name with different labels."""
    seen: dict[str, int] = {}
    for name, label in zip(table.column(images).to_pylist(), labels.values.tolist(), strict=True):
        if seen.setdefault(str(name), label) != label:
            raise UserError(f"the table of {where} names the file {name!r} twice, with different labels")


class _Reader:
    """Reads images of rows of a table."""

    def __init__(self, where: str, table: Table, column: str, part: str, by_name: bool) -> None:
        self.where, self.table, self.column, self.part, self.by_name = where, table, column, part, by_name

    def __call__(self, rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
        wanted_rows = rows if self.table.chosen is None else self.table.chosen[rows]
        start = 0
        for batch in self._batches():
            first, last = np.searchsorted(wanted_rows, [start, start + len(batch)])
            wanted = wanted_rows[first:last]
            if wanted.size:
                for row, value in zip(wanted.tolist(), batch.take(wanted - start).to_pylist(), strict=True):
                    yield self._named(row, value)
            start += len(batch)
            if start > (wanted_rows[-1] if wanted_rows.size else -1):
                return

    def paths(self) -> Iterator[Path]:
        """The files that images of this part lie in; none of images that the table itself holds."""
        import pyarrow.compute as compute
        import pyarrow.types as types

        names = self.table.column(self.column)
        if types.is_struct(names.type):
            fields = {field.name for field in names.type}
            names = names.filter(compute.is_null(compute.struct_field(names, "bytes"))) if "bytes" in fields else names
            names = compute.struct_field(names, "path") if "path" in fields else names[:0]
        elif not self.by_name:
            return iter(())
        return (self.table.folder / str(name) for name in names.to_pylist() if name)

    def _batches(self) -> Iterator[pa.Array]:
        # Little is read ahead, so that memory holds some row groups and not the set.
        options: dict[str, Any] = {"batch_size": ROWS_AT_ONCE, "batch_readahead": 2, "fragment_readahead": 1}
        batches = self.table.rows.to_batches(columns=[self.column], **options)
        with _reading(f"column {self.column!r} of {self.where}"):
            for batch in batches:
                yield batch.column(0)

    def _named(self, row: int, value: Any) -> tuple[str, Encoded]:
        """A name for messages, and the image's bytes or file; an empty value is unreadable, which decoding finds."""
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(content, str):
            content, path = None, content
        name = f"row {row} of {self.part!r}" + (f" ({path!r})" if path else "")
        if content is None and path:
            return name, self.table.folder / path
        return name, content or b""

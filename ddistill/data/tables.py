"""Tables with a column of images and a column of labels: parquet and arrow files, `datasets` objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddistill.data.images import Encoded
from ddistill.data.labels import check_labels, listed
from ddistill.data.settings import DataSettings
from ddistill.data.sources import TEST_NAMES, Part, Parts, choose_parts
from ddistill.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SUFFIXES = {".parquet", ".arrow"}
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Table:
    """Columns of one part: ``rows`` is a pyarrow data set, ``features`` says what each column means.

    ``folder`` is where relative paths of images start, for columns that hold paths in place of bytes.
    """

    rows: Any
    features: Any
    folder: Path


def open_saved(path: Path, settings: DataSettings) -> Parts:
    """Parts of a folder that `save_to_disk` wrote."""
    import datasets

    where = repr(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{where} cannot be read as a saved data set: {one_line(error)}") from error
    parts = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    return _parts(where, {name: _dataset_table(part, path) for name, part in parts.items()}, settings)


def open_files(path: Path, root: Path, files: list[str], settings: DataSettings) -> Parts:
    """Parts of parquet or arrow files, given by their paths below ``root``; file and folder names tell the parts."""
    where = repr(str(path))
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(part_name(file), []).append(file)
    if path.is_file():
        groups = {"train": files}
    chosen = [name for name in choose_parts(where, list(groups), settings) if name]
    for name in chosen:
        folders = sorted({str(Path(file).parent) for file in groups[name]})
        if len(folders) > 1:
            raise UserError(
                f"{where} has files of the part {name!r} in the folders {listed(folders)}; give one of them"
            )
    tables = {name: _file_table(root, groups[name]) for name in chosen}
    return _parts(where, tables, settings, tuple(groups))


def part_name(file: str) -> str:
    """The part that a file belongs to, by its name in the hub's layout, else by its folder.

    >>> [part_name(f) for f in ("data/train-00000-of-00002.parquet", "test/part7.parquet", "my_val.parquet", "x.arrow")]
    ['train', 'test', 'val', 'train']
    """
    path = Path(file)
    known = ("train", *TEST_NAMES)
    base = re.sub(r"-\d{5}-of-\d{5}.*", "", path.stem)
    if base != path.stem and base != "data":
        return base
    words = [base, *reversed(path.parts[:-1]), *re.split(r"[-_. ]", base)]
    return next((word for word in words if word in known), "train")


def is_table(value: Any) -> bool:
    """Whether a value is a `datasets` Dataset or DatasetDict, found without importing that library."""
    return type(value).__module__.split(".")[0] == "datasets"


def open_tables(train: Any, test: Any | None, settings: DataSettings, where: str | None = None) -> Parts:
    """Parts of `datasets` objects: one or two Datasets, or a DatasetDict; ``where`` is the name for messages."""
    where = where or f"the {type(train).__name__}"
    if isinstance(train, dict):
        tables = train if test is None else {**train, "test": test}
    else:
        tables = {"train": train} if test is None else {"train": train, "test": test}
    for part in tables.values():
        if not hasattr(part, "data"):
            raise UserError(f"cannot read data from {type(part).__name__!r}; give a Dataset that is not streamed")
    return _parts(where, {name: _dataset_table(part, Path()) for name, part in tables.items()}, settings)


def _dataset_table(dataset: Any, folder: Path) -> Table:
    import pyarrow.dataset

    flat = dataset.flatten_indices() if dataset._indices is not None else dataset
    return Table(pyarrow.dataset.dataset(flat.data.table), flat.features, folder)


def _file_table(root: Path, files: list[str]) -> Table:
    import datasets
    import pyarrow as pa
    import pyarrow.dataset

    paths = [str(root / file) for file in files]
    with _reading(f"the table {listed(paths)}"):
        if paths[0].lower().endswith(".parquet"):
            rows = pyarrow.dataset.dataset(paths, format="parquet")
        else:
            rows = pyarrow.dataset.dataset(pa.concat_tables([_arrow_table(path) for path in paths]))
        return Table(rows, datasets.Features.from_arrow_schema(rows.schema), root)


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


def _arrow_table(path: str) -> pa.Table:
    import pyarrow as pa

    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def one_line(error: Exception) -> str:
    """The text of an error without line breaks, cut to 200 characters."""
    return " ".join(str(error).split())[:200]


def _parts(where: str, tables: dict[str, Table], settings: DataSettings, available: tuple[str, ...] = ()) -> Parts:
    available = available or tuple(tables)
    train_name, test_name = choose_parts(where, list(available), settings)
    table = tables[train_name]
    image_column = _find_column(where, table, "image", settings.image_column)
    label_column = _find_column(where, table, "label", settings.label_column)
    names, train = _labels(where, train_name, table, label_column, None)
    parts = [Part(train, _reader(where, table, image_column, train_name))]
    if test_name:
        other = tables[test_name]
        for column in (image_column, label_column):
            if column not in other.features:
                raise UserError(f"{where} has no column {column!r} in its {test_name!r} part; it has {_columns(other)}")
        _, test = _labels(where, test_name, other, label_column, names)
        parts.append(Part(test, _reader(where, other, image_column, test_name)))
    return Parts(names, parts[0], parts[1] if test_name else None, available)


def _columns(table: Table) -> str:
    return ", ".join(f"{field.name} ({_type_name(table, field)})" for field in table.rows.schema)


def _type_name(table: Table, field: Any) -> str:
    feature = table.features[field.name]
    return type(feature).__name__ if type(feature).__name__ in ("Image", "ClassLabel") else str(field.type)


def _find_column(where: str, table: Table, kind: str, named: str | None) -> str:
    candidates = _candidates(table, kind)
    if named is not None:
        if named not in table.features:
            raise UserError(f"{where} has no column {named!r} (data.{kind}_column); it has {_columns(table)}")
        if named not in _possible(table, kind):
            raise UserError(f"column {named!r} of {where} cannot be its {kind}s; the columns are {_columns(table)}")
        return named
    if not candidates:
        raise UserError(f"{where} has no column of {kind}s; it has {_columns(table)}")
    if len(candidates) > 1:
        raise UserError(
            f"{where} has {len(candidates)} columns that may be its {kind}s: {', '.join(candidates)}; "
            f"name one with data.{kind}_column=NAME"
        )
    return candidates[0]


def _candidates(table: Table, kind: str) -> list[str]:
    """Columns of the likeliest type: declared images before structs before bytes; numbered labels before text."""
    ranks = _possible(table, kind)
    return [name for name, rank in ranks.items() if rank == min(ranks.values())]


def _possible(table: Table, kind: str) -> dict[str, int]:
    rank = _image_rank if kind == "image" else _label_rank
    ranks = {field.name: rank(table.features[field.name], field.type) for field in table.rows.schema}
    return {name: value for name, value in ranks.items() if value is not None}


def _image_rank(feature: Any, kind: pa.DataType) -> int | None:
    import pyarrow.types as types

    if type(feature).__name__ == "Image":
        return 0
    if types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind):
        return 1
    return 2 if _is_bytes(kind) else None


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _label_rank(feature: Any, kind: pa.DataType) -> int | None:
    import pyarrow.types as types

    if type(feature).__name__ == "ClassLabel" or types.is_integer(kind):
        return 0
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return 1 if types.is_string(kind) or types.is_large_string(kind) else None


def _labels(
    where: str, part: str, table: Table, column: str, names: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Class names (None for bare numbers) and labels int64 [n]; ``names`` are those of the train part."""
    with _reading(f"column {column!r} of {where}"):
        values = table.rows.to_table(columns=[column]).column(column)
    if values.null_count:
        raise UserError(f"column {column!r} of {where} has {values.null_count} empty labels in its {part!r} part")
    if _label_rank(table.features[column], values.type) == 1:
        return _text_labels(where, part, values.to_pylist(), names)
    labels = values.to_numpy().astype(np.int64)
    declared = getattr(table.features[column], "names", None)
    check_labels(where, part, labels, declared)
    if declared and names and tuple(declared) != names:
        return names, _matched(where, part, tuple(declared), labels, names)
    return (tuple(declared) if declared else None), labels


def _text_labels(
    where: str, part: str, values: list[str], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    own, labels = np.unique(np.array(values, dtype=object), return_inverse=True)
    declared = tuple(str(name) for name in own)
    return (
        (declared, labels.astype(np.int64))
        if names is None
        else (names, _matched(where, part, declared, labels, names))
    )


def _matched(where: str, part: str, own: tuple[str, ...], labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Labels of another part, whose classes are ``own``, by the train part's class names."""
    used = [own[c] for c in np.unique(labels).tolist()]
    unknown = [name for name in used if name not in names]
    if unknown:
        raise UserError(f"{where} has the label {listed(unknown)} in its {part!r} part but not in its train part")
    table = np.array([names.index(name) if name in names else -1 for name in own], dtype=np.int64)
    return table[labels]


def _reader(where: str, table: Table, column: str, part: str) -> Callable[[np.ndarray], Iterator[tuple[str, Encoded]]]:
    def read(rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
        start = 0
        for batch in _batches(where, table, column):
            first, last = np.searchsorted(rows, [start, start + len(batch)])
            wanted = rows[first:last]
            if wanted.size:
                for row, value in zip(wanted.tolist(), batch.take(wanted - start).to_pylist(), strict=True):
                    yield _named(part, row, value, table.folder)
            start += len(batch)

    return read


def _batches(where: str, table: Table, column: str) -> Iterator[pa.Array]:
    # Little is read ahead, so that memory holds some row groups and not the set.
    batches = table.rows.to_batches(columns=[column], batch_size=ROWS_AT_ONCE, batch_readahead=2, fragment_readahead=1)
    with _reading(f"column {column!r} of {where}"):
        for batch in batches:
            yield batch.column(0)


def _named(part: str, row: int, value: Any, folder: Path) -> tuple[str, Encoded]:
    """A name for messages, and the image's bytes or file; an empty value is unreadable, which decoding finds."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    name = f"row {row} of {part!r}" + (f" ({path!r})" if path else "")
    if content is None and path:
        return name, folder / path
    return name, content or b""

"""Which column of a table holds the images, the labels and the parts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ddistill.data.labels import Labels, labels_of, listed, text_labels
from ddistill.data.settings import DataSettings
from ddistill.data.splits import SPLIT_COLUMNS, SURE_SPLITS, is_part_word, refuse_unknown, role_of
from ddistill.runtime.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_NAMES = ("label", "labels", "class", "target", "category", "y", "fine_label")
FILE_NAMES = {"file", "filename", "filepath", "path", "image", "img"} | {
    f"{of}_{what}" for of in ("file", "image", "img") for what in ("name", "path", "file")
}
COLUMNS_SHOWN = 20
SAMPLED = 10_000
"""Rows that tell whether the values of a column come again."""
LOOKED_AT = 20
"""Rows whose files are looked for, to tell whether a column of text names files."""


@dataclass(frozen=True)
class Table:
    """Columns of one part.

    Attributes:
        rows: a pyarrow data set.
        features: what each column means.
        folder: where relative paths of images start, for columns that hold paths in place of bytes.
        origin: in words, where it came from.
        chosen: rows of this part, int64 ascending; None: all.
        split: the column that tells the part of each row, where one did.
        part: name of the part that its files are of, where that is known.
        shards: what each column means in each of its files, by name, where it has several.
    """

    rows: Any
    features: Any
    folder: Path
    origin: str
    chosen: np.ndarray | None = None
    split: str | None = None
    part: str = ""
    shards: tuple[tuple[str, Any], ...] = ()

    def column(self, name: str) -> pa.ChunkedArray:
        """The values of a column in the rows of this part."""
        values = self.rows.to_table(columns=[name]).column(name)
        return values if self.chosen is None else values.take(self.chosen)

    def divided(self, names: list[str | None], how: str, split: str | None = None) -> dict[str, Table]:
        """Tables by the name of each row's part, as ``how`` says in words or the column ``split`` tells."""
        places = np.arange(len(names)) if self.chosen is None else self.chosen
        index = np.array(names, dtype=object)
        return {
            name: replace(self, chosen=places[index == name], origin=f"{self.origin}, {how} {name!r}", split=split)
            for name in dict.fromkeys(name for name in names if name is not None)
        }


def described(table: Table) -> str:
    """Names and types of the columns, of many the first."""
    found = [f"{field.name} ({_type_name(table, field)})" for field in table.rows.schema]
    more = f" and {len(found) - COLUMNS_SHOWN} more" if len(found) > COLUMNS_SHOWN else ""
    return ", ".join(found[:COLUMNS_SHOWN]) + more


def _type_name(table: Table, field: Any) -> str:
    feature = table.features[field.name]
    return type(feature).__name__ if type(feature).__name__ in ("Image", "ClassLabel") else str(field.type)


def image_column(where: str, table: Table, named: str | None) -> str:
    """The column of images, or of their file names: declared images before structs before bytes before names."""
    ranks = {field.name: _image_rank(table, field) for field in table.rows.schema}
    possible = {name: rank for name, rank in ranks.items() if rank is not None}
    if named is not None:
        fits = named in possible or (named in table.features and _is_text(table.rows.schema.field(named).type))
        _check_named(where, table, "image", named, fits)
        return named
    candidates = [name for name, rank in possible.items() if rank == min(possible.values())]
    called = [
        name for name in table.rows.schema.names if _names_a_file(name) and _is_text(table.rows.schema.field(name).type)
    ]
    if called and not candidates:
        refuse_missing(where, table, called[0])
    return _the_only("images", "image_column", where, table, candidates)


def _check_named(where: str, table: Table, kind: str, named: str, fits: bool) -> None:
    if named not in table.features:
        raise UserError(f"{where} has no column {named!r} (data.{kind}_column); it has {described(table)}")
    if not fits:
        raise UserError(f"column {named!r} of {where} cannot be its {kind}s; the columns are {described(table)}")


def _the_only(what: str, option: str, where: str, table: Table, candidates: list[str]) -> str:
    if not candidates:
        raise UserError(f"{where} has no column of {what}; it has {described(table)}; name it with data.{option}=NAME")
    if len(candidates) > 1:
        raise UserError(
            f"{where} has {len(candidates)} columns that may be its {what}: {', '.join(candidates)}; "
            f"name one with data.{option}=NAME"
        )
    return candidates[0]


def _image_rank(table: Table, field: Any) -> int | None:
    import pyarrow.types as types

    if type(table.features[field.name]).__name__ == "Image":
        return 0
    if types.is_struct(field.type) and _is_image_struct(field.type):
        return 1
    if _is_bytes(field.type):
        return 2
    if not _is_text(field.type):
        return None
    if field.name.casefold() == "file_name":
        return 3
    return 4 if _names_a_file(field.name) and base_of(table, field.name) else None


def _is_image_struct(kind: pa.DataType) -> bool:
    """Whether values hold an image's bytes, or nothing but the path of its file, as those of `datasets` do."""
    import pyarrow.types as types

    fields = {part.name: part.type for part in kind}
    if "bytes" in fields and _is_bytes(fields["bytes"]):
        return True
    no_bytes = "bytes" not in fields or types.is_null(fields["bytes"])
    return set(fields) <= {"bytes", "path"} and "path" in fields and _is_text(fields["path"]) and no_bytes


def _names_a_file(column: str) -> bool:
    """Whether a column is called as those are that name files."""
    return column.casefold() in FILE_NAMES or column.casefold().endswith("file_name")


def refuse_missing(where: str, table: Table, column: str) -> NoReturn:
    """A UserError for a column that names files which are not there."""
    first = next((str(value) for value in table.column(column).to_pylist() if value), "")
    raise UserError(
        f"column {column!r} of {where} names files that are not there, such as {first!r} in {str(table.folder)!r}; "
        f"paths in a table are relative to its folder, with '/' between folders"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def base_of(table: Table, column: str) -> Path | None:
    """The folder in which the files that a column names lie: that of the table, the only one beside it, or the only one
    in these that is called like a part."""
    names = [str(name) for name in table.rows.head(LOOKED_AT, columns=[column]).column(column).to_pylist() if name]
    if not names:
        return None
    if any((table.folder / name).exists() for name in names):
        return table.folder
    beside = _folders_in(table.folder)
    holders = [folder for folder in beside if any((folder / name).exists() for name in names)]
    if not holders:
        within = [path for folder in beside for path in _folders_in(folder) if is_part_word(path.name)]
        holders = [folder for folder in within if any((folder / name).exists() for name in names)]
    if len(holders) > 1 and role_of(table.part):
        holders = [folder for folder in holders if role_of(folder.name) == role_of(table.part)] or holders
    if len(holders) > 1:
        folders = listed(folder.relative_to(table.folder).as_posix() for folder in holders)
        raise UserError(
            f"the file {names[0]!r} that column {column!r} names lies in several folders of {str(table.folder)!r}: "
            f"{folders}; write the folder into the column"
        )
    return holders[0] if holders else None


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name; none in one that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def names_files(table: Table, column: str) -> bool:
    """Whether a column of images holds names of files in place of bytes."""
    return _is_text(table.rows.schema.field(column).type)


def label_column(
    where: str, table: Table, named: str | None, taken: Iterable[str | None]
) -> tuple[str, tuple[str, ...]]:
    """The column of labels, and others that could have been it; ``taken`` are columns of other use.

    Raises:
        UserError: there is none, or several may be meant.
    """
    ranks = {
        field.name: rank
        for field in table.rows.schema
        if field.name not in taken and (rank := _label_rank(table, field)) is not None
    }
    if named is not None:
        _check_named(where, table, "label", named, named in ranks)
        return named, ()
    index = _index_columns(table.rows.schema)
    called = [name for name in table.rows.schema.names if name.casefold() in LABEL_NAMES and name not in taken]
    likely = called or [name for name in ranks if name not in index]
    declared = [name for name in likely if ranks.get(name) == 0]
    likely = declared or likely
    if len(likely) > 1 and not (called or declared):
        likely = [name for name in likely if _may_group(table, name)] or likely
    column = _the_only("labels", "label_column", where, table, likely)
    if column not in ranks:
        kind = table.rows.schema.field(column).type
        raise UserError(
            f"column {column!r} of {where} is of the type {kind}, of which there is no label to be made; name another "
            f"with data.label_column=NAME: {described(table)}"
        )
    others = [name for name in ranks if name != column and name not in index and _may_group(table, name)]
    return column, tuple(others)


def group_column(where: str, table: Table, named: str | None, labels: str) -> str | None:
    """The column of groups that the user named; None where none was.

    Raises:
        UserError: there is none of that name, or it cannot be one, or is that of the labels.
    """
    if named is not None:
        field = table.rows.schema.field(named) if named in table.features else None
        _check_named(where, table, "group", named, field is not None and _label_rank(table, field) is not None)
    if named == labels:
        raise UserError(
            f"data.group_column={named} is the column of labels of {where}: name one of coarser labels, or the finer "
            f"ones with data.label_column=NAME"
        )
    return named


def refuse_other_kinds(where: str, table: Table, column: str) -> None:
    """Refuse labels that mean one thing in one file of a part and another in the next; all are read as one column.

    Raises:
        UserError: numbers, text or truth values beside each other, or other names for the same numbers.
    """
    kinds: dict[str, str] = {}
    names: dict[tuple[str, ...], str] = {}
    for file, features in table.shards:
        kind, listed_names = _kind_of_labels(features[column]) if column in features else ("", ())
        if kind:
            kinds.setdefault(kind, file)
        if listed_names:
            names.setdefault(listed_names, file)
    place = 0
    if len(names) > 1:
        one, other = list(names)[:2]
        place = next(n for n in range(max(map(len, names))) if one[n : n + 1] != other[n : n + 1])
    for found in (
        kinds,
        {f"{listed(own[place : place + 1]) or 'no class'} as {place}": of for own, of in names.items()},
    ):
        if len(found) > 1:
            (one_said, first), (other_said, second) = list(found.items())[:2]
            raise UserError(
                f"column {column!r} of {where} holds {one_said} in {first!r}, but {other_said} in {second!r}: write "
                f"all files of a part with the same labels"
            )


def _kind_of_labels(feature: Any) -> tuple[str, tuple[str, ...]]:
    """The kind of labels in words, empty where it tells nothing, and the names that were declared for them."""
    kind = str(getattr(feature, "dtype", ""))
    words = {"string": "text", "large_string": "text", "bool": "truth values", "null": ""}
    return words.get(kind, "numbers" if kind else ""), tuple(getattr(feature, "names", None) or ())


def _label_rank(table: Table, field: Any) -> int | None:
    """0 for declared classes, 1 for other columns whose values can be labels, None for the rest."""
    import pyarrow.types as types

    kind = field.type
    if type(table.features[field.name]).__name__ == "ClassLabel":
        return 0
    if types.is_integer(kind) or types.is_boolean(kind) or _is_text(kind):
        return 1
    if types.is_floating(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        some = table.rows.head(1000, columns=[field.name]).column(field.name)
        try:
            labels_of(some.to_pylist())
        except UserError:
            return None
        return 1
    return None


def _may_group(table: Table, column: str) -> bool:
    """Whether a column's values come again, as those of classes do and those of names and numbers of images do not."""
    try:
        labels = label_values("", table, column, table.rows.head(SAMPLED, columns=[column]).column(column))
    except UserError:
        return False
    return len(np.unique(labels.values)) <= max(1, len(labels) // 2)


def _index_columns(schema: pa.Schema) -> set[str]:
    """Columns that pandas wrote as the index of its rows."""
    found = {name for name in schema.names if re.fullmatch(r"__index_level_\d+__|Unnamed: \d+", name)}
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return found | {name for name in about.get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):
        return found


def label_values(part: str, table: Table, column: str, values: pa.ChunkedArray | None = None) -> Labels:
    """Labels of a part from a column of any type that can hold them; ``values``: some of the column, None: all."""
    import pyarrow.types as types

    values = table.column(column) if values is None else values
    names = getattr(table.features[column], "names", None)
    if types.is_integer(values.type):
        import pyarrow as pa
        import pyarrow.compute

        try:
            whole = values.cast("int64")
        except pa.ArrowInvalid:
            raise UserError(f"the numbers of column {column!r} are too large for labels") from None
        filled = pyarrow.compute.fill_null(whole, int(np.iinfo(np.int64).min))
        return Labels(filled.to_numpy().astype(np.int64), tuple(names) if names else None)
    if _is_text(values.type):
        return text_labels(values.to_pylist())
    return labels_of(values.to_pylist(), f"row {{}} of the {part!r} part")


def split_names(
    where: str, table: Table, settings: DataSettings, *, parted: bool = False
) -> tuple[str, list[str | None]] | None:
    """The column that tells parts and the part's name for each row; None where there is no such column. ``parted``: the
    part of the table is known."""
    named = settings.split_column
    if named is not None and named not in table.features:
        raise UserError(f"{where} has no column {named!r} (data.split_column); it has {described(table)}")
    asked = {settings.train_split, settings.test_split} - {None}
    called = [name for name in table.rows.schema.names if name.casefold() in SPLIT_COLUMNS]
    for column in [named] if named else called or _columns_of_part_words(table, settings):
        names, sure = getattr(table.features[column], "names", None), column.casefold() in SURE_SPLITS
        values = [None if value is None else str(value) for value in table.column(column).to_pylist()]
        if names:
            values = [names[int(value)] if value is not None else None for value in values]
        values = _in_one_way(values, asked)
        different = list(dict.fromkeys(values))
        known = [name for name in different if name is not None and (role_of(name) or name in asked)]
        if not known and not named and (not sure or (parted and len(different) == 1)):
            continue
        if not known:
            shown = listed(sorted(map(str, different)), 6)
            raise UserError(
                f"column {column!r} of {where} may tell the parts, but none of its values {shown} is a word such as "
                f"train or test: name the parts with data.split_column={column}, data.train_split=VALUE and "
                f"data.test_split=VALUE, or take the column out"
            )
        unknown = ["(empty)" if name is None else name for name in different if name not in known]
        refuse_unknown(where, f"value{'s' if len(unknown) > 1 else ''} of column {column!r}", unknown, known, settings)
        return column, values
    return None


def _in_one_way(values: list[str | None], asked: set[str | None]) -> list[str | None]:
    """Words of parts that differ in capitals or spaces only, written as the first of them; not those asked for."""
    first: dict[str, str] = {}
    for value in dict.fromkeys(values):
        if value is not None and role_of(value) and value not in asked:
            first.setdefault(value.strip().casefold(), value.strip())
    own = {
        value: first.get(value.strip().casefold(), value)
        for value in values
        if value is not None and value not in asked
    }
    return [own.get(value, value) if value is not None else None for value in values]


def _columns_of_part_words(table: Table, settings: DataSettings) -> list[str]:
    """Columns of text whose values are all words of parts, the training part among others; none that may be labels."""
    found = []
    for field in table.rows.schema:
        other_use = field.name.casefold() in LABEL_NAMES or field.name in (settings.label_column, settings.image_column)
        if not _is_text(field.type) or other_use or _names_a_file(field.name):
            continue
        some = table.rows.head(LOOKED_AT, columns=[field.name]).column(field.name).to_pylist()
        if all(value and role_of(str(value)) for value in some):
            values = table.column(field.name).to_pylist()
            roles = {role_of(str(value or "")) for value in set(values)}
            again = 2 * len(set(values)) <= len(values)
            found += [field.name] if again and None not in roles and "train" in roles and len(roles) > 1 else []
    return found


def folder_names(where: str, table: Table, column: str, settings: DataSettings) -> list[str | None] | None:
    """The part's name for each row by the folders in the names of its files; None where no folder is named for one."""
    asked = {settings.train_split, settings.test_split}
    found: list[str | None] = []
    for name in table.column(column).to_pylist():
        folders = PurePosixPath(str(name).replace("\\", "/")).parts[:-1]
        found.append(next((folder for folder in folders if is_part_word(folder) or folder in asked), None))
    if not any(found):
        return None
    if not all(found):
        known = {name for name in found if name}
        refuse_unknown(where, "files in no folder of a part in column", [column], known, settings)
    return found

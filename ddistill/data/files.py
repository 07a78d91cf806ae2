"""The files below a folder: images, tables, and what is neither; links are followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ddistill.data.labels import listed
from ddistill.runtime.errors import UserError, in_words

TABLE_SUFFIXES = {".parquet", ".arrow", ".csv", ".tsv", ".jsonl"}
UNREADABLE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
"""Pillow knows them by name, but reads them with other programs only, or not at all."""
SHOWN = 3


PICTURES = frozenset((".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"))
"""Endings of pictures, of telephones and cameras for example, that Pillow does not read by itself."""


@dataclass(frozen=True)
class FileFacts:
    """A file by its path below the root, size in bytes and time of change in nanoseconds."""

    relative: str
    size: int
    mtime_ns: int

    @property
    def line(self) -> bytes:
        """What changes when the file does."""
        return f"{self.relative}\0{self.size}\0{self.mtime_ns}\n".encode("utf-8", "surrogateescape")


@dataclass
class Tally:
    """Things that are left out: how many, and the names of the first."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < SHOWN:
            self.names.append(name)

    def said(self, one: str, many: str) -> tuple[str, ...]:
        """A line, or none if there is nothing: ``one`` and ``many`` say what it is or they are."""
        if not self.count:
            return ()
        shown = listed(self.names) + (f" and {self.count - len(self.names)} more" if self.count > SHOWN else "")
        return (f"{self.count} {one if self.count == 1 else many}: {shown}",)


@dataclass
class Found:
    """What lies below a folder, paths relative to it, in order of names.

    Attributes:
        images, tables: files by their endings; a file without an ending is an image if it begins like one.
        folders: all folders that are not hidden.
        unread: pictures in formats that are not read.
        other: files that are neither images nor tables.
        dangling: links that lead nowhere.
        hidden: files and folders whose names begin with a dot.
        links: links that were followed.
    """

    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unread: Tally = field(default_factory=Tally)
    other: Tally = field(default_factory=Tally)
    dangling: Tally = field(default_factory=Tally)
    hidden: int = 0
    links: int = 0

    @property
    def not_read(self) -> tuple[str, ...]:
        """A line about pictures in formats that are not read, or none."""
        what, way = "in formats that are not read", "(write them as PNG or JPEG)"
        return self.unread.said(f"picture {what} {way}", f"pictures {what} {way}")

    @property
    def left_out(self) -> tuple[str, ...]:
        """Lines about files that nothing was made of."""
        lines = (
            *self.not_read,
            *self.other.said("file that is no image", "files that are no images"),
            *self.dangling.said("link that leads nowhere", "links that lead nowhere"),
        )
        return (*lines, f"hidden files and folders: {self.hidden}") if self.hidden else lines


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of all files that Pillow itself reads."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in UNREADABLE_FORMATS)


def suffix_of(name: str) -> str:
    """The ending of a file's name, with the dot, in small letters."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 a Path for each of a million files takes its time


def find_files(root: Path) -> Found:
    """All files below a folder, sorted into images, tables and others.

    Raises:
        UserError: a folder that cannot be read, or a link that leads back to a folder it lies in.
    """
    found = Found()
    suffixes = image_suffixes()
    for relative, entry in walk(root, found):
        suffix = suffix_of(relative)
        if suffix in suffixes or (not suffix and _begins_like_an_image(entry.path)):
            found.images.append(relative)
        elif suffix in TABLE_SUFFIXES:
            found.tables.append(relative)
        elif suffix in PICTURES:
            found.unread.add(relative)
        else:
            found.other.add(relative)
    found.images.sort()
    found.tables.sort()
    return found


def walk(root: Path, found: Found | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder that are not hidden, folder by folder in the order of names, by their paths below it.

    Raises:
        UserError: as for `find_files`.
    """
    status = root.stat()
    return _walk(str(root), "", found or Found(), ((status.st_dev, status.st_ino),))


def _walk(
    folder: str, prefix: str, found: Found, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"the folder {folder!r} cannot be read: {in_words(error)}") from error
    for entry in ordered:
        found.links += entry.is_symlink()
        if entry.name.startswith("."):
            found.hidden += 1
        elif _is_folder(entry):
            status = entry.stat()
            place = (status.st_dev, status.st_ino)
            if place in above:
                raise UserError(f"the link {entry.path!r} leads back to a folder that it lies in; remove it")
            found.folders.append(prefix + entry.name)
            yield from _walk(entry.path, f"{prefix}{entry.name}/", found, (*above, place))
        elif entry.is_file():
            yield prefix + entry.name, entry
        elif entry.is_symlink():
            found.dangling.add(prefix + entry.name)
        else:
            found.other.add(prefix + entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        raise UserError(f"{entry.path!r} cannot be followed: {in_words(error)}; remove it") from error


def facts_of(relative: str, path: str | os.PathLike[str]) -> FileFacts:
    """A file as it is now; one that is gone has the size -1."""
    try:
        status = os.stat(path)  # noqa: PTH116 see `suffix_of`
    except OSError:
        return FileFacts(relative, -1, 0)
    return FileFacts(relative, status.st_size, status.st_mtime_ns)


def _begins_like_an_image(path: str) -> bool:
    """Whether Pillow can read what a file holds, by its head."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.format not in UNREADABLE_FORMATS
    except Exception:  # the readers of damaged files raise errors of many kinds
        return False

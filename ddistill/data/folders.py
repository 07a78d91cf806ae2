"""Image folders: ROOT/CLASS/image or ROOT/PART/CLASS/image. Class names are the folders' names, sorted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddistill.data.images import Encoded
from ddistill.data.labels import listed
from ddistill.data.settings import DataSettings
from ddistill.data.sources import TEST_NAMES, Part, Parts, choose_parts, refuse_options
from ddistill.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}


@dataclass(frozen=True)
class FileFacts:
    """A file by its path below the root, size in bytes and time of change in nanoseconds."""

    relative: str
    size: int
    mtime_ns: int


def walk(path: Path) -> Iterator[FileFacts]:
    """All files that are not hidden, folder by folder in the order of names; a single file stands for itself."""
    if path.is_file():
        status = path.stat()
        yield FileFacts(path.name, status.st_size, status.st_mtime_ns)
        return
    for relative, entry in _walk(str(path), ""):
        status = entry.stat()
        yield FileFacts(relative, status.st_size, status.st_mtime_ns)


def file_names(path: Path) -> list[str]:
    """Paths below the root of all files that `walk` gives, sorted."""
    return [path.name] if path.is_file() else sorted(relative for relative, _ in _walk(str(path), ""))


def suffix_of(name: str) -> str:
    """The ending of a file's name, with the dot, in small letters."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 a Path for each of a million files takes its time


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        # Linked folders are not entered, since they may lead back here; linked files are read.
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name, entry


def open_folders(root: Path, files: list[str], settings: DataSettings) -> Parts:
    """Parts from image files, given by their sorted paths below ``root``.

    Raises:
        UserError: no class folders, an empty class folder, a part that is not there, a test class unknown in training.
    """
    refuse_options("image folders", settings, "image_column", "label_column")
    images = [file for file in files if suffix_of(file) in IMAGE_SUFFIXES]
    where = repr(str(root))
    parts = _part_folders(root, images, settings)
    if not parts:
        if settings.train_split or settings.test_split:
            choose_parts(where, ["train"], settings)
        names, train = _part(where, root, "", images, None)
        return Parts(names, train, None)
    train_name, test_name = choose_parts(where, parts, settings)
    names, train = _part(where, root, f"{train_name}/", images, None)
    test = _part(where, root, f"{test_name}/", images, names)[1] if test_name else None
    return Parts(names, train, test, tuple(parts))


def _part_folders(root: Path, images: list[str], settings: DataSettings) -> list[str]:
    """Names of folders that hold class folders; none when the folders of the root are the classes themselves."""
    known = {"train", *TEST_NAMES, settings.train_split, settings.test_split}
    # A class may be called 'train': a part has its images one level further down.
    shallow = {file.split("/")[0] for file in images if file.count("/") == 1}
    parts = [name for name in _subfolders(root) if name in known - shallow and _subfolders(root / name)]
    return parts if "train" in parts or settings.train_split in parts else []


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _part(
    where: str, root: Path, prefix: str, images: list[str], known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Part]:
    names = tuple(_subfolders(root / prefix))
    if not names:
        raise UserError(f"{where} has no class folders; expected ROOT/CLASS/*.png or ROOT/train/CLASS/*.png")
    unknown = [name for name in names if name not in (known or names)]
    if unknown:
        raise UserError(f"{where} has the class {listed(unknown)} in its test part but not in its train part")
    label_of = {name: label for label, name in enumerate(known or names)}
    mine = [file for file in images if file.startswith(prefix) and "/" in file[len(prefix) :]]
    labels = np.array([label_of.get(file[len(prefix) :].split("/")[0], -1) for file in mine], dtype=np.int64)
    mine = [file for file, label in zip(mine, labels.tolist(), strict=True) if label >= 0]
    labels = labels[labels >= 0]
    counts = np.bincount(labels, minlength=len(label_of))
    empty = [name for name in names if not counts[label_of[name]]]
    if empty:
        raise UserError(f"no image in the class folder {listed(prefix + name for name in empty)} of {where}")

    def read(rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
        return ((repr(mine[row]), root / mine[row]) for row in rows.tolist())

    return names, Part(labels, read)

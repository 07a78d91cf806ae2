"""Decoded images between runs: a folder per source and settings, checked against its fingerprint.

    train-decoded.npy ...   images, uint8 [n, channels, size, size], class-sorted, filled while they are decoded
    train-decoded.json ...  how far that is, so that a decoding that was cut off goes on
    labels.safetensors      of both parts
    facts.json              which files are the two parts, names, statistics, fingerprint; written last

Images are written where they will be read from, so decoding takes no memory that grows with the set; they are read
mapped (see `ddistill.data.rows`).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddistill.data.account import Taken
from ddistill.data.images import DecodedSplit
from ddistill.data.real_data import Split, content_fingerprint
from ddistill.data.rows import RowFile, RowMemory, chosen_rows, open_rows
from ddistill.runtime.storage import cache_folder, fingerprint, read_checked_json, write_checked_json, write_tensors

VERSION = 6
"""Raised when reading or decoding changes, so that older files are not used."""
CHECKED_BYTES = 2**31
"""Images above this size are not read through on loading: the length of their files is checked."""
KEPT_EVERY_SECONDS = 2.0
LABELS, FACTS = "labels.safetensors", "facts.json"


@dataclass(frozen=True)
class DecodedSet:
    """What is kept: both parts, class names, remarks, statistics of the training images, the fingerprint, and what the
    source says about itself."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    taken: Taken


def folder_of(contents: dict[str, Any]) -> Path:
    """Where the decoded images of these contents are kept."""
    return cache_folder() / "data" / fingerprint({"version": VERSION, **contents})


class Place:
    """Where images go while they are decoded: files in a folder of the cache, or memory.

    Args:
        folder: of the cache; None: memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.files: dict[int, Path] = {}

    def begin(self, name: str, count: int) -> tuple[DecodedSplit, Callable[[DecodedSplit], None]]:
        """A part to decode ``count`` images into, as far as it was decoded before, and what keeps its state."""
        if self.folder is None:
            return DecodedSplit.empty(RowMemory(count)), lambda _: None
        journal = Journal(self.folder / f"{name}-decoded.json")
        return journal.restore(RowFile(self.folder / f"{name}-decoded.npy", count)), journal.keep

    def end(self, part: DecodedSplit) -> torch.Tensor:
        """All rows of a part that is decoded."""
        if isinstance(part.rows, RowFile):
            Journal(part.rows.path.with_suffix(".json")).keep(part, now=True)
            part.rows.close()
            images = part.rows.tensor()
            return self._remember(images, part.rows.path)
        return part.rows.tensor()

    def choose(self, name: str, images: torch.Tensor, index: torch.Tensor, channels: int) -> torch.Tensor:
        """Some rows of decoded images, in that order, with so many channels."""
        if len(index) == len(images) and channels == images.shape[1]:
            return images
        path = self.folder / f"{name}.npy" if self.folder else None
        chosen = chosen_rows(images, index, channels, path)
        return self._remember(chosen, path) if path else chosen

    def path_of(self, images: torch.Tensor) -> Path:
        """The file of images that came from here."""
        return self.files[images.data_ptr()]

    def _remember(self, images: torch.Tensor, path: Path) -> torch.Tensor:
        self.files[images.data_ptr()] = path
        return images

    def clear(self) -> None:
        """Remove what was decoded: another decoding would not go on with it."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class Journal:
    """How far the decoding of a part is; what it says is on the disk, the images before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = time.monotonic()

    def restore(self, rows: RowFile) -> DecodedSplit:
        """The part as it was kept; an empty one where there is none or where it does not fit."""
        try:
            about = read_checked_json(self.path)
            readable = np.unpackbits(np.array(about.pop("readable"), np.uint8))[: rows.rows].astype(bool)
            if about.pop("rows") != rows.rows or len(readable) != rows.rows:
                raise ValueError("of another number of images")
            rows.reopen(tuple(about.pop("shape")))
            return DecodedSplit(rows, readable, **about)
        except (OSError, ValueError, KeyError, TypeError):
            return DecodedSplit.empty(RowFile(rows.path, rows.rows))

    def keep(self, part: DecodedSplit, *, now: bool = False) -> None:
        """Write it every other second."""
        assert isinstance(part.rows, RowFile)
        if part.rows.shape is None or not (now or time.monotonic() - self.kept > KEPT_EVERY_SECONDS):
            return
        part.rows.sync()
        counts = {name: getattr(part, name) for name in ("done", "unreadable", "grey", "colour", "marks", "warned")}
        readable = np.packbits(part.readable).tolist()
        about = {"rows": part.rows.rows, "shape": part.rows.shape, "readable": readable, **counts}
        write_checked_json(self.path, about)
        self.kept = time.monotonic()


def write_decoded(place: Place, decoded: DecodedSet) -> None:
    """Make what was decoded in a folder of the cache the set that `read_decoded` finds; remove what it needs not.

    Raises:
        OSError: the folder cannot be written or is full.
    """
    assert place.folder is not None
    facts = {key: getattr(decoded, key) for key in ("class_names", "notes", "mean", "std", "fingerprint")}
    files = {part: place.path_of(getattr(decoded, part).images).name for part in ("train", "test")}
    labels = {"train": decoded.train.labels, "test": decoded.test.labels}
    write_tensors(place.folder / LABELS, labels, {"labels": _labels_digest(labels)})
    write_checked_json(place.folder / FACTS, {**facts, "files": files, "taken": asdict(decoded.taken)})
    for path in (*place.folder.glob("*.npy"), *place.folder.glob("*-decoded.json")):
        if path.name not in files.values():
            path.unlink()


def read_decoded(folder: Path) -> DecodedSet | None:
    """What ``write_decoded`` wrote, memory-mapped; None when a file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        facts = read_checked_json(folder / FACTS)
        files, about = facts.pop("files"), facts.pop("taken")
        taken = Taken(**{**about, "left_out": tuple(about["left_out"]), "groups": tuple(about.get("groups", ()))})
        with safe_open(folder / LABELS, framework="pt") as file:
            labels = {part: file.get_tensor(part) for part in ("train", "test")}
            if (file.metadata() or {}).get("labels") != _labels_digest(labels):
                return None
        parts = {part: Split(open_rows(folder / str(files[part])), labels[part]) for part in labels}
        if any(len(part.images) != len(part.labels) for part in parts.values()):
            return None
        names, notes, mean, std = (tuple(facts.pop(key)) for key in ("class_names", "notes", "mean", "std"))
        decoded = DecodedSet(parts["train"], parts["test"], names, notes, mean, std, taken=taken, **facts)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    small = sum(part.images.numel() for part in parts.values()) <= CHECKED_BYTES
    if small and content_fingerprint(decoded.train, decoded.test, names) != decoded.fingerprint:
        return None
    return decoded


def _labels_digest(labels: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for part in sorted(labels):
        digest.update(labels[part].numpy().astype("<i8").tobytes())
    return digest.hexdigest()

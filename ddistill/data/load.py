"""`load_data`: find a source, decode its images once, divide them into parts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from ddistill.data.cache import DecodedSet, Place, folder_of, read_decoded, write_decoded
from ddistill.data.images import DecodedPart, Progress, decode_part
from ddistill.data.labels import (
    check_classes,
    check_labels,
    check_wanted,
    held_out,
    listed,
    number_names,
    renumbered,
    size_remarks,
    wanted_classes,
)
from ddistill.data.real_data import RealData, Split, channel_statistics, content_fingerprint
from ddistill.data.rows import chosen_rows, is_mapped, open_rows
from ddistill.data.settings import DataSettings
from ddistill.data.sources import Part, Source, find_source
from ddistill.data.which import check_fingerprint
from ddistill.errors import UserError
from ddistill.memory import free_memory_bytes
from ddistill.storage import make_parent, remove_leftovers

if TYPE_CHECKING:
    from torch.utils.data import Dataset

MEMORY_SHARE = 0.25
"""Of the free memory, that a part of the images may be copied into."""

# Settings that change which images are decoded and how; the others are applied afterwards.
_DECODING = (
    "size",
    "channels",
    "image_column",
    "label_column",
    "train_split",
    "test_split",
    "test_fraction",
    "classes",
    "skip_unreadable",
)


def load_data(
    source: str | os.PathLike[str] | Dataset[Any] | tuple[Any, Any],
    settings: DataSettings | None = None,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> RealData:
    """Load a labelled image set as class-sorted uint8 tensors.

    Decoded images of paths and hub sets are cached, so that the second load takes seconds; a hub set is not asked for
    changes while its cache stands.

    Args:
        source: 'digits'; a short name such as 'cifar10' or a hub id; a path of image folders, parquet or arrow files;
            a map-style data set of (image, label); or a tuple of two, (train, test). Where a word can be meant in two
            ways, './cifar10' is the folder and 'name:cifar10' the known set.
        settings: see DataSettings; its ``source`` is not looked at.
        seed: decides which images ``validation_fraction`` holds out, and nothing else.
        on_progress: called with a stage, the images done and the images in all.

    Raises:
        UserError: the source cannot be found or read, or its contents cannot be distilled; the text says what to do.
    """
    found = find_source(source, settings or DataSettings())
    if found.contents is None:
        return _real_data(found, _decode(found, Place(None), on_progress), None, seed)
    chosen = {name: getattr(found.settings, name) for name in _DECODING}
    folder = folder_of({**found.contents, "settings": chosen})
    decoded = read_decoded(folder) or _decoded_and_kept(folder, found, on_progress)
    return _real_data(found, decoded, folder, seed)


def _decoded_and_kept(folder: Path, source: Source, on_progress: Progress | None) -> DecodedSet:
    try:
        lock = FileLock(make_parent(folder.with_suffix(".lock"))).acquire()
    except OSError as error:
        return _kept_nowhere(folder, source, on_progress, error)
    with lock:  # another process may have been at it: then its images are used
        return read_decoded(folder) or _decode_into(folder, source, on_progress)


def _decode_into(folder: Path, source: Source, on_progress: Progress | None) -> DecodedSet:
    """Decode into a folder of the cache, from where an earlier process was cut off."""
    place = Place(folder)
    remove_leftovers(folder)
    try:
        decoded = _decode(source, place, on_progress)
        write_decoded(place, decoded)
    except UserError:
        place.clear()
        raise
    except OSError as error:
        place.clear()
        return _kept_nowhere(folder, source, on_progress, error)
    return decoded


def _kept_nowhere(folder: Path, source: Source, on_progress: Progress | None, error: OSError) -> DecodedSet:
    """The cache only saves time: a full disk or a folder that cannot be written must not stop a run that has memory."""
    try:
        decoded = _decode(source, Place(None), on_progress)
    except MemoryError:
        raise UserError(
            f"the images of {source.text!r} fit neither in memory nor in {folder.parent} ({error}); "
            "give a folder with more room by the environment variable DDISTILL_CACHE"
        ) from error
    return replace(decoded, notes=(*decoded.notes, f"decoded images could not be kept in {folder.parent}: {error}"))


def _decode(source: Source, place: Place, on_progress: Progress | None) -> DecodedSet:
    settings, where = source.settings, repr(source.text)
    parts = source.open()
    if parts.test is None and settings.test_fraction is None:
        raise UserError(
            f"{where} has no test part (it has: {', '.join(parts.available)}); name one with data.test_split=NAME, "
            f"or split one off the training part with data.test_fraction=0.2"
        )
    names = _checked_names(where, parts.class_names, parts.train, parts.test)
    names, train_labels, test_labels = _wanted(where, names, parts.train, parts.test, settings)
    check_classes(where, names, train_labels[train_labels >= 0], _kept(test_labels))

    train = _decode_part(parts.train, train_labels, "train", settings, None, place, on_progress)
    notes = train.notes
    if parts.test is not None and test_labels is not None:
        side = train.images.shape[-1]
        test = _decode_part(parts.test, test_labels, "test", settings, side, place, on_progress)
        notes += test.notes
        if settings.test_fraction is not None:
            notes.append(f"data.test_fraction={settings.test_fraction} is not used: {where} has its own test part")
    else:
        mask = held_out(train.labels.numpy(), settings.test_fraction or 0.0, 0, "test split")
        train, test = train.only(~mask), train.only(mask)
    channels = max(train.images.shape[1], test.images.shape[1])
    real, held = train.split(place, "train", channels), test.split(place, "test", channels)
    check_classes(where, names, real.labels.numpy(), held.labels.numpy())
    mean, std = channel_statistics(real.images)
    notes += size_remarks(names, np.bincount(real.labels.numpy(), minlength=len(names)).tolist())
    absent = np.setdiff1d(np.arange(len(names)), held.labels.numpy())
    if absent.size:
        notes.append(f"the test part has no image of the class {listed(names[c] for c in absent.tolist())}")
    return DecodedSet(real, held, names, tuple(notes), mean, std, content_fingerprint(real, held, names))


def _checked_names(where: str, names: tuple[str, ...] | None, train: Part, test: Part | None) -> tuple[str, ...]:
    for part, of in (("train", train), ("test", test)):
        if of is not None:
            check_labels(where, part, of.labels, names)
    return names if names is not None else number_names(where, train.labels, test.labels if test else None)


def _wanted(
    where: str, names: tuple[str, ...], train: Part, test: Part | None, settings: DataSettings
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None]:
    """Class names and labels after ``data.classes``; the label -1 marks images to leave out."""
    wanted = wanted_classes(settings.classes)
    if wanted is None:
        return names, train.labels, test.labels if test else None
    check_wanted(where, names, wanted)
    return wanted, renumbered(train.labels, names, wanted), renumbered(test.labels, names, wanted) if test else None


def _kept(labels: np.ndarray | None) -> np.ndarray | None:
    return labels[labels >= 0] if labels is not None else None


@dataclass(frozen=True)
class _Part:
    """Decoded rows of which some are wanted: ``labels`` are those of ``images[index]``."""

    images: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor
    notes: list[str]

    def only(self, mask: np.ndarray) -> _Part:
        """The wanted rows where the mask is set."""
        chosen = torch.from_numpy(np.flatnonzero(mask))
        return _Part(self.images, self.index[chosen], self.labels[chosen], self.notes)

    def split(self, place: Place, name: str, channels: int) -> Split:
        """The wanted rows, with so many channels."""
        return Split(place.choose(name, self.images, self.index, channels), self.labels)


def _decode_part(
    part: Part,
    labels: np.ndarray,
    name: str,
    settings: DataSettings,
    side: int | None,
    place: Place,
    on_progress: Progress | None,
) -> _Part:
    """Class-sorted images of the rows whose label is not -1, and remarks. ``side`` is that of the other part."""
    rows = np.flatnonzero(labels >= 0)
    labels = labels[rows]
    order = np.argsort(labels, kind="stable")
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    begun, keep = place.begin(name, len(rows))
    decoded = decode_part(
        part.read(rows[begun.done :]),
        positions,
        size=settings.size,
        channels=settings.channels,
        expected=side,
        stage=f"decoding {name} images",
        on_progress=on_progress,
        part=begun,
        keep=keep,
    )
    notes = _remarks(decoded, name, settings)
    readable = torch.from_numpy(np.flatnonzero(decoded.readable))
    return _Part(place.end(decoded), readable, torch.from_numpy(labels[order])[readable], notes)


def _remarks(decoded: DecodedPart, name: str, settings: DataSettings) -> list[str]:
    notes = []
    if decoded.unreadable:
        count = f"{len(decoded.unreadable)} of {len(decoded.readable)} {name} images cannot be read"
        shown = ", ".join(decoded.unreadable[:3]) + (", ..." if len(decoded.unreadable) > 3 else "")
        if not settings.skip_unreadable or not decoded.readable.any():
            raise UserError(f"{count}: {shown}; remove them or set data.skip_unreadable=true")
        notes.append(f"{count} and were left out: {shown}")
    assert decoded.rows.shape is not None  # something was readable
    channels, side, _ = decoded.rows.shape
    if channels == 3 and decoded.grey:
        notes.append(f"{decoded.grey} grey {name} images were converted to RGB")
    if channels == 1 and decoded.colour:
        notes.append(f"{decoded.colour} colour {name} images were converted to grey")
    if decoded.resized:
        notes.append(f"{decoded.resized} {name} images were cropped or scaled to {side}x{side} pixels")
    return notes


def _real_data(source: Source, decoded: DecodedSet, folder: Path | None, seed: int) -> RealData:
    check_fingerprint(source.text, source.settings, decoded.fingerprint)
    train, validation = decoded.train, None
    mean, std = decoded.mean, decoded.std
    fraction = source.settings.validation_fraction
    if fraction > 0:
        mask = torch.from_numpy(held_out(train.labels.numpy(), fraction, seed, "validation split"))
        if not mask.any():
            raise UserError(
                f"data.validation_fraction={fraction} holds out no image of {source.text!r}: its classes are too small"
            )
        train, validation = (
            _held(train, part, folder, f"{name}-{fraction}-{seed}")
            for name, part in (("train", ~mask), ("validation", mask))
        )
        mean, std = channel_statistics(train.images)
    return RealData(
        source.name,
        source.which.lasting,
        train,
        validation,
        decoded.test,
        decoded.class_names,
        mean,
        std,
        decoded.fingerprint,
        (*source.which.notes, *decoded.notes),
        source.settings.whitening is not None,
    )


def _held(split: Split, mask: torch.Tensor, folder: Path | None, name: str) -> Split:
    """Some images of a part: in memory where they leave most of it free, else in a file of the cache."""
    index = mask.nonzero()[:, 0]
    images, wanted = split.images, len(index) * split.images[0].numel()
    path = folder / f"{name}.npy" if folder and is_mapped(images) else None
    if path is None or wanted < free_memory_bytes(images.device) * MEMORY_SHARE:
        return Split(chosen_rows(images, index, images.shape[1], None), split.labels[index])
    with FileLock(path.with_suffix(".lock")):
        try:
            rows = open_rows(path)  # written atomically, in a folder that stands for these very images
        except (OSError, ValueError):
            rows = chosen_rows(images, index, images.shape[1], path)
    return Split(rows, split.labels[index])

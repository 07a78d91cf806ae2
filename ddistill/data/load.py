"""`load_data`: find a source, decode its images once, divide them into parts."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddistill.data.account import LEFT_OUT, Taken
from ddistill.data.cache import DecodedSet, Place, folder_of, read_decoded, write_decoded
from ddistill.data.facts import Statistics
from ddistill.data.images import REASONS_SHOWN, DecodedSplit, Progress, decode_split, survey
from ddistill.data.labels import agree, check_classes, groups_of, held_out, listed, size_remarks
from ddistill.data.pixels import WHITE, Kind, Tone
from ddistill.data.real_data import (
    Origin,
    RealData,
    Split,
    channel_statistics,
    content_fingerprint,
    flat_remarks,
    twin_remarks,
)
from ddistill.data.rows import chosen_rows, is_mapped, open_rows
from ddistill.data.settings import DataSettings
from ddistill.data.sources import DataSource, find_source
from ddistill.data.splits import RawSplit
from ddistill.data.which import check_fingerprint
from ddistill.runtime.errors import UserError
from ddistill.runtime.memory import free_memory_bytes
from ddistill.runtime.resumable import built_once

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
    "split_column",
    "train_split",
    "test_split",
    "test_fraction",
    "background",
    "value_range",
    "skip_unreadable",
    "missing_shards",
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
    classes = found.settings.classes
    if found.settings.group_column is not None:  # sets without one keep the places that they had before there was one
        chosen["group_column"] = found.settings.group_column
    chosen["classes"] = list(classes.items()) if isinstance(classes, dict) else classes  # their order counts
    folder = folder_of({**found.contents, "settings": chosen})
    try:
        decoded = built_once(folder, lambda: read_decoded(folder), lambda: _decode_into(folder, found, on_progress))
    except OSError as error:
        decoded = _kept_nowhere(folder, found, on_progress, error)
    return _real_data(found, decoded, folder, seed)


def class_names_of(source: Any, settings: DataSettings | None = None) -> tuple[str, ...]:
    """Names of the classes of a source in their order, as `load_data` would give them; no image is decoded.

    Raises:
        UserError: the source cannot be found, or its labels are not usable.
    """
    found = find_source(source, settings or DataSettings())
    parts = found.open()
    labels = parts.train.labels, parts.test.labels if parts.test else None
    return agree(repr(found.text), *labels, found.settings.classes).names


def _decode_into(folder: Path, source: DataSource, on_progress: Progress | None) -> DecodedSet:
    """Decode into a folder of the cache, from where an earlier process was cut off."""
    place = Place(folder)
    try:
        decoded = _decode(source, place, on_progress)
        write_decoded(place, decoded)
    except (OSError, UserError):
        place.clear()
        raise
    return decoded


def _kept_nowhere(folder: Path, source: DataSource, on_progress: Progress | None, error: OSError) -> DecodedSet:
    """The cache only saves time: a full disk or a folder that cannot be written must not stop a run that has memory."""
    try:
        decoded = _decode(source, Place(None), on_progress)
    except MemoryError:
        raise UserError(
            f"the images of {source.text!r} fit neither in memory nor in {folder.parent} ({error}); "
            "give a folder with more room by the environment variable DDISTILL_CACHE"
        ) from error
    return replace(decoded, notes=(*decoded.notes, f"decoded images could not be kept in {folder.parent}: {error}"))


def _decode(source: DataSource, place: Place, on_progress: Progress | None) -> DecodedSet:
    settings, where = source.settings, repr(source.text)
    parts = source.open()
    if parts.test is None and settings.test_fraction is None:
        raise UserError(
            f"{where} has no test part (it has: {', '.join(parts.available)}); name one with data.test_split=NAME, "
            f"or split one off the training part with data.test_fraction=0.2"
        )
    agreed = agree(where, parts.train.labels, parts.test.labels if parts.test else None, settings.classes)
    names = agreed.names
    check_classes(where, names, agreed.train[agreed.train >= 0], _kept(agreed.test))
    groups = groups_of(where, agreed, parts.train.groups) if parts.train.groups is not None else ()

    decoder = _Decoder(settings, place, on_progress, parts.train, agreed.train)
    # Images of which some are yet to be set aside are not called those of the training part, which has fewer.
    train = decoder.decode(parts.train, agreed.train, "train", None, "train" if parts.test is not None else "given")
    notes = [*parts.notes, *agreed.notes, *train.notes]
    left_out = [*parts.left_out, *train.left_out]
    taken = Taken(parts.train.origin, parts.test.origin if parts.test else "", parts.labels_from, groups=groups)
    if parts.test is not None and agreed.test is not None:
        test = decoder.decode(parts.test, agreed.test, "test", train.images.shape[-1], "test")
        notes += test.notes
        left_out += test.left_out
        if settings.test_fraction is not None:
            notes.append(f"data.test_fraction={settings.test_fraction} is not used: {where} has its own test part")
    else:
        mask = held_out(train.labels.numpy(), settings.test_fraction or 0.0, 0, "test split")
        if not mask.any():
            raise UserError(
                f"data.test_fraction={settings.test_fraction} sets no image of {where} aside, which takes three of a "
                f"class; name a test part with data.test_split=NAME"
            )
        train, test = train.only(~mask), train.only(mask)
        taken = replace(taken, test=f"the training part: {settings.test_fraction:g} of each class, set aside")
    channels = max(train.images.shape[1], test.images.shape[1])
    for part, some in (("train", train), ("test", test)):
        if some.images.shape[1] < channels:
            notes.append(f"{len(some.index)} grey {part} images were converted to RGB")
    real, held = train.split(place, "train", channels), test.split(place, "test", channels)
    check_classes(where, names, real.labels.numpy(), held.labels.numpy())
    mean, std = channel_statistics(real.images)
    notes += flat_remarks("train", real.images) + flat_remarks("test", held.images, scaled=decoder.scales)
    notes += twin_remarks(real, held, names)
    notes += size_remarks(names, np.bincount(real.labels.numpy(), minlength=len(names)).tolist())
    absent = np.setdiff1d(np.arange(len(names)), held.labels.numpy())
    if absent.size:
        notes.append(f"the test part has no image of the class {listed(names[c] for c in absent.tolist())}")
    notes += [f"{LEFT_OUT}{line}" for line in left_out]
    taken = replace(taken, left_out=(*left_out, *agreed.left_out))
    return DecodedSet(real, held, names, tuple(notes), mean, std, content_fingerprint(real, held, names), taken)


def _kept(labels: np.ndarray | None) -> np.ndarray | None:
    return labels[labels >= 0] if labels is not None else None


@dataclass(frozen=True)
class _ReadSplit:
    """Decoded rows of which some are wanted: ``labels`` are those of ``images[index]``."""

    images: torch.Tensor
    index: torch.Tensor
    labels: torch.Tensor
    notes: list[str]
    left_out: list[str]

    def only(self, mask: np.ndarray) -> _ReadSplit:
        """The wanted rows where the mask is set."""
        chosen = torch.from_numpy(np.flatnonzero(mask))
        return replace(self, index=self.index[chosen], labels=self.labels[chosen])

    def split(self, place: Place, name: str, channels: int) -> Split:
        """The wanted rows, with so many channels."""
        return Split(place.choose(name, self.images, self.index, channels), self.labels)


class _Decoder:
    """Decodes the parts of a set, in the tone of its training images."""

    def __init__(
        self,
        settings: DataSettings,
        place: Place,
        on_progress: Progress | None,
        train: RawSplit,
        labels: np.ndarray,
    ) -> None:
        self.settings, self.place, self.on_progress = settings, place, on_progress
        ground: tuple[int, ...] = WHITE
        if settings.background is not None:
            from PIL import ImageColor

            ground = ImageColor.getrgb(settings.background)
        rows = np.flatnonzero(labels >= 0)
        self.tone = Tone(
            (ground[0], ground[1], ground[2]),
            settings.value_range,
            survey=lambda kind: survey(train.read(rows), kind),
            alone=False,
        )
        self.seen: dict[str, set[str]] = {}

    def decode(self, part: RawSplit, labels: np.ndarray, name: str, side: int | None, called: str) -> _ReadSplit:
        """Class-sorted images of the rows whose label is not -1, and remarks, in which they are ``called`` so. ``side``
        is that of the other part."""
        rows = np.flatnonzero(labels >= 0)
        labels = labels[rows]
        order = np.argsort(labels, kind="stable")
        positions = np.empty_like(order)
        positions[order] = np.arange(len(order))
        begun, keep = self.place.begin(name, len(rows))
        if name != "train":
            self.tone.others = lambda kind: survey(part.read(rows), kind)

        def on_progress(part: DecodedSplit) -> None:
            if self.on_progress:
                self.on_progress(f"decoding {name} images", part.done, len(rows))
            keep(part)

        decoded = decode_split(
            part.read(rows[begun.done :]),
            positions,
            size=self.settings.size,
            channels=self.settings.channels,
            expected=side,
            tone=self.tone,
            part=begun,
            on_progress=on_progress,
        )
        self.seen[name] = set(decoded.marks)
        notes, left_out = self._remarks(decoded, called)
        self._check_floats(decoded, called)
        readable = torch.from_numpy(np.flatnonzero(decoded.readable))
        return _ReadSplit(self.place.end(decoded), readable, torch.from_numpy(labels[order])[readable], notes, left_out)

    @property
    def scales(self) -> bool:
        """Whether a range that was found or given decides what is black and white."""
        found = [scale for kind, scale in self.tone.scales.items() if kind != "whole" or scale != (0.0, 255.0)]
        return self.tone.fixed is not None or bool(found)

    def _check_floats(self, decoded: DecodedSplit, name: str) -> None:
        """Refuse floats from 0 to 1 where those of others run to 255, and a range for floats and bytes."""
        if {"float", "byte"} <= set().union(*self.seen.values()) and not self.tone.beyond_bytes:
            raise UserError(
                "data.value_range holds for images of 8 bits or for floats, not for both: give all in one kind"
            )
        floats, unit = decoded.marks.get("float", 0), decoded.marks.get("unit", 0)
        if unit:
            others = "the training images" if unit == floats else "the others"
            which = f"all {name}" if unit == floats else f"{unit} of {floats} {name}"
            raise UserError(
                f"the floats of {which} images lie in 0 to 1, those of {others} in 0 to 255: give all in the same "
                f"range" + ("" if unit == floats else ", or, if some are all but black, set data.value_range=[0, 255]")
            )

    def _remarks(self, decoded: DecodedSplit, name: str) -> tuple[list[str], list[str]]:
        """What was assumed, and what was left out."""
        notes, left_out = [], []
        if decoded.unreadable:
            count = f"{len(decoded.unreadable)} of {len(decoded.readable)} {name} images cannot be read"
            more = ", ..." if len(decoded.unreadable) > REASONS_SHOWN else ""
            some, reasons = decoded.unreadable[:REASONS_SHOWN], {reason for _, reason in decoded.unreadable}
            shown = ", ".join(f"{item} ({reason})" for item, reason in some) + more
            if not decoded.readable.any():  # leaving them out is no way
                once = f"{', '.join(item for item, _ in some)}{more}: {', '.join(reasons)}"
                raise UserError(f"{count}: {once if len(reasons) == 1 else shown}")
            if not self.settings.skip_unreadable:
                raise UserError(f"{count}: {shown}; remove them or set data.skip_unreadable=true")
            left_out.append(f"{count}: {shown}")
        assert decoded.rows.shape is not None  # something was readable
        channels, side, _ = decoded.rows.shape
        marks = decoded.marks
        if channels == 3 and decoded.grey:
            notes.append(f"{decoded.grey} grey {name} images were converted to RGB")
        if channels == 1 and decoded.colour:
            notes.append(f"{decoded.colour} colour {name} images were converted to grey")
        if "resized" in marks:
            notes.append(f"{marks['resized']} {name} images were cropped or scaled to {side}x{side} pixels")
        if "transparent" in marks:
            ground = self.settings.background or "white"
            notes.append(f"{marks['transparent']} {name} images are transparent: put on {ground} (data.background)")
        notes += self._tones(marks, name, int(decoded.readable.sum()))
        if "frames" in marks:
            notes.append(f"{marks['frames']} {name} images hold several frames, of which the first is taken")
        if decoded.warned:
            times, first = sum(decoded.warned.values()), next(iter(decoded.warned))
            notes.append(f"the image library warned {times} times while it read {name} images: {first}")
        return notes, left_out

    def _tones(self, marks: dict[str, int], name: str, count: int) -> list[str]:
        """How values became black to white in so many images."""
        notes = []
        spared = marks.get("byte", 0) if self.tone.beyond_bytes else 0
        if spared:
            notes.append(
                f"{spared} {name} images have 8 bits, where data.value_range goes beyond: they stay as they are"
            )
        if self.tone.fixed is not None and spared < count:
            low, high = self.tone.fixed
            notes.append(f"{low:.6g} is black and {high:.6g} white in the {name} images, as data.value_range says")
        kinds: dict[Kind, str] = {"deep": "whole numbers of 16 or 32 bits", "whole": "whole numbers", "float": "floats"}
        for kind, what in kinds.items():
            scale = self.tone.scales.get(kind)
            if kind in marks and scale is not None:
                run = name if name == "given" or kind not in self.seen["train"] else "training"
                notes.append(
                    f"{marks[kind]} {name} images hold {what}: {scale[0]:.6g} is black and {scale[1]:.6g} white, as "
                    f"the {run} images run (data.value_range fixes it)"
                )
        if "cut" in marks:
            notes.append(f"{marks['cut']} {name} images have values outside of that range, which were cut")
        if "halved" in marks:
            notes.append(
                f"{marks['halved']} {name} images hold 16 bits a channel, of which the image library gives the upper 8 "
                f"only: dark ones lose what they show"
            )
        return notes


def _real_data(source: DataSource, decoded: DecodedSet, folder: Path | None, seed: int) -> RealData:
    check_fingerprint(source.text, source.settings, decoded.fingerprint)
    train, validation = decoded.train, None
    statistics: Statistics = (decoded.mean, decoded.std)
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
        statistics = channel_statistics(train.images)
    taken = replace(decoded.taken, left_out=(*decoded.taken.left_out, *source.left_out))
    return RealData(
        Origin(source.name, source.which.lasting, (*source.which.notes, *decoded.notes), taken),
        train,
        validation,
        decoded.test,
        decoded.class_names,
        statistics,
        decoded.fingerprint,
        source.settings,
    )


def _held(split: Split, mask: torch.Tensor, folder: Path | None, name: str) -> Split:
    """Some images of a part: in memory where they leave most of it free, else in a file of the cache."""
    index = mask.nonzero()[:, 0]
    images, wanted = split.images, len(index) * split.images[0].numel()
    path = folder / f"{name}.npy" if folder and is_mapped(images) else None
    if path is None or wanted < free_memory_bytes(images.device) * MEMORY_SHARE:
        return Split(chosen_rows(images, index, images.shape[1], None), split.labels[index])

    def find() -> torch.Tensor | None:
        with suppress(OSError, ValueError):
            return open_rows(path)  # written atomically, in a folder that stands for these very images
        return None

    return Split(built_once(path, find, lambda: chosen_rows(images, index, images.shape[1], path)), split.labels[index])

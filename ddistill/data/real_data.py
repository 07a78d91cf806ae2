"""Real images in memory: class-sorted uint8 tensors, labels, names and channel statistics."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ddistill.augment import Normalisation
from ddistill.data.account import LEFT_OUT, UNKNOWN, Account, Taken, split_account
from ddistill.data.facts import PUBLISHED_CONSTANTS, Statistics
from ddistill.data.rows import blocks
from ddistill.data.settings import DataSettings
from ddistill.runtime.errors import UserError
from ddistill.whitening import Whitening, check_values, zca

USUAL = DataSettings()


@dataclass(frozen=True)
class Split:
    """One part: ``images`` uint8 [N, channels, size, size] sorted by class, ``labels`` int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Origin:
    """Where images came from.

    ``source`` names them from any folder: a short name, a hub id or an absolute path; None for an object of the user's
    own. ``notes`` are one-line remarks that a user should see, ``taken`` says what the source is.
    """

    name: str
    source: str | None
    notes: tuple[str, ...] = ()
    taken: Taken = UNKNOWN


@dataclass(frozen=True)
class RealData:
    """A labelled image set, decoded.

    ``statistics`` are mean and std per channel, over the training images with pixels in [0, 1]; a std of 0 is given
    as 1. ``fingerprint`` identifies the contents (training images before validation is held out, test images, labels,
    names) whatever the path or the format. The ``account`` tells the ``origin``, with parts, classes and counts.
    ``settings`` say how images are normalised; a run goes by those of its recipe (`normalised_as`).
    """

    origin: Origin
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    statistics: Statistics
    fingerprint: str
    settings: DataSettings = USUAL

    @property
    def name(self) -> str:
        """As reports call the set."""
        return self.origin.name

    @property
    def source(self) -> str | None:
        """See `Origin`."""
        return self.origin.source

    @cached_property
    def account(self) -> Account:
        """What the program took, in words."""
        taken = self.origin.taken
        origins = {"train": taken.train, "validation": "the training part, held out", "test": taken.test}
        counts = {
            role: torch.bincount(split.labels, minlength=self.num_classes).tolist()
            for role, split in (("train", self.train), ("validation", self.validation), ("test", self.test))
            if split is not None
        }
        parts = tuple(split_account(role, origins[role], self.class_names, some) for role, some in counts.items())
        assumed = tuple(note for note in self.origin.notes if not note.startswith(LEFT_OUT))
        about = (taken.labels, self.size, self.channels, taken.left_out, (*assumed, *self._not_by_their_own))
        return Account(self.source or f"{self.name} (an object in Python)", parts, self.class_names, *about)

    @property
    def _not_by_their_own(self) -> tuple[str, ...]:
        """A remark where images are not normalised by what was measured of them."""
        if self.settings.whitening:
            return (f"pixels are whitened before every network (data.whitening={self.settings.whitening})",)
        if self.settings.constants == "measured":
            return ()
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in self.constants)
        return (
            f"images are normalised by mean {mean} and std {std}, as the published programs do for "
            f"{self.settings.constants}, not by their own (data.constants=measured)",
        )

    @cached_property
    def whitening(self) -> Whitening | None:
        """The map of raw pixels, computed once (CIFAR-10: half a minute); None where not asked for. UserError for
        images that are too large."""
        return zca(self.train.images) if self.settings.whitening else None

    @cached_property
    def normalisation(self) -> Normalisation:
        """What is done to images before a network; whitening takes raw pixels, as in the published program of TM."""
        if self.whitening is not None:
            return Normalisation((0.0,) * self.channels, (1.0,) * self.channels, self.whitening)
        return Normalisation(*self.constants)

    @property
    def constants(self) -> Statistics:
        """Mean and std that images are normalised by where they are not whitened."""
        return PUBLISHED_CONSTANTS.get(self.settings.constants, self.statistics)

    def normalised_as(self, settings: DataSettings) -> RealData:
        """The same images, normalised as ``settings`` say.

        Raises:
            UserError: the constants are of images with another number of channels; images too large to be whitened.
        """
        if settings.whitening:
            check_values(self.train.images[0].numel())
        channels = len(PUBLISHED_CONSTANTS.get(settings.constants, self.statistics)[0])
        if channels != self.channels:
            raise UserError(
                f"data.constants={settings.constants} are of images with {channels} channels, and those of "
                f"{self.name!r} have {self.channels}; use data.constants=measured"
            )
        wanted = {name: getattr(settings, name) for name in ("constants", "whitening")}
        if all(getattr(self.settings, name) == value for name, value in wanted.items()):
            return self
        return replace(self, settings=self.settings.model_copy(update=wanted))

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.train.images.shape[1]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.train.images.shape[2]

    @cached_property
    def class_counts(self) -> torch.Tensor:
        """Training images of each class, int64 [C]."""
        return torch.bincount(self.train.labels, minlength=self.num_classes)

    @cached_property
    def class_offsets(self) -> torch.Tensor:
        """Where each class begins in ``train.images``, and its end: int64 [C + 1]."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.class_counts.cumsum(0)])

    def class_images(self, c: int) -> torch.Tensor:
        """Training images of class ``c`` in [0, C), a uint8 view [n, channels, size, size]; IndexError outside."""
        if not 0 <= c < self.num_classes:
            raise IndexError(f"class {c} is not in 0 to {self.num_classes - 1}")
        start, end = self.class_offsets[c : c + 2].tolist()
        return self.train.images[start:end]


def channel_statistics(images: torch.Tensor) -> Statistics:
    """Mean and std per channel of uint8 [N, channels, h, w] images scaled to [0, 1], from exact pixel counts."""
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for block in blocks(images):
        for channel in range(images.shape[1]):
            counts[channel] += np.bincount(block[:, channel].numpy().ravel(), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    # Rounding leaves a trace where all pixels are alike.
    return tuple(mean.tolist()), tuple(float(s) if s > 1e-9 else 1.0 for s in std)


def flat_remarks(part: str, images: torch.Tensor, *, scaled: bool = False) -> list[str]:
    """Remarks about uint8 [N, channels, h, w] images of one colour only, and about a part that holds but 0 and 1;
    ``scaled``: by a range that is not its own."""
    flat, largest = 0, 0
    for block in blocks(images):
        high, low = block.amax(dim=(2, 3)), block.amin(dim=(2, 3))
        flat += int((high == low).all(dim=1).sum())
        largest = max(largest, int(high.max()))
    remarks = [f"{flat} of {len(images)} {part} images are of one colour only"] if flat else []
    if largest == 1 and scaled:
        remarks.append(
            f"all {part} images are all but black: their values lie far below the one that is white for the training "
            f"images; give both parts in the same range"
        )
    elif largest == 1:
        remarks.append(
            f"all {part} images hold only 0 and 1, which is all but black; data.value_range=[0, 1] makes 1 white"
        )
    return remarks


def twin_remarks(train: Split, test: Split, class_names: tuple[str, ...]) -> list[str]:
    """Remarks about images that are the same, pixel for pixel, in both parts, or in two classes of the training part.

    What is tested on was trained on then, or has two labels.
    """
    (own, other) = (_digests(part.images) for part in (train, test))
    remarks = []
    if both := int(np.isin(other, own).sum()):
        remarks.append(
            f"{both} of {len(other)} test images are in the training part, too, pixel for pixel: accuracies on them "
            f"tell nothing about new images"
        )
    order = np.argsort(own, kind="stable")  # so that the classes of twins rise
    same, labels = own[order[1:]] == own[order[:-1]], train.labels.numpy()[order]
    places = np.flatnonzero(same & (labels[1:] != labels[:-1]))
    if places.size:
        pair = " and ".join(repr(class_names[labels[place]]) for place in (places[0], places[0] + 1))
        remarks.append(f"{len(places)} training images are in two classes, pixel for pixel, such as one of {pair}")
    return remarks


def _digests(images: torch.Tensor) -> np.ndarray:
    """A number, uint64 [N], that tells the pixels of each image from those of others."""
    found = [
        hashlib.blake2b(image.tobytes(), digest_size=8).digest() for block in blocks(images) for image in block.numpy()
    ]
    return np.frombuffer(b"".join(found), np.uint64)


def content_fingerprint(train: Split, test: Split, class_names: tuple[str, ...]) -> str:
    """Hex SHA-256 of shapes, labels, class names and pixels."""
    shapes = [list(part.images.shape) for part in (train, test)]
    digest = hashlib.sha256(json.dumps([shapes, class_names]).encode())
    for part in (train, test):
        digest.update(part.labels.numpy().astype("<i8").tobytes())
        for block in blocks(part.images):
            digest.update(block.contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()

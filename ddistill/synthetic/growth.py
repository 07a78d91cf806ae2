"""A set that grows: the images of a finished set's classes, to which those of other classes are added."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ddistill.data import RealData
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import fingerprint
from ddistill.synthetic.artifact import artifact_folder, load_synthetic, read_description
from ddistill.synthetic.herding import herding
from ddistill.synthetic.layout import STORED
from ddistill.synthetic.synthetic_set import SyntheticSet, SyntheticSettings


@dataclass(frozen=True, eq=False)
class GrowingSet(SyntheticSet):
    """A set some of whose classes are finished.

    Attributes:
        finished: this many classes, the first ones; methods leave their images as they are.
    """

    finished: int = 0

    @property
    def open_classes(self) -> range:
        """The classes whose images methods change."""
        return range(self.finished, self.num_classes)


def fingerprint_of(path: str | os.PathLike[str]) -> str:
    """What tells the stored images, labels and class names of an artifact from others.

    Raises:
        UserError: no artifact there, or a damaged one.
    """
    about = read_description(artifact_folder(path))
    return fingerprint([about["files"][STORED], about["class_names"], about["decoder"]["factor"]])


def check_grown(settings: SyntheticSettings, data: RealData) -> None:
    """Refuse a finished set that is not the one asked for, or that these data and settings do not go on with.

    Raises:
        UserError: naming what differs.
    """
    finished_classes(settings, data)


def finished_classes(settings: SyntheticSettings, data: RealData) -> list[torch.Tensor]:
    """The stored images that each class of the finished set starts with; none where the set does not grow from one.

    Of a class that is to have fewer than it had, those stay whose mean is nearest to the mean of all of them, chosen by
    herding on pixels.

    Raises:
        UserError: see `check_grown`.
    """
    grow = settings.grow
    if grow is None:
        return []
    before = _finished(grow.source, grow.fingerprint)
    names, shape = before.class_names, tuple(before.images.shape[1:])
    where = f"the finished set in {grow.source!r}"
    if data.class_names[: len(names)] != names:
        raise UserError(
            f"{where} has the classes {names}, which must be the first ones of the data, in that order; they have "
            f"{data.class_names}: set data.classes, or use --add-classes-to, which does"
        )
    if shape != (data.channels, data.size, data.size):
        raise UserError(
            f"{where} holds images of {shape[0]} x {shape[1]} x {shape[2]}, the data are of {data.channels} x "
            f"{data.size} x {data.size}; set data.size={shape[1]} and data.channels={shape[0]}"
        )
    if settings.factor != before.factor:
        raise UserError(f"{where} has synthetic.factor={before.factor}, not {settings.factor}; use the same")
    counts = settings.counts(names)
    few = next((c for c, count in enumerate(counts) if count > before.counts[c] and not grow.refine), None)
    if few is not None:
        raise UserError(
            f"class {names[few]!r} of {where} has {before.counts[few]} images and is to have {counts[few]}; finished "
            "classes get no new images: ask for fewer, or go on with them all by --refine"
        )
    return [_kept(before.images[before.class_slice(c)], count) for c, count in enumerate(counts)]


def _kept(images: torch.Tensor, count: int) -> torch.Tensor:
    """At most ``count`` of a class's stored images, in their order."""
    return images if count >= len(images) else images[sorted(herding(images.flatten(1), count))]


def _finished(source: str | None, wanted: str | None) -> SyntheticSet:
    if source is None:
        raise UserError(
            "the recipe grows from a finished set and does not say where that is: --set synthetic.grow.source=RUN"
        )
    if wanted not in (None, fingerprint_of(source)):
        raise UserError(
            f"the set in {source!r} is not the one that the recipe grows from (its fingerprint differs); give the "
            "folder of that one: --set synthetic.grow.source=RUN"
        )
    return load_synthetic(source)

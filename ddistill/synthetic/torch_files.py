"""Reading sets that other programs have written with torch.save, without running anything that is in the file.

A file does not say whether its values are pixels, or by what they were normalised. What it was taken for is said, with
the share of the values that had to be cut; where it can be meant in two ways, it is refused with both.
"""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddistill.augment import Normalisation
from ddistill.data import RealData
from ddistill.runtime.errors import UserError
from ddistill.synthetic.synthetic_set import MAX_FACTOR, SyntheticSet

MAX_BYTES = 4 * 2**30
PIXEL_SLACK = 0.01
"""Values within [0, 1] but for this are taken for pixels."""
HALF_STEP = 0.5 / 255
"""A value that is this far outside of [0, 1] is still the nearest of 8 bits: it counts as rounded, not as cut."""
MOST_CUT = 0.01
"""Share of the values that may be cut unasked."""
SAVE_AGAIN = "save it again as torch.save((images, labels), FILE) with two tensors"

Constants = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Imported:
    """A set from a file of another program.

    Attributes:
        synthetic: the set.
        taken_for: what the values in the file were taken for, in words.
        cut: share of the values, 0 to 1, that lay outside of [0, 1] as pixels and were cut.
    """

    synthetic: SyntheticSet
    taken_for: str
    cut: float


def import_pt(
    path: str | os.PathLike[str],
    data: RealData,
    *,
    factor: int = 1,
    normalised: bool | Constants | None = None,
    most_cut: float = MOST_CUT,
) -> Imported:
    """Read synthetic images and labels from a ``.pt`` file.

    Understood are (images, labels); {"images": ..., "labels": ...}; {"data": [[images, labels], ...]}, as the programs
    of DC, DSA and DM write it (the last entry is taken); and images alone, class-sorted, equally many of each. Images
    are (n, channels, side, side) of floating point, labels (n,) whole numbers from 0.

    Args:
        path: of the file; only tensors and plain containers in it are loaded.
        data: the real data that the set was distilled from; gives classes, and the mean and std that it is normalised
            by (`RealData.constants`).
        factor: multi-formation factor that the images are stored with (2 for IDC on CIFAR).
        normalised: False: pixels in [0, 1]; True: normalised by mean and std of the data; (mean, std): by these, one
            number or one per channel, of pixels in [0, 1]; told by their range if None.
        most_cut: share of the values, 0 to 1, that may lie outside of [0, 1] as pixels.

    Raises:
        UserError: no such file, too large, unsafe, not a set of these data, one that can be meant in two ways, or one
            of which too much would be cut.
    """
    path = Path(path)
    most = min(MAX_FACTOR, data.size)
    if not 1 <= factor <= most:
        raise UserError(f"factor must be from 1 to {most} for images of {data.size} px, got {factor}")
    if not 0 <= most_cut <= 1:
        raise UserError(f"most_cut is a share from 0 to 1, got {most_cut}")
    images, labels = _found(path, _loaded(path))
    images = _checked_images(path, images, data)
    labels, said = _checked_labels(path, labels, len(images), data)
    constants, taken_for = _meaning(path, images, data, normalised)
    pixels = _pixels(images, constants)
    cut = _outside(pixels)
    if cut > most_cut:
        raise UserError(
            f"{path}: taken for {taken_for}, {cut:.1%} of the values lie outside of [0, 1] and would be cut, more than "
            f"{most_cut:.1%}; {_other_ways(images, data)}; whitened images cannot be read; if so many are to be cut, "
            f"give --most-cut {math.ceil(cut * 100) / 100:.2f}"
        )
    order = labels.argsort(stable=True)
    stored = pixels[order].clamp(0.0, 1.0)
    plain = Normalisation(*data.constants)
    synthetic = SyntheticSet(stored, labels[order], data.class_names, factor, "single", plain)
    return Imported(synthetic, f"{taken_for}, not whitened; {said}; factor {factor}", cut)


def _loaded(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(2)
        with zipfile.ZipFile(path) as archive:
            names, size = archive.namelist(), sum(entry.file_size for entry in archive.infolist())
            whole = size > MAX_BYTES or archive.testzip() is None
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except Exception:  # of many kinds, where it is no archive or a damaged one
        names, size, whole = [], 0, False
    if size > MAX_BYTES:
        raise UserError(f"{path} unpacks to {size >> 20} MiB, more than {MAX_BYTES >> 20}; it is not read")
    if not whole and start == b"PK":
        raise UserError(f"{path} is cut off or damaged; copy it again from where it was written")
    if not any(name.endswith("/data.pkl") for name in names):
        what = "empty" if not start else "no file as torch.save writes it since torch 1.6"
        raise UserError(f"{path} is {what}; load it by the program that wrote it and {SAVE_AGAIN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice is for its caller
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a hostile or damaged pickle raises is anything
        raise UserError(
            f"{path} holds more than tensors and plain containers, such as arrays of numpy, a data set or a model; "
            f"those are not loaded, since that could run code; {SAVE_AGAIN}"
        ) from error


def _found(path: Path, content: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    inner = content
    if isinstance(content, dict):
        entries = content.get("data")
        inner = entries[-1] if isinstance(entries, list) and entries else (content.get("images"), content.get("labels"))
    if isinstance(inner, torch.Tensor):
        return inner, None
    if isinstance(inner, (tuple, list)) and len(inner) == 2 and all(torch.is_tensor(part) for part in inner):
        return inner[0], inner[1]
    holds = type(content).__name__
    if isinstance(content, dict):
        holds = f"a dict with the entries {', '.join(map(repr, list(content)[:4]))}" if content else "an empty dict"
    elif isinstance(content, (tuple, list)):
        holds = f"a {holds} of {len(content)}: {', '.join(type(part).__name__ for part in content[:4])}"
    raise UserError(
        f"{path} holds {holds}; expected tensors (images, labels), a dict with 'images' and 'labels', the res file of "
        "DC, DSA or DM, or a tensor of images"
    )


def _checked_images(path: Path, images: torch.Tensor, data: RealData) -> torch.Tensor:
    """The images as float32 (n, channels, side, side), all finite."""
    wanted, shape = (data.channels, data.size, data.size), tuple(images.shape)
    needs = f"data {data.name!r} need (n, {', '.join(map(str, wanted))}) of floating point"
    if images.layout is not torch.strided or images.is_quantized or images.is_meta or images.is_complex():
        raise UserError(f"{path} holds images as a special kind of tensor ({images.dtype}); {needs}; {SAVE_AGAIN}")
    if images.numel() * 4 > MAX_BYTES:
        raise UserError(f"{path} unpacks to {images.numel() >> 18} MiB, more than {MAX_BYTES >> 20}; it is not read")
    if shape[1:] != wanted or not len(images):
        way = "is it another data set, or another data.size?"
        if len(shape) == 4 and shape[1:] == (*wanted[1:], wanted[0]):
            way = "the channels come last: save images.permute(0, 3, 1, 2)"
        elif data.channels == 1 and shape[1:] == wanted[1:]:
            way = "the channel is missing: save images.unsqueeze(1)"
        elif len(shape) == 1:
            way = "are these the labels? images come first"
        raise UserError(f"{path} holds images of shape {shape}; {needs}; {way}")
    if not images.is_floating_point():
        raise UserError(f"{path} holds images of whole numbers ({images.dtype}); {needs}: save images.float() / 255")
    images = images.detach().to(torch.float32)
    if not bool(images.isfinite().all()):
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise UserError(f"{path} holds values that are not finite (NaN or infinity), in {bad} of {len(images)} images")
    return images


def _checked_labels(path: Path, labels: torch.Tensor | None, count: int, data: RealData) -> tuple[torch.Tensor, str]:
    """Labels int64 (n,) in which every class occurs, and where they are from, in words."""
    classes = len(data.class_names)
    if labels is None:
        if count % classes:
            raise UserError(f"{path} holds {count} images without labels, not a multiple of {classes} classes")
        each = count // classes
        return torch.arange(classes).repeat_interleave(each), f"without labels: sorted by class, {each} of each"
    special = labels.layout is not torch.strided or labels.is_quantized or labels.is_meta or labels.is_complex()
    if special or labels.is_floating_point() or labels.dtype == torch.bool:
        soft = labels.ndim == 2 and labels.shape[1] == classes
        way = "a label is one class: save labels.argmax(1)" if soft else "give whole numbers: save labels.long()"
        raise UserError(f"{path} holds labels of {labels.dtype}, shape {tuple(labels.shape)}; {way}")
    if labels.numel() != count:
        raise UserError(f"{path} holds {labels.numel()} labels, shape {tuple(labels.shape)}, for {count} images")
    labels = labels.detach().flatten().to(torch.int64)
    there = set(labels.tolist())
    strange, missing = sorted(there - set(range(classes))), sorted(set(range(classes)) - there)
    if strange or missing:
        what = f"no class of {data.name!r} has the label {', '.join(map(str, strange[:4]))}" if strange else ""
        lacking = f"no image has the label {', '.join(map(str, missing[:4]))}" if missing else ""
        way = "they count from 1: save labels - 1" if there == set(range(1, classes + 1)) else "is it another data set?"
        raise UserError(
            f"{path} has labels from {min(there)} to {max(there)} for the {classes} classes 0 to {classes - 1}: "
            f"{'; '.join(filter(None, (what, lacking)))}; {way}"
        )
    return labels, "labels of the file"


def _meaning(
    path: Path, images: torch.Tensor, data: RealData, normalised: bool | Constants | None
) -> tuple[Constants | None, str]:
    """By what the values are normalised (None: they are pixels), and that in words."""
    low, high = float(images.min()), float(images.max())
    span = f"(values from {low:.3g} to {high:.3g})"
    if normalised is None:
        if low >= -PIXEL_SLACK and high <= 1 + PIXEL_SLACK:
            normalised = False
        elif low < -1 - PIXEL_SLACK or (low < -PIXEL_SLACK and high > 1 + PIXEL_SLACK):
            normalised = True
        else:
            scale = 255 if 1 + PIXEL_SLACK < high <= 255 * (1 + PIXEL_SLACK) else math.ceil(high)
            stretched = (
                "or pixels stretched to -1..1 (--mean 0.5 --std 0.5)"
                if low < -PIXEL_SLACK
                else f"or pixels of another range (save images / {scale})"
            )
            raise UserError(
                f"{path} can be meant in several ways {span}: {_other_ways(images, data)}; {stretched}; say which"
            )
    if normalised is False:
        return None, f"pixels in [0, 1] {span}"
    whose = f"of data {data.name!r}" if normalised is True else "as given"
    mean, std = constants = data.constants if normalised is True else _constants(normalised, data.channels)
    numbers = " and ".join(", ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return constants, f"images normalised by mean and standard deviation {whose} ({numbers}) {span}"


def _constants(given: Any, channels: int) -> Constants:
    mean, std = ([values] if isinstance(values, (int, float)) else list(values) for values in given)
    fits = len(mean) == len(std) and len(std) in (1, channels) and all(map(math.isfinite, [*mean, *std]))
    if not fits or min(std) <= 0:
        raise UserError(
            f"--mean and --std take one number, or {channels}, one per channel, of pixels in [0, 1], std above 0; got "
            f"{mean} and {std}"
        )
    return mean, std


def _pixels(images: torch.Tensor, constants: Constants | None) -> torch.Tensor:
    if constants is None:
        return images
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in constants)
    return images * std + mean


def _outside(pixels: torch.Tensor) -> float:
    return float(((pixels < -HALF_STEP) | (pixels > 1 + HALF_STEP)).double().mean())


def _other_ways(images: torch.Tensor, data: RealData) -> str:
    as_pixels, normalised = _outside(images), _outside(_pixels(images, data.constants))
    return (
        f"as pixels (--pixels) {as_pixels:.1%} would be cut, normalised by the data's own mean and standard deviation "
        f"(--normalised) {normalised:.1%}, by others with --mean and --std"
    )

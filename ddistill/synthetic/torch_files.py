"""Reading sets that other programs have written with torch.save, without running anything that is in the file."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddistill.data import RealData
from ddistill.errors import UserError
from ddistill.synthetic.synthetic_set import SyntheticSet

MAX_BYTES = 4 * 2**30
PIXEL_SLACK = 0.01
"""Images within [0, 1] but for this are taken for pixels; others for images normalised by mean and spread."""


def import_pt(
    path: str | os.PathLike[str], data: RealData, *, factor: int = 1, normalised: bool | None = None
) -> SyntheticSet:
    """Read synthetic images and labels from a ``.pt`` file.

    Understood are (images, labels); {"images": ..., "labels": ...}; {"data": [[images, labels], ...]}, as the programs
    of DC, DSA and DM write it (the last entry is taken); and images alone, class-sorted, equally many of each.

    Args:
        path: of the file; only tensors and plain containers in it are loaded.
        data: the real data that the set was distilled from; gives classes, mean and spread.
        factor: multi-formation factor that the images are stored with (2 for IDC on CIFAR).
        normalised: whether the images are normalised by mean and spread; told by their range if None.

    Raises:
        UserError: no such file, too large, unsafe, or not a set of these data.
    """
    path = Path(path)
    images, labels = _found(path, _loaded(path))
    shape = (data.channels, data.size, data.size)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or not images.is_floating_point() or not len(images):
        raise UserError(
            f"{path} holds images of shape {tuple(images.shape)}, {images.dtype}; data {data.name!r} need (n, "
            f"{', '.join(map(str, shape))}) of floating point"
        )
    images = images.detach().to(torch.float32)
    if not bool(images.isfinite().all()):
        raise UserError(f"{path} holds values that are not finite")
    classes = len(data.class_names)
    if labels is None:
        if len(images) % classes:
            raise UserError(f"{path} holds {len(images)} images without labels, not a multiple of {classes} classes")
        labels = torch.arange(classes).repeat_interleave(len(images) // classes)
    labels = labels.detach().flatten()
    if labels.is_floating_point() or labels.dtype == torch.bool or len(labels) != len(images):
        raise UserError(f"{path} holds {len(labels)} labels of {labels.dtype} for {len(images)} images; give integers")
    labels = labels.to(torch.int64)
    if set(labels.tolist()) != set(range(classes)):
        raise UserError(f"{path} has labels other than 0 to {classes - 1}, or not all of them; wrong --data?")
    if normalised is None:
        normalised = bool(images.min() < -PIXEL_SLACK or images.max() > 1.0 + PIXEL_SLACK)
    if normalised:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
        images = images * std + mean
    order = labels.argsort(stable=True)
    return SyntheticSet(
        images[order].clamp(0.0, 1.0), labels[order], data.class_names, factor, "single", data.mean, data.std
    )


def _loaded(path: Path) -> Any:
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no archive as torch.save writes it (since torch 1.6); it is not read") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if size > MAX_BYTES:
        raise UserError(f"{path} unpacks to {size >> 20} MiB, more than {MAX_BYTES >> 20}; it is not read")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} holds more than tensors and plain containers, or is damaged: {reason}") from error


def _found(path: Path, content: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    if isinstance(content, dict):
        data = content.get("data")
        content = data[-1] if isinstance(data, list) and data else (content.get("images"), content.get("labels"))
    if isinstance(content, torch.Tensor):
        return content, None
    if isinstance(content, (tuple, list)) and len(content) == 2 and all(torch.is_tensor(part) for part in content):
        return content[0], content[1]
    raise UserError(
        f"{path} holds no set that is known here; expected (images, labels), a dict of both, DC's res file, or images"
    )

"""Map-style data sets of (image, label), as torch and torchvision have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ddistill.data.labels import TRUTH, Labels, NoLabelError, as_label, labels_of
from ddistill.data.pixels import Encoded
from ddistill.data.splits import RawSplit, RawSplits
from ddistill.runtime.errors import UserError

CHANNELS = (1, 2, 3, 4)
READ_AGAIN = 8
"""Items that tell whether a data set gives the same image twice."""


def open_datasets(train: Any, test: Any | None) -> RawSplits:
    """Parts from one data set or two; class names from the ``.classes`` of each, where it has them.

    Items are pairs (image, label), or dictionaries of them. Images are Pillow images, tensors [channels, height, width]
    or arrays [height, width, channels] (the other order where only that gives 1 to 4 channels) or [height, width] of
    both; of 8 bits, whole numbers or floats. Labels are whole numbers, text or truth values.

    Raises:
        UserError: an item that is none of these, by its index.
    """
    notes: list[str] = []
    parts = [_part(name, dataset, notes) for name, dataset in (("train", train), ("test", test)) if dataset is not None]
    named = "the names in .classes" if parts[0].labels.declared and parts[0].labels.names else "the labels themselves"
    return RawSplits(
        parts[0], parts[1] if test is not None else None, labels_from=named, notes=tuple(dict.fromkeys(notes))
    )


def _part(part: str, dataset: Any, notes: list[str]) -> RawSplit:
    called = f"item {{}} of the {part} data set"
    if hasattr(dataset, "iloc"):
        raise UserError(
            f"the {part} data set is a table of pandas; expected pairs of (image, label): for columns image and label "
            f"list(zip(table['image'], table['label'])), or write it to a parquet file and give its path"
        )
    images: list[Encoded] = []
    values: list[Any] = []
    try:
        count = len(dataset)
    except Exception as error:  # a user's own code raises what it likes
        raise UserError(f"the {part} data set does not tell how many items it has: {_said(error)}") from error
    for index in range(count):
        try:
            item = dataset[index]
        except Exception as error:
            raise UserError(f"{called.format(index)} cannot be had: {_said(error)}; mend it or leave it out") from error
        image, label = _item(called.format(index), item)
        images.append(_image(called.format(index), image, notes))
        values.append(label)
    if _changes(dataset, images, called):
        notes.append(
            f"items of the {part} data set change from one reading to the next, as by a random transform: each was "
            f"read once and stays so; give the data set without it"
        )
    labels = labels_of(values, called)
    classes = _declared(dataset)
    if classes is not None and (labels.names is None or labels.names == TRUTH):
        labels = Labels(labels.values, classes)

    def read(rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
        return ((called.format(row), images[row]) for row in rows.tolist())

    return RawSplit(labels, read, f"a {type(dataset).__name__}")


def _changes(dataset: Any, images: list[Encoded], called: str) -> bool:
    """Whether the first images are others when they are read again; what cannot be read again does not tell."""
    for index, first in enumerate(images[:READ_AGAIN]):
        try:
            again = _image(called, _item(called, dataset[index])[0], [])
            same = np.array_equal(np.asarray(first), np.asarray(again))
        except Exception:  # a user's own code raises what it likes, and so do readers of damaged images
            return False
        if not same:
            return True
    return False


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _declared(dataset: Any) -> tuple[str, ...] | None:
    """Class names that a data set, or the one that it is a subset of, has in ``.classes`` or ``.class_to_idx``."""
    while dataset is not None:
        classes, numbers = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
        if isinstance(classes, list | tuple | np.ndarray):
            return tuple(str(name) for name in classes)
        numbers = classes if isinstance(classes, dict) else numbers
        if isinstance(numbers, dict) and sorted(numbers.values()) == list(range(len(numbers))):
            return tuple(str(name) for name in sorted(numbers, key=lambda name: int(numbers[name])))
        dataset = getattr(dataset, "dataset", None)
    return None


def _item(where: str, item: Any) -> tuple[Any, Any]:
    if isinstance(item, dict) and {"image", "label"} <= set(item):
        item = item["image"], item["label"]
    if not isinstance(item, tuple | list) or len(item) != 2:
        arrays = isinstance(item, np.ndarray | torch.Tensor)
        way = "; of arrays of images and of labels make pairs by list(zip(images, labels))" if arrays else ""
        raise UserError(
            f"{where} is {type(item).__name__!r}; expected a pair (image, label) or a dictionary of them{way}"
        )
    try:
        return item[0], as_label(item[1])
    except NoLabelError as error:
        raise UserError(f"{where} has {error}") from None


def _image(where: str, image: Any, notes: list[str]) -> Encoded:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().to(torch.float32 if image.dtype == torch.bfloat16 else image.dtype).numpy()
        first, usual, other = True, "[channels, height, width]", "[height, width, channels]"
    elif isinstance(image, np.ndarray):
        array, first, usual, other = image, False, "[height, width, channels]", "[channels, height, width]"
    else:
        raise UserError(
            f"{where} has an image of type {type(image).__name__!r}; expected a Pillow image, a tensor or an array"
        )
    kinds = (np.bool_, np.integer, np.floating)
    if not any(np.issubdtype(array.dtype, kind) for kind in kinds):
        raise UserError(f"{where} has an image of type {array.dtype}; expected whole numbers or floats")
    if array.ndim == 3 and not _fits(array, first) and _fits(array, not first):
        first = not first
        notes.append(f"images were read as {other}, since only that fits")
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and not _fits(array, first)):
        raise UserError(
            f"{where} has an image of shape {list(image.shape)}; expected {usual} or [height, width], 1 to 4 channels"
        )
    array = array.transpose(1, 2, 0) if array.ndim == 3 and first else array
    if array.ndim == 3 and array.shape[2] in (2, 4):
        colours = "grey" if array.shape[2] == 2 else "RGB"
        notes.append(f"images of {array.shape[2]} channels were read as {colours} and opacity")
    return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _fits(array: np.ndarray, channels_first: bool) -> bool:
    return array.shape[0 if channels_first else 2] in CHANNELS

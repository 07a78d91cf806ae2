"""Map-style data sets of (image, label), as torch and torchvision have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ddistill.data.images import Encoded, unit_floats_to_uint8
from ddistill.data.labels import as_label
from ddistill.data.sources import Part, Parts, array_part
from ddistill.errors import UserError


def open_datasets(train: Any, test: Any | None) -> Parts:
    """Parts from one data set or two; class names from ``.classes`` of the first, if it has them.

    Images are Pillow images, tensors [channels, height, width] or [height, width], or arrays [height, width, channels]
    or [height, width]; uint8, or floats in [0, 1]. Labels are whole numbers.

    Raises:
        UserError: an item that is none of these, by its index.
    """
    train_part = _part("train", train)
    test_part = _part("test", test) if test is not None else None
    classes = getattr(train, "classes", None)
    names = tuple(str(name) for name in classes) if isinstance(classes, list | tuple) else None
    return Parts(names, train_part, test_part)


def _part(part: str, dataset: Any) -> Part:
    images: list[Encoded] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        image, label = _item(part, index, dataset[index])
        images.append(image)
        labels.append(label)
    return array_part(f"the {part} part", images, np.array(labels, dtype=np.int64))


def _item(part: str, index: int, item: Any) -> tuple[Encoded, int]:
    where = f"item {index} of the {part} data set"
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UserError(f"{where} is {type(item).__name__!r}; expected a pair (image, label)")
    label = as_label(item[1])
    if label is None:
        raise UserError(f"{where} has the label {item[1]!r}; expected a whole number")
    return _image(where, item[0]), label


def _image(where: str, image: Any) -> Encoded:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().to(torch.float32 if image.dtype == torch.bfloat16 else image.dtype).numpy()
        array, layout = (array.transpose(1, 2, 0) if array.ndim == 3 else array), "[channels, height, width]"
    elif isinstance(image, np.ndarray):
        array, layout = image, "[height, width, channels]"
    else:
        raise UserError(
            f"{where} has an image of type {type(image).__name__!r}; expected a Pillow image, a tensor or an array"
        )
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise UserError(
            f"{where} has an image of shape {list(image.shape)}; expected {layout} or [height, width], 1 or 3 channels"
        )
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return _as_uint8(where, array)


def _as_uint8(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        try:
            return unit_floats_to_uint8(array)
        except ValueError as error:
            raise UserError(f"{where} {error}") from None
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{where} has an image of type {array.dtype}; expected uint8 or floats in [0, 1]")
    if array.min() < 0 or array.max() > 255:
        raise UserError(f"{where} has values from {array.min()} to {array.max()}; whole numbers must lie in 0 to 255")
    return array.astype(np.uint8)

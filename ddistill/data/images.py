"""From bytes, files, Pillow images and arrays to uint8 tensors of one size.

Every image is turned upright (EXIF), brought to grey or RGB, and, if it has another size, cropped to its central square
and scaled with an antialiased bilinear filter.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ddistill.data.rows import RowMemory, Rows
from ddistill.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Encoded: TypeAlias = "bytes | Path | Image.Image | np.ndarray"
Progress: TypeAlias = Callable[[str, int, int], None]

CHUNK = 64
"""Images per task of the decoding threads: enough that handing them over costs little."""

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class Unreadable(Exception):
    """An image that cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class Decoded:
    """One image: ``pixels`` uint8 [channels, height, width]; what had to be changed to get there."""

    pixels: np.ndarray
    colour: bool
    resized: bool


@dataclass
class DecodedPart:
    """Images of one part, and how many needed what.

    Attributes:
        rows: where the images are put, n of them.
        readable: bool [n]; rows where it is False hold nothing of use.
        done: items that have been decoded, in the order of reading.
        unreadable: names of items that cannot be read.
        grey, colour, resized: items that were so, or had to be.
    """

    rows: Rows
    readable: np.ndarray
    done: int = 0
    unreadable: list[str] = field(default_factory=list)
    grey: int = 0
    colour: int = 0
    resized: int = 0

    @classmethod
    def empty(cls, rows: Rows) -> DecodedPart:
        """Before the first image."""
        return cls(rows, np.zeros(rows.rows, dtype=bool))

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [n, channels, size, size]."""
        return self.rows.tensor().numpy()


def decode(encoded: Encoded, size: int | None, channels: int | None) -> Decoded:
    """Decode one image to ``size`` (side in pixels; None: as it is) and ``channels`` (None: as it is).

    An array is uint8 [height, width] or [height, width, 3]. Raises Unreadable.
    """
    if isinstance(encoded, np.ndarray) and _is_final(encoded, size, channels):
        pixels = encoded[None] if encoded.ndim == 2 else encoded.transpose(2, 0, 1)
        return Decoded(np.ascontiguousarray(pixels), colour=encoded.ndim == 3, resized=False)
    try:
        image = _upright(encoded)
        colour = image.mode not in _GREY_MODES
        image = _grey_or_rgb(image)
        if channels is not None:
            image = image.convert("L" if channels == 1 else "RGB")
        resized = size is not None and image.size != (size, size)
        pixels = np.asarray(_square(image, size) if size is not None and resized else image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), colour, resized)


def _is_final(array: np.ndarray, size: int | None, channels: int | None) -> bool:
    shape_fits = size is None or array.shape[:2] == (size, size)
    return shape_fits and channels in (None, 1 if array.ndim == 2 else 3)


def _upright(encoded: Encoded) -> Image.Image:
    from PIL import Image, ImageOps

    if isinstance(encoded, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(encoded))
    if isinstance(encoded, bytes):
        image: Image.Image = Image.open(io.BytesIO(encoded))
        image.load()
    elif isinstance(encoded, os.PathLike):
        with Image.open(encoded) as image:
            image.load()
    else:
        image = encoded.copy()  # a caller's own image stays as it is
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode.startswith("I"):  # 16 bits per pixel
        values = np.asarray(image).astype(np.float64).clip(0, 65535) / 257
        return Image.fromarray(np.rint(values).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(unit_floats_to_uint8(np.asarray(image)))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def unit_floats_to_uint8(values: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8 0 to 255, rounded; ValueError for NaN, infinity and values outside."""
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite (NaN or infinity)")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"has values from {values.min():.4g} to {values.max():.4g}; floats must be in [0, 1], not normalised"
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _square(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def decode_part(
    items: Iterator[tuple[str, Encoded]],
    positions: Sequence[int] | np.ndarray,
    *,
    size: int | None,
    channels: int | None,
    expected: int | None = None,
    stage: str = "decoding",
    on_progress: Progress | None = None,
    part: DecodedPart | None = None,
    keep: Callable[[DecodedPart], None] | None = None,
) -> DecodedPart:
    """Decode named images on all cores; item i goes to row ``positions[i]``.

    With ``size`` None all images must be square and alike, and of side ``expected`` if that is given. With ``channels``
    None the result has 3 as soon as one image is in colour.

    Args:
        items: names and images; those that ``part`` has done already are left out.
        positions: of all items.
        size: side in pixels.
        channels: 1 or 3.
        expected: side that the other part has.
        stage: named to ``on_progress``.
        on_progress: called with the stage, the images done and the images in all.
        part: to go on with; a new one in memory if None.
        keep: called after every few images, to keep how far it is.

    Raises:
        UserError: images differ in size or are not square, and ``size`` is None.
    """
    part = part or DecodedPart.empty(RowMemory(len(positions)))
    with closing(_decoded_chunks(items, size, channels)) as chunks:
        for names, results in chunks:
            for name, result in zip(names, results, strict=True):
                if isinstance(result, Unreadable):
                    part.unreadable.append(name)
                else:
                    _place(part, int(positions[part.done]), name, result, expected)
                part.done += 1
            if on_progress is not None:
                on_progress(stage, part.done, len(positions))
            if keep is not None:
                keep(part)
    return part


def _place(part: DecodedPart, row: int, name: str, image: Decoded, expected: int | None) -> None:
    channels, height, width = image.pixels.shape
    if part.rows.shape is None:
        if height != width:
            raise UserError(f"image {name} has {width}x{height} pixels, which is not square; set data.size=SIDE")
        part.rows.start((channels, height, width))
    assert part.rows.shape is not None
    side = expected or part.rows.shape[-1]
    if (height, width) != (side, side):
        raise UserError(
            f"images differ in size: image {name} has {width}x{height} pixels, others {side}x{side}; set data.size=SIDE"
        )
    if channels > part.rows.shape[0]:
        part.rows.widen(channels)
    part.rows.put(row, np.repeat(image.pixels, part.rows.shape[0] // channels, axis=0))
    part.readable[row] = True
    part.colour += image.colour
    part.grey += not image.colour
    part.resized += image.resized


def _decoded_chunks(
    items: Iterator[tuple[str, Encoded]], size: int | None, channels: int | None
) -> Generator[tuple[list[str], list[Decoded | Unreadable]], None, None]:
    """Chunks in order, with a bounded number under way so that memory does not grow with the set."""

    def run(chunk: list[tuple[str, Encoded]]) -> tuple[list[str], list[Decoded | Unreadable]]:
        return [name for name, _ in chunk], [_decode_or_reason(encoded, size, channels) for _, encoded in chunk]

    workers = cores()
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while chunk := list(islice(items, CHUNK)):
                waiting.append(pool.submit(run, chunk))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_or_reason(encoded: Encoded, size: int | None, channels: int | None) -> Decoded | Unreadable:
    try:
        return decode(encoded, size, channels)
    except Unreadable as error:
        return error


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""From bytes, files, Pillow images and arrays to uint8 tensors of one size.

Every image is turned upright (EXIF), brought to grey or RGB (see `ddistill.data.pixels`), and, if it has another size,
cropped to its central square and scaled with an antialiased bilinear filter.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from operator import or_
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from ddistill.data.pixels import (
    Encoded,
    Extremes,
    Kind,
    Tone,
    Unreadable,
    array_image,
    extremes,
    grey_or_rgb,
    is_grey,
    opened,
)
from ddistill.data.rows import RowMemory, Rows
from ddistill.runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Progress: TypeAlias = Callable[[str, int, int], None]
Result = TypeVar("Result")

CHUNK = 64
"""Images per task of the decoding threads: enough that handing them over costs little."""
REASONS_SHOWN = 3


@dataclass(frozen=True)
class Decoded:
    """One image: ``pixels`` uint8 [channels, height, width]; what had to be changed to get there.

    ``marks``: of 'resized', 'transparent', 'deep', 'whole', 'float', 'unit' (a float image from 0 to 1 where
    others run to 255), 'byte' (8 bits where
    a range is given), 'cut', 'frames', 'halved'.
    """

    pixels: np.ndarray
    colour: bool
    marks: frozenset[str] = frozenset()


@dataclass
class DecodedSplit:
    """Images of one part, and how many needed what.

    Attributes:
        rows: where the images are put, n of them.
        readable: bool [n]; rows where it is False hold nothing of use.
        done: items that have been decoded, in the order of reading.
        unreadable: names of items that cannot be read, with the reasons.
        grey, colour: items that were so.
        marks: items by what was done to them, as in `Decoded`.
        warned: warnings of image libraries, and how many of each.
    """

    rows: Rows
    readable: np.ndarray
    done: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    grey: int = 0
    colour: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, rows: Rows) -> DecodedSplit:
        """Before the first image."""
        return cls(rows, np.zeros(rows.rows, dtype=bool))

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [n, channels, size, size]."""
        return self.rows.tensor().numpy()


def decode(encoded: Encoded, size: int | None, channels: int | None, tone: Tone | None = None) -> Decoded:
    """Decode one image.

    Args:
        encoded: a file, its bytes, a Pillow image, or an array [height, width] or [height, width, 1 to 4].
        size: side in pixels; None: as it is.
        channels: 1 or 3; None: as it is.
        tone: how values become black to white; None: the image stands for itself.

    Raises:
        Unreadable: damaged, or of values that cannot be told.
        UserError: the training images' values can be meant in two ways.
    """
    tone = tone or Tone()
    marks: set[str] = set()
    if isinstance(encoded, np.ndarray) and tone.fixed is None and _is_final(encoded, size, channels):
        pixels = encoded[None] if encoded.ndim == 2 else encoded.transpose(2, 0, 1)
        return Decoded(np.ascontiguousarray(pixels), colour=encoded.ndim == 3)
    try:
        image, colour = _in_tone(encoded, tone, marks)
        if channels is not None:
            image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and image.size != (size, size):
            marks.add("resized")
            image = _square(image, size)
        pixels = np.asarray(image)
    except (MemoryError, Unreadable, UserError):
        raise
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise Unreadable(_reason(error)) from error
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), colour, frozenset(marks))


def _reason(error: Exception) -> str:
    """What an image library says, without the addresses that it puts in."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _is_final(array: np.ndarray, size: int | None, channels: int | None) -> bool:
    shape_fits = size is None or array.shape[:2] == (size, size)
    plain = array.ndim == 2 or array.shape[2] == 3
    return array.dtype == np.uint8 and plain and shape_fits and channels in (None, 1 if array.ndim == 2 else 3)


def _in_tone(encoded: Encoded, tone: Tone, marks: set[str]) -> tuple[Image.Image, bool]:
    """An upright image of mode L or RGB, and whether it is in colour."""
    from PIL import ImageOps

    image = opened(encoded, marks)
    if isinstance(image, np.ndarray):
        made = array_image(image, tone, marks)
        return made, made.mode == "RGB"
    colour = not is_grey(image)
    ImageOps.exif_transpose(image, in_place=True)
    made = grey_or_rgb(image, tone, marks)
    return made, colour or made.mode == "RGB"


def _square(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def decode_split(
    items: Iterator[tuple[str, Encoded]],
    positions: Sequence[int] | np.ndarray,
    *,
    size: int | None,
    channels: int | None,
    expected: int | None = None,
    tone: Tone | None = None,
    part: DecodedSplit | None = None,
    on_progress: Callable[[DecodedSplit], None] | None = None,
) -> DecodedSplit:
    """Decode named images on all cores; item i goes to row ``positions[i]``.

    With ``size`` None all images must be square and alike, and of side ``expected`` if that is given. With ``channels``
    None the result has 3 as soon as one image is in colour.

    Args:
        items: names and images; those that ``part`` has done already are left out.
        positions: of all items.
        size: side in pixels.
        channels: 1 or 3.
        expected: side that the other part has.
        tone: of the set that they belong to.
        part: to go on with; a new one in memory if None.
        on_progress: called after every few images with the part as it is then.

    Raises:
        UserError: images differ in size or are not square, and ``size`` is None.
    """
    part = part or DecodedSplit.empty(RowMemory(len(positions)))
    tone = tone or Tone()

    def work(chunk: list[tuple[str, Encoded]]) -> list[tuple[str, Decoded | Unreadable]]:
        return [(name, _decode_or_reason(encoded, size, channels, tone)) for name, encoded in chunk]

    with gathered_warnings(part.warned), closing(_in_chunks(items, work)) as chunks:
        for results in chunks:
            for name, result in results:
                if isinstance(result, Unreadable):
                    part.unreadable.append((name, str(result)))
                else:
                    _place(part, int(positions[part.done]), name, result, expected)
                part.done += 1
            if on_progress is not None:
                on_progress(part)
    return part


def survey(items: Iterator[tuple[str, Encoded]], kind: Kind) -> Extremes | None:
    """The extremes of images of one kind among named images, on all cores; None where none is of that kind."""
    with closing(_in_chunks(items, lambda chunk: extremes(chunk, kind))) as chunks:
        found = [result for result in chunks if result is not None]
    return reduce(or_, found) if found else None


@contextmanager
def gathered_warnings(warned: dict[str, int]) -> Iterator[None]:
    """Count warnings and log messages of image libraries in ``warned`` by their text, in place of printing them."""
    counts: Counter[str] = Counter()

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            counts[" ".join(record.getMessage().split())[:160]] += 1

    def hear(message: Warning | str, *_: Any, **__: Any) -> None:
        counts[" ".join(str(message).split())[:160]] += 1

    logger, handler = logging.getLogger("PIL"), Gather(logging.WARNING)
    propagates = logger.propagate
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hear
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagates
            for text, count in counts.items():
                warned[text] = warned.get(text, 0) + count


def _place(part: DecodedSplit, row: int, name: str, image: Decoded, expected: int | None) -> None:
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
    for mark in image.marks:
        part.marks[mark] = part.marks.get(mark, 0) + 1


def _in_chunks(
    items: Iterator[tuple[str, Encoded]], work: Callable[[list[tuple[str, Encoded]]], Result]
) -> Generator[Result, None, None]:
    """Work on chunks of items on all cores, results in order; a bounded number of chunks is under way at a time."""
    workers = cores()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while chunk := list(islice(items, CHUNK)):
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_or_reason(encoded: Encoded, size: int | None, channels: int | None, tone: Tone) -> Decoded | Unreadable:
    try:
        return decode(encoded, size, channels, tone)
    except Unreadable as error:
        return error


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""From the values of one image to grey or RGB of 8 bits: transparency, more than 8 bits, floats.

What a value means is decided for a whole set, never for an image alone: 12 bits of grey in files of 16, or floats that
run to 255, are told by the smallest and the largest value of the training images.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ddistill.runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Encoded: TypeAlias = "bytes | Path | Image.Image | np.ndarray"
Kind = Literal["deep", "whole", "float"]
"""deep: whole numbers of 16 bits, and of 32 from files; whole: others in memory, such as int64; float."""

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
WHITE = (255, 255, 255)
DIMMEST_FLOATS = 32
"""Floats of which the largest lies between 1 and this may be meant in two ways."""
FULL = (1.0, 255.0, 65535.0)
"""Values that stand for opaque, in floats, in 8 bits and in 16."""
WAY_OUT = "say which values are black and white with data.value_range=[LOW, HIGH]"


class Unreadable(Exception):
    """An image that cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class Extremes:
    """The smallest and the largest value of images of one kind, and the names of images that have them."""

    low: float
    low_name: str
    high: float
    high_name: str

    def __or__(self, other: Extremes) -> Extremes:
        low, high = min(self, other, key=lambda e: e.low), max(self, other, key=lambda e: e.high)
        return Extremes(low.low, low.low_name, high.high, high.high_name)


def nothing_surveyed(_kind: Kind) -> Extremes | None:
    """The survey of a set that is not known: an image stands for itself."""
    return None


@dataclass
class Tone:
    """How values become black to white, the same for all images of a set.

    Attributes:
        ground: colour that transparent pixels are put on.
        fixed: the values that become black and white, if a user gave them.
        survey: finds the extremes of the training images of one kind; called at most once for each kind.
        others: those of the test images, for a kind that no training image has.
        alone: an image of a kind that has none stands for itself; else it is unreadable.
        scales: what was found.
    """

    ground: tuple[int, int, int] = WHITE
    fixed: tuple[float, float] | None = None
    survey: Callable[[Kind], Extremes | None] = nothing_surveyed
    others: Callable[[Kind], Extremes | None] = nothing_surveyed
    alone: bool = True
    scales: dict[Kind, tuple[float, float] | None] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    @property
    def beyond_bytes(self) -> bool:
        """Whether the values that a user gave are none of 8 bits: images of 8 bits stand for themselves then."""
        return self.fixed is not None and (self.fixed[0] < 0 or self.fixed[1] > 255)

    def scale(self, kind: Kind, array: np.ndarray) -> tuple[float, float]:
        """The values that become black and white; Unreadable where there is no telling."""
        if self.fixed is not None:
            return self.fixed
        with self.lock:
            if kind not in self.scales:
                found = self.survey(kind)
                self.scales[kind] = absolute(kind, self.others(kind)) if found is None else judged(kind, found)
        scale = self.scales[kind]
        if scale is None:
            if not self.alone:
                raise Unreadable(f"it has values of a kind that no training image has ({array.dtype}); {WAY_OUT}")
            try:
                return judged(kind, Extremes(float(array.min()), "it", float(array.max()), "it"))
            except UserError as error:
                raise Unreadable(str(error)) from None
        return scale


def judged(kind: Kind, found: Extremes) -> tuple[float, float]:
    """The values that become black and white, from the extremes of the training images; a UserError if unclear."""
    low, high = found.low, found.high
    if kind == "deep":
        return low, high
    if kind == "whole":
        return (0.0, 255.0) if low >= 0 and high <= 255 else (low, high)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and DIMMEST_FLOATS < high <= 255:
        return 0.0, 255.0
    name, value = (found.low_name, low) if low < 0 else (found.high_name, high)
    reading = (
        "they may be meant as [0, 1] and too bright, or as 0 to 255 and dark"
        if low >= 0 and high <= 255
        else "floats must be in [0, 1] or in 0 to 255, not normalised"
    )
    raise UserError(f"{name} has the value {value:.4g}, values run from {low:.4g} to {high:.4g}: {reading}; {WAY_OUT}")


def absolute(kind: Kind, found: Extremes | None) -> tuple[float, float] | None:
    """The values that are black and white whatever other images hold: 0 and 255, or 0.0 and 1.0; None if unclear."""
    with suppress(UserError):
        if found is not None and found.low >= 0 and found.high <= 255:
            return judged("whole" if kind == "deep" else kind, found)
    return None


def kind_of(array: np.ndarray, *, stored: bool) -> Kind | None:
    """The kind of an array's values; None for 8 bits and truth values. ``stored``: from a file."""
    if array.dtype in (np.uint8, np.bool_):
        return None
    if np.issubdtype(array.dtype, np.floating):
        return "float"
    if not np.issubdtype(array.dtype, np.integer):
        raise Unreadable(f"it has values of the type {array.dtype}; expected whole numbers or floats")
    return "deep" if stored or array.dtype.itemsize == 2 else "whole"


def to_8_bits(array: np.ndarray, tone: Tone, marks: set[str], *, stored: bool) -> np.ndarray:
    """Values as uint8 0 to 255 by the tone of the set; what was done is added to ``marks``. Raises Unreadable."""
    kind = kind_of(array, stored=stored)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if kind is None and tone.fixed is None:
        return array
    if kind is None:
        marks.add("byte")
    if kind is None and tone.beyond_bytes:
        return array
    if not array.size:
        raise Unreadable("it has no pixel")
    if kind == "float" and not np.isfinite(array).all():
        raise Unreadable("it has values that are not finite (NaN or infinity)")
    low, high = tone.scale(kind, array) if kind is not None else tone.fixed or (0.0, 255.0)
    smallest, largest = float(array.min()), float(array.max())
    if smallest < low or largest > high:
        if kind == "float" and tone.fixed is None:
            raise Unreadable(
                f"it has values from {smallest:.4g} to {largest:.4g}, the training images lie in "
                f"[{low:.4g}, {high:.4g}]: floats must be of one kind, not normalised; {WAY_OUT}"
            )
        marks.add("cut")
    if kind is not None and (kind, low, high) != ("whole", 0.0, 255.0):
        marks.add(kind)
    if kind == "float" and tone.fixed is None and 0 < largest <= 1 < high:
        marks.add("unit")
    values = (array.astype(np.float64) - low) * (255.0 / (high - low if high > low else 1.0))
    return np.rint(values.clip(0.0, 255.0)).astype(np.uint8)


def opened(encoded: Encoded, marks: set[str]) -> Image.Image | np.ndarray:
    """An image that is read but not changed yet; the first one where a file holds several."""
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        return encoded
    if isinstance(encoded, bytes | os.PathLike):
        if isinstance(encoded, bytes) and not encoded:
            raise Unreadable("it is empty")
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":
                marks.add("frames")
            tile = getattr(image, "tile", None)
            if tile and _is_halved(tile[0]) and not image.mode.startswith("I"):
                marks.add("halved")
            image.load()
        # Pillow gives PNG files of 16 bits of grey and opacity as RGBA.
        return image.convert("LA") if tile and tile[0][3] == "LA;16B" else image
    return encoded.copy()  # a caller's own image stays as it is


def _is_halved(tile: Any) -> bool:
    """Whether Pillow reads 16 bits a channel from a file, of which it gives the upper 8."""
    decoder, options = tile[0], tile[3]
    largest = options[-1] if decoder.startswith("ppm") and isinstance(options, tuple) else 0
    return ";16" in str(options) or decoder == "SGI16" or (isinstance(largest, int) and largest > 255)


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour: by its mode, with a palette by the colours that can be seen."""
    if image.mode not in ("P", "PA"):
        return image.mode in GREY_MODES
    pixels = np.asarray(image.convert("RGBA"))
    seen = pixels[pixels[:, :, 3] > 0]
    return bool((seen[:, :3] == seen[:, :1]).all())


def grey_or_rgb(image: Image.Image, tone: Tone, marks: set[str]) -> Image.Image:
    """An image of mode L or RGB, transparent pixels put on the ground."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        pixels = to_8_bits(array, tone, marks, stored=True)
        through = image.info.get("transparency")
        if isinstance(through, int) and (array == through).any():
            mask = Image.fromarray((array != through).astype(np.uint8) * np.uint8(255))
            return _composed(Image.fromarray(pixels), mask, tone, marks)
        return Image.fromarray(pixels)
    grey, alpha = is_grey(image), None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
        alpha = image.getchannel("A")
    image = image.convert("L" if grey else "RGB")
    if tone.fixed is not None:
        image = Image.fromarray(to_8_bits(np.asarray(image), tone, marks, stored=True))
    return image if alpha is None else _composed(image, alpha, tone, marks)


def _composed(image: Image.Image, alpha: Image.Image, tone: Tone, marks: set[str]) -> Image.Image:
    """An L or RGB image put on the ground where it is transparent; RGB where the ground has a colour."""
    from PIL import Image

    if alpha.getextrema()[0] == 255:
        return image
    marks.add("transparent")
    if image.mode == "L" and len(set(tone.ground)) == 1:
        ground = Image.new("L", image.size, tone.ground[0])
    else:
        ground, image = Image.new("RGB", image.size, tone.ground), image.convert("RGB")
    ground.paste(image, mask=alpha)
    return ground


def array_image(array: np.ndarray, tone: Tone, marks: set[str]) -> Image.Image:
    """An L or RGB image of an array [height, width] or [height, width, 1 to 4]; 2 and 4 channels end in opacity."""
    from PIL import Image

    colours, opacity = parted(array)
    pixels = to_8_bits(colours, tone, marks, stored=False)
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if opacity is None:
        return image
    return _composed(image, Image.fromarray(_in_8_bits(opacity)), tone, marks)


def parted(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours of an array, and the opacity that 2 and 4 channels end in: it has a range of its own."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        return array[:, :, :-1], array[:, :, -1]
    return array, None


def _in_8_bits(opacity: np.ndarray) -> np.ndarray:
    """Opacity as uint8: opaque is 1 in floats and truth values, 255, or 65535, the first that no value is above."""
    if opacity.dtype == np.uint8:
        return np.ascontiguousarray(opacity)
    values = opacity.astype(np.float64)
    full = FULL[1:] if np.issubdtype(opacity.dtype, np.integer) else FULL
    scale = next((one for one in full if values.max() <= one), None)
    if scale is None or values.min() < 0:  # also where it is not a number
        raise Unreadable(
            f"its opacity runs from {values.min():.4g} to {values.max():.4g}; expected 0 to 1, to 255 or to 65535"
        )
    return np.rint(values * (255.0 / scale)).astype(np.uint8)


def extremes(items: Iterable[tuple[str, Encoded]], kind: Kind) -> Extremes | None:
    """The extremes of images of one kind among these; None where none is of that kind. Unreadable ones do not count."""
    found: Extremes | None = None
    for name, encoded in items:
        try:
            array = _values(encoded)
            if array is None or not array.size or kind_of(array, stored=not isinstance(encoded, np.ndarray)) != kind:
                continue
            low, high = float(array.min()), float(array.max())
        except MemoryError:
            raise
        except Exception:  # readers raise many kinds on damaged files; decoding, which comes next, tells of each
            continue
        if np.isfinite(low) and np.isfinite(high):
            of_file = Extremes(low, name, high, name)
            found = of_file if found is None else found | of_file
    return found


def _values(encoded: Encoded) -> np.ndarray | None:
    """Values of an image without its opacity; nothing but the head is read where it has 8 bits."""
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        return parted(encoded)[0]
    if isinstance(encoded, Image.Image):
        return np.asarray(encoded) if encoded.mode.startswith("I") or encoded.mode == "F" else None
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        return np.asarray(image) if image.mode.startswith("I") or image.mode == "F" else None

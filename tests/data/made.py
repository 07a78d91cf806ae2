"""Flat pictures in every layout, so that a wrong label or a wrong part shows as a wrong colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ddistill.data import DataSettings, RealData, load_data
from ddistill.runtime.errors import UserError

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (128, 128, 128)}
NAMES = ("red", "blue")


def pixels(colour: str, seed: int = 0, side: int = 8) -> np.ndarray:
    """uint8 [side, side, 3]: the colour and some noise."""
    noise = np.random.default_rng(seed).integers(-9, 10, (side, side, 3))
    return (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)


def picture(colour: str, seed: int = 0) -> Image.Image:
    return Image.fromarray(pixels(colour, seed))


def png(colour: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(colour, seed).save(buffer, "png")
    return buffer.getvalue()


def fill(folder: Path, colour: str, count: int = 4, ending: str = ".png", first: int = 0) -> Path:
    """A folder of pictures of a colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        picture(colour, i).save(folder / f"{i}{ending}", None if ending else "PNG")
    return folder


def classes(folder: Path, count: int = 4, names: Mapping[str, str] | Sequence[str] = NAMES) -> Path:
    """Class folders; a mapping gives the colour of each name."""
    for name in names:
        fill(folder / name, names[name] if isinstance(names, Mapping) else name, count)
    return folder


def parts(root: Path, *names: str, count: int = 4, inner: Sequence[str] = NAMES) -> Path:
    """Part folders with class folders: the first has ``count`` images per class, each other one less."""
    for number, name in enumerate(names):
        classes(root / name, count - number, inner)
    return root


def rows(count: int = 4, colours: Sequence[str] = NAMES) -> list[tuple[str, int]]:
    """(colour, seed), colours interleaved."""
    return [(colour, i) for i in range(count) for colour in colours]


def write_table(path: Path, count: int = 4, colours: Sequence[str] = NAMES, **columns: Any) -> Path:
    """A parquet file of pictures and columns; a column is a mapping by colour, or a list of all rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {"image": [png(*row) for row in rows(count, colours)]}
    for name, values in columns.items():
        table[name] = [values[colour] for colour, _ in rows(count, colours)] if isinstance(values, dict) else values
    pa.parquet.write_table(pa.table(table), path)
    return path


def check(
    source: Any, train: Mapping[str, tuple[str, int]], test: Mapping[str, tuple[str, int]], **settings
) -> RealData:
    """That a source is read as these classes: name to colour and count, in order; also from the cache."""
    for _ in range(2):
        data = load_data(source, DataSettings(**settings))
        assert data.class_names == tuple(train)
        for split, expected in ((data.train, train), (data.test, test)):
            counts = {
                name: count
                for name, count in zip(
                    data.class_names, np.bincount(split.labels, minlength=data.num_classes).tolist(), strict=True
                )
                if count
            }
            assert counts == {name: count for name, (_, count) in expected.items()}
            for name, (colour, _) in expected.items():
                shown = split.images[split.labels == data.class_names.index(name)].double().mean((0, 2, 3)).tolist()
                wanted = COLOURS[colour] if len(shown) == 3 else [sum(COLOURS[colour]) / 3]
                assert shown == pytest.approx(wanted, abs=12), name
    return data


def refused(source: Any, *words: str, **settings) -> str:
    """The one line with which a source is refused; it holds all the words."""
    with pytest.raises(UserError) as caught:
        load_data(source, DataSettings(**settings))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message

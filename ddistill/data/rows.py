"""Images in a file: written row by row while they are decoded, read as a tensor of which little stays in memory.

A mapped file counts as resident memory page by page as it is read. So whoever reads many rows says so (`touched`), and
past `RESIDENT_BYTES` the pages are given back; the system keeps them as long as it has nothing better to do, and
`expect` asks it to read rows ahead.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch

from ddistill.runtime.memory import free_memory_bytes
from ddistill.runtime.storage import atomic_path, make_parent

RESIDENT_BYTES = 512 * 2**20
"""Of one mapped file, at most, before its pages are given back; a smaller file stays."""
AROUND_BYTES = 64 * 1024
"""What the system maps around a page that is touched."""
BLOCK_BYTES = 16 * 2**20
"""Read or copied at once by loops over all rows."""


class Mapping(mmap.mmap):
    """A mapped file, private and writable as tensors want it, though nobody writes.

    Attributes:
        start: offset of the first row in bytes.
        row: bytes of a row.
        resident: bytes that may be in memory since the last release.
    """

    start: int
    row: int
    resident: int


_MAPPINGS: WeakValueDictionary[int, Mapping] = WeakValueDictionary()
"""By address of the first row; a tensor keeps its mapping alive, this table does not."""


def open_rows(path: Path) -> torch.Tensor:
    """The rows of an .npy file of uint8 [n, ...], mapped.

    Raises:
        OSError, ValueError: no such file, or another kind of file.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read_header(file)
        start = file.tell()
        if fortran or kind != np.uint8 or not shape or not all(shape):
            raise ValueError(f"{path} holds no rows of uint8")
        mapping = Mapping(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mapping.start, mapping.row, mapping.resident = start, int(np.prod(shape[1:])), 0
    images = torch.from_numpy(np.frombuffer(mapping, np.uint8, int(np.prod(shape)), start).reshape(shape))
    _MAPPINGS[images.data_ptr()] = mapping
    return images


def is_mapped(images: torch.Tensor) -> bool:
    """Whether a tensor is (a view of) the rows of a mapped file."""
    return _mapping(images) is not None


def touched(images: torch.Tensor, rows: int) -> None:
    """``rows`` of the images have been read: give back the pages of the file when they are too many."""
    mapping = _large(images)
    if mapping is None:
        return
    mapping.resident += rows * (mapping.row + AROUND_BYTES)
    if mapping.resident > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
        mapping.resident = 0


def expect(images: torch.Tensor, index: torch.Tensor) -> None:
    """Ask the system to read rows, int64 of any shape, ahead; returns at once. Files that stay resident are left."""
    mapping = _large(images)
    if mapping is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for row in index.flatten().tolist():
        first = mapping.start + row * mapping.row
        aligned = first - first % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_WILLNEED, aligned, first + mapping.row - aligned)


def blocks(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """All rows in order, in views of some MiB, so that little of a mapped file is resident."""
    rows = max(1, BLOCK_BYTES // max(1, images[0].numel())) if len(images) else 1
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
        touched(images, rows)


def _mapping(images: torch.Tensor) -> Mapping | None:
    return _MAPPINGS.get(images.untyped_storage().data_ptr()) if images.device.type == "cpu" else None


def _large(images: torch.Tensor) -> Mapping | None:
    """The mapping of images whose file does not stay resident as a whole."""
    mapping = _mapping(images)
    return mapping if mapping is not None and len(mapping) > RESIDENT_BYTES else None


class RowFile:
    """An .npy file of uint8 [n, channels, height, width] that is filled row by row, in any order.

    Written by position, not mapped, so that what was written is no resident memory of this process.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self.rows = rows
        self.shape: tuple[int, int, int] | None = None
        self._handle: int | None = None
        self._start = self._row = 0

    def start(self, shape: tuple[int, int, int]) -> None:
        """Make the file for images of that shape, its room on the disk taken at once.

        Raises:
            OSError: it cannot be written, or the disk has not that much room.
        """
        make_parent(self.path).unlink(missing_ok=True)  # a process that has mapped an older one keeps that
        array = np.lib.format.open_memmap(self.path, "w+", np.uint8, (self.rows, *shape))
        del array
        self.reopen(shape)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._open, 0, self._start + self.rows * self._row)

    def reopen(self, shape: tuple[int, int, int]) -> None:
        """Go on with a file of that shape that another process has begun.

        Raises:
            OSError, ValueError: there is none, or one of another shape.
        """
        images = open_rows(self.path)
        if tuple(images.shape) != (self.rows, *shape):
            raise ValueError(f"{self.path} has the shape {tuple(images.shape)}")
        mapping = _mapping(images)
        assert mapping is not None
        self._start, self._row, self.shape = mapping.start, mapping.row, shape
        self.close()
        self._handle = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))

    def put(self, row: int, pixels: np.ndarray) -> None:
        """Write one row, uint8 contiguous of the file's shape."""
        content, place = pixels.data.cast("B"), self._start + row * self._row
        if hasattr(os, "pwrite"):
            written = os.pwrite(self._open, content, place)
        else:
            os.lseek(self._open, place, os.SEEK_SET)
            written = os.write(self._open, content)
        if written != self._row:
            raise OSError(28, "No space left on device", str(self.path))

    def widen(self, channels: int) -> None:
        """Repeat the only channel of all rows, as is needed when the first image in colour comes after grey ones."""
        assert self.shape is not None
        before = open_rows(self.path)
        wide = RowFile(self.path.with_name(f"{self.path.stem}-wide.npy"), self.rows)
        wide.start((channels, *self.shape[1:]))
        row = 0
        for block in blocks(before):
            for image in np.repeat(block.numpy(), channels, axis=1):
                wide.put(row, image)
                row += 1
        wide.sync()
        wide.close()
        self.close()
        wide.path.replace(self.path)
        self.reopen((channels, *self.shape[1:]))

    def sync(self) -> None:
        """What was written outlives a loss of power."""
        os.fsync(self._open)

    def close(self) -> None:
        """Free the file; rows stay readable with `open_rows`."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def tensor(self) -> torch.Tensor:
        """All rows, mapped."""
        return open_rows(self.path)

    @property
    def _open(self) -> int:
        assert self._handle is not None, "start or reopen the file first"
        return self._handle


class RowMemory:
    """The same in memory, for data that are not cached."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.shape: tuple[int, int, int] | None = None
        self.pixels = np.empty((rows, 1, 0, 0), np.uint8)

    def start(self, shape: tuple[int, int, int]) -> None:
        """Take the memory for images of that shape.

        Raises:
            MemoryError: there is not that much.
        """
        if self.rows * int(np.prod(shape)) > free_memory_bytes(torch.device("cpu")):
            raise MemoryError(f"{self.rows} images of {shape} do not fit in memory")
        self.shape, self.pixels = shape, np.empty((self.rows, *shape), np.uint8)

    def put(self, row: int, pixels: np.ndarray) -> None:
        """Write one row."""
        self.pixels[row] = pixels

    def widen(self, channels: int) -> None:
        """Repeat the only channel of all rows."""
        self.pixels = np.repeat(self.pixels, channels, axis=1)
        self.shape = (channels, *self.pixels.shape[2:])

    def tensor(self) -> torch.Tensor:
        """All rows."""
        return torch.from_numpy(self.pixels)


Rows = RowFile | RowMemory


def chosen_rows(images: torch.Tensor, index: torch.Tensor, channels: int, path: Path | None) -> torch.Tensor:
    """Some rows, in that order, grey ones repeated to ``channels``: mapped in a new file, or in memory.

    Args:
        images: uint8 [n, c, h, w].
        index: int64 [m].
        channels: c, or 3 where c is 1.
        path: of the file, written atomically; None: in memory.
    """
    shape = (channels, *images.shape[2:])
    if path is None:
        picked = images[index]
        return picked if channels == images.shape[1] else picked.repeat(1, channels, 1, 1)
    with atomic_path(path) as temporary:
        rows = RowFile(temporary, len(index))
        rows.start((shape[0], shape[1], shape[2]))
        step = max(1, BLOCK_BYTES // max(1, images[0].numel()))
        for start in range(0, len(index), step):
            part = chosen_rows(images, index[start : start + step], channels, None).numpy()
            touched(images, len(part))
            for offset, image in enumerate(part):
                rows.put(start + offset, image)
        rows.close()
    return open_rows(path)

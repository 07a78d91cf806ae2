"""Files: where caches live, and writing that never leaves half a file behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

if TYPE_CHECKING:
    import torch

CHECKSUM = "sha256"
MOST_JSON_BYTES = 64 * 1024 * 1024
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}(\.\w+)?")
_OS_ERROR = re.compile(r"os error (\d+)")


def cache_folder() -> Path:
    """Where pools and decoded data are kept between runs: ``$DDISTILL_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("DDISTILL_CACHE") or platformdirs.user_cache_dir("ddistill", appauthor=False))


def make_parent(path: Path) -> Path:
    """The path, whose folder now exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value: equal values, equal fingerprints, on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    Raises:
        OSError: it cannot be written; names ``path``, not the temporary file.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        # where the disk fails, the first error is the one to hear of
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` and rename the result to ``path``: readers see the old file or the whole new one."""
    with atomic_path(path) as temporary:
        write(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its name when the block ends without an error.

    Raises:
        OSError: it cannot be written, or ``path`` is there and not an empty folder.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object that carries the checksum of its own contents."""
    contents = json.loads(json.dumps(value, allow_nan=False))  # as they will be read: tuples are lists
    write_json(path, {**contents, CHECKSUM: fingerprint(contents)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """Read what `write_checked_json` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: too large, no JSON object, or changed since it was written.
    """
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"it is larger than {MOST_JSON_BYTES >> 20} MiB")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(contents, dict):
        raise ValueError(f"expected an object, got {type(contents).__name__}")
    if contents.pop(CHECKSUM, None) != fingerprint(contents):
        raise ValueError("it was changed since it was written (its checksum differs)")
    return contents


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write named tensors, from any device, as safetensors, atomically.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        temporary.touch()
        usual = temporary.stat().st_mode  # as the umask says; what safetensors writes only its owner may read
        try:
            save_file(ready, temporary, metadata=dict(about) if about else None)
        except SafetensorError as error:  # it wraps the operating system's error into text
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        temporary.chmod(usual)

    write_atomically(path, write)


def is_leftover(path: Path) -> bool:
    """Whether it is a temporary file of a process that writes it, or was killed while it did."""
    return _LEFTOVER.fullmatch(path.name) is not None and path.is_file()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left; only who holds the folder may ask for that."""
    for path in folder.rglob(".*"):
        if is_leftover(path):
            path.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append a line; one that was cut off before it (a full disk, a killed process) does not swallow it.

    Raises:
        OSError: it cannot be written; a folder that is gone is not made again.
    """
    with path.open("ab+") as lines:
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                line = "\n" + line
        lines.write((line + "\n").encode())


def append_checked(path: Path, row: Mapping[str, Any]) -> None:
    """Append a JSON object that carries the checksum of its own contents, on a line; NaN and infinity are refused."""
    append_line(path, json.dumps({**row, CHECKSUM: fingerprint(row)}, allow_nan=False))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file that has one on each line: none of a file that is not there, and of damaged lines."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        with suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                yield value


def checked_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What `append_checked` has written, but for lines that were cut off or changed."""
    for row in json_lines(path):
        if row.pop(CHECKSUM, None) == fingerprint(row):
            yield row


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)

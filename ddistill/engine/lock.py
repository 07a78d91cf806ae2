"""One process writes a run: the folder is locked by the operating system, which frees it when the process is gone."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import write_json

LOCK, OWNER = ".lock", ".owner.json"
LOCK_FILES = {LOCK, OWNER}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder, which must exist, while the block runs.

    Raises:
        UserError: another process holds it; names the process and its host.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"the run in {str(folder)!r} is being written by {_owner(folder)}; wait for it, stop it, "
            "or give another --out"
        ) from error
    try:
        write_json(folder / OWNER, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

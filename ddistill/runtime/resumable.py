"""What is built once and found by everybody after: looked for, locked, looked for again, built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from ddistill.runtime.distributed import ALONE, Ranks
from ddistill.runtime.storage import make_parent, remove_leftovers

Built = TypeVar("Built")


def built_once(
    home: Path,
    find: Callable[[], Built | None],
    build: Callable[[], Built],
    *,
    ranks: Ranks = ALONE,
    unlocked: Callable[[OSError], None] | None = None,
) -> Built:
    """What is in a folder, or what is built there while no other process builds it.

    Args:
        home: the folder; the lock lies beside it.
        find: reads what is whole there; None where there is nothing, or where it is damaged.
        build: makes it, or what of it is missing.
        ranks: build together; the first one looks and locks.
        unlocked: hears that no lock can be made there; it is built all the same.

    Raises:
        OSError: the lock cannot be made, and nobody listens.
    """
    found = ranks.first_does(find)
    if found is not None:
        return found
    with ExitStack() as held:
        if ranks.first:
            try:
                held.enter_context(FileLock(make_parent(home.with_suffix(".lock"))))
                if home.is_dir():
                    remove_leftovers(home)
            except OSError as error:
                if unlocked is None:
                    raise
                unlocked(error)
        found = ranks.first_does(find)  # another process may have been at it: then what it made is used
        return build() if found is None else found

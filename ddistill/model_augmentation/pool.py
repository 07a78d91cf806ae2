"""The pool of early-stage networks: trained once, stored with the settings that made it, reused when they agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.training import NetworkFactory
from ddistill.storage import (
    cache_folder,
    file_checksum,
    fingerprint,
    make_parent,
    read_checked_json,
    remove_leftovers,
    write_checked_json,
    write_tensors,
)
from ddistill.training import Safety, Unfinished

FORMAT = 2
DESCRIPTION, UNFINISHED, IN_PROGRESS = "pool.json", "unfinished.json", "in-progress.safetensors"

OnMember = Callable[[int, int], None]


@dataclass(frozen=True)
class Pool:
    """Early-stage networks and what they cost.

    Attributes:
        members: weights of each network, on the CPU.
        seconds: wall time that their training took, also when they were loaded.
        folder: where they are stored.
        reused: they were there already.
    """

    members: list[Weights]
    seconds: float
    folder: Path
    reused: bool

    @property
    def size(self) -> int:
        """Number of networks."""
        return len(self.members)


def pool_identity(factory: NetworkFactory, data_fingerprint: str, size: int, epochs: int, seed: int) -> dict[str, Any]:
    """All that decides the weights of a pool."""
    return {
        "format": FORMAT,
        "data": data_fingerprint,
        "images": len(factory.source.labels),
        "network": factory.network.model_dump(mode="json"),
        "training": factory.training.model_dump(mode="json"),
        "size": size,
        "epochs": epochs,
        "seed": seed,
        **({"precision": factory.precision} if factory.precision != "fp32" else {}),
    }


def train_pool(
    factory: NetworkFactory,
    data_fingerprint: str,
    *,
    size: int,
    epochs: int,
    seed: int,
    folder: Path | None = None,
    on_member: OnMember | None = None,
    safety: Safety | None = None,
) -> Pool:
    """The pool of these settings: read where it was stored before, else trained and stored member by member.

    Args:
        factory: builds and trains networks.
        data_fingerprint: of the real data.
        size: number of networks.
        epochs: that each is trained for.
        seed: of the pool.
        folder: where pools are kept; the cache folder by default.
        on_member: called with (epochs done, epochs in all).
        safety: how training in progress is kept; a pool that cannot be stored is used all the same.
    """
    safety = safety or Safety()
    identity = pool_identity(factory, data_fingerprint, size, epochs, seed)
    home = (folder or cache_folder() / "pools") / fingerprint(identity)[:20]
    stored = _read_pool(home, identity)
    if stored is not None:
        return stored
    try:
        lock = FileLock(make_parent(home.with_suffix(".lock"))).acquire()
    except OSError as error:
        safety.note(f"the pool cannot be stored for other runs: {error.strerror}: {home}")
        return _train(factory, home, identity, on_member, safety, stored=False)
    with lock:  # another process may have been at it: then its pool is used
        if home.is_dir():
            remove_leftovers(home)
        return _read_pool(home, identity) or _train(factory, home, identity, on_member, safety)


def _train(
    factory: NetworkFactory,
    home: Path,
    identity: dict[str, Any],
    on_member: OnMember | None,
    safety: Safety,
    stored: bool = True,
) -> Pool:
    """Train what is missing; finished members and epochs are kept, so that an interrupted pool goes on."""
    size, epochs, seed = identity["size"], identity["epochs"], identity["seed"]
    members, seconds, checksums = _finished(home, identity)
    unfinished = Unfinished(home / IN_PROGRESS if stored else None, safety)
    for index in range(len(members), size):
        started = time.perf_counter()

        def on_epoch(done: int, _: int, index: int = index) -> None:
            if on_member:
                on_member(index * epochs + done, size * epochs)

        weights = factory.early_stage(epochs, seed, "pool", index, on_epoch, unfinished=unfinished)
        members.append({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
        seconds += time.perf_counter() - started
        if not stored:
            continue
        try:
            write_tensors(_member_path(home, index), members[-1])
            checksums.append(file_checksum(_member_path(home, index)))
            name = DESCRIPTION if index + 1 == size else UNFINISHED
            write_checked_json(home / name, {**identity, "seconds": seconds, "members": checksums})
            unfinished.finish()
        except OSError as error:
            safety.note(f"the pool cannot be stored for other runs: {error.strerror}: {home}")
            stored, unfinished.path = False, None
        if index + 1 < size:
            safety.check()
    if stored:
        (home / UNFINISHED).unlink(missing_ok=True)
    return Pool(members, seconds, home, reused=False)


def _read_pool(home: Path, identity: dict[str, Any]) -> Pool | None:
    """The stored pool, or None where there is none or one that is damaged; a damaged one is trained again."""
    members, seconds, _ = _read_members(home, DESCRIPTION, identity)
    return Pool(members, seconds, home, reused=True) if len(members) == identity["size"] else None


def _finished(home: Path, identity: dict[str, Any]) -> tuple[list[Weights], float, list[str]]:
    """Members that an interrupted training left, the seconds they took, and their checksums."""
    return _read_members(home, UNFINISHED, identity)


def _read_members(home: Path, name: str, identity: dict[str, Any]) -> tuple[list[Weights], float, list[str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    nothing: tuple[list[Weights], float, list[str]] = ([], 0.0, [])
    if not (home / name).is_file():
        return nothing
    try:
        about = read_checked_json(home / name)
        seconds, checksums = float(about.pop("seconds")), list(about.pop("members"))
        paths = [_member_path(home, index) for index in range(len(checksums))]
        if about != identity or [file_checksum(path) for path in paths] != checksums:
            return nothing
        return [load_file(path) for path in paths], seconds, checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return nothing


def _member_path(home: Path, index: int) -> Path:
    return home / f"member-{index:03d}.safetensors"

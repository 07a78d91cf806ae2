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
from ddistill.ranks import Ranks
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
    safety, ranks = safety or Safety(), factory.ranks
    identity = pool_identity(factory, data_fingerprint, size, epochs, seed)
    home = (folder or cache_folder() / "pools") / fingerprint(identity)[:20]
    stored = ranks.first_does(lambda: _read_pool(home, identity))
    if stored is not None:
        return stored
    if not ranks.first:
        return _train(factory, home, identity, on_member, safety)
    try:
        lock = FileLock(make_parent(home.with_suffix(".lock"))).acquire()
    except OSError as error:
        safety.note(f"the pool cannot be stored for other runs: {error.strerror}: {home}")
        return _train(factory, home, identity, on_member, safety, stored=False)
    with lock:  # another process may have been at it: then its pool is used
        if home.is_dir():
            remove_leftovers(home)
        return _train(factory, home, identity, on_member, safety)


def _train(
    factory: NetworkFactory,
    home: Path,
    identity: dict[str, Any],
    on_member: OnMember | None,
    safety: Safety,
    stored: bool = True,
) -> Pool:
    """Train what is missing; finished members and epochs are kept, so that an interrupted pool goes on.

    Ranks train a member each; the first one stores them.
    """
    size, epochs, seed, ranks = identity["size"], identity["epochs"], identity["seed"], factory.ranks
    whole = ranks.first_does(lambda: _read_pool(home, identity))
    if whole is not None:
        return whole
    members, seconds, checksums = ranks.first_does(lambda: _finished(home, identity))
    stored = stored and ranks.first
    unfinished = Unfinished(home / in_progress(ranks) if stored or ranks.rank else None, safety)
    for group in ranks.rounds(range(len(members), size)):
        started = time.perf_counter()
        own = ranks.own(group)
        weights = None
        if own is not None:

            def on_epoch(done: int, _: int, own: int = own) -> None:
                if on_member:
                    on_member(own * epochs + done, size * epochs)

            trained = factory.early_stage(epochs, seed, "pool", own, on_epoch, unfinished=unfinished)
            weights = {name: tensor.cpu().contiguous() for name, tensor in trained.items()}
        members += [member for member in ranks.gather(weights) if member is not None]
        seconds += time.perf_counter() - started
        if stored:
            try:
                for index in group:
                    write_tensors(_member_path(home, index), members[index])
                    checksums.append(file_checksum(_member_path(home, index)))
                name = DESCRIPTION if len(members) == size else UNFINISHED
                write_checked_json(home / name, {**identity, "seconds": seconds, "members": checksums})
            except OSError as error:
                safety.note(f"the pool cannot be stored for other runs: {error.strerror}: {home}")
                stored, unfinished.path = False, None
        unfinished.finish()
        if len(members) < size:
            safety.check()
    if stored:
        (home / UNFINISHED).unlink(missing_ok=True)
    return Pool(members, ranks.from_first(seconds), home, reused=False)


def in_progress(ranks: Ranks) -> str:
    """Name of the file that keeps the training that this rank is at."""
    return IN_PROGRESS if ranks.first else f"in-progress-{ranks.rank}.safetensors"


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

"""The pool of early-stage networks: trained once, stored with the settings that made it, reused when they agree."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.training import NetworkFactory
from ddistill.storage import cache_folder, file_checksum, fingerprint, make_parent, write_atomically, write_json

FORMAT = 1
DESCRIPTION, UNFINISHED = "pool.json", "unfinished.json"

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
    """
    identity = pool_identity(factory, data_fingerprint, size, epochs, seed)
    home = (folder or cache_folder() / "pools") / fingerprint(identity)[:20]
    stored = _read_pool(home, identity)
    if stored is not None:
        return stored
    with FileLock(make_parent(home.with_suffix(".lock"))):  # another process may be at it: then its pool is used
        stored = _read_pool(home, identity)
        return stored or _train(factory, home, identity, on_member)


def _train(factory: NetworkFactory, home: Path, identity: dict[str, Any], on_member: OnMember | None) -> Pool:
    """Train what is missing; each finished member is kept, so that an interrupted pool goes on."""
    size, epochs, seed = identity["size"], identity["epochs"], identity["seed"]
    members, seconds, checksums = _finished(home, identity)
    for index in range(len(members), size):
        started = time.perf_counter()

        def on_epoch(done: int, _: int, index: int = index) -> None:
            if on_member:
                on_member(index * epochs + done, size * epochs)

        weights = factory.early_stage(epochs, seed, "pool", index, on_epoch)
        members.append({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
        write_atomically(_member_path(home, index), partial(_save, members[-1]))
        seconds += time.perf_counter() - started
        checksums.append(file_checksum(_member_path(home, index)))
        name = DESCRIPTION if index + 1 == size else UNFINISHED
        write_json(home / name, {**identity, "seconds": seconds, "sha256": checksums})
    (home / UNFINISHED).unlink(missing_ok=True)
    return Pool(members, seconds, home, reused=False)


def _save(weights: Weights, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path)


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
        about = json.loads((home / name).read_text(encoding="utf-8"))
        seconds, checksums = float(about.pop("seconds")), list(about.pop("sha256"))
        paths = [_member_path(home, index) for index in range(len(checksums))]
        if about != identity or [file_checksum(path) for path in paths] != checksums:
            return nothing
        return [load_file(path) for path in paths], seconds, checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return nothing


def _member_path(home: Path, index: int) -> Path:
    return home / f"member-{index:03d}.safetensors"

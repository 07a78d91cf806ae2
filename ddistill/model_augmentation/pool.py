"""The pool of early-stage networks: trained once, stored with the settings that made it, reused when they agree."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.training import NetworkFactory
from ddistill.storage import cache_folder, file_checksum, fingerprint, write_atomically, write_json

FORMAT = 1
DESCRIPTION = "pool.json"

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
    started = time.perf_counter()
    members = []
    for index in range(size):

        def on_epoch(done: int, _: int, index: int = index) -> None:
            if on_member:
                on_member(index * epochs + done, size * epochs)

        weights = factory.early_stage(epochs, seed, "pool", index, on_epoch)
        members.append({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    seconds = time.perf_counter() - started
    _write_pool(home, members, {**identity, "seconds": seconds})
    return Pool(members, seconds, home, reused=False)


def _write_pool(home: Path, members: list[Weights], about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    paths = [_member_path(home, index) for index in range(len(members))]
    for path, weights in zip(paths, members, strict=True):
        write_atomically(path, partial(save_file, weights))
    write_json(home / DESCRIPTION, {**about, "sha256": [file_checksum(path) for path in paths]})


def _read_pool(home: Path, identity: dict[str, Any]) -> Pool | None:
    """The stored pool, or None where there is none or one that is damaged; a damaged one is trained again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (home / DESCRIPTION).is_file():
        return None
    try:
        about = json.loads((home / DESCRIPTION).read_text(encoding="utf-8"))
        seconds, checksums = float(about.pop("seconds")), about.pop("sha256")
        paths = [_member_path(home, index) for index in range(identity["size"])]
        if about != identity or [file_checksum(path) for path in paths] != checksums:
            return None
        members = [load_file(path) for path in paths]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None
    return Pool(members, seconds, home, reused=True)


def _member_path(home: Path, index: int) -> Path:
    return home / f"member-{index:03d}.safetensors"

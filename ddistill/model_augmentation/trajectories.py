"""Expert trajectories: a pool that keeps the weights after every epoch, for trajectory matching.

    expert-000.safetensors    tensors "EPOCH/NAME" for the epochs 0 (first weights) to E
    trajectories.json         what made them, checksums

One file per expert is read when it is asked for, tensor by tensor, so that many experts do not sit in memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.pool import OnMember, in_progress, pool_identity
from ddistill.model_augmentation.sources import NetworkDraw
from ddistill.model_augmentation.training import NetworkFactory, copy_of
from ddistill.randomness import generator
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

DESCRIPTION = "trajectories.json"


@dataclass(frozen=True)
class Trajectories:
    """Experts on disk.

    Attributes:
        folder: where they are.
        size: number of experts.
        epochs: E; each has E + 1 states.
        seconds: wall time that their training took, also when they were found.
        reused: they were there already.
    """

    folder: Path
    size: int
    epochs: int
    seconds: float
    reused: bool

    def weights(self, expert: int, epoch: int) -> Weights:
        """The weights of an expert after ``epoch`` epochs, on the CPU."""
        from safetensors import safe_open

        prefix = f"{epoch}/"
        with safe_open(_path(self.folder, expert), framework="pt") as stored:
            names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): stored.get_tensor(name) for name in names}


class TrajectorySource:
    """Gives the start of an outer step: a random expert at a random early epoch, by (seed, step).

    Args:
        trajectories: the experts.
        max_start_epoch: the last epoch that a start may be drawn from.
        ahead: epochs from start to target.
        seed: of the run.
    """

    def __init__(self, trajectories: Trajectories, max_start_epoch: int, ahead: int, seed: int) -> None:
        self.trajectories = trajectories
        self.max_start_epoch = max_start_epoch
        self.ahead = ahead
        self.seed = seed

    def draw(self, step: int) -> NetworkDraw:
        """The expert's weights at the start epoch and, for reference, those ``ahead`` epochs later."""
        draws = generator(self.seed, "trajectory", step)
        expert = int(torch.randint(self.trajectories.size, (), generator=draws))
        start = int(torch.randint(self.max_start_epoch + 1, (), generator=draws))
        return NetworkDraw(*(self.trajectories.weights(expert, epoch) for epoch in (start, start + self.ahead)))


def train_trajectories(
    factory: NetworkFactory,
    data_fingerprint: str,
    *,
    size: int,
    epochs: int,
    seed: int,
    folder: Path | None = None,
    on_member: OnMember | None = None,
    safety: Safety | None = None,
) -> Trajectories:
    """The experts of these settings: found where they were trained before, else trained and stored one by one.

    The learning rate is constant. Arguments as for `pool.train_pool`.
    """
    identity = {**pool_identity(factory, data_fingerprint, size, epochs, seed), "kind": "trajectories"}
    home = (folder or cache_folder() / "trajectories") / fingerprint(identity)[:20]
    ranks = factory.ranks
    seconds, checksums = ranks.first_does(lambda: _stored(home, identity))
    if len(checksums) == size:
        return Trajectories(home, size, epochs, seconds, reused=True)
    safety = safety or Safety()
    if not ranks.first:
        return _train(factory, home, identity, on_member, safety)
    with FileLock(make_parent(home.with_suffix(".lock"))):  # another process may be at it: then its experts are used
        if home.is_dir():
            remove_leftovers(home)
        return _train(factory, home, identity, on_member, safety)


def _train(
    factory: NetworkFactory, home: Path, identity: dict[str, Any], on_member: OnMember | None, safety: Safety
) -> Trajectories:
    """Train what is missing. Ranks train an expert each and write it into the folder, which they must share."""
    size, epochs, seed, ranks = identity["size"], identity["epochs"], identity["seed"], factory.ranks
    unfinished = Unfinished(home / in_progress(ranks), safety)
    seconds, checksums = ranks.first_does(lambda: _stored(home, identity))
    reused = len(checksums) == size
    for group in ranks.rounds(range(len(checksums), size)):
        started = time.perf_counter()
        own, checksum = ranks.own(group), None
        if own is not None:
            write_tensors(_path(home, own), _train_one(factory, epochs, seed, own, size, on_member, unfinished))
            checksum = file_checksum(_path(home, own))
        checksums += [found for found in ranks.gather(checksum) if found is not None]
        seconds += time.perf_counter() - started
        if ranks.first:
            write_checked_json(home / DESCRIPTION, {**identity, "seconds": seconds, "experts": checksums})
        unfinished.finish()
        if len(checksums) < size:
            safety.check()
    return Trajectories(home, size, epochs, ranks.from_first(seconds), reused)


def _train_one(
    factory: NetworkFactory,
    epochs: int,
    seed: int,
    expert: int,
    size: int,
    on_member: OnMember | None,
    unfinished: Unfinished,
) -> Weights:
    """The expert's weights at all epochs, as its file holds them."""
    states: Weights = {}
    unfinished.extra = states

    def keep(epoch: int, weights: Weights) -> None:
        states.update({f"{epoch}/{name}": tensor.cpu().contiguous() for name, tensor in copy_of(weights).items()})

    def on_epoch(done: int, _: int) -> None:
        keep(done, factory.trainer().module.state_dict())
        if on_member:
            on_member(expert * epochs + done, size * epochs)

    keep(0, factory.build(seed, "expert", expert).state_dict())
    factory.early_stage(epochs, seed, "expert", expert, on_epoch, decay=False, unfinished=unfinished)
    return states


def _stored(home: Path, identity: dict[str, Any]) -> tuple[float, list[str]]:
    """Seconds and checksums of the experts that are there and whole; none where anything is damaged."""
    try:
        about = read_checked_json(home / DESCRIPTION)
        seconds, checksums = float(about.pop("seconds")), list(about.pop("experts"))
        whole = [file_checksum(_path(home, expert)) for expert in range(len(checksums))] == checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0.0, []
    return (seconds, checksums) if whole and about == identity else (0.0, [])


def _path(home: Path, expert: int) -> Path:
    return home / f"expert-{expert:03d}.safetensors"

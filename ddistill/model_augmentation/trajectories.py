"""Expert trajectories: a pool that keeps the weights after every epoch, for trajectory matching.

    expert-000.safetensors    tensors "EPOCH/NAME" for the epochs 0 (first weights) to E
    trajectories.json         what made them, checksums

One file per expert is read when it is asked for, tensor by tensor, so that many experts do not sit in memory.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ddistill.model_augmentation.perturb import Weights
from ddistill.model_augmentation.pool import OnMember, pool_identity
from ddistill.model_augmentation.training import NetworkFactory, copy_of
from ddistill.randomness import generator
from ddistill.storage import cache_folder, file_checksum, fingerprint, make_parent, write_atomically, write_json

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

    def weights(self, step: int) -> Weights:
        """The expert's weights at the start epoch."""
        return self.trajectories.weights(*self._drawn(step))

    def target(self, step: int) -> Weights:
        """The same expert's weights ``ahead`` epochs later."""
        expert, start = self._drawn(step)
        return self.trajectories.weights(expert, start + self.ahead)

    def _drawn(self, step: int) -> tuple[int, int]:
        draws = generator(self.seed, "trajectory", step)
        expert = int(torch.randint(self.trajectories.size, (), generator=draws))
        return expert, int(torch.randint(self.max_start_epoch + 1, (), generator=draws))


def train_trajectories(
    factory: NetworkFactory,
    data_fingerprint: str,
    *,
    size: int,
    epochs: int,
    seed: int,
    folder: Path | None = None,
    on_member: OnMember | None = None,
) -> Trajectories:
    """The experts of these settings: found where they were trained before, else trained and stored one by one.

    The learning rate is constant. Arguments as for `pool.train_pool`.
    """
    identity = {**pool_identity(factory, data_fingerprint, size, epochs, seed), "kind": "trajectories"}
    home = (folder or cache_folder() / "trajectories") / fingerprint(identity)[:20]
    seconds, checksums = _stored(home, identity)
    if len(checksums) == size:
        return Trajectories(home, size, epochs, seconds, reused=True)
    with FileLock(make_parent(home.with_suffix(".lock"))):  # another process may be at it: then its experts are used
        seconds, checksums = _stored(home, identity)
        reused = len(checksums) == size
        for expert in range(len(checksums), size):
            started = time.perf_counter()
            write_atomically(_path(home, expert), partial(_train_one, factory, epochs, seed, expert, size, on_member))
            seconds += time.perf_counter() - started
            checksums.append(file_checksum(_path(home, expert)))
            write_json(home / DESCRIPTION, {**identity, "seconds": seconds, "sha256": checksums})
    return Trajectories(home, size, epochs, seconds, reused)


def _train_one(
    factory: NetworkFactory, epochs: int, seed: int, expert: int, size: int, on_member: OnMember | None, path: Path
) -> None:
    from safetensors.torch import save_file

    states: Weights = {}

    def keep(epoch: int, weights: Weights) -> None:
        states.update({f"{epoch}/{name}": tensor.cpu().contiguous() for name, tensor in copy_of(weights).items()})

    def on_epoch(done: int, _: int) -> None:
        keep(done, factory.trainer().module.state_dict())
        if on_member:
            on_member(expert * epochs + done, size * epochs)

    keep(0, factory.build(seed, "expert", expert).state_dict())
    factory.early_stage(epochs, seed, "expert", expert, on_epoch, decay=False)
    save_file(states, path)


def _stored(home: Path, identity: dict[str, Any]) -> tuple[float, list[str]]:
    """Seconds and checksums of the experts that are there and whole; none where anything is damaged."""
    try:
        about = json.loads((home / DESCRIPTION).read_text(encoding="utf-8"))
        seconds, checksums = float(about.pop("seconds")), list(about.pop("sha256"))
        whole = [file_checksum(_path(home, expert)) for expert in range(len(checksums))] == checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0.0, []
    return (seconds, checksums) if whole and about == identity else (0.0, [])


def _path(home: Path, expert: int) -> Path:
    return home / f"expert-{expert:03d}.safetensors"

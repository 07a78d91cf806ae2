"""Early-stage networks: trained once, stored with the settings that made them, reused when they agree.

Who wants fewer than there are takes the first ones; who wants more trains the others and adds them.

A pool keeps the last epoch of each network; snapshots and trajectories keep all epochs from the first weights on:

    KIND.json                 what made them, seconds, checksums of the networks so far
    member-000.safetensors    tensors "NAME", or "EPOCH/NAME"; of trajectories expert-000.safetensors
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ddistill.network_sources.perturb import Weights
from ddistill.network_sources.training import NetworkFactory
from ddistill.runtime.resumable import built_once
from ddistill.runtime.storage import (
    cache_folder,
    file_checksum,
    fingerprint,
    read_checked_json,
    write_checked_json,
    write_tensors,
)
from ddistill.training import Safety, Unfinished

FORMAT = 2

OnMember = Callable[[int, int], None]
Kind = Literal["pool", "snapshots", "trajectories"]


@dataclass(frozen=True)
class Wanted:
    """Which networks, besides their factory's settings.

    Attributes:
        size: number of networks.
        epochs: that each is trained for.
        seed: of all.
        kind: pool: of each the last weights; snapshots: the weights after every epoch; trajectories: the same, trained
            at a constant rate.
        constant: the rate of a pool, too, is constant.
    """

    size: int
    epochs: int
    seed: int
    kind: Kind = "pool"
    constant: bool = False

    @property
    def all_epochs(self) -> bool:
        """The weights after every epoch are kept."""
        return self.kind != "pool"

    @property
    def falls_over(self) -> int | None:
        """Epochs at 2/3 and 5/6 of which the rate falls, as the published programs count them; None: it is constant."""
        falling = {"pool": self.epochs + 1, "snapshots": self.epochs, "trajectories": None}
        return None if self.constant else falling[self.kind]

    @property
    def folder(self) -> str:
        """Of the cache."""
        return "pools" if self.kind == "pool" else self.kind

    @property
    def description(self) -> str:
        """Name of the file that says what they are."""
        return f"{self.kind}.json"

    @property
    def member(self) -> str:
        """What one is called in its files."""
        return "expert" if self.kind == "trajectories" else "member"

    def identity(self, factory: NetworkFactory, data_fingerprint: str) -> dict[str, Any]:
        """All that decides the weights: not how many there are, so that five serve who asks for one, and become ten."""
        return {
            "format": FORMAT,
            "data": data_fingerprint,
            "images": len(factory.real.labels),
            "network": factory.network.model_dump(mode="json"),
            "training": factory.training.identity(),
            "epochs": self.epochs,
            "seed": self.seed,
            **({"precision": factory.precision} if factory.precision != "fp32" else {}),
            **({"kind": self.kind} if self.all_epochs else {"falls_over": self.falls_over}),
            **({"constant": True} if self.constant and self.kind == "snapshots" else {}),
        }


@dataclass(frozen=True)
class NetworkStore:
    """Networks and what they cost.

    Attributes:
        folder: where they are stored.
        wanted: which they are.
        seconds: wall time that their training took, also when they were found.
        reused: they were there already.
        members: the weights of each network of a pool, on the CPU. Of the other kinds they stay on the disk: `weights`
            reads what is asked for, tensor by tensor.
    """

    folder: Path
    wanted: Wanted
    seconds: float
    reused: bool
    members: list[Weights]

    @property
    def size(self) -> int:
        """Number of networks."""
        return self.wanted.size

    @property
    def epochs(self) -> int:
        """That each was trained for."""
        return self.wanted.epochs

    def last(self, member: int) -> Weights:
        """The weights of a network after its last epoch, on the CPU."""
        return self.weights(member, self.epochs) if self.wanted.all_epochs else self.members[member]

    def weights(self, member: int, epoch: int) -> Weights:
        """The weights of a network after ``epoch`` epochs, on the CPU; not of a pool, which keeps the last ones."""
        from safetensors import safe_open

        prefix = f"{epoch}/"
        with safe_open(_path(self.folder, self.wanted, member), framework="pt") as stored:
            names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): stored.get_tensor(name) for name in names}


def train_networks(
    factory: NetworkFactory,
    data_fingerprint: str,
    wanted: Wanted,
    *,
    folder: Path | None = None,
    on_member: OnMember | None = None,
    safety: Safety | None = None,
) -> NetworkStore:
    """The networks that are wanted: read where they were stored before, else trained and stored one by one.

    Args:
        factory: builds and trains networks.
        data_fingerprint: of the real data.
        wanted: which.
        folder: where they are kept; in the cache folder by default.
        on_member: called with (epochs done, epochs in all).
        safety: how training in progress is kept; a pool that cannot be stored is used all the same.
    """
    identity = wanted.identity(factory, data_fingerprint)
    home = (folder or cache_folder() / wanted.folder) / fingerprint(identity)[:20]
    builder = _Builder(factory, wanted, identity, home, on_member, safety or Safety())
    unlocked = None if wanted.all_epochs else builder.not_stored
    return built_once(home, builder.whole, builder.train, ranks=factory.ranks, unlocked=unlocked)


@dataclass
class _Builder:
    factory: NetworkFactory
    wanted: Wanted
    identity: dict[str, Any]
    home: Path
    on_member: OnMember | None
    safety: Safety
    stores: bool = True

    def not_stored(self, error: OSError) -> None:
        self.safety.note(f"the pool cannot be stored for other runs: {error.strerror}: {self.home}")
        self.stores = False

    def whole(self) -> NetworkStore | None:
        """All networks, if they are there."""
        members, clock, _ = self._found()
        if len(clock) < self.wanted.size:
            return None
        return NetworkStore(self.home, self.wanted, clock[-1], reused=True, members=members)

    def train(self) -> NetworkStore:
        """Train what is missing; finished networks and epochs are kept, so that an interrupted training goes on.

        Ranks train a network each. Those of a pool come to all ranks and the first one stores them; experts, which are
        large, are written by who trained them, into a folder that the ranks must share.
        """
        wanted, ranks = self.wanted, self.factory.ranks
        members, clock, checksums = ranks.first_does(self._found)
        own_file = f"in-progress-{wanted.size}-{ranks.rank}.safetensors"  # who wants fewer does not touch it
        unfinished = Unfinished(self.home / own_file if self.stores else None, self.safety)
        missing = range(len(checksums), wanted.size)
        at_once = min(self.factory.at_once, -(-len(missing) // ranks.count))
        for first in range(missing.start, missing.stop, at_once * ranks.count):
            started = time.perf_counter()
            group = missing[first - missing.start :][: at_once * ranks.count]
            assigned = group[ranks.rank * at_once :][:at_once]
            trained = self._train(assigned, unfinished) if assigned else []
            if wanted.all_epochs:
                written = [self._write(member, state) for member, state in zip(assigned, trained, strict=True)]
                checksums += [checksum for each in ranks.gather(written) for checksum in each]
            else:
                members += [member for each in ranks.gather(trained) for member in each]
            # what is trained side by side takes as long for one of it
            clock += [(clock[-1] if clock else 0.0) + time.perf_counter() - started] * len(group)
            if self.stores and ranks.first:
                self._describe(group, members, clock, checksums, unfinished)
            unfinished.finish()
            if group[-1] + 1 < wanted.size:
                self.safety.check()
        return NetworkStore(self.home, wanted, ranks.from_first(clock[-1]), reused=False, members=members)

    def _train(self, members: range, unfinished: Unfinished) -> list[Weights]:
        """What the files of some networks hold; out of memory, fewer are trained at once."""
        try:
            return self._trained(members, unfinished)
        except torch.OutOfMemoryError:
            if len(members) == 1:
                raise
        # outside of the handler: its traceback holds on to the tensors
        half = len(members) // 2
        return self._train(members[:half], unfinished) + self._train(members[half:], unfinished)

    def _trained(self, members: range, unfinished: Unfinished) -> list[Weights]:
        wanted, states = self.wanted, Weights()
        unfinished.extra = states
        purpose = "expert" if wanted.kind == "trajectories" else "pool"
        how: dict[str, Any] = {"falls_over": wanted.falls_over, "unfinished": unfinished}
        stages = self.factory.stages(wanted.epochs, wanted.seed, purpose, members, **how)
        for epoch, each in stages:
            if wanted.all_epochs or epoch == wanted.epochs:
                prefix = f"{epoch}/" if wanted.all_epochs else ""
                for member, weights in zip(members, each, strict=True):
                    named = {f"{member}:{prefix}{name}": tensor for name, tensor in weights.items()}
                    states.update({name: tensor.cpu().contiguous() for name, tensor in named.items()})
            if epoch and self.on_member:
                self.on_member(members[0] * wanted.epochs + epoch * len(members), wanted.size * wanted.epochs)
        starts = [f"{member}:" for member in members]
        return [{n.removeprefix(start): t for n, t in states.items() if n.startswith(start)} for start in starts]

    def _describe(
        self, group: range, members: list[Weights], clock: list[float], checksums: list[str], unfinished: Unfinished
    ) -> None:
        """Store the new networks of a pool, and what there is now."""
        try:
            if not self.wanted.all_epochs:
                checksums += [self._write(member, members[member]) for member in group]
            before, known = self._listed()  # what others wanted more of stays
            networks = {
                "seconds": clock + before[len(clock) :],
                f"{self.wanted.member}s": checksums + known[len(clock) :],
            }
            write_checked_json(self.home / self.wanted.description, {**self.identity, **networks})
        except OSError as error:
            if self.wanted.all_epochs:
                raise
            self.not_stored(error)
            unfinished.path = None

    def _write(self, member: int | None, state: Weights) -> str:
        path = _path(self.home, self.wanted, member or 0)
        write_tensors(path, state)
        return file_checksum(path)

    def _found(self) -> tuple[list[Weights], list[float], list[str]]:
        """Of the networks that are wanted the first that are there and whole, the seconds that it took to have each,
        and their checksums."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        clock, checksums = self._listed()
        members: list[Weights] = []
        sound = 0
        with suppress(OSError, SafetensorError):
            for member, checksum in enumerate(checksums[: self.wanted.size]):
                path = _path(self.home, self.wanted, member)
                if file_checksum(path) != checksum:
                    break
                members += [] if self.wanted.all_epochs else [load_file(path)]
                sound += 1
        return members, clock[:sound], checksums[:sound]

    def _listed(self) -> tuple[list[float], list[str]]:
        """The seconds after each network that the description lists, and their checksums."""
        try:
            about = read_checked_json(self.home / self.wanted.description)
            clock, checksums = list(map(float, about.pop("seconds"))), list(about.pop(f"{self.wanted.member}s"))
            return (clock, checksums) if about == self.identity and len(clock) == len(checksums) else ([], [])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [], []


def _path(home: Path, wanted: Wanted, member: int) -> Path:
    return home / f"{wanted.member}-{member:03d}.safetensors"

"""Several processes that make one run together, as `torchrun` starts them: who does what, and what they exchange.

    torchrun --nproc-per-node=2 -m ddistill distill ...

Every random number is a function of a key (`runtime.randomness`), so all ranks draw the same and nothing but sums has
to travel: results are the same for any number of ranks up to the order of additions. A rank that is alone exchanges
nothing and computes the very bits that it would without this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ddistill.runtime.errors import RunError, UserError

Value = TypeVar("Value")

PATIENCE = timedelta(days=1)
"""Ranks wait for each other while one trains a network; a lost one is noticed by its closed connection."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0; the first one writes the run.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """Its part of ``total`` things, in one piece; parts differ by one thing at most."""
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def rounds(self, things: Sequence[Value]) -> Iterator[list[Value]]:
        """Things in groups of as many as there are ranks; the thing at a rank's number is assigned to it."""
        for start in range(0, len(things), self.count):
            yield list(things[start : start + self.count])

    def assigned(self, group: Sequence[Value]) -> Value | None:
        """What this rank has of a group of `rounds`; None where it has nothing."""
        return group[self.rank] if self.rank < len(group) else None

    def add_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; one exchange for all, which must be of one type.

        Raises:
            RunError: a process was lost.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _exchange():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def join_rows_(self, tensors: Sequence[torch.Tensor], rows: slice) -> None:
        """Give every rank all rows of each tensor, of which this one has ``rows`` as they should be."""
        if self.count == 1:
            return
        for tensor in tensors:
            tensor[: rows.start] = 0.0
            tensor[rows.stop :] = 0.0
        self.add_(tensors)

    def broadcast_(self, tensors: Sequence[torch.Tensor], owner: int = 0) -> None:
        """Replace each tensor by that of rank ``owner``, bit for bit.

        Raises:
            RunError: a process was lost.
        """
        if self.count == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with _exchange():
                dist.broadcast(flat, src=owner)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def from_first(self, value: Value) -> Value:
        """The first rank's value, any that can be pickled."""
        if self.count == 1:
            return value
        box = [value if self.first else None]
        with _exchange():
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        box: list[Any] = [None] * self.count
        with _exchange():
            dist.all_gather_object(box, value)
        return box

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank."""
        return any(self.gather(flag))

    def first_does(self, work: Callable[[], Value]) -> Value:
        """What the first rank gets from some work that the others leave to it.

        Raises:
            UserError: what the work raised there, on all ranks.
        """
        if self.count == 1:
            return work()
        value: Any = None
        error: UserError | None = None
        if self.first:
            try:
                value = work()
            except UserError as found:
                error = found
        value, error = self.from_first((value, error))
        if error is not None:
            error.told = not self.first
            raise error
        return value


ALONE = Ranks()


def current() -> Ranks:
    """The ranks of the process group that is there; alone where there is none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def is_launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """This process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, connected by gloo, and nccl for a GPU; alone where it did not.

    Raises:
        UserError: WORLD_SIZE is set, but not by torchrun.
        RunError: they do not find each other.
    """
    if not is_launched() or dist.is_initialized():
        yield current()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        with _exchange():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except ValueError as error:  # a variable is missing
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that there are other processes, but not where: start them "
            "with `torchrun --nproc-per-node=N -m ddistill ...`, or unset it"
        ) from error
    try:
        yield current()
    finally:
        dist.destroy_process_group()


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this run was lost; the last outer step that all had done is kept: go on with --resume, "
            "with any number of processes"
        ) from error

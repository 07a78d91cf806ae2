"""A training that may be cut off: its state at the end of an epoch, kept in one file now and then."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ddistill.runtime.storage import write_tensors

KEPT_EVERY_SECONDS = 120.0
EXTRA = "extra."


def never() -> bool:
    """Nobody asks to stop."""
    return False


def say_nothing(_text: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Safety:
    """How work in progress is kept.

    Attributes:
        every: seconds between two writings.
        stopping: whether somebody asks to stop at the next safe point.
        note: hears of what could not be kept.
    """

    every: float = KEPT_EVERY_SECONDS
    stopping: Callable[[], bool] = never
    note: Callable[[str], None] = say_nothing

    def check(self) -> None:
        """A safe point.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
        """
        if self.stopping():
            raise KeyboardInterrupt


class HasState(Protocol):
    """A training: its state can be taken and given back."""

    def state(self) -> dict[str, torch.Tensor]:
        """All that decides how it goes on."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave; KeyError or RuntimeError where it is of another network."""
        ...


class Unfinished:
    """Keeps the state of one training at a time, so that the next process goes on from its last epoch.

    Every epoch's draws follow from its number, so weights and momentum are all there is to keep.

    Args:
        path: of the file; nothing is kept if None.
        safety: when to write, and when to stop.

    Attributes:
        extra: further tensors that are kept with the state, and are back after `resume`.
    """

    def __init__(self, path: Path | None, safety: Safety) -> None:
        self.path = path
        self.safety = safety
        self.kept = time.monotonic()
        self.extra: dict[str, torch.Tensor] = {}

    def resume(self, training: str, trainer: HasState) -> int:
        """Take back the state of that training; the number of epochs that it has done, 0 where none is kept."""
        self.kept = time.monotonic()
        found = _read(self.path, training) if self.path is not None else None
        if found is None:
            return 0
        epochs, tensors = found
        extra = {name: tensors.pop(name) for name in list(tensors) if name.startswith(EXTRA)}
        try:
            trainer.load_state(tensors)
        except (KeyError, RuntimeError):
            return 0  # of another network
        self.extra.update({name.removeprefix(EXTRA): tensor for name, tensor in extra.items()})
        return epochs

    def keep(self, training: str, epochs: int, trainer: HasState) -> None:
        """At the end of an epoch: write the state if it is time to.

        Raises:
            KeyboardInterrupt: somebody asked to stop; the state is written.
        """
        due = self.safety.stopping() or time.monotonic() - self.kept >= self.safety.every
        if self.path is not None and due:
            state = {**trainer.state(), **{EXTRA + name: tensor for name, tensor in self.extra.items()}}
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            about = {"training": training, "epochs": str(epochs), "sha256": _checksum(training, epochs, tensors)}
            write_tensors(self.path, tensors, about)
            self.kept = time.monotonic()
        self.safety.check()

    def finish(self) -> None:
        """The training is done: nothing of it needs to be kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read(path: Path, training: str) -> tuple[int, dict[str, torch.Tensor]] | None:
    """Epochs and state, or None where there is none, another training's, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        epochs = int(about["epochs"])
        whole = about["training"] == training and about["sha256"] == _checksum(training, epochs, tensors)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return (epochs, tensors) if whole else None


def _checksum(training: str, epochs: int, tensors: dict[str, torch.Tensor]) -> str:
    content = hashlib.sha256(f"{training}\0{epochs}".encode())
    for name in sorted(tensors):
        content.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        content.update(tensors[name].numpy().tobytes())
    return content.hexdigest()

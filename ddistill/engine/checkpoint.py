"""States at outer-step boundaries; all a run needs to go on, since every random draw is a function of the step."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ddistill.storage import file_checksum, write_tensors, write_text

KEPT = 2


@dataclass
class Checkpoint:
    """The state after an outer step.

    Attributes:
        step: outer steps done.
        tensors: stored images and the method's own state, on the CPU.
        seconds: wall time spent in distillation so far.
        loss: mean matching loss of each outer step.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)


def save_checkpoint(folder: Path, state: Checkpoint) -> None:
    """Write a state and its checksum, then drop all but the last two."""
    path = folder / f"step-{state.step:08d}.safetensors"
    about = {"step": str(state.step), "seconds": repr(state.seconds), "loss": json.dumps(state.loss)}
    write_tensors(path, state.tensors, about)
    write_text(_checksum_path(path), file_checksum(path) + "\n")
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
        _checksum_path(old).unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest state that is whole, or None, and the newer files that are damaged."""
    from safetensors import SafetensorError, safe_open

    damaged: list[Path] = []
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        checksum = _checksum_path(path)
        try:
            if checksum.read_text(encoding="utf-8").strip() != file_checksum(path):
                raise ValueError("another checksum")
            with safe_open(path, framework="pt") as stored:
                about = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            state = Checkpoint(int(about["step"]), tensors, float(about["seconds"]), json.loads(about["loss"]))
            return state, damaged
        except (OSError, ValueError, KeyError, SafetensorError):
            damaged.append(path)
    return None, damaged


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")

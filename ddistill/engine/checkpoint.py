"""States at outer-step boundaries; all a run needs to go on, since every random draw is a function of the step."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ddistill.methods import Method
from ddistill.runtime.storage import file_checksum, write_tensors, write_text
from ddistill.synthetic import SyntheticSet

KEPT = 2
BEST = "best images"
BEST_RATE = "best learned rate"


@dataclass
class Checkpoint:
    """The state after an outer step.

    Attributes:
        step: outer steps done.
        tensors: stored images and the method's own state, on any device.
        seconds: wall time spent in distillation so far.
        loss: mean matching loss of each outer step; states share the list, which may have those of later ones.
        due: an evaluation belongs to this step; it may not have been made yet.
        best: step and validation accuracy in percent of the best images so far (the tensor `BEST`; with a learned
            rate, `BEST_RATE`).
    """

    step: int
    tensors: dict[str, torch.Tensor]
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)
    due: bool = False
    best: tuple[int, float] | None = None

    def put_back(self, method: Method, synthetic: SyntheticSet) -> None:
        """Let a method and its set be as they were."""
        synthetic.images.copy_(self.tensors["images"])
        named = {name.removeprefix("method."): t for name, t in self.tensors.items() if name.startswith("method.")}
        method.load_state(named)


def tensors_of(method: Method, synthetic: SyntheticSet, before: Checkpoint | None = None) -> dict[str, torch.Tensor]:
    """The images of a set and the state of the method at work on it; of the state before, the best images."""
    tensors = {"images": synthetic.images, **{f"method.{name}": t for name, t in method.state().items()}}
    kept = {name: before.tensors[name] for name in (BEST, BEST_RATE) if before and name in before.tensors}
    # on the device: they travel only when they are written
    return {name: tensor.detach().clone() for name, tensor in tensors.items()} | kept


def save_checkpoint(folder: Path, state: Checkpoint) -> None:
    """Write a state and its checksum, then drop all but the last two."""
    path = folder / f"step-{state.step:08d}.safetensors"
    about = {name: getattr(state, name) for name in ("step", "seconds", "due", "best")}
    about["loss"] = state.loss[: state.step]
    write_tensors(path, state.tensors, {name: json.dumps(value) for name, value in about.items()})
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
            values = {name: json.loads(about[name]) for name in ("step", "seconds", "loss", "due", "best")}
            values["best"] = tuple(values["best"]) if values["best"] else None
            return Checkpoint(tensors=tensors, **values), damaged
        except (OSError, ValueError, KeyError, SafetensorError):
            damaged.append(path)
    return None, damaged


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")

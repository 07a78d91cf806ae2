"""The stored images of a run at a few outer steps, lossless enough to look at: 8 bits a channel."""

from __future__ import annotations

from pathlib import Path

import torch

from ddistill.runtime.storage import write_tensors
from ddistill.synthetic import SyntheticSet
from ddistill.synthetic.decode import in_bytes

FOLDER = "pictures"


def save_snapshot(synthetic: SyntheticSet, run: Path, step: int) -> None:
    """Write the stored images after an outer step, uint8 (n, channels, side, side)."""
    images = in_bytes(synthetic.images)
    write_tensors(run / FOLDER / f"step-{step:06d}.safetensors", {"images": images})


def load_snapshots(run: Path) -> dict[int, torch.Tensor]:
    """Stored images by outer step, ascending; files that cannot be read are passed over."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = {}
    for path in sorted((run / FOLDER).glob("step-*.safetensors")):
        try:
            found[int(path.stem.removeprefix("step-"))] = load_file(path)["images"]
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    return found

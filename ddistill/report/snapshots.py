"""The stored images of a run at a few outer steps, lossless enough to look at: 8 bits a channel."""

from __future__ import annotations

from pathlib import Path

import torch

from ddistill.storage import write_tensors
from ddistill.synthetic import SyntheticSet

FOLDER = "pictures"


def save_snapshot(synthetic: SyntheticSet, run: Path, step: int) -> None:
    """Write the stored images after an outer step, uint8 (n, channels, side, side)."""
    images = synthetic.images.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
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

"""Decoded images between runs: one safetensors file per source and settings, checked against its fingerprint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddistill.data.real_data import Split, content_fingerprint
from ddistill.storage import cache_folder, fingerprint, write_tensors

VERSION = 1
"""Raised when decoding changes, so that older files are not used."""
CHECKED_BYTES = 2**31
"""Files above this size are not read through on loading: their length is checked, their pixels stay on disk."""


@dataclass(frozen=True)
class DecodedSet:
    """What is kept: both parts, class names, remarks, statistics of the training images, and the fingerprint."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


def cache_file(contents: dict[str, Any]) -> Path:
    """Where the decoded images of these contents are kept."""
    return cache_folder() / "data" / fingerprint({"version": VERSION, **contents}) / "decoded.safetensors"


def write_decoded(path: Path, decoded: DecodedSet) -> None:
    """Write atomically; OSError when the folder cannot be written or is full."""
    tensors = {
        "train.images": decoded.train.images,
        "train.labels": decoded.train.labels,
        "test.images": decoded.test.images,
        "test.labels": decoded.test.labels,
    }
    facts = {
        "class_names": decoded.class_names,
        "notes": decoded.notes,
        "mean": decoded.mean,
        "std": decoded.std,
        "fingerprint": decoded.fingerprint,
    }
    write_tensors(path, tensors, {"ddistill": json.dumps(facts)})


def read_decoded(path: Path) -> DecodedSet | None:
    """What ``write_decoded`` wrote, memory-mapped; None when the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["ddistill"])
            train, test = (
                Split(file.get_tensor(f"{part}.images"), file.get_tensor(f"{part}.labels"))
                for part in ("train", "test")
            )
        decoded = DecodedSet(
            train,
            test,
            tuple(facts["class_names"]),
            tuple(facts["notes"]),
            tuple(facts["mean"]),
            tuple(facts["std"]),
            facts["fingerprint"],
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    small = path.stat().st_size <= CHECKED_BYTES
    if small and content_fingerprint(train, test, decoded.class_names) != decoded.fingerprint:
        return None
    return decoded

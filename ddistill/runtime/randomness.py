"""Every random draw is a function of (run seed, purpose, step).

A generator is made from a stable 64-bit hash of its key. So nothing has to be saved to resume, the order in which
parts of the program draw does not matter, and neither does the number of devices: draws are made on the CPU and moved.
No global generator is read or seeded.
"""

from __future__ import annotations

import hashlib

import torch


def key_hash(*key: int | str) -> int:
    """A 63-bit integer that depends on the key alone, the same on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, *step: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one step of a run, e.g. ``generator(0, "real batch", t, c)``."""
    return torch.Generator().manual_seed(key_hash(seed, purpose, *step))

"""Keeping freed memory inside the process, where the C library would give it back after every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks; a training step on the CPU gets about a quarter faster.

    By default each activation of over 32 MiB, and often smaller ones, is mapped and unmapped anew, and the kernel
    clears every page again. Changes the whole process, so only a program may call it, not a library.

    Returns:
        Whether it took effect (glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES))

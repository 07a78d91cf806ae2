"""Memory: how much is free, and keeping what was freed inside the process, where the C library would give it back."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 1 << 30
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


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


def free_memory_bytes(device: torch.device) -> int:
    """Bytes that a device can still give.

    On a GPU unused ones, after those that are only cached were given back; on a CPU what the system calls available,
    files that it keeps in memory counted as free, or what the container's limit leaves, if that is less.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the pools of captured steps hold stays theirs
        return torch.cuda.mem_get_info(device)[0]
    return min(_available_bytes(), _left_in_container())


def _available_bytes() -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 1 << 30


def _left_in_container() -> int:
    """Of the limit of a control group (version 2), without the files that it can drop; no limit is a huge number."""
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no group, or "max"
        return 1 << 62
    return max(0, limit - used + (int(files[1]) if files else 0))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

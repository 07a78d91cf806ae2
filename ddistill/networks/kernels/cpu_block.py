"""`instance_block.c`, built once with the machine's C compiler, and called.

Where it cannot be built, `built_kernels` gives None. `DDISTILL_KERNELS=off` does without it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ddistill.runtime.storage import atomic_path, cache_folder, fingerprint

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
BUILD_SECONDS = 60
DEFINED = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
"""Types of the maps, and the flag that chooses each."""


@cache
def built_kernels(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for maps of a type, built on first use and kept in the cache folder; None where no compiler is."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None or os.environ.get("DDISTILL_KERNELS") == "off":
        return None
    source = resources.files("ddistill.networks.kernels").joinpath("instance_block.c").read_text(encoding="utf-8")
    flags = (*FLAGS, *DEFINED[dtype])
    identity = fingerprint([source, flags, compiler, platform.machine(), _processor_flags()])
    path = cache_folder() / "kernels" / f"{identity[:20]}.so"
    try:
        if not path.is_file():
            _build(compiler, flags, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def _build(compiler: str, flags: Sequence[str], source: str, path: Path) -> None:
    """Compile; OpenMP's symbols are left open, so that the threads are those of torch."""
    with atomic_path(path) as temporary:
        code, unit = temporary.with_suffix(".c"), temporary.with_suffix(".o")
        code.write_text(source, encoding="utf-8")
        try:
            for openmp in (["-fopenmp"], []):
                subprocess.run(
                    [compiler, *flags, *openmp, "-c", str(code), "-o", str(unit)],
                    check=not openmp,
                    capture_output=True,
                    timeout=BUILD_SECONDS,
                )
                linked = subprocess.run(
                    [compiler, "-shared", str(unit), "-o", str(temporary), "-lm"],
                    check=not openmp,
                    capture_output=True,
                    timeout=BUILD_SECONDS,
                )
                if linked.returncode == 0 and _loads(temporary):
                    break
        finally:
            code.unlink(missing_ok=True)
            unit.unlink(missing_ok=True)


def _loads(path: Path) -> bool:
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


def _processor_flags() -> str:
    """What -march=native depends on: a cache folder may be shared by unlike machines."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else torch.backends.cpu
    return str(sorted(able.items()) if isinstance(able, dict) else torch.backends.cpu.get_cpu_capability())


def launch(name: str, *tensors: torch.Tensor, shape: torch.Size, eps: float | None = None) -> None:
    """Call a function of `instance_block.c` with tensors on the CPU, in the order of its arguments.

    Args:
        name: forward, backward or double_backward.
        tensors: maps are channels-last and of one type, for which the kernels are built; all else is float32.
        shape: (N, C, H, W) of the maps.
        eps: added to the variance, for forward.
    """
    kernels = built_kernels(tensors[0].dtype)
    assert kernels is not None
    pointers: list[Any] = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    n, c, h, w = shape
    sizes = [ctypes.c_int64(size) for size in (n, h, w, c)]
    more = [ctypes.c_float(eps)] if eps is not None else []
    getattr(kernels, name)(*pointers, *sizes, *more, ctypes.c_int(torch.get_num_threads()))

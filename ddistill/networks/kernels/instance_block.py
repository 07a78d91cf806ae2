"""Instance norm, ReLU and average pool 2 as one operator with gradients of first and second order, on a CPU.

Eager torch makes about ten passes over the maps of a block for it, and its second-order gradient about thirty; the
kernels (`instance_block.c`) make three and five, within the cache. Maps are float32 or bfloat16, the arithmetic is
float32. Where they cannot be built, or for other devices and types, `norm_relu_pool` says so by returning None and the
caller writes the operator out.
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
CHANNELS_LAST = torch.channels_last
DEFINED = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
"""Types of the maps, and the flag that chooses each."""


def norm_relu_pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor | None:
    """avg_pool2d(relu(instance_norm(x) * weight + bias), 2), or None where the kernels do not serve.

    Args:
        x: (N, C, H, W) float32 or bfloat16 on the CPU, H and W at least 2; channels-last is read without a copy.
        weight, bias: (C,) of the norm, float32.
        eps: added to the variance.

    Returns:
        (N, C, H // 2, W // 2), channels-last, of the type of x.
    """
    if not serves(x) or weight.dtype != torch.float32:
        return None
    # laid out here, where autograd follows, since the gradients are taken of what is saved
    x = x.contiguous(memory_format=CHANNELS_LAST)
    return _NormReluPool.apply(x, weight.contiguous(), bias.contiguous(), eps)


def serves(x: torch.Tensor) -> bool:
    """Whether the kernels take images or maps like these here: eager, on a CPU, outside of torch.func."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in DEFINED:
        return False
    # torch.func follows only torch's own operators, also where these images are not among what it transforms
    return not torch._C._are_functorch_transforms_active() and built_kernels(x.dtype) is not None


def available() -> bool:
    """Whether the kernels are built, or could be, on this machine."""
    return all(built_kernels(dtype) is not None for dtype in DEFINED)


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


def _call(name: str, *arguments: torch.Tensor, shape: torch.Size, eps: float | None = None) -> None:
    kernels = built_kernels(arguments[0].dtype)
    assert kernels is not None
    pointers: list[Any] = [ctypes.c_void_p(tensor.data_ptr()) for tensor in arguments]
    n, c, h, w = shape
    sizes = [ctypes.c_int64(size) for size in (n, h, w, c)]
    more = [ctypes.c_float(eps)] if eps is not None else []
    getattr(kernels, name)(*pointers, *sizes, *more, ctypes.c_int(torch.get_num_threads()))


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        n, c, h, w = x.shape
        pooled = torch.empty((n, c, h // 2, w // 2), dtype=x.dtype, memory_format=CHANNELS_LAST)
        mean, rstd = torch.empty(2, n, c)
        _call("forward", x, weight, bias, pooled, mean, rstd, shape=x.shape, eps=eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return pooled

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dx, dweight, dbias = _NormReluPoolBackward.apply(
            x, weight, bias, mean, rstd, g.contiguous(memory_format=CHANNELS_LAST)
        )
        return dx, dweight, dbias, None


class _NormReluPoolBackward(torch.autograd.Function):
    """The gradient as an operator of its own; mean and rstd are functions of x, and its gradient counts them so."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        g: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dx = torch.empty_like(x, memory_format=CHANNELS_LAST)
        dweight, dbias = torch.empty(2, *mean.shape)
        _call("backward", x, weight, bias, mean, rstd, g, dx, dweight, dbias, shape=x.shape)
        ctx.save_for_backward(x, weight, bias, mean, rstd, g)
        return dx, dweight.sum(dim=0), dbias.sum(dim=0)

    @staticmethod
    def backward(
        ctx: Any, v: torch.Tensor, vweight: torch.Tensor, vbias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None, None, torch.Tensor]:
        if torch.is_grad_enabled():
            raise RuntimeError("the kernels have no gradients of third order; DDISTILL_KERNELS=off does without them")
        x, weight, bias, mean, rstd, g = ctx.saved_tensors
        v = v.contiguous(memory_format=CHANNELS_LAST)
        gx, gg = (torch.empty_like(like, memory_format=CHANNELS_LAST) for like in (x, g))
        gweight = torch.empty_like(mean)
        cotangents = (v, vweight.contiguous(), vbias.contiguous())
        _call("double_backward", x, weight, bias, mean, rstd, g, *cotangents, gx, gg, gweight, shape=x.shape)
        return gx, gweight.sum(dim=0), None, None, None, gg

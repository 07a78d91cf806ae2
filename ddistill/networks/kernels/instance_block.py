"""Instance norm, ReLU and average pool 2 as one operator with gradients of first and second order.

Eager torch makes about ten passes over the maps of a block for it, and its second-order gradient about thirty; the
kernels make three and five. Maps are float32 or bfloat16, the arithmetic is float32. On a CPU they are written in C
(`instance_block.c`), and serve where a compiler is. On a GPU they are written in Triton (`gpu_block.py`). Those agree
with torch on an H200, but what the compiler makes of the whole step is faster: they serve only where
`DDISTILL_KERNELS=triton` asks for them. Where nothing serves, `norm_relu_pool` returns None and the caller writes the
operator out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from ddistill.networks.kernels import cpu_block

CHANNELS_LAST = torch.channels_last
DTYPES = (torch.float32, torch.bfloat16)


Launch = Callable[..., None]
"""``(name, *tensors, shape, eps=None)``: runs one of the kernels on tensors, in the order of its arguments."""


def norm_relu_pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor | None:
    """avg_pool2d(relu(instance_norm(x) * weight + bias), 2), or None where the kernels do not serve.

    Args:
        x: (N, C, H, W) float32 or bfloat16, H and W at least 2; channels-last is read without a copy.
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
    """Whether the kernels take images or maps like these here: eager, outside of torch.func, on a device with them."""
    if torch.compiler.is_compiling() or x.dtype not in DTYPES:
        return False
    # torch.func follows only torch's own operators, also where these images are not among what it transforms
    return not torch._C._are_functorch_transforms_active() and launcher(x.device, x.dtype) is not None


def available(device: torch.device) -> bool:
    """Whether there are kernels for a device, built or to be built on first use."""
    return all(launcher(device, dtype) is not None for dtype in DTYPES)


def launcher(device: torch.device, dtype: torch.dtype) -> Launch | None:
    """What runs the kernels on maps of a type on a device; None where nothing does."""
    if uses_triton(device):
        from ddistill.networks.kernels import gpu_block  # it needs triton, which only torch for GPUs brings

        return gpu_block.launch
    if device.type == "cpu" and cpu_block.built_kernels(dtype) is not None:
        return cpu_block.launch
    return None


def uses_triton(device: torch.device) -> bool:
    """Whether Triton is asked for, is installed, and runs on the device; on a CPU its interpreter does."""
    if os.environ.get("DDISTILL_KERNELS") != "triton" or not _has_triton():
        return False
    return device.type == "cuda" or (device.type == "cpu" and _is_interpreted())


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _is_interpreted() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret)


def _run(name: str, *tensors: torch.Tensor, shape: torch.Size, eps: float | None = None) -> None:
    launch = launcher(tensors[0].device, tensors[0].dtype)
    assert launch is not None
    launch(name, *tensors, shape=shape, eps=eps)


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        n, c, h, w = x.shape
        small = (n, c, h // 2, w // 2)
        pooled = torch.empty(small, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
        mean, rstd = torch.empty(2, n, c, device=x.device)
        _run("forward", x, weight, bias, pooled, mean, rstd, shape=x.shape, eps=eps)
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
        dweight, dbias = torch.empty(2, *mean.shape, device=x.device)
        _run("backward", x, weight, bias, mean, rstd, g, dx, dweight, dbias, shape=x.shape)
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
        _run("double_backward", x, weight, bias, mean, rstd, g, *cotangents, gx, gg, gweight, shape=x.shape)
        return gx, gweight.sum(dim=0), None, None, None, gg

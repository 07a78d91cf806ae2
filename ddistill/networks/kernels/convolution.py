"""A convolution whose gradients of second order compute only what is asked for.

torch's own gradient of a convolution's gradient always computes the part that belongs to the weights, by a convolution
with kernels as large as the maps. Matching asks for the gradient with respect to images alone, and this was a quarter
of its time in bfloat16. Every operation is torch's own; those that are computed give its bits. Only where the Triton
kernels serve, the gradient of the weights on images of few channels is their own product (`gpu_patches.py`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ddistill.networks.kernels.instance_block import uses_triton

MOST_CHANNELS = 4
"""Channels of the images up to which the gradient of the weights is a product on unfolded patches."""

Gradient = torch.Tensor | None


def convolve(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """``conv(x)`` in autocast's type where it is on, for stride, dilation and groups of 1, and a bias.

    Args:
        x: (N, C, H, W), channels-last.
        conv: on the device of x, with padding given in pixels.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # views, since autograd does not tell whether the gradient of a leaf is asked for
    tensors = (x, conv.weight, cast(torch.Tensor, conv.bias))
    inputs = (tensor.to(dtype).view_as(tensor) for tensor in tensors)
    with torch.autocast(device, enabled=False):
        result: torch.Tensor = _Convolution.apply(*inputs, conv.padding)
    return result


def _gradients(
    g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int], *asked: bool
) -> tuple[Gradient, Gradient, Gradient]:
    """Of images, weights and bias, as far as asked for."""
    one, size = [1, 1], [len(weight)]
    by_patches = asked[1] and x.shape[1] <= MOST_CHANNELS and uses_triton(x.device)
    mask = [asked[0], asked[1] and not by_patches, asked[2]]
    of_x, of_weight, of_bias = None, None, None
    if any(mask):
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            g, x, weight, size, one, list(padding), one, False, [0, 0], 1, mask
        )
    if by_patches:
        from ddistill.networks.kernels import gpu_patches  # it needs triton

        of_weight = gpu_patches.weight_gradient(g, x, weight, padding)
    return of_x, of_weight, of_bias


def _is_asked_for(ctx: Any, which: int) -> bool:
    """Whether the pass that is running needs the gradient of an input; `needs_input_grad` only says that it could."""
    node = ctx.next_functions[which][0]
    return node is not None and torch._C._will_engine_execute_node(node)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[Gradient, Gradient, Gradient, None]:
        x, weight = ctx.saved_tensors
        asked = tuple(ctx.needs_input_grad[which] and _is_asked_for(ctx, which) for which in range(3))
        return *_ConvolutionBackward.apply(g, x, weight, ctx.padding, asked), None


class _ConvolutionBackward(torch.autograd.Function):
    """The gradient as an operator of its own, linear in each of g, x and the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        g: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        padding: tuple[int, int],
        asked: tuple[bool, bool, bool],
    ) -> tuple[Gradient, Gradient, Gradient]:
        ctx.save_for_backward(g, x, weight)
        ctx.padding = padding
        ctx.set_materialize_grads(False)
        return _gradients(g, x, weight, padding, *asked)

    @staticmethod
    def backward(
        ctx: Any, vx: Gradient, vweight: Gradient, vbias: Gradient
    ) -> tuple[Gradient, Gradient, Gradient, None, None]:
        g, x, weight = ctx.saved_tensors
        gg, gx, gweight = None, None, None
        if _is_asked_for(ctx, 0):
            parts = [F.conv2d(vx, weight, padding=ctx.padding)] if vx is not None else []
            parts += [F.conv2d(x, vweight, padding=ctx.padding)] if vweight is not None else []
            parts += [vbias.view(1, -1, 1, 1).expand_as(g)] if vbias is not None else []
            gg = sum(parts[1:], start=parts[0]) if parts else None
        if vweight is not None and _is_asked_for(ctx, 1):
            gx = _gradients(g, x, vweight, ctx.padding, True, False, False)[0]
        if vx is not None and _is_asked_for(ctx, 2):
            gweight = _gradients(g, vx, weight, ctx.padding, False, True, False)[1]
        return gg, gx, gweight, None, None

"""The gradient of a convolution's weights on a GPU, where the images have few channels: a product on unfolded patches.

Libraries tile a convolution by its input channels, of which the first one has 3 or 1. Here a program takes a slab of
output pixels, reads their gradient and the patch of each, and adds up gradient^T patch in float32; the slabs are summed
afterwards, in one order, so the bits are the same each time. As for `gpu_block`: tested in Triton's interpreter, right
on an H200, sizes not chosen by measurement.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

FILTERS = tl.constexpr(64)
PIXELS = tl.constexpr(64)
MOST_SLABS = 128
"""What the partial sums take is so many times the weights."""


def weight_gradient(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    """The gradient with respect to the weights of a convolution of stride, dilation and groups of 1.

    Args:
        g: (N, K, H', W'), of the output.
        x: (N, C, H, W), of the type and on the device of g; both have fewer than 2**31 pixels.
        weight: (K, C, R, S).
        padding: rows and columns.

    Returns:
        (K, C, R, S), of the type of the weights.
    """
    g, x = (maps.contiguous(memory_format=torch.channels_last) for maps in (g, x))
    k, c, rows, columns = weight.shape
    patch, pixels = c * rows * columns, len(g) * g.shape[2] * g.shape[3]
    slab = max(1, triton.cdiv(triton.cdiv(pixels, MOST_SLABS), PIXELS.value)) * PIXELS.value
    slabs = triton.cdiv(pixels, slab)
    parts = torch.empty(slabs, k, patch, device=g.device)
    sizes = (*g.shape[2:], *x.shape[2:], *padding, k, c, rows, columns)
    with torch.cuda.device_of(g):
        _slab_sums[(slabs, triton.cdiv(k, FILTERS.value))](
            g, x, parts, pixels, slab, *sizes, max(16, triton.next_power_of_2(patch))
        )
    return parts.sum(dim=0).view(weight.shape).to(weight.dtype)


# all but the number of filters, which decides how wide a load may be: compiled once for images of all sides
SIZES = ["pixels", "slab", "h_out", "w_out", "h", "w", "pad_h", "pad_w", "c", "rows", "columns"]


@triton.jit(do_not_specialize=SIZES)
def _slab_sums(g, x, parts, pixels, slab, h_out, w_out, h, w, pad_h, pad_w, k, c, rows, columns, WIDTH: tl.constexpr):
    """parts[slab] = sum over its pixels of g (pixels, k)^T times patches (pixels, c * rows * columns)."""
    first = tl.program_id(0) * slab
    filters = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    place = tl.arange(0, WIDTH)  # in a patch: channel, row, column, as in the weights
    channel, below, beside = place // (rows * columns), place // columns % rows - pad_h, place % columns - pad_w
    in_patch = place < c * rows * columns
    # TF32 holds bfloat16 without rounding, and is fast; float32 it would round
    precision: tl.constexpr = "tf32" if g.dtype.element_ty == tl.bfloat16 else "ieee"
    total = tl.zeros([FILTERS, WIDTH], tl.float32)
    for start in range(first, tl.minimum(first + slab, pixels), PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        exists = pixel < pixels
        image, row, column = pixel // (h_out * w_out), pixel // w_out % h_out, pixel % w_out
        gradient = tl.load(
            g + pixel[None, :].to(tl.int64) * k + filters[:, None],
            mask=(filters < k)[:, None] & exists[None, :],
            other=0.0,
        )
        i, j = row[:, None] + below[None, :], column[:, None] + beside[None, :]
        patches = tl.load(
            x + ((image[:, None].to(tl.int64) * h + i) * w + j) * c + channel[None, :],
            mask=exists[:, None] & in_patch[None, :] & (i >= 0) & (i < h) & (j >= 0) & (j < w),
            other=0.0,
        )
        total += tl.dot(gradient.to(tl.float32), patches.to(tl.float32), input_precision=precision)
    at = (tl.program_id(0).to(tl.int64) * k + filters[:, None]) * (c * rows * columns) + place[None, :]
    tl.store(parts + at, total, mask=(filters < k)[:, None] & in_patch[None, :])

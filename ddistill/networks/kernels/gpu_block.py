"""`instance_block.c` for a GPU, in Triton: the same three kernels, arguments and formulas, in which the notation is.

A program computes CHANNELS channels of one image and goes over the pixels of their maps in tiles of PIXELS, as often as
the C code does; the maps of one image stay in the cache between the passes. No program waits for another and nothing
is added atomically, so the bits are the same each time. Tests run the kernels in Triton's interpreter
(TRITON_INTERPRET=1 before triton is imported), on tensors of the CPU. On an H200 they agree with
torch; the sizes of the tiles were not chosen by measurement.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

CHANNELS = tl.constexpr(16)
PIXELS = tl.constexpr(64)


def launch(name: str, *tensors: torch.Tensor, shape: torch.Size, eps: float | None = None) -> None:
    """Run a kernel on tensors of one device, in the order of its arguments.

    Args:
        name: forward, backward or double_backward.
        tensors: maps are channels-last and float32 or bfloat16; all else is float32. One image's maps have fewer than
            2**31 values.
        shape: (N, C, H, W) of the maps.
        eps: added to the variance, for forward.
    """
    n, c, h, w = shape
    more = () if eps is None else (eps,)
    kernel = {"forward": forward, "backward": backward, "double_backward": double_backward}[name]
    with torch.cuda.device_of(tensors[0]):  # of several GPUs, Triton takes the current one
        kernel[(n, triton.cdiv(c, CHANNELS.value))](*tensors, h, w, c, *more)


@triton.jit
def _image(h, w, c):
    """Where a program's image begins among maps and pooled maps, and where its statistics are; its channels."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return image * (h * w * c), image * ((h // 2) * (w // 2) * c), image * c + channel, channel, channel < c


@triton.jit
def _tile(start, end, c, channel, inside):
    """Of a tile of pixels: their numbers, offsets (PIXELS, CHANNELS) in the maps, and which of these exist."""
    pixel = start + tl.arange(0, PIXELS)
    return pixel, pixel[:, None] * c + channel[None, :], (pixel < end)[:, None] & inside[None, :]


@triton.jit
def _read(values, at, there):
    return tl.load(values + at, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _constants(weight, bias, mean, rstd, per, channel, inside):
    """t = x * r + tm, and the ReLU is open where x * scale + shift > 0."""
    r, m = _read(rstd, per, inside), _read(mean, per, inside)
    scale = _read(weight, channel, inside) * r
    return r, -m * r, scale, _read(bias, channel, inside) - m * scale


@triton.jit
def _spread(g, pixel, there, h, w, c, channel):
    """A quarter of the pooled gradient of each pixel, 0 in the last row and column of an odd side."""
    row, column = pixel // w // 2, pixel % w // 2
    cell = (row * (w // 2) + column)[:, None] * c + channel[None, :]
    return 0.25 * _read(g, cell, there & ((row < h // 2) & (column < w // 2))[:, None])


@triton.jit
def _corner(cell, corner, w, c, channel):
    """Offsets of one of the four pixels of each pooled one."""
    row, column = cell // (w // 2) * 2 + corner // 2, cell % (w // 2) * 2 + corner % 2
    return (row * w + column)[:, None] * c + channel[None, :]


@triton.jit(do_not_specialize=["h", "w"])  # compiled once for maps of all sides
def forward(x, weight, bias, pooled, mean, rstd, h, w, c, eps):
    """The pooled maps, and the statistics that the gradients need."""
    big, small, per, channel, inside = _image(h, w, c)
    x += big
    pixels = h * w
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for start in range(0, pixels, PIXELS):
        _, at, there = _tile(start, pixels, c, channel, inside)
        total += _read(x, at, there)
    m = tl.sum(total, axis=0) / pixels
    square = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for start in range(0, pixels, PIXELS):
        _, at, there = _tile(start, pixels, c, channel, inside)
        centred = tl.where(there, _read(x, at, there) - m, 0.0)
        square += centred * centred
    r = 1.0 / tl.sqrt(tl.sum(square, axis=0) / pixels + eps)
    tl.store(mean + per, m, mask=inside)
    tl.store(rstd + per, r, mask=inside)
    scale = _read(weight, channel, inside) * r
    shift = _read(bias, channel, inside) - m * scale
    cells = (h // 2) * (w // 2)
    for start in range(0, cells, PIXELS):
        cell, at, there = _tile(start, cells, c, channel, inside)
        four = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for corner in tl.static_range(4):
            y = _read(x, _corner(cell, corner, w, c, channel), there) * scale + shift
            four += tl.where(y > 0, y, 0.0)
        tl.store(pooled + small + at, 0.25 * four, mask=there)


@triton.jit(do_not_specialize=["h", "w"])  # compiled once for maps of all sides
def backward(x, weight, bias, mean, rstd, g, dx, dweight, dbias, h, w, c):
    """The gradient; that of weight and bias per image, which is summed afterwards."""
    big, small, per, channel, inside = _image(h, w, c)
    x, dx, g = x + big, dx + big, g + small
    r, tm, scale, shift = _constants(weight, bias, mean, rstd, per, channel, inside)
    pixels = h * w
    a = tl.zeros([PIXELS, CHANNELS], tl.float32)
    b = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel, at, there = _tile(start, pixels, c, channel, inside)
        wide = _read(x, at, there)
        u = tl.where(wide * scale + shift > 0, _spread(g, pixel, there, h, w, c, channel), 0.0)
        a += u
        b += u * (wide * r + tm)
    a_sum, b_sum = tl.sum(a, axis=0), tl.sum(b, axis=0)
    tl.store(dbias + per, a_sum, mask=inside)
    tl.store(dweight + per, b_sum, mask=inside)
    a_mean, b_mean = a_sum / pixels, b_sum / pixels
    for start in range(0, pixels, PIXELS):
        pixel, at, there = _tile(start, pixels, c, channel, inside)
        wide = _read(x, at, there)
        u = tl.where(wide * scale + shift > 0, _spread(g, pixel, there, h, w, c, channel), 0.0)
        tl.store(dx + at, scale * (u - a_mean - (wide * r + tm) * b_mean), mask=there)


@triton.jit(do_not_specialize=["h", "w"])  # compiled once for maps of all sides
def double_backward(x, weight, bias, mean, rstd, g, v, vweight, vbias, gx, gg, gweight, h, w, c):
    """The gradient of <v, dx> + <vweight, dweight> + <vbias, dbias> with respect to x, g and weight."""
    big, small, per, channel, inside = _image(h, w, c)
    x, v, gx, g, gg = x + big, v + big, gx + big, g + small, gg + small
    r, tm, scale, shift = _constants(weight, bias, mean, rstd, per, channel, inside)
    pixels = h * w
    a_all = tl.zeros([PIXELS, CHANNELS], tl.float32)
    b_all = tl.zeros([PIXELS, CHANNELS], tl.float32)
    v_all = tl.zeros([PIXELS, CHANNELS], tl.float32)
    e_all = tl.zeros([PIXELS, CHANNELS], tl.float32)
    vu_all = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel, at, there = _tile(start, pixels, c, channel, inside)
        wide, along = _read(x, at, there), _read(v, at, there)
        t = wide * r + tm
        u = tl.where(wide * scale + shift > 0, _spread(g, pixel, there, h, w, c, channel), 0.0)
        a_all += u
        b_all += u * t
        v_all += along
        e_all += along * t
        vu_all += along * u
    a, b = tl.sum(a_all, axis=0) / pixels, tl.sum(b_all, axis=0) / pixels
    vm, e = tl.sum(v_all, axis=0) / pixels, tl.sum(e_all, axis=0) / pixels
    big_t = tl.sum(vu_all, axis=0) / pixels - vm * a - b * e
    tl.store(gweight + per, pixels * r * big_t, mask=inside)
    vw, vb = _read(vweight, channel, inside), _read(vbias, channel, inside)
    for start in range(0, pixels, PIXELS):
        pixel, at, there = _tile(start, pixels, c, channel, inside)
        wide = _read(x, at, there)
        t = wide * r + tm
        u = tl.where(wide * scale + shift > 0, _spread(g, pixel, there, h, w, c, channel), 0.0)
        du, dv = u - a - t * b, _read(v, at, there) - vm - t * e
        tl.store(gx + at, vw * r * du - scale * r * (t * big_t + e * du + b * dv), mask=there)
    cells = (h // 2) * (w // 2)
    for start in range(0, cells, PIXELS):
        cell, at, there = _tile(start, cells, c, channel, inside)
        four = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for corner in tl.static_range(4):
            near = _corner(cell, corner, w, c, channel)
            wide = _read(x, near, there)
            t = wide * r + tm
            gu = scale * (_read(v, near, there) - vm - t * e) + vw * t + vb
            four += tl.where(wide * scale + shift > 0, gu, 0.0)
        tl.store(gg + at, 0.25 * four, mask=there)

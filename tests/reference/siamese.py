"""The operations of siamese augmentation on one image, each with its drawn parameter given (section 4).

Every x is one normalised image [c, H, W]; every result has the same shape. Which operations run, in which order and
with which draws, is the caller's business.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def brightness(x: Tensor, u: float) -> Tensor:
    """Section 4: x + (u - 0.5), u ~ U(0, 1). x [c, H, W]."""
    return x + (u - 0.5)


def saturation(x: Tensor, u: float) -> Tensor:
    """Section 4: (x - m_c) * 2u + m_c, m_c [1, H, W] the mean over channels at each pixel. x [c, H, W]."""
    total = torch.zeros_like(x[0])
    for channel in x:
        total = total + channel
    m = (total / x.shape[0])[None]
    return (x - m) * (2 * u) + m


def contrast(x: Tensor, u: float) -> Tensor:
    """Section 4: (x - m) * (u + 0.5) + m, m the mean over all channels and pixels of this image. x [c, H, W]."""
    m = x.sum() / x.numel()
    return (x - m) * (u + 0.5) + m


def shift(x: Tensor, dx: int, dy: int) -> Tensor:
    """Section 4, crop: out[:, r, k] = x[:, r - dy, k - dx], zero where that lies outside. x [c, H, W].

    Whole pixels; positive dx moves the content right, positive dy moves it down.
    """
    _, height, width = x.shape
    out = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            if 0 <= row - dy < height and 0 <= column - dx < width:
                out[:, row, column] = x[:, row - dy, column - dx]
    return out


def cutout(x: Tensor, cy: int, cx: int, size: int) -> Tensor:
    """Section 4: zero rows [cy - size // 2, cy - size // 2 + size) and such columns of cx, clipped. x [c, H, W]."""
    _, height, width = x.shape
    out = x.clone()
    for row in range(cy - size // 2, cy - size // 2 + size):
        for column in range(cx - size // 2, cx - size // 2 + size):
            if 0 <= row < height and 0 <= column < width:
                out[:, row, column] = 0
    return out


def flip(x: Tensor) -> Tensor:
    """Section 4: mirror left and right, out[:, r, k] = x[:, r, W - 1 - k]. x [c, H, W]."""
    width = x.shape[-1]
    return torch.stack([x[:, :, width - 1 - column] for column in range(width)], dim=-1)


def affine(x: Tensor, theta: list[list[float]]) -> Tensor:
    """Out at p = x at theta (p, 1), p in coordinates from -1 to 1 over the pixel *edges*; x [c, H, W], theta 2 x 3.

    Bilinear, zeros outside, align_corners false, in both affine_grid and grid_sample.
    """
    matrix = torch.tensor([theta], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(matrix, [1, *x.shape], align_corners=False)
    return F.grid_sample(x[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def scale(x: Tensor, sx: float, sy: float) -> Tensor:
    """Section 4: the sampling matrix [[sx, 0, 0], [0, sy, 0]] is the theta given to affine_grid. x [c, H, W].

    So sx > 1 makes the content narrower (zeros at the sides), sx < 1 makes it wider. Bilinear, zeros outside.
    """
    return affine(x, [[sx, 0.0, 0.0], [0.0, sy, 0.0]])


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Section 4: the sampling matrix [[cos, -sin, 0], [sin, cos, 0]] is the theta given to affine_grid. x [c, H, W].

    Rows point down, so positive degrees turn the content counterclockwise as seen. Square images. Zeros outside.
    """
    angle = math.radians(degrees)
    return affine(x, [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])


def cutmix(x: Tensor, y_mix: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """CutMix's image part: x with box taken from y_mix, both [c, H, W].

    box = (top, bottom, left, right), half-open in whole pixels, clipped to the image. The labels' weight of x is
    1 - (pixels in the clipped box) / (H * W).
    """
    _, height, width = x.shape
    top, bottom, left, right = box
    out = x.clone()
    for row in range(max(top, 0), min(bottom, height)):
        for column in range(max(left, 0), min(right, width)):
            out[:, row, column] = y_mix[:, row, column]
    return out

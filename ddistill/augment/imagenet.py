"""The training augmentation of ImageNet evaluation, for images in [0, 1] before normalisation.

Random resized crop (scale 0.5 to 1), flip, colour jitter 0.4 (brightness, contrast, saturation), PCA lighting
0.1. Each image has its own parameters; every function is batched.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

SLOTS = {
    "flip": 0,
    "area": 1,
    "ratio": 2,
    "top": 3,
    "left": 4,
    "brightness": 5,
    "contrast": 6,
    "saturation": 7,
    "pca0": 9,  # 8 was the order of the colour jitter
    "pca1": 10,
    "pca2": 11,
}
CACHED_BYTES = 2**21
"""Images that a CPU augments at once."""
MIN_AREA = 0.5
MAX_RATIO = 4.0 / 3.0
NEWTON_STEPS = 4
JITTER = 0.4
LIGHTING = 0.1
LUMA = (0.299, 0.587, 0.114)
PCA_VALUES = (0.2175, 0.0188, 0.0045)
PCA_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def imagenet_augment(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Augment (N, C, H, H) in [0, 1] with uniforms (N, 12 or more) in [0, 1); lighting needs three channels."""
    few = max(1, CACHED_BYTES // max(1, images[:1].nbytes))
    if images.device.type == "cpu" and len(images) > few:  # some thirty passes over the pixels: within the cache
        parts = zip(images.split(few), uniforms.split(few), strict=True)
        return torch.cat([imagenet_augment(own, numbers) for own, numbers in parts])
    images = resized_crop(images, uniforms)
    images = torch.where(_slot(uniforms, "flip") < 0.5, images.flip(3), images)
    images = color_jitter(images, uniforms)
    return lighting(images, uniforms) if images.shape[1] == 3 else images


def resized_crop(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Cut a part of 0.5 to 1 of the area, aspect ratio log-uniform in [3/4, 4/3], and scale it to the full side.

    A part that does not fit into the image is drawn anew, so that the mean area is 0.692.
    """
    height, width = crop_sides(uniforms[:, SLOTS["area"]], uniforms[:, SLOTS["ratio"]])
    return cut_out(images, height, width, uniforms[:, SLOTS["top"]], uniforms[:, SLOTS["left"]])


def cut_out(
    images: torch.Tensor, height: torch.Tensor, width: torch.Tensor, top: torch.Tensor, left: torch.Tensor
) -> torch.Tensor:
    """Parts of images (N, C, H, H), each scaled to the full side.

    Args:
        images: of any range.
        height, width: of the parts, as shares of the side, (N,).
        top, left: where they are in the room that is left, 0 to 1, (N,).
    """
    centre_y = (top * 2.0 - 1.0) * (1.0 - height)
    centre_x = (left * 2.0 - 1.0) * (1.0 - width)
    zero = torch.zeros_like(width)
    theta = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_sides(area: torch.Tensor, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width of a part, as shares of the side, from two uniform numbers, all of one shape.

    What is drawn anew until it fits is uniform in (area, log of the ratio) over what fits: area <= exp(-t) with
    t = |log ratio|. So t has the density exp(-t) - 0.5, whose integral is inverted by Newton's method (its slope is
    between 0.25 and 0.5), and the area is uniform up to exp(-t).
    """

    def integral(t: torch.Tensor) -> torch.Tensor:
        return 1.0 - torch.exp(-t) - MIN_AREA * t

    signed = 2.0 * ratio - 1.0
    target = signed.abs() * (1.0 - 1.0 / MAX_RATIO - MIN_AREA * math.log(MAX_RATIO))
    t = target / (1.0 - MIN_AREA)
    for _ in range(NEWTON_STEPS):
        t = t - (integral(t) - target) / (torch.exp(-t) - MIN_AREA)
    most = torch.exp(-t)
    root = (MIN_AREA + area * (most - MIN_AREA)).sqrt()
    half = torch.exp(0.5 * signed.sign() * t)
    return (root / half).clamp(max=1.0), (root * half).clamp(max=1.0)  # rounding


def color_jitter(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast and saturation by factors uniform in 1 +- 0.4; values are not cut to [0, 1].

    Each scales the distance of the pixels from a base: black, the mean grey of the image, or the pixel's own grey. The
    program takes them in a random order, which makes no difference: they commute, since saturation leaves the grey as
    it is and brightness scales it, too.
    """
    named = ("brightness", "contrast", "saturation")
    brightness, contrast, saturation = (1.0 + JITTER * (2.0 * _slot(uniforms, name) - 1.0) for name in named)
    grey = _grey(images)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    return brightness * (contrast * (saturation * (images - grey) + grey - mean) + mean)


def lighting(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Add a random multiple, N(0, 0.1), of the principal components of ImageNet's colours to each image."""
    columns = [uniforms[:, SLOTS[f"pca{i}"]] for i in range(3)]
    normal = torch.stack([torch.erfinv((2.0 * u - 1.0).clamp(-0.9999, 0.9999)) * 2.0**0.5 for u in columns], dim=1)
    weights = LIGHTING * normal * constant(PCA_VALUES, normal)
    return images + (weights @ constant(PCA_VECTORS, weights).T)[:, :, None, None].to(images.dtype)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return torch.einsum("nchw,c->nhw", images, constant(LUMA, images)).unsqueeze(1)


def constant(values: tuple[Any, ...], like: torch.Tensor) -> torch.Tensor:
    """Numbers as a tensor on the device and of the type of another one, copied there once."""
    return _constant(values, like.device, like.dtype)


@cache
def _constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


def _slot(uniforms: torch.Tensor, name: str) -> torch.Tensor:
    return uniforms[:, SLOTS[name]].view(-1, 1, 1, 1)

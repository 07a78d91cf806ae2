"""Networks of section 5, as plain functions of a dict of parameters (section 5; supplement, Tables 1 and 2)."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-5


def convnet_shapes(
    depth: int = 3, width: int = 128, channels: int = 3, size: int = 32, classes: int = 10, norm: str = "instance"
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of ConvNet-`depth` for square `channels` x `size` x `size` images."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = channels
    side = 32 if size == 28 else size  # padding 3 turns 28 pixels into 32
    for i in range(depth):
        shapes[f"blocks.{i}.conv.weight"] = (width, inputs, 3, 3)
        shapes[f"blocks.{i}.conv.bias"] = (width,)
        if norm == "instance":
            shapes[f"blocks.{i}.norm.weight"] = (width,)
            shapes[f"blocks.{i}.norm.bias"] = (width,)
        inputs = width
        side = side // 2
    shapes["classifier.weight"] = (classes, width * side * side)
    shapes["classifier.bias"] = (classes,)
    return shapes


def resnet_ap_shapes(
    size: int = 224, channels: int = 3, classes: int = 10, widths: tuple[int, ...] = (64, 128, 256, 512)
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of ResNetAP-10 for square `channels` x `size` x `size` images."""
    kernel = 3 if size <= 128 else 7
    shapes: dict[str, tuple[int, ...]] = {"stem.conv.weight": (widths[0], channels, kernel, kernel)}
    shapes["stem.norm.weight"] = (widths[0],)
    shapes["stem.norm.bias"] = (widths[0],)
    inputs = widths[0]
    for i, width in enumerate(widths):
        stride = 1 if i == 0 else 2
        shapes[f"blocks.{i}.conv1.weight"] = (width, inputs, 3, 3)
        shapes[f"blocks.{i}.norm1.weight"] = (width,)
        shapes[f"blocks.{i}.norm1.bias"] = (width,)
        shapes[f"blocks.{i}.conv2.weight"] = (width, width, 3, 3)
        shapes[f"blocks.{i}.norm2.weight"] = (width,)
        shapes[f"blocks.{i}.norm2.bias"] = (width,)
        if stride != 1 or inputs != width:
            shapes[f"blocks.{i}.shortcut.conv.weight"] = (width, inputs, 1, 1)
            shapes[f"blocks.{i}.shortcut.norm.weight"] = (width,)
            shapes[f"blocks.{i}.shortcut.norm.bias"] = (width,)
        inputs = width
    shapes["classifier.weight"] = (classes, inputs)
    shapes["classifier.bias"] = (classes,)
    return shapes


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Total number of scalars in a dict name -> shape."""
    return sum(prod(shape) for shape in shapes.values())


def draw_parameters(
    shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Arbitrary test parameters of the given shapes (NOT the initialisation of section 5).

    Everything of two or more dimensions is N(0, 1 / fan_in); norm weights 1 + N(0, 0.1^2); biases N(0, 0.1^2).
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator, dtype=dtype)
        if len(shape) >= 2:
            parameters[name] = noise / prod(shape[1:]) ** 0.5
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            parameters[name] = 1 + 0.1 * noise
        else:
            parameters[name] = 0.1 * noise
    return parameters


def apply_norm(parameters: dict[str, Tensor], prefix: str, x: Tensor, norm: str) -> Tensor:
    """Section 5: "instance" = GroupNorm with as many groups as channels, affine, eps 1e-5. x is [n, c, h, w]."""
    if norm == "none":
        return x
    if norm != "instance":
        raise ValueError(f"norm is 'instance' or 'none', not {norm!r}")
    channels = x.shape[1]
    return F.group_norm(x, channels, parameters[f"{prefix}.weight"], parameters[f"{prefix}.bias"], eps=NORM_EPS)


def convnet_forward(parameters: dict[str, Tensor], images: Tensor, depth: int = 3, norm: str = "instance") -> Tensor:
    """Section 5, ConvNet-D: D x [conv 3x3 with bias; norm; ReLU; average pool 2], flatten, linear.

    images [n, c, H, W] (normalised) -> logits [n, classes]. Padding is 1 everywhere, except 3 in the first
    convolution when the images are 28 pixels wide. Parameter names: `blocks.{i}.conv.{weight,bias}`,
    `blocks.{i}.norm.{weight,bias}`, `classifier.{weight,bias}`.
    """
    x = images
    for i in range(depth):
        padding = 3 if i == 0 and images.shape[-1] == 28 else 1
        x = F.conv2d(x, parameters[f"blocks.{i}.conv.weight"], parameters[f"blocks.{i}.conv.bias"], padding=padding)
        x = apply_norm(parameters, f"blocks.{i}.norm", x, norm)
        x = F.relu(x)
        x = F.avg_pool2d(x, 2)
    x = x.flatten(1)
    return F.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])


def resnet_ap_block(parameters: dict[str, Tensor], prefix: str, x: Tensor, stride: int, norm: str) -> Tensor:
    """Section 5, one basic block of ResNetAP: relu(norm2(conv2(pool_s(relu(norm1(conv1(x)))))) + shortcut(x)).

    x [n, c, h, w] -> [n, c', h / s, w / s]. The shortcut is norm(pool_s(conv1x1(x))) where channels or size change,
    else x itself. Convolutions have no bias.
    """
    conv1 = parameters[f"{prefix}.conv1.weight"]
    conv2 = parameters[f"{prefix}.conv2.weight"]
    y = F.conv2d(x, conv1, padding=1)
    y = apply_norm(parameters, f"{prefix}.norm1", y, norm)
    y = F.relu(y)
    if stride > 1:
        y = F.avg_pool2d(y, stride)
    y = F.conv2d(y, conv2, padding=1)
    y = apply_norm(parameters, f"{prefix}.norm2", y, norm)
    shortcut = x
    if stride > 1 or conv1.shape[0] != conv1.shape[1]:
        shortcut = F.conv2d(x, parameters[f"{prefix}.shortcut.conv.weight"])
        if stride > 1:
            shortcut = F.avg_pool2d(shortcut, stride)
        shortcut = apply_norm(parameters, f"{prefix}.shortcut.norm", shortcut, norm)
    return F.relu(y + shortcut)


def resnet_ap_forward(parameters: dict[str, Tensor], images: Tensor, norm: str = "instance") -> Tensor:
    """Section 5 and Table 2, ResNetAP-10: stem, four basic blocks with pools 1, 2, 2, 2, global average pool, linear.

    images [n, c, H, W] (normalised, square) -> logits [n, classes]. Stem: conv, norm, ReLU, average pool, with
    (kernel, padding, pool) = (3, 1, none) up to 64 px, (3, 1, 2) up to 128 px, (7, 3, 4) above.
    Table 2 leaves out the stem's norm and prints conv7 as 1x1; section 5 is followed: norm present, all block
    convolutions 3x3.
    """
    size = images.shape[-1]
    if size <= 64:
        kernel, padding, pool = 3, 1, 1
    elif size <= 128:
        kernel, padding, pool = 3, 1, 2
    else:
        kernel, padding, pool = 7, 3, 4
    stem = parameters["stem.conv.weight"]
    if tuple(stem.shape[2:]) != (kernel, kernel):
        raise ValueError(f"{size} px images use a {kernel}x{kernel} stem, not {tuple(stem.shape[2:])}")
    x = F.conv2d(images, stem, padding=padding)
    x = apply_norm(parameters, "stem.norm", x, norm)
    x = F.relu(x)
    if pool > 1:
        x = F.avg_pool2d(x, pool)
    for i, stride in enumerate([1, 2, 2, 2]):
        x = resnet_ap_block(parameters, f"blocks.{i}", x, stride, norm)
    x = x.mean(dim=(2, 3))
    return F.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])

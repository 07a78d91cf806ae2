"""Milliseconds of each operator that a kernel replaces, by the Triton kernels and by torch, in turn.

    DDISTILL_KERNELS=triton PYTHONPATH=. python benchmarks/gpu_kernels.py [--device cuda] [--trials 5] [--toy]

Norm, ReLU and pool by order (value; and first gradients; and second), each from the start: the time of a gradient is
the difference. The gradient of the first convolution's weights, also as a product on patches that torch unfolds. On a
GPU a CUDA graph is timed, since the launches of an eager operator would hide its kernels; torch's float32 is not TF32.
Prints a table and, last, one JSON line: medians. ``--toy`` is a small shape, for Triton's interpreter on a CPU
(TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddistill.networks import kernels
from ddistill.networks.kernels import gpu_patches
from ddistill.runtime.capture import capture_on_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference.kernels import EPS, norm_relu_pool, weight_gradient

SHAPES = [(64, 128, 32, 32), (64, 128, 16, 16), (64, 128, 8, 8)]
"""Of the blocks of ConvNet-3 on a batch of CIFAR-10; the first convolution makes the first."""
REPEATS = 20
"""Calls of which one is the mean."""
Call = Callable[[], object]


def of_block(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, Call]]:
    """Norm, ReLU and pool up to each order: by kind, what to call."""
    n, c, h, w = shape
    x = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
    tensors = [x, torch.ones(c, device=device), torch.zeros(c, device=device)]
    g = torch.randn(n, c, h // 2, w // 2, device=device).to(dtype, memory_format=torch.channels_last)

    def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return norm_relu_pool(x.float(), weight, bias).to(x.dtype)  # as the network does it

    def ours(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
        return kernels.norm_relu_pool(x, weight, bias, EPS)

    def first(function: Callable[..., Any]) -> object:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(function(*leaves), leaves, g)

    def second(function: Callable[..., Any]) -> object:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        outer = g.detach().requires_grad_()
        found = torch.autograd.grad(function(*leaves), leaves, outer, create_graph=True)
        return torch.autograd.grad(found, [*leaves[:2], outer], tensors)

    rows: dict[str, dict[str, Call]] = {}
    for kind, function in (("triton", ours), ("torch", plain)):
        rows.setdefault("value", {})[kind] = partial(function, *tensors)
        rows.setdefault("and first order", {})[kind] = partial(first, function)
        rows.setdefault("and second order", {})[kind] = partial(second, function)
    return rows


def of_weights(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Call]:
    """The gradient of the weights of a convolution of 3 channels that makes maps of that shape."""
    n, k, h, w = shape
    x = torch.randn(n, 3, h, w, device=device).to(dtype, memory_format=torch.channels_last)
    g = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(k, 3, 3, 3, device=device, dtype=dtype)
    one, only = [1, 1], [False, True, False]
    return {
        "triton": lambda: gpu_patches.weight_gradient(g, x, weight, (1, 1)),
        "torch": lambda: torch.ops.aten.convolution_backward(g, x, weight, None, one, one, one, False, [0, 0], 1, only),
        "unfolded": lambda: weight_gradient(g, x, weight, (1, 1)),
    }


def milliseconds(calls: dict[str, Call], device: torch.device, trials: int) -> dict[str, float]:
    """Of one call, by kind; median of some trials, in which the kinds take turns."""
    repeats = REPEATS if device.type == "cuda" else 1
    timed: dict[str, Call] = {}
    for kind, call in calls.items():
        timed[kind] = capture_on_gpu(call, [], kind)[0] if device.type == "cuda" else call
    seconds: dict[str, list[float]] = {kind: [] for kind in calls}
    for trial in range(trials + 1):
        for kind, call in timed.items():
            wait(device)
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            wait(device)
            if trial:  # the first warms up
                seconds[kind].append((time.perf_counter() - began) / repeats)
    return {kind: round(1e3 * statistics.median(found), 5) for kind, found in seconds.items()}


def wait(device: torch.device) -> None:
    """For what a GPU still does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    device, shapes = torch.device(options.device), [(1, 3, 5, 6)] if options.toy else SHAPES
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in shapes:
            calls = {f"norm, ReLU, pool: {name}": kinds for name, kinds in of_block(shape, dtype, device).items()}
            if shape == shapes[0]:
                calls["first convolution: weights"] = of_weights(shape, dtype, device)
            for name, kinds in calls.items():
                row = milliseconds(kinds, device, options.trials)
                rows.append({"operator": name, "shape": shape, "type": str(dtype).split(".")[1], "milliseconds": row})
                shown = "".join(f"{kind:>10} {value:.4f}" for kind, value in row.items())
                print(f"{name:<36}{rows[-1]['type']:<10}{'x'.join(map(str, shape)):<16}{shown}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

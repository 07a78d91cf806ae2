"""The Triton kernels against torch's operators; run by `unit/test_triton.py` and by `benchmarks/gpu_check.py`.

    DDISTILL_KERNELS=triton TRITON_INTERPRET=1 python tests/kernels_program.py cpu
    DDISTILL_KERNELS=triton python tests/kernels_program.py cuda

Prints a JSON line for each case: its kind, what it was, and the relative error of each thing that was compared. It is
a process of its own, since triton decides when it is imported whether its kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from unittest import mock

import torch
from reference.kernels import EPS, derivatives, norm_relu_pool, weight_gradient
from torch.nn import functional as F

from ddistill.networks import ConvNet, kernels
from ddistill.networks.kernels import gpu_block, gpu_patches
from ddistill.networks.kernels.instance_block import launcher

KINDS = {
    "block float32": 1e-5,
    "block bfloat16": 6e-3,
    "weights float32": 1e-5,
    "weights bfloat16": 6e-3,
    "network": 1e-5,
}
"""Kinds of cases, and the largest relative error allowed."""
DERIVATIVES = ("value", "dx", "dweight", "dbias", "second order x", "second order weight", "second order g")
BLOCKS = [(1, 3, 5, 7), (3, 1, 6, 6), (1, 32, 8, 8), (3, 48, 2, 3), (1, 130, 9, 9)]
"""(N, C, H, W)."""
CONVOLUTIONS = [((3, 3, 5, 7), 5, 3, 1), ((1, 1, 6, 6), 65, 3, 3), ((3, 3, 9, 9), 130, 3, 1), ((2, 4, 7, 8), 16, 5, 3)]
"""(N, C, H, W) of the images, filters, their side, padding."""
NETWORKS = [(1, 28), (3, 9)]
"""Channels and side of the images."""

Errors = dict[str, float]


def errors(names: Sequence[str], ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> Errors:
    """Norm of the difference over that of the reference, which is in float64."""
    pairs = zip(ours, theirs, strict=True)
    found = [float(((mine - other).norm() / other.norm()).detach()) for mine, other in pairs]
    return dict(zip(names, found, strict=True))


def block(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Errors:
    """Norm, ReLU and pool, first and second order."""
    draws = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=draws) * 2 + 1).to(device, dtype)
    weight, bias = (0.5 * torch.randn(2, shape[1], generator=draws) + torch.tensor([[1.0], [0.0]])).to(device)
    tensors = (x, weight, bias)
    ours = derivatives(lambda *t: kernels.norm_relu_pool(*t, EPS), [t.clone().requires_grad_() for t in tensors])
    return errors(DERIVATIVES, ours, derivatives(norm_relu_pool, [t.double().requires_grad_() for t in tensors]))


def weights(shape: tuple[int, ...], filters: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Errors:
    """The gradient of a convolution's weights."""
    count, side, padding = filters
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draws).to(device, dtype)
    weight = torch.zeros(count, shape[1], side, side, device=device, dtype=dtype)
    g = torch.randn(F.conv2d(x, weight, padding=padding).shape, generator=draws).to(device, dtype)
    ours = gpu_patches.weight_gradient(g, x, weight, (padding, padding))
    return errors(("dweight",), [ours], [weight_gradient(g.double(), x.double(), weight, (padding, padding))])


def network(channels: int, side: int, device: torch.device) -> Errors:
    """A ConvNet's gradients as matching takes them: of its weights, and of their squared norm, per image."""
    torch.manual_seed(0)
    made = ConvNet(3, channels, side, width=8, depth=2)
    images = torch.randn(3, channels, side, side)
    labels = torch.arange(3, device=device)

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        module, x = made.to(device, dtype), images.to(device, dtype).requires_grad_()
        parameters = list(module.parameters())
        first = torch.autograd.grad(F.cross_entropy(module(x), labels), parameters, create_graph=True)
        return [*first, *torch.autograd.grad(sum(part.square().sum() for part in first), [x, *parameters])]

    with mock.patch.object(gpu_patches, "weight_gradient", wraps=gpu_patches.weight_gradient) as called:
        ours = gradients(torch.float32)
    assert called.call_count == 2, "first order, and the second by way of it"
    names = [name for name, _ in made.named_parameters()]
    # torch serves float64; a bias before an instance norm has a gradient of zero, which is compared with nothing
    found = errors([*names, "images", *(f"second order {name}" for name in names)], ours, gradients(torch.float64))
    return {name: error for name, error in found.items() if not name.endswith("conv.bias")}


def cases(device: torch.device) -> Iterator[tuple[str, object, Errors]]:
    """Kind, what, errors."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for shape in BLOCKS:
            yield f"block {name}", shape, block(shape, dtype, device)
        for shape, *filters in CONVOLUTIONS:
            yield f"weights {name}", (shape, *filters), weights(shape, tuple(filters), dtype, device)
    for channels, side in NETWORKS:
        yield "network", (channels, side), network(channels, side, device)


def main() -> None:
    """All cases; the device is the first argument."""
    device = torch.device(sys.argv[1])
    torch.backends.cudnn.allow_tf32 = False  # of the network's other convolutions
    assert os.environ["DDISTILL_KERNELS"] == "triton"
    assert all(launcher(device, dtype) is gpu_block.launch for dtype in (torch.float32, torch.bfloat16))
    for kind, what, found in cases(device):
        print(json.dumps({"kind": kind, "case": what, "errors": found, "most": KINDS[kind]}), flush=True)


if __name__ == "__main__":
    main()

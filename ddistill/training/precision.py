"""Precision of the hot path: bfloat16 convolutions and products over float32 masters.

Weights, optimiser state, images, norm statistics, losses and distances stay float32; only what convolutions and
linear layers read and write is bfloat16.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

Precision = Literal["auto", "fp32", "bf16"]
Resolved = Literal["fp32", "bf16"]
Tensors = dict[str, torch.Tensor]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AVX-512 BF16 or AMX on a CPU, Ampere or later on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def resolve_precision(asked: Precision, device: torch.device) -> Resolved:
    """``asked``, with auto taken as bf16 where the device multiplies it in hardware and fp32 elsewhere."""
    if asked == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return asked


class Forward:
    """Logits of a module with weights that are given with each call.

    Args:
        module: gives the forward function and its buffers.
        precision: bf16 lets convolutions and linear layers compute in bfloat16; gradients reach the float32 weights.
    """

    def __init__(self, module: nn.Module, precision: Resolved = "fp32") -> None:
        self.module = module
        self.low = _product_weights(module) if precision == "bf16" else frozenset()

    def __call__(self, weights: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Float32 logits (N, C) of normalised images (N, channels, H, H)."""
        if not self.low:
            return functional_call(self.module, weights, (images,))
        half = {name: weight.bfloat16() if name in self.low else weight for name, weight in weights.items()}
        return functional_call(self.module, half, (images.bfloat16(),)).float()


def _product_weights(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of convolutions and linear layers."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
        for name, _ in layer.named_parameters(recurse=False)
    )

"""Precision of the hot path: bfloat16 convolutions and products over float32 masters.

Weights, optimiser state, images, losses and distances stay float32. Which operations compute in bfloat16 is decided by
torch's autocast, operation by operation, so that any `nn.Module` can be used: attention, own layers, scales, norms.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

Precision = Literal["auto", "fp32", "bf16"]
Resolved = Literal["fp32", "bf16"]
Tensors = dict[str, torch.Tensor]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AVX-512 BF16 or AMX on a CPU, Ampere or later on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class Forward:
    """What a module gives for weights that come with each call.

    Args:
        module: gives the forward function and its buffers.
        precision: bf16 lets convolutions and products compute in bfloat16; gradients reach the float32 weights.
    """

    def __init__(self, module: nn.Module, precision: Resolved = "fp32") -> None:
        self.module = module
        self.precision = precision

    def __call__(self, weights: Tensors, images: torch.Tensor) -> Any:
        """Float32 outputs, logits (N, C) as a rule, of normalised images (N, channels, H, H)."""
        if self.precision == "fp32":
            return functional_call(self.module, weights, (images,))
        # without autocast's cache of weights: it would hold the first call's casts across the levels of torch.func
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            outputs = functional_call(self.module, weights, (images,))
        return tree_map_only(torch.Tensor, torch.Tensor.float, outputs)


def trial_fault(module: nn.Module, images: torch.Tensor, precision: Resolved, *, second_order: bool) -> str | None:
    """Why a network cannot be trained, or matched, in a precision: what torch says of a small step; None where it can.

    Args:
        module: from images to logits (N, C); it is left as it is.
        images: a few normalised images (N, channels, H, H).
        precision: of convolutions and products.
        second_order: gradients are differentiated with respect to the images, too.

    Returns:
        A line.
    """
    trial = copy.deepcopy(module).train()
    forward = Forward(trial, precision)
    weights: Tensors = dict(trial.named_parameters())
    images = images.detach().clone().requires_grad_()
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    try:
        loss = F.cross_entropy(forward(weights, images), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order, allow_unused=True)
        values = [loss, *(gradient.square().sum() for gradient in gradients if gradient is not None)]
        if second_order:
            along = torch.autograd.grad(torch.stack(values[1:]).sum(), images, allow_unused=True)
            values.extend(gradient for gradient in along if gradient is not None)
    except (RuntimeError, TypeError, ValueError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None if all(bool(value.isfinite().all()) for value in values) else "it gives values that are not finite"

"""How the hot functions of a run are executed: in which precision, and whether compiled; decided from the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ddistill.networks import couples_batch, runs_on_kernels
from ddistill.runtime.errors import UserError
from ddistill.training.compilation import COMPILED_OVER_EAGER, CompileMode, repays_compilation
from ddistill.training.precision import Precision, Resolved, has_fast_bf16, trial_fault
from ddistill.training.trainer import Trainer

AUTO_PRECISION = "DDISTILL_AUTO_PRECISION"
"""Environment variable that fixes what ``auto`` means on any device: fp32 or bf16."""
FEWEST_FLOPS = {"cpu": 5e6, "cuda": 1e8}
"""Floating-point operations of training on one image from which bfloat16 pays where nothing is compiled. On CPUs with
AVX-512 BF16 or AMX 3e6 (LeNet, ConvNet-3 of width 8) gave 0.9 to 1.0 times the rate of float32, 6e6 (width 16) 1.2, 2e7
(width 32) 1.5. On an H200 3e8 (width 128) in captured steps gave 2.1 times the rate; what lies below was not measured
there."""
FEWEST_UNCAPTURED = 2e9
"""On a GPU whose steps are not captured, where every cast is one more launch: 3e8 gave half the rate of float32."""


ONE_THREAD_FLOPS = 5e6
"""Floating-point operations of training on one image up to which a second thread of a CPU gains nothing when the
machine is free (28-px images at width 16: 27.9 and 25.9 ms a step), and loses much when it is not."""
EXAMPLES = 4
"""Images that a network is tried on."""


@dataclass(frozen=True)
class HotPath:
    """What was decided.

    Attributes:
        precision: of convolutions and products.
        compiled: whether hot functions are compiled.
        kernels: whether hand-written kernels serve the network.
        reason: of the precision, in words.
        threads: of torch, where the work is too small for all of them, or a GPU does it; None: as they are.
        fallback: why bfloat16, which was asked for or would pay, cannot be used with this network; None where it can.
    """

    precision: Resolved
    compiled: bool
    kernels: bool
    reason: str
    threads: int | None = None
    fallback: str | None = None

    @property
    def gain(self) -> float:
        """How many times faster it is than `eager`, about."""
        return COMPILED_OVER_EAGER[self.precision] if self.compiled else 1.0

    @property
    def eager(self) -> Resolved:
        """Precision in which a few steps are measured without compiling them."""
        return "fp32" if self.compiled else self.precision

    @contextmanager
    def on_its_threads(self) -> Iterator[None]:
        """Set torch's threads for the work, and set them back afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(min(before, self.threads or before))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def as_dict(self) -> dict[str, str | bool | int | None]:
        """For the log and the summary."""
        names = ("precision", "compiled", "kernels", "threads", "reason")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Work:
    """What lies ahead of a network.

    Attributes:
        images: a few normalised images (N, channels, H, H) on the device.
        flops: of the whole run (or evaluation).
        flops_per_image: of training the network on one image.
        second_order: gradients are differentiated.
        every_layer: the maps of all layers are asked for, which the kernels do not keep.
        captured: most of it is launched whole on a GPU.
    """

    images: torch.Tensor
    flops: float
    flops_per_image: float
    second_order: bool = False
    every_layer: bool = False
    captured: bool = False


EAGER = HotPath("fp32", False, False, "float32: the work is only counted")
"""How work is counted before it is known how it will be done."""


def training_work(trainer: Trainer, steps: float) -> Work:
    """What lies ahead of a trainer's network that it trains for so many steps, and does nothing else with."""
    count = len(trainer.image_set.labels)
    some = torch.arange(min(EXAMPLES, count), device=trainer.image_set.images.device)
    per_step = trainer.flops_per_step()
    per_image = per_step / min(trainer.settings.batch, count)
    images = trainer.pipeline.normalise(trainer.image_set.fetch(some))
    return Work(images, per_step * steps, per_image, captured=trainer.captures)


def choose_hot_path(
    module: nn.Module, work: Work, precision: Precision = "auto", mode: CompileMode = "auto"
) -> HotPath:
    """Decide from the work and the device, never from a clock, so that a recipe runs the same code each time.

    Args:
        module: the network, on its device.
        work: what lies ahead of it.
        precision: fp32, bf16, or auto: bf16 where the device multiplies it in hardware and it is faster for this work.
        mode: auto, on or off.
    """
    device = work.images.device
    kernels = runs_on_kernels(module, device) and not work.every_layer
    # on a CPU the kernels are as fast as compiled code, or faster, without compiling; on a GPU they were asked for
    compiled = repays_compilation(mode, work.flops) and not couples_batch(module) and (mode == "on" or not kernels)
    low, reason = _wants_bf16(precision, device, work, compiled)
    fallback = trial_fault(module, work.images, "bf16", second_order=work.second_order) if low else None
    if fallback is not None:
        low, reason = False, f"float32: the network cannot be used in bfloat16 ({fallback})"
    # beside a GPU the host draws numbers and small networks, and many threads wait for each other
    threads = 1 if device.type != "cpu" or work.flops_per_image <= ONE_THREAD_FLOPS else None
    return HotPath("bf16" if low else "fp32", compiled, kernels and not compiled, reason, threads, fallback)


def _wants_bf16(precision: Precision, device: torch.device, work: Work, compiled: bool) -> tuple[bool, str]:
    if precision != "auto":
        return precision == "bf16", f"{'bfloat16' if precision == 'bf16' else 'float32'}: asked for"
    injected = os.environ.get(AUTO_PRECISION, "")
    if injected:
        if injected not in ("fp32", "bf16"):
            raise UserError(f"{AUTO_PRECISION} must be fp32 or bf16, got {injected!r}")
        return injected == "bf16", f"{'bfloat16' if injected == 'bf16' else 'float32'}: {AUTO_PRECISION} says so"
    if not has_fast_bf16(device):
        return False, "float32: this device does not multiply bfloat16 in hardware"
    if device.type == "cpu" and compiled:
        return True, "bfloat16: the device multiplies it in hardware, and the work repays compilation"
    one_by_one = device.type == "cuda" and not work.captured
    fewest = FEWEST_UNCAPTURED if one_by_one else FEWEST_FLOPS.get(device.type, 0.0)
    flops_per_image = work.flops_per_image
    counted = f"training on one image takes {flops_per_image:.2g} FLOP, and it pays from {fewest:.2g} on this device"
    return flops_per_image >= fewest, f"{'bfloat16' if flops_per_image >= fewest else 'float32'}: {counted}"

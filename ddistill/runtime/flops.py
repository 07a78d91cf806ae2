"""Counting the work of a function."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of some eager work, by torch's counter: convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())

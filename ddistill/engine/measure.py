"""Seconds of work that is too long to be tried: from a few small pieces of it that grow as far as time allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

TRIALS = 3


@dataclass(frozen=True)
class Seconds:
    """A prediction, and what it might be as well.

    Attributes:
        typical: from the median trial.
        low, high: from the fastest and the slowest trial, each by both ways to go on from what was measured.
    """

    typical: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.typical + other.typical, self.low + other.low, self.high + other.high)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.typical * times, self.low * times, self.high * times)


def grown(
    work: Callable[[float], Callable[[], object]],
    sizes: Sequence[float],
    wanted: float,
    seconds: float,
    device: torch.device,
) -> Seconds:
    """Seconds of work of one size from some of smaller ones, as it grows in proportion to its size but for a constant.

    Sizes are tried from the smallest on for as long as the next one fits the time; what is left of it goes to further
    trials of the largest. What lies beyond is taken along the line through both ends of what was tried (`Seconds`: or
    through zero, which is more).

    Args:
        work: prepares work of a size, and returns what does it.
        sizes: ascending; those beyond ``wanted`` are left out.
        wanted: size that is asked for.
        seconds: for all of this, about; the smallest size is tried twice however long it takes.
        device: that is waited for.
    """
    began = time.perf_counter()
    sizes = [size for size in sizes if size < wanted] + [wanted]
    tried: list[tuple[float, list[float]]] = []
    for number, size in enumerate(sizes):
        one = work(size)
        if not tried or device.type == "cuda":
            timed(one, device)  # what happens once: memory, libraries, kernels; a capture for each size
        tried.append((size, [timed(one, device)]))
        ahead = tried[-1][1][0] * sizes[min(number + 1, len(sizes) - 1)] / size
        if time.perf_counter() - began + ahead > seconds:
            break
    size, trials = tried[-1]
    while len(trials) < TRIALS and time.perf_counter() - began + trials[0] < seconds:
        trials.append(timed(one, device))
    first, (start, *_) = tried[0]
    middle = statistics.median(trials)
    slope = max(0.0, middle - start) / (size - first) if size > first else middle / size

    def at_least(trial: float) -> float:
        return trial + min(slope, trial / size) * (wanted - size)

    return Seconds(at_least(middle), at_least(min(trials)), max(trials) * wanted / size)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of some work, waited for."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

"""Networks ahead: what a network goes through is computed before the images, where it does not depend on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ddistill.network_sources import Weights, load_into
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.memory import free_memory_bytes

MEMORY_SHARE = 0.3
"""Of the free memory, that the paths of all ranks may take."""


class PathsAhead:
    """Weights at the inner steps of the next outer steps, of which each rank computes one by itself.

    Nothing is exchanged while they are computed, so any number of ranks finds the bits of one; a rank gives the weights
    of its outer step to the others when they are used, some MB an inner step.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.steps = range(0)
        self.own: list[Weights] = []

    def fit(self, module: nn.Module, inner_steps: int) -> bool:
        """Whether a path fits the memory of every rank."""
        tensors = module.state_dict().values()
        size = inner_steps * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        device = next(iter(tensors)).device if tensors else torch.device("cpu")
        free = free_memory_bytes(device) * MEMORY_SHARE / (self.ranks.count if device.type == "cpu" else 1)
        return not self.ranks.any(size > free)

    def reach(self, step: int, last: int, path: Callable[[int], list[Weights]]) -> None:
        """Have outer step ``step`` at hand: where it is not, compute it and the next ones, up to ``last``."""
        if step not in self.steps:
            self.steps = range(step, min(step + self.ranks.count, last + 1))
            mine = self.ranks.own(self.steps)
            self.own = [] if mine is None else path(mine)

    def load_into(self, module: nn.Module, step: int, inner: int) -> None:
        """Give the module of every rank the weights of an inner step (from 0) of an outer step that is at hand."""
        owner = self.steps.index(step)
        if owner == self.ranks.rank:
            load_into(module, self.own[inner])
        self.ranks.broadcast_(list(module.state_dict().values()), owner)

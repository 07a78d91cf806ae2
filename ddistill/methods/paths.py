"""Networks ahead: what a network goes through is computed before the images, where it does not depend on them.

A path is the weights of the network at the inner steps of an outer step, a pure function of (seed, outer step). Paths
are computed in windows, while the images follow the window before: several outer steps side by side on a GPU, other
ones on each rank. Where one network is trained at a time a window is a single inner step, which is the plain loop.

Shapes: R networks side by side, M inner steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ddistill.network_sources import NetworkSource, load_into
from ddistill.runtime.capture import Beside
from ddistill.runtime.distributed import ALONE, Ranks
from ddistill.runtime.memory import free_memory_bytes
from ddistill.training import Trainer, TrainingDraws
from ddistill.training.side_by_side import MOST, SideBySide

MEMORY_SHARE = 0.3
"""Of the free memory, that the paths of all ranks may take."""
GAIN = 0.95
"""Of the time of a network, at most, that twice as many side by side must take each to be worth their memory."""
TRIALS = 3

NetworkDraws = tuple[torch.Tensor, TrainingDraws]
"""Positions of the mini-batches, int64 (M, K, batch), and the draws of all of them, one after another."""


@dataclass
class Window:
    """Weights at some inner steps of some outer steps.

    Attributes:
        steps: outer steps, of all ranks.
        inner: inner steps, from 0.
        kept: by name, of the outer steps of this rank, (inner steps, R, ...).
        done: inner steps that are computed.
    """

    steps: range
    inner: range
    kept: dict[str, torch.Tensor]
    done: int = 0

    def holds(self, step: int, inner: int) -> bool:
        """Whether it is for those."""
        return step in self.steps and inner in self.inner


class Paths:
    """Weights at the inner steps of the outer steps of a run, computed ahead.

    Nothing is exchanged while they are computed, so any number of ranks, and of networks side by side, finds the same
    bits; a rank gives the weights of its outer steps to the others when they are used, some MB an inner step.

    Args:
        trainer: of the network that is matched, which is left as it is.
        draws: of the training at an outer step.
        ranks: that work together.
        inner_steps: M.
        steps: the outer steps that there are.

    Attributes:
        width: R, outer steps that this rank computes side by side.
    """

    def __init__(
        self, trainer: Trainer, draws: Callable[[int], NetworkDraws], ranks: Ranks, inner_steps: int, steps: range
    ) -> None:
        self.trainer, self.draws, self.inner_steps, self.steps = trainer, draws, inner_steps, steps
        self.beside = Beside(trainer.image_set.device)
        self.source: NetworkSource | None = None
        self.drawn: list[NetworkDraws] = []
        # where one rank cannot hold whole paths, each trains for itself
        self.ranks = ranks if self._fits(1, ranks) else ALONE
        self.width, self.networks = 1, SideBySide(trainer, [trainer.image_set])
        most = min(MOST, -(-len(steps) // self.ranks.count)) if trainer.captures else 1
        widths = [width for width in (1, 2, 4, MOST) if width <= most and self._fits(width, self.ranks)]
        # measured without an exchange, since ranks stop where they like
        self.width = min(self.ranks.gather(self._fastest(widths))) if len(widths) > 1 else 1
        self._start_over()

    def smaller(self) -> str | None:
        """Train half as many networks at once after the device ran out of memory; in words, None where it is one."""
        if self.width == 1:
            return None
        self.width //= 2
        self._start_over()
        return f"networks of {self.width} outer steps are trained at once from here on"

    def load_into(self, module: nn.Module, step: int, inner: int, source: NetworkSource | None = None) -> None:
        """Give the module of every rank the weights of an inner step (from 0) of an outer step.

        Args:
            module: such a network.
            step: from 1.
            inner: follows the one before, or starts an outer step.
            source: gives the first weights of an outer step.
        """
        self.source = source or self.source
        if self.ready is None or not self.ready.holds(step, inner):
            self._turn(step, inner)
        window = self.ready
        assert window is not None
        owner, number = divmod(window.steps.index(step), self.width)
        tensors = module.state_dict()
        if owner == self.ranks.rank:
            kept = [window.kept[name][inner - window.inner.start, number] for name in tensors]
            torch._foreach_copy_(list(tensors.values()), kept)
        self.ranks.broadcast_(list(tensors.values()), owner)

    def advance(self) -> None:
        """Compute as much of the next window as goes beside one image update, so that it is there when it is due."""
        if self.ready is None or self.coming is None:
            return
        self.followed += 1
        updates = len(self.ready.steps) * len(self.ready.inner)
        due = -(-len(self.coming.inner) * self.followed // updates)
        self._compute(self.coming, min(due, len(self.coming.inner)))

    # ---------------------------------------------------------------------------------------------------------- inside

    @property
    def whole(self) -> bool:
        """Whether a window is whole paths."""
        return self.width * self.ranks.count > 1

    def _fits(self, width: int, ranks: Ranks) -> bool:
        """Whether two windows of whole paths fit the memory of every rank."""
        size = sum(tensor.nbytes for tensor in self.trainer.module.state_dict().values())
        device = self.trainer.image_set.device
        free = free_memory_bytes(device) * MEMORY_SHARE / (ranks.count if device.type == "cpu" else 1)
        return not ranks.any(2 * width * self.inner_steps * size > free)

    def _fastest(self, widths: list[int]) -> int:
        """How many networks side by side take the least time each, by a short measurement; it decides no bit."""
        best, before = widths[0], self._seconds_each(widths[0])
        for width in widths[1:]:
            try:
                each = self._seconds_each(width)
            except torch.OutOfMemoryError:  # of their activations
                break
            if each > GAIN * before:
                break
            best, before = width, each
        return best

    def _seconds_each(self, width: int) -> float:
        """That an inner step takes one of so many networks side by side."""
        self.width = width
        self._start_over()
        self.drawn = [self.draws(self.steps.start)] * width
        self._train(0)  # captured now

        def timed() -> float:
            synchronise(self.trainer.image_set.device)
            began = time.perf_counter()
            self._train(0)
            synchronise(self.trainer.image_set.device)
            return time.perf_counter() - began

        return min(timed() for _ in range(TRIALS)) / width

    def _start_over(self) -> None:
        self.beside.join()  # what is dropped may be written still
        self.networks.release()
        self.networks = SideBySide(self.trainer, [self.trainer.image_set] * self.width)
        self.ready: Window | None = None
        self.coming: Window | None = None
        self.followed = 0

    def _turn(self, step: int, inner: int) -> None:
        """Have an inner step at hand, and begin the window after it."""
        window = self.coming
        if window is None or not window.holds(step, inner):
            window = self._window(self._group(step), 0)
        self._compute(window, len(window.inner))
        self.beside.join()
        self.ready, self.coming, self.followed = window, None, 0
        stop, steps = window.inner.stop, self._group(window.steps.stop)
        if stop < self.inner_steps:
            self.coming = self._window(window.steps, stop)
        elif steps:
            self.coming = self._window(steps, 0)

    def _group(self, first: int) -> range:
        """The outer steps whose networks are computed together."""
        return range(first, min(first + self.width * self.ranks.count, self.steps.stop))

    def _window(self, steps: range, first: int) -> Window:
        inner = range(first, self.inner_steps if self.whole else first + 1)
        state = self.trainer.module.state_dict()
        shape = (len(inner), self.width)
        return Window(steps, inner, {name: tensor.new_empty(*shape, *tensor.shape) for name, tensor in state.items()})

    def _compute(self, window: Window, inner_steps: int) -> None:
        """Have the first ``inner_steps`` of a window computed."""
        assigned = window.steps[self.ranks.rank * self.width :][: self.width]
        with self.beside.launched():
            for number in range(window.done, inner_steps) if assigned else ():
                if window.inner[number] == 0:
                    self._begin(assigned)
                else:
                    self._train(window.inner[number] - 1)
                for which, trainer in enumerate(self.networks.trainers):
                    state = trainer.module.state_dict()
                    torch._foreach_copy_([window.kept[name][number, which] for name in state], list(state.values()))
        window.done = inner_steps

    def _begin(self, steps: range) -> None:
        """Give each network the first weights of its outer step; those that have none go on with what they have."""
        assert self.source is not None
        self.drawn = [self.draws(step) for step in steps]
        self.drawn += self.drawn[-1:] * (self.width - len(steps))  # a launch makes steps of all
        for trainer, step in zip(self.networks.trainers, steps, strict=False):
            first = self.source.draw(step)
            load_into(trainer.module, first.weights)
            trainer.restart(first.momenta)

    def _train(self, inner: int) -> None:
        """Train all networks after an image update."""
        batches = [positions[inner].unbind() for positions, _ in self.drawn]
        count = len(batches[0])
        draws = [training.part(inner * count, count) for _, training in self.drawn]
        self.networks.run(batches, draws, self.networks.settings.lr)


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

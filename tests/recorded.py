"""A stand-in for CUDA graphs on any device: what a step does is recorded once, operator by operator, and done again.

As in a graph, only memory counts afterwards: a step that looks at anything else (another tensor, a number of the host)
goes on with what it saw first. A read on the host, and a tensor made of numbers of the host, fail as in a capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

HOST = {
    "aten::_local_scalar_dense": "a value is read on the host",
    "aten::nonzero": "a shape depends on values",
    "aten::masked_select": "a shape depends on values",
    "aten::equal": "a value is read on the host",
    "aten::lift_fresh": "a tensor is made of values of the host",
}


class Recorder(TorchDispatchMode):
    """Notes every operator with its arguments and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.name()}: {HOST[func.name()]}")
        if func.name().startswith("aten::index") and any(
            torch.is_tensor(leaf) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
        ):
            raise RuntimeError("operation not permitted when stream is capturing: a shape depends on values")
        given = func(*args, **(kwargs or {}))
        # aliases: the shapes of what was given and taken may be changed in place later
        alias = partial(tree_map_only, torch.Tensor, torch.Tensor.detach)
        self.calls.append((func, alias(args), alias(kwargs or {}), alias(given)))
        return given

    @torch.no_grad()
    def replay(self) -> None:
        """Do all of it again, in the memory that it was done in."""
        for func, args, kwargs, before in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(again), strict=True):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Captures:
    """A capture as `ddistill.runtime.capture` takes it, which remembers what it was asked for."""

    def __init__(self, warm_up: int = 3) -> None:
        self.warm_up = warm_up
        self.made: list[list[torch.Size]] = []
        self.streams: list[str] = []
        self.recorders: list[Recorder] = []

    def __call__(
        self, step: Callable[..., Any], buffers: Sequence[torch.Tensor], stream: str
    ) -> tuple[Callable[[], None], Any]:
        for _ in range(self.warm_up):
            step(*buffers)
        recorder = Recorder()
        with recorder:
            output = step(*buffers)
        self.streams.append(stream)
        self.made.append([buffer.shape for buffer in buffers])
        self.recorders.append(recorder)
        return recorder.replay, output


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute by torch's operators alone."""
    monkeypatch.setattr("ddistill.networks.kernels.cpu_block.built_kernels", lambda _dtype: None)


def captured_on_cpu(monkeypatch: pytest.MonkeyPatch, warm_up: int = 1) -> Captures:
    """Have what a GPU would capture captured here, without the C kernels, which no operator of torch shows."""
    captures = Captures(warm_up)
    without_kernels(monkeypatch)
    for user in ("training.trainer", "methods.class_matching"):
        monkeypatch.setattr(f"ddistill.{user}.wants_capture", lambda _device: True)
    monkeypatch.setattr("ddistill.runtime.capture.capture_on_gpu", captures)
    return captures

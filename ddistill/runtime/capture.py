"""A step that is captured once and then launched whole (CUDA graphs), and work that goes on side by side (streams).

A step on 64 small images is some hundred kernels that take less time than their launches. Captured, all of them are one
launch. Its inputs are copied into the buffers that it was captured with; what it changes stays where it is. The one
place that captures; `DDISTILL_CUDA_GRAPHS=off` does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Step = Callable[..., Any]
Launch = tuple[Callable[[], object], Any]
Capture = Callable[[Step, Sequence[torch.Tensor]], Launch]

WARM_UP = 3
"""Steps before the capture, in which libraries choose algorithms and compiled code is made."""


def wants_capture(device: torch.device) -> bool:
    """Whether steps on a device are captured."""
    return device.type == "cuda" and os.environ.get("DDISTILL_CUDA_GRAPHS") != "off"


class Captured:
    """A step as a function of input tensors that changes state in place.

    Inside, nothing may be read on the host or decided there by what changes from call to call; what an operator reads
    is an input, or a tensor whose memory stays where it is.

    Args:
        step: gives a tensor, or a tuple of tensors, which the next call overwrites.
        state: all tensors that it changes.
        capture: makes a launch of a step and its buffers.
    """

    def __init__(self, step: Step, state: Sequence[torch.Tensor], capture: Capture | None = None) -> None:
        self.step = step
        self.state = list(state)
        self.capture = capture or capture_on_gpu
        self.captured: dict[Hashable, tuple[list[torch.Tensor], Launch]] = {}
        self.refused = False

    def __call__(self, *inputs: torch.Tensor, variant: Hashable = None) -> Any:
        """The step; captured when it is first called with inputs of these shapes.

        Args:
            inputs: on the device of the state.
            variant: stands for what the step decides on the host; another one is captured by itself.
        """
        if self.refused:
            return self.step(*inputs)
        key = (variant, *(tensor.shape for tensor in inputs))
        if key not in self.captured:
            launch = self._new(inputs)
            if launch is None:
                return self.step(*inputs)
            self.captured[key] = launch
        buffers, (replay, output) = self.captured[key]
        if inputs:
            torch._foreach_copy_(buffers, list(inputs))
        replay()
        return output

    def _new(self, inputs: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Launch] | None:
        """Buffers and a launch, or None where an operator cannot be captured; the state is as it was before."""
        buffers = [tensor.clone() for tensor in inputs]
        kept = [tensor.clone() for tensor in self.state]
        try:
            return buffers, self.capture(self.step, buffers)
        except torch.OutOfMemoryError:
            raise  # less at once may fit
        except RuntimeError:
            self.refused = True
            return None
        finally:
            if kept:
                torch._foreach_copy_(self.state, kept)  # the warm-up has changed it


def capture_on_gpu(step: Step, buffers: Sequence[torch.Tensor]) -> Launch:
    """A CUDA graph of the step on the buffers; warming up changes the state.

    Raises:
        RuntimeError: the step cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(*buffers)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step(*buffers)
    return graph.replay, output


def side_by_side(works: Sequence[Callable[[], Any]], device: torch.device) -> list[Any]:
    """What independent works give; on a GPU each is launched on a stream of its own, elsewhere one after the other.

    They begin after what was launched before, and what is launched afterwards waits for all of them. Also inside of a
    step that is captured.
    """
    if device.type != "cuda" or len(works) == 1:
        return [work() for work in works]
    current, given = torch.cuda.current_stream(device), []
    streams = [_stream(device, number) for number in range(len(works))]
    for stream, work in zip(streams, works, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            given.append(work())
    for stream in streams:
        current.wait_stream(stream)
    return given


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Beside:
    """A stream for work that goes on beside what is launched meanwhile; elsewhere than on a GPU it is done at once."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def launched(self) -> Iterator[None]:
        """What is launched inside begins after all that was launched before, and is waited for by `join`."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """What is launched from here on begins after the work."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)

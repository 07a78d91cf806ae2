"""A step that is captured once and then launched whole (CUDA graphs), and work that goes on side by side (streams).

A step on 64 small images is some hundred kernels that take less time than their launches. Captured, all of them are one
launch. Its inputs are copied into the buffers that it was captured with; what it changes stays where it is. The one
place that captures; `DDISTILL_CUDA_GRAPHS=off` does without.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

Step = Callable[..., Any]
Launch = tuple[Callable[[], object], Any]
Capture = Callable[[Step, Sequence[torch.Tensor], str], Launch]

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
        stream: that it is captured on. What is captured on one shares the work space of the libraries, so what may be
            launched at one time has streams of different names.
        capture: makes a launch of a step and its buffers.
    """

    def __init__(self, step: Step, state: Sequence[torch.Tensor], stream: str, capture: Capture | None = None) -> None:
        self.step = step
        self.state = list(state)
        self.stream = stream
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

    def release(self) -> None:
        """Give back what was captured and its memory: before something else is captured on the stream, since torch
        clears the work space of the stream with it."""
        self.captured.clear()

    def _new(self, inputs: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Launch] | None:
        """Buffers and a launch, or None where an operator cannot be captured; the state is as it was before."""
        buffers = [tensor.clone() for tensor in inputs]
        kept = [tensor.clone() for tensor in self.state]
        try:
            return buffers, self.capture(self.step, buffers, self.stream)
        except torch.OutOfMemoryError:
            raise  # less at once may fit
        except RuntimeError as error:
            self.refused = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"steps of {self.stream} are launched operator by operator: {reason}", stacklevel=3)
            return None
        finally:
            if kept:
                torch._foreach_copy_(self.state, kept)  # the warm-up has changed it


def capture_on_gpu(step: Step, buffers: Sequence[torch.Tensor], name: str) -> Launch:
    """A CUDA graph of the step on the buffers; warming up changes the state.

    Raises:
        RuntimeError: the step cannot be captured.
    """
    device = buffers[0].device if buffers else torch.device("cuda", torch.cuda.current_device())
    before, stream = torch.cuda.current_stream(device), _stream(device, name)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for number in range(WARM_UP):
            # found here: a capture that fails leaves streams, allocator and generators in the middle of it
            with _waiting_forbidden(number == WARM_UP - 1):
                step(*buffers)
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            output = step(*buffers)
    finally:
        torch.cuda.set_stream(before)
    return graph.replay, output


@contextmanager
def _waiting_forbidden(really: bool) -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises a RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode", category=UserWarning)
        torch.cuda.set_sync_debug_mode("error" if really else mode)
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def side_by_side(works: Sequence[Callable[[], Any]], device: torch.device) -> list[Any]:
    """What independent works give; on a GPU each is launched on a stream of its own, elsewhere one after the other.

    They begin after what was launched before, and what is launched afterwards waits for all of them. Also inside of a
    step that is captured.
    """
    if device.type != "cuda" or len(works) == 1:
        return [work() for work in works]
    current, given = torch.cuda.current_stream(device), []
    streams = [_stream(device, f"work {number}") for number in range(len(works))]
    begun: list[torch.cuda.Stream] = []
    try:
        for stream, work in zip(streams, works, strict=True):
            stream.wait_stream(current)
            begun.append(stream)
            with torch.cuda.stream(stream):
                given.append(work())
    finally:  # else a capture that fails in a work ends with another error
        for stream in begun:
            current.wait_stream(stream)
    return given


@cache
def _stream(device: torch.device, name: str) -> torch.cuda.Stream:
    """One that lives as long as the process: torch hands out the same few again and again."""
    return torch.cuda.Stream(device)


class Beside:
    """A stream for work that goes on beside what is launched meanwhile; elsewhere than on a GPU it is done at once."""

    def __init__(self, device: torch.device) -> None:
        self.stream = _stream(device, "beside") if device.type == "cuda" else None

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

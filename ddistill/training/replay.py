"""A training step that is captured once and then replayed as one launch (CUDA graphs).

A step on 64 small images is some hundred kernels that take less time than their launches. Captured, the whole step is
launched at once. Its inputs are copied into the buffers that it was captured with; weights and momentum stay where they
are. `DDISTILL_CUDA_GRAPHS=off` does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

Step = Callable[..., torch.Tensor]
Captured = tuple[Callable[[], object], torch.Tensor]
Capture = Callable[[Step, Sequence[torch.Tensor], Sequence[torch.Tensor]], Captured]

WARM_UP = 3
"""Steps before the capture, in which libraries choose algorithms and compiled code is made."""


def wants_replay(device: torch.device) -> bool:
    """Whether steps on a device are replayed."""
    return device.type == "cuda" and os.environ.get("DDISTILL_CUDA_GRAPHS") != "off"


class Replayed:
    """A step as a function of input tensors that changes state in place.

    Args:
        step: gives a tensor; reads nothing on the host.
        state: all tensors that it changes, at addresses that stay.
        capture: makes a replayable step of a step and buffers.
    """

    def __init__(self, step: Step, state: Sequence[torch.Tensor], capture: Capture | None = None) -> None:
        self.step = step
        self.state = state
        self.capture = capture or capture_on_gpu
        self.captured: dict[tuple[torch.Size, ...], tuple[list[torch.Tensor], Captured]] = {}
        self.refused = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The step; captured when it is first called with inputs of these shapes."""
        if self.refused:
            return self.step(*inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.captured:
            buffers = [tensor.clone() for tensor in inputs]
            kept = [tensor.clone() for tensor in self.state]
            try:
                self.captured[shapes] = buffers, self.capture(self.step, buffers, self.state)
            except RuntimeError:  # an operator that cannot be captured
                self.refused = True
            torch._foreach_copy_(list(self.state), kept)  # as it was before the warm-up
            if self.refused:
                return self.step(*inputs)
        buffers, (replay, output) = self.captured[shapes]
        for buffer, tensor in zip(buffers, inputs, strict=True):
            buffer.copy_(tensor)
        replay()
        return output


def capture_on_gpu(step: Step, buffers: Sequence[torch.Tensor], _state: Sequence[torch.Tensor]) -> Captured:
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

"""What is captured, by a stand-in that replays on any device; on a GPU the real one."""

import pytest
import torch
from recorded import Captures

from ddistill.runtime.capture import Beside, Captured, side_by_side, wants_capture

CPU = torch.device("cpu")


def test_a_step_is_captured_once_for_each_shape_and_variant():
    total, captures = torch.zeros(()), Captures()

    def add(x: torch.Tensor) -> torch.Tensor:
        total.add_(x.sum())
        return total * 2

    step = Captured(add, [total], "test", captures)
    outputs = [step(torch.ones(count)).item() for count in (3, 3, 2, 3, 2)]
    assert outputs == [6, 12, 16, 22, 26]  # the warm-up has left nothing
    assert captures.made == [[(3,)], [(2,)]]
    step(torch.ones(2), variant="another")
    assert captures.made[2:] == [[(2,)]]


def test_a_replay_looks_at_memory_alone():
    """A graph that would notice a new tensor, or a new number of the host, would not be one."""
    held = {"tensor": torch.ones(()), "number": 1.0}
    step = Captured(lambda x: x * held["tensor"] + held["number"], [], "test", Captures())
    assert step(torch.tensor(2.0)) == 3
    held.update(tensor=torch.full((), 10.0), number=100.0)
    assert step(torch.tensor(3.0)) == 4


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x * x.sum().item(),
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x[x > 1],
        lambda x: x if bool(x.sum() > 0) else -x,
    ],
)
def test_what_reads_on_the_host_is_refused_and_called_plainly(reads):
    state, tries = torch.zeros(2), []

    def step(x: torch.Tensor) -> torch.Tensor:
        tries.append(len(x))
        state.add_(x)
        return reads(x)

    captured = Captured(step, [state], "test", Captures(warm_up=2))
    x = torch.tensor([1.0, 2.0])
    with pytest.warns(UserWarning, match="steps of test are launched operator by operator: operation not permitted"):
        assert torch.equal(captured(x), reads(x))
    assert captured.refused
    assert state.tolist() == [1, 2]
    captured(x)
    assert state.tolist() == [2, 4]
    assert len(tries) == 3 + 2


def test_memory_that_is_not_there_is_said_and_the_state_is_as_it_was():
    state = torch.zeros(())

    def capture(step, buffers, stream):
        step(*buffers)
        raise torch.OutOfMemoryError("none left")

    step = Captured(lambda x: state.add_(x), [state], "test", capture)
    with pytest.raises(torch.OutOfMemoryError):
        step(torch.ones(()))
    assert state == 0
    assert not step.refused


def test_a_cpu_captures_nothing_and_does_side_work_at_once(monkeypatch):
    assert not wants_capture(CPU)
    assert wants_capture(torch.device("cuda"))
    monkeypatch.setenv("DDISTILL_CUDA_GRAPHS", "off")
    assert not wants_capture(torch.device("cuda"))
    done = []
    assert side_by_side([lambda: done.append(1) or "a", lambda: done.append(2) or "b"], CPU) == ["a", "b"]
    beside = Beside(CPU)
    with beside.launched():
        done.append(3)
    beside.join()
    assert done == [1, 2, 3]


@pytest.mark.gpu
def test_a_cuda_graph_with_work_on_several_streams_gives_what_plain_calls_give():
    device = torch.device("cuda")
    states = [torch.zeros(64, 64, device=device) for _ in range(3)]

    def step(x: torch.Tensor) -> list[torch.Tensor]:
        return side_by_side([lambda s=s: s.add_(x @ x + 1) for s in states], device)

    captured, beside = Captured(step, states, "test"), Beside(device)
    x = torch.rand(64, 64, device=device)
    for _ in range(3):
        with beside.launched():
            captured(x)
    beside.join()
    for state in states:
        torch.testing.assert_close(state, 3 * (x @ x + 1), rtol=1e-4, atol=1e-3)

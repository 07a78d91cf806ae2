"""A captured step: what is copied where, with a capture that replays on any device; on a GPU the real one."""

import pytest
import torch

from ddistill.augment import Normalisation
from ddistill.data import ImageSet
from ddistill.networks import ConvNet
from ddistill.training import Trainer, TrainingSettings
from ddistill.training import replay as module
from ddistill.training.replay import Replayed, capture_on_gpu, wants_replay


def record(step, buffers, state):
    """A capture that warms up, and replays by calling the step on its buffers."""
    for _ in range(module.WARM_UP):
        output = step(*buffers).clone()

    def again():
        output.copy_(step(*buffers))

    return again, output


def trained(monkeypatch, capture=None, device: str = "cpu", steps: int = 5) -> torch.Tensor:
    torch.manual_seed(0)
    network = ConvNet(4, size=16, width=8, depth=2).to(device)
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8).to(device)
    source = ImageSet(images, (torch.arange(40) % 4).to(device), Normalisation((0.5,) * 3, (0.25,) * 3))
    if capture:
        monkeypatch.setattr(module, "capture_on_gpu", capture)
    trainer = Trainer(network, source, TrainingSettings(batch=8, cutmix=1.0), replay=capture is not None)
    draws = torch.Generator().manual_seed(1)
    batches = [torch.randperm(40, generator=draws)[: 8 if step % 2 else 6].to(device) for step in range(steps)]
    trainer.run(batches, draws)
    trainer.restart()
    trainer.run(batches, draws)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_replayed_training_is_training(monkeypatch):
    plain = trained(monkeypatch)
    monkeypatch.setattr("ddistill.training.trainer.wants_replay", lambda device: True)
    assert torch.equal(trained(monkeypatch, record), plain)


def test_what_cannot_be_captured_is_called_plainly(monkeypatch):
    plain, tries = trained(monkeypatch), []
    monkeypatch.setattr("ddistill.training.trainer.wants_replay", lambda device: True)

    def refuse(step, buffers, state):
        tries.append(len(buffers[0]))
        step(*buffers)
        raise RuntimeError("operation not permitted when stream is capturing")

    assert torch.equal(trained(monkeypatch, refuse), plain)
    assert tries == [6]


def test_a_step_is_captured_once_for_each_shape():
    total, captured = torch.zeros(()), []

    def capture(step, buffers, state):
        captured.append(buffers[0].shape)
        return record(step, buffers, state)

    def add(x):
        total.add_(x.sum())
        return total * 2

    replayed = Replayed(add, [total], capture)
    outputs = [replayed(torch.ones(count)).item() for count in (3, 3, 2, 3, 2)]
    assert outputs == [6, 12, 16, 22, 26]
    assert captured == [(3,), (2,)]


def test_a_cpu_replays_nothing(monkeypatch):
    assert not wants_replay(torch.device("cpu"))
    assert wants_replay(torch.device("cuda"))
    monkeypatch.setenv("DDISTILL_CUDA_GRAPHS", "off")
    assert not wants_replay(torch.device("cuda"))


@pytest.mark.gpu
def test_a_cuda_graph_trains_as_plain_calls_do(monkeypatch):
    plain = trained(monkeypatch, device="cuda")
    graphed = trained(monkeypatch, capture_on_gpu, device="cuda")
    torch.testing.assert_close(graphed, plain, rtol=1e-3, atol=1e-4)

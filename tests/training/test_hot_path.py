"""In which precision, and whether compiled: decided from the work and the device, never from a clock."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddistill.augment import Normalisation
from ddistill.data import ImageSet
from ddistill.networks import ConvNet
from ddistill.runtime.errors import UserError
from ddistill.training import Trainer, TrainingSettings, Work, choose_hot_path, training_work
from ddistill.training.compilation import REPAYING_FLOPS
from ddistill.training.hot_path import AUTO_PRECISION

IMAGES = torch.rand(2, 3, 16, 16)
SMALL, LARGE = REPAYING_FLOPS / 2, REPAYING_FLOPS * 2


class Refusing(nn.Module):
    """A network that torch cannot run in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.layer(x.flatten(1))
        if logits.dtype != torch.float32:
            raise RuntimeError("no kernel for BFloat16")
        return logits


@pytest.fixture
def machine(monkeypatch):
    """A processor with or without bfloat16, kernels and a compiler; nothing is injected into auto."""
    monkeypatch.delenv(AUTO_PRECISION)

    def such(bf16: bool, kernels: bool = True, compiler: bool = True) -> None:
        monkeypatch.setattr("ddistill.training.hot_path.has_fast_bf16", lambda _: bf16)
        monkeypatch.setattr("ddistill.training.hot_path.runs_on_kernels", lambda *_: kernels)
        monkeypatch.setattr("ddistill.training.compilation.compiler_available", lambda: compiler)

    return such


def network(norm: str = "instance") -> nn.Module:
    return ConvNet(10, size=16, width=8, depth=2, norm=norm)


@pytest.mark.parametrize(
    ("bf16", "kernels", "flops", "per_image", "precision", "compiled"),
    [
        (True, True, SMALL, 1e6, "fp32", False),
        (True, True, SMALL, 1e9, "bf16", False),
        (True, True, LARGE, 1e9, "bf16", False),  # the kernels are as fast as compiled code
        (True, False, SMALL, 1e6, "fp32", False),  # casts cost more than they save
        (True, False, SMALL, 1e8, "bf16", False),
        (True, False, LARGE, 1e8, "bf16", True),
        (False, True, SMALL, 1e9, "fp32", False),
        (False, True, LARGE, 1e9, "fp32", False),
        (False, False, LARGE, 1e9, "fp32", True),
    ],
)
def test_auto_follows_the_work(bf16, kernels, flops, per_image, precision, compiled, machine):
    machine(bf16, kernels)
    chosen = choose_hot_path(network(), Work(IMAGES, flops, per_image))
    assert (chosen.precision, chosen.compiled) == (precision, compiled)
    assert chosen.kernels == kernels
    assert chosen.reason.startswith("bfloat16: " if precision == "bf16" else "float32: ")


def test_what_is_asked_for_is_done(machine):
    machine(True)
    asked = choose_hot_path(network(), Work(IMAGES, SMALL, 1e3), "bf16")
    assert (asked.precision, asked.compiled, asked.kernels) == ("bf16", False, True)
    asked = choose_hot_path(network(), Work(IMAGES, LARGE, 1e9), "fp32", "off")
    assert (asked.precision, asked.compiled, asked.kernels) == ("fp32", False, True)
    asked = choose_hot_path(network(), Work(IMAGES, 0.0, 1e3), "fp32", "on")
    assert (asked.compiled, asked.kernels) == (True, False)


def test_a_network_that_couples_a_batch_is_not_compiled(machine):
    machine(True, kernels=False)
    assert not choose_hot_path(network("batch"), Work(IMAGES, LARGE, 1e9)).compiled


def test_without_a_compiler_nothing_is_compiled(machine):
    machine(True, kernels=False, compiler=False)
    chosen = choose_hot_path(network(), Work(IMAGES, LARGE, 1e9))
    assert (chosen.precision, chosen.compiled) == ("bf16", False)


def test_the_maps_of_all_layers_are_no_work_for_the_kernels(machine):
    machine(False)
    assert choose_hot_path(network(), Work(IMAGES, LARGE, 1e9, every_layer=True)).compiled


@pytest.mark.parametrize("asked", ["bf16", "auto"])
def test_a_network_that_cannot_falls_back_aloud(asked, machine):
    machine(True)
    chosen = choose_hot_path(Refusing(), Work(IMAGES, LARGE, 1e9), asked)
    assert chosen.precision == "fp32"
    assert "no kernel for BFloat16" in chosen.fallback
    assert "cannot be used in bfloat16" in chosen.reason
    assert choose_hot_path(Refusing(), Work(IMAGES, LARGE, 1e9), "fp32").fallback is None


def test_auto_is_what_the_environment_says(machine, monkeypatch):
    machine(False)
    monkeypatch.setenv(AUTO_PRECISION, "bf16")
    assert choose_hot_path(network(), Work(IMAGES, SMALL, 1e3)).precision == "bf16"
    assert choose_hot_path(network(), Work(IMAGES, SMALL, 1e3), "fp32").precision == "fp32"
    monkeypatch.setenv(AUTO_PRECISION, "fp16")
    with pytest.raises(UserError, match=r"fp32 or bf16, got 'fp16'"):
        choose_hot_path(network(), Work(IMAGES, SMALL, 1e3))


def test_the_work_of_a_trainer_is_its_steps():
    source = ImageSet(
        torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64), Normalisation((0.5,) * 3, (0.5,) * 3)
    )
    trainer = Trainer(network(), source, TrainingSettings(batch=4))
    work = training_work(trainer, 10)
    assert work.flops == 10 * trainer.flops_per_step()
    assert work.flops_per_image == trainer.flops_per_step() / 4
    assert work.images.device.type == "cpu"

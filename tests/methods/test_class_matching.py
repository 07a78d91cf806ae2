"""The template, by a method that is written outside of the package (`ncfm.py`)."""

import pytest
import torch
from matched import CLASSES, IPC, nothing, real_batches
from matched import make_characteristic as make
from ncfm import Characteristic, CharacteristicSettings

from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.methods import METHODS
from ddistill.recipe import Recipe
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.execution import Execution, ExecutionSettings


def plain_loss(method: Characteristic, real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """The formula with complex numbers: |r - s|^2 and the phase add up to |phi - psi|^2 and a share of it."""

    def phi(images: torch.Tensor) -> torch.Tensor:
        x = method.context.network.features(images).flatten(1)
        return torch.exp(1j * (x / x.norm(dim=1, keepdim=True)) @ method.t.to(torch.complex64)).mean(dim=0)

    ours, theirs = phi(real), phi(synthetic)
    amplitude = (ours.abs() - theirs.abs()) ** 2
    phase = (ours - theirs).abs() ** 2 - amplitude  # 2 (r s - Re(phi * conj psi))
    return 300 * torch.sqrt(0.5 * amplitude + 0.5 * phase).mean()


def test_a_method_of_a_users_file_computes_its_formula_for_all_classes():
    method = make(augment={"operations": ()})
    method.begin(1)
    draws = method.draw(1)
    real = real_batches(method.context, draws.real)
    stored = method.context.synthetic.images.clone().requires_grad_()
    images = method.context.real.normalisation(stored).split(IPC)
    loss = torch.stack([plain_loss(method, real[c], images[c]) for c in range(CLASSES)]).sum()
    (expected,) = torch.autograd.grad(loss, stored)
    method.optimiser.step = lambda gradient: None
    assert float(method.image_step(0, draws)) == pytest.approx(float(loss.detach()), rel=1e-3)
    ours = method.optimiser.gradient
    assert float((ours - expected).norm()) < 1e-3 * float(expected.norm())


def test_it_comes_nearer_to_the_real_images_and_goes_on_from_its_state():
    method = make()
    losses = [float(method.outer_step(step, nothing)) for step in range(1, 16)]
    assert losses[-1] < 0.9 * losses[0]
    other = make()
    other.context.synthetic.images.copy_(method.context.synthetic.images)
    other.load_state({name: tensor.clone() for name, tensor in method.state().items()})
    for one in (method, other):
        one.outer_step(16, nothing)
    assert torch.equal(method.context.synthetic.images, other.context.synthetic.images)
    assert method.flops_per_outer_step() > 0


def test_classes_of_a_users_method_go_together_into_a_launch():
    start, moved = make().context.synthetic.images, []
    for chunk in (1, 3):
        method = make({"execution": Execution(settings=ExecutionSettings(class_chunk=chunk))})
        method.outer_step(1, nothing)
        moved.append(method.context.synthetic.images - start)
        assert method.chunking.classes == chunk
    assert float((moved[0] - moved[1]).norm()) < 1e-3 * float(moved[0].norm())


def test_ranks_share_the_classes_of_a_users_method():
    assert [make({"execution": Execution(ranks=Ranks(rank, 2))}).assigned for rank in range(2)] == [
        range(1),
        range(1, 3),
    ]


def test_a_run_with_a_users_method_is_a_run(monkeypatch):
    monkeypatch.setitem(METHODS, "characteristic", (CharacteristicSettings, Characteristic))
    changes = {
        "method.name": "characteristic",
        "method.real_batch": 8,
        "network.width": 8,
        "network.depth": 2,
        "model_augmentation.networks": "pool",
        "model_augmentation.pool_size": 2,
        "model_augmentation.pool_epochs": 1,
        "model_augmentation.perturb": True,
        "evaluation.epochs": 1,
        "evaluation.repeats": 1,
        "budget.outer_steps": 2,
    }
    run = distill_data(load_data("digits"), Recipe().changed(changes))
    assert run.summary["method"] == "characteristic"
    assert run.summary["flops"]["distill"] > 0

"""One text for eager and functional gradients: both forms agree with each other and with torch.autograd."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.utils.flop_counter import FlopCounterMode

from ddistill.networks import ConvNet, build_network, couples_batch
from ddistill.networks import NetworkSettings as Network
from ddistill.runtime.flops import flops_of
from ddistill.runtime.gradients import eager_grad_and_value, grad_and_value_for

FORMS = [pytest.param(eager_grad_and_value, id="eager"), pytest.param(grad_and_value, id="functional")]


def test_the_functional_form_is_torchs_own():
    assert grad_and_value_for(True) is grad_and_value
    assert grad_and_value_for(False) is eager_grad_and_value


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_is_shaped_like_its_argument_and_holds_zeros_for_what_is_not_used(form):
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(3)}
    gradient, value = form(lambda w, x: (w["a"] * x).sum())(weights, torch.tensor([3.0, 4.0]))
    assert float(value) == 11.0
    assert not value.requires_grad
    assert gradient["a"].tolist() == [3.0, 4.0]
    assert gradient["b"].tolist() == [0.0] * 3
    assert not weights["a"].requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_several_arguments_come_in_their_order(form):
    (by_second, by_first), value = form(lambda x, y: x**2 * y, argnums=(1, 0))(torch.tensor(3.0), torch.tensor(5.0))
    assert (float(by_second), float(by_first), float(value)) == (9.0, 30.0, 45.0)


def second_order(form, network: nn.Module, images: torch.Tensor):
    """A gradient of a gradient, as gradient matching and trajectory matching take it."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def loss(theta, x):
        return functional_call(network, theta, (x,)).square().mean()

    def norm(theta, x):
        return torch.stack([g.square().sum() for g in form(loss)(theta, x)[0].values()]).sum()

    return form(norm, argnums=(0, 1))(weights, images)


def test_gradients_of_gradients_agree():
    network = build_network(Network(width=8, depth=2), 4, 3, 16, "gradients")
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (ours, by_images), value = second_order(eager_grad_and_value, network, images)
    (theirs, expected), same = second_order(grad_and_value, network, images)
    assert float(value) == pytest.approx(float(same), rel=1e-5)
    torch.testing.assert_close(by_images, expected, rtol=1e-3, atol=1e-6)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
    assert not any(g.requires_grad for g in (*ours.values(), by_images, value))


def test_an_eager_gradient_keeps_no_graph_unless_it_is_inside_of_another():
    seen = []

    def inner(w, x):
        seen.append(eager_grad_and_value(lambda v, y: (v**2 * y).sum())(w, x)[0].requires_grad)
        return (w * x).sum()

    inner(torch.ones(2), torch.ones(2))
    eager_grad_and_value(inner)(torch.ones(2), torch.ones(2))
    assert seen == [False, True]


def test_the_work_of_eager_gradients_can_be_counted():
    network = ConvNet(4, size=16, width=8, depth=2)
    images = torch.randn(2, 3, 16, 16)
    counted = flops_of(lambda: second_order(eager_grad_and_value, network, images))
    with FlopCounterMode(display=False) as forward:
        network(images)
    assert counted > 6 * forward.get_total_flops()


class Scaled(nn.Module):
    """A network with a constant buffer, which couples nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(2.0))


class Mixing(Scaled):
    """Says itself that it looks at whole batches."""

    couples_batch = True


@pytest.mark.parametrize(
    ("network", "couples"),
    [
        (Scaled(), False),
        (Mixing(), True),
        (nn.Sequential(Scaled(), Mixing()), True),
        (nn.Sequential(nn.BatchNorm1d(4)), True),
        (nn.InstanceNorm2d(4), False),
        (nn.InstanceNorm2d(4, track_running_stats=True), True),
        (ConvNet(4, size=16, width=8, depth=2), False),
        (ConvNet(4, size=16, width=8, depth=2, norm="batch"), True),
    ],
)
def test_a_network_says_whether_it_couples_the_images_of_a_batch(network, couples):
    assert couples_batch(network) is couples

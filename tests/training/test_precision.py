"""bfloat16 serves any module, or says why it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ddistill.methods import Through
from ddistill.networks import NETWORKS, ConvNet, NetworkSettings, build_network
from ddistill.training import Forward, Resolved, trial_fault

SIDE, CLASSES = 32, 10


class Scaled(nn.Module):
    """A parameter that is neither a convolution's nor a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Attention(nn.Module):
    """Packed projections, as `nn.MultiheadAttention` has them, and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.positions = nn.Parameter(torch.zeros(SIDE * SIDE, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)


class Einsum(nn.Module):
    """A product that is written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,dc->ndhw", x, self.mix)


class Rows(nn.Module):
    """A recurrent layer over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8 * SIDE, 8 * SIDE, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows(x.transpose(1, 2).flatten(2))[0].view(len(x), SIDE, 8, SIDE).transpose(1, 2)


OWN = {
    "prelu": nn.PReLU,
    "prelu per channel": lambda: nn.PReLU(8),
    "scaled": Scaled,
    "batch norm": lambda: nn.BatchNorm2d(8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "layer norm": lambda: nn.LayerNorm([8, SIDE, SIDE]),
    "local response norm": lambda: nn.LocalResponseNorm(2),
    "transposed convolution": lambda: nn.ConvTranspose2d(8, 8, 3, padding=1),
    "weight norm": lambda: weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
    "attention": Attention,
    "einsum": Einsum,
    "rows": Rows,
    "softplus": nn.Softplus,
}


def own(middle) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), middle(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8 * 64, CLASSES)
    )


def first_order(module: nn.Module, precision: str) -> torch.Tensor:
    """All weight gradients of a batch, one after another."""
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8)
    forward = Forward(module, precision)
    weights = dict(module.named_parameters())
    loss = F.cross_entropy(forward(weights, images), labels)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, list(weights.values()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("middle", OWN.values(), ids=OWN.keys())
def test_own_layers_train_in_bfloat16_near_float32(middle):
    exact, rounded = (first_order(own(middle), precision) for precision in ("fp32", "bf16"))
    assert not torch.equal(exact, rounded)
    assert float((rounded - exact).norm() / exact.norm()) < 0.2


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_in_bfloat16(name):
    options = {"width": 8} if name == "convnet" else {} if name in ("lenet", "alexnet", "vgg11") else {"width": 0.25}
    network = build_network(NetworkSettings(name=name, **options), CLASSES, 3, SIDE, "bf16")
    assert trial_fault(network, torch.rand(2, 3, SIDE, SIDE), "bf16", second_order=False) is None


def test_a_list_of_maps_comes_back_as_float32():
    network = ConvNet(CLASSES, size=SIDE, width=8)
    maps = Through(network, "layers", "bf16")(dict(network.named_parameters()), torch.rand(2, 3, SIDE, SIDE))
    assert len(maps) == 4
    assert {one.dtype for one in maps} == {torch.float32}


def test_a_gradient_through_a_gradient_agrees_with_float32_in_plain_autograd_and_in_torch_func():
    network = ConvNet(CLASSES, size=SIDE, width=8)
    images, labels = torch.rand(4, 3, SIDE, SIDE), torch.arange(4)
    weights = {name: weight.detach() for name, weight in network.named_parameters()}

    def slope(images: torch.Tensor) -> torch.Tensor:
        found = grad(lambda w: F.cross_entropy(Forward(network, "bf16")(w, images), labels))(weights)
        return sum(one.square().sum() for one in found.values())

    def plain(precision: Resolved) -> torch.Tensor:
        leaf, parameters = images.clone().requires_grad_(), dict(network.named_parameters())
        loss = F.cross_entropy(Forward(network, precision)(parameters, leaf), labels)
        found = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in found), leaf)[0]

    exact = plain("fp32")
    for rounded in (plain("bf16"), grad(slope)(images)):
        assert 1e-4 < float((rounded - exact).norm() / exact.norm()) < 0.2


class OnlyFloat32(nn.Module):
    """What a layer of somebody's own may do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError(f"expected float32\ngot {x.dtype}")
        return x


class NotFinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0.0


def test_a_fault_is_told_in_a_line_and_leaves_the_module_as_it_is():
    module = own(OnlyFloat32)
    images = torch.rand(2, 3, SIDE, SIDE)
    assert trial_fault(module, images, "bf16", second_order=True) == "expected float32"
    assert trial_fault(module, images, "fp32", second_order=True) is None
    assert "finite" in trial_fault(own(NotFinite), images, "fp32", second_order=False)
    norm = own(lambda: nn.BatchNorm2d(8))
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert trial_fault(norm, images, "bf16", second_order=True) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())
    assert all(parameter.grad is None for parameter in norm.parameters())


def test_what_torch_cannot_differentiate_twice_is_a_fault_of_second_order_alone():
    network = build_network(NetworkSettings(name="vit"), CLASSES, 3, SIDE, "vit")
    images = torch.rand(2, 3, SIDE, SIDE)
    assert trial_fault(network, images, "fp32", second_order=False) is None
    assert "derivative" in trial_fault(network, images, "fp32", second_order=True)

"""The hand-written kernels against torch's operators: value, gradient, and gradient of the gradient."""

import pytest
import torch
from torch.nn import functional as F

from ddistill.networks import ConvNet, ResNetAP, kernels, runs_on_kernels
from ddistill.networks.kernels import instance_block

pytestmark = pytest.mark.skipif(not instance_block.available(), reason="no C compiler on this machine")
EPS = 1e-5
SHAPES = [(3, 32, 8, 8), (2, 40, 6, 4), (2, 5, 7, 5), (1, 128, 4, 4), (4, 3, 2, 2)]


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(torch.relu(F.group_norm(x, x.shape[1], weight, bias, EPS)), 2)


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draws) * 2 + 1
    weight, bias = torch.randn(2, shape[1], generator=draws)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]


def derivatives(function, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Value, first gradients, and the gradients of a random linear function of those."""
    draws = torch.Generator().manual_seed(1)

    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=draws).to(tensor)

    value = function(*tensors)
    outer = like(value).requires_grad_()
    first = torch.autograd.grad(value, tensors, outer, create_graph=True)
    mixed = sum((like(gradient) * gradient).sum() for gradient in first)
    second = torch.autograd.grad(mixed, [*tensors[:2], outer])
    return [value, *first, *second]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_gradient_and_second_gradient_agree_with_torch(shape, layout):
    tensors = inputs(shape)
    x = tensors[0].detach().to(memory_format=layout).requires_grad_()
    ours = derivatives(lambda *t: kernels.norm_relu_pool(*t, EPS), [x, *tensors[1:]])
    theirs = derivatives(plain, inputs(shape, torch.float64))
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).detach().norm()) < 1e-4 * float(other.detach().norm()) + 1e-6


def test_gradients_of_third_order_are_refused_and_not_wrong():
    x, weight, bias = inputs((2, 4, 4, 4))
    value = kernels.norm_relu_pool(x, weight, bias, EPS)
    (first,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third order"):
        torch.autograd.grad(first.square().sum(), x, create_graph=True)


def test_a_convnet_gives_the_same_logits_and_gradients_without_the_kernels(monkeypatch):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    network = ConvNet(10, width=24)

    def logits_and_gradients() -> list[torch.Tensor]:
        logits = network(images)
        return [logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))]

    ours = logits_and_gradients()
    monkeypatch.setattr(instance_block, "built_kernels", lambda: None)
    for mine, other in zip(ours, logits_and_gradients(), strict=True):
        assert float((mine - other).detach().norm()) < 1e-4 * float(other.detach().norm()) + 1e-5


def test_other_types_are_left_to_torch():
    x, weight, bias = inputs((2, 4, 4, 4), torch.float64)
    assert kernels.norm_relu_pool(x, weight, bias, EPS) is None


def test_without_a_compiler_there_are_no_kernels_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert instance_block.built_kernels.__wrapped__() is None


def test_the_kernels_are_built_once_into_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path))
    assert instance_block.built_kernels.__wrapped__() is not None
    (built,) = (tmp_path / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    assert instance_block.built_kernels.__wrapped__() is not None
    assert built.stat().st_mtime_ns == before


def test_which_networks_the_kernels_serve():
    cpu = torch.device("cpu")
    assert runs_on_kernels(ConvNet(10, width=4), cpu)
    assert not runs_on_kernels(ConvNet(10, width=4, norm="batch"), cpu)
    assert not runs_on_kernels(ResNetAP(10, size=32, width=0.1), cpu)
    assert not runs_on_kernels(ConvNet(10, width=4), torch.device("meta"))

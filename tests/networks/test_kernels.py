"""The hand-written kernels against torch's operators: value, gradient, and gradient of the gradient."""

import pytest
import torch
from reference.kernels import EPS, derivatives, norm_relu_pool
from torch.profiler import ProfilerActivity, profile

from ddistill.networks import ConvNet, ResNetAP, kernels, runs_on_kernels
from ddistill.networks.kernels import cpu_block, instance_block

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not instance_block.available(CPU), reason="no C compiler on this machine")
SHAPES = [(3, 32, 8, 8), (2, 40, 6, 4), (2, 5, 7, 5), (1, 128, 4, 4), (4, 3, 2, 2)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draws) * 2 + 1
    weight, bias = torch.randn(2, shape[1], generator=draws)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_value_gradient_and_second_gradient_agree_with_torch(shape, layout, dtype, tolerance):
    x, weight, bias = (tensor.detach() for tensor in inputs(shape))
    x = x.to(dtype, memory_format=layout)  # rounded once: what follows is the kernels' own rounding
    ours = derivatives(lambda *t: kernels.norm_relu_pool(*t, EPS), [t.requires_grad_() for t in (x, weight, bias)])
    theirs = derivatives(norm_relu_pool, [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)])
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).detach().norm()) < tolerance * float(other.detach().norm()) + 1e-6


def test_bfloat16_is_rounded_as_torch_rounds_it_and_keeps_what_is_not_a_number():
    x = torch.full((1, 1, 2, 2), 1.0)
    gammas = torch.randn(500, generator=torch.Generator().manual_seed(3))
    for bias in [*gammas.tolist(), float("nan"), float("inf"), 3.4e38]:
        value = kernels.norm_relu_pool(x.bfloat16(), torch.zeros(1), torch.tensor([bias]), EPS)
        wanted = torch.relu(torch.tensor(bias)).bfloat16() if bias == bias else torch.zeros((), dtype=torch.bfloat16)
        assert value.item() == wanted.item(), bias


SIZES = [(3, 5, 6, 8, 1), (2, 3, 4, 7, 3), (4, 16, 8, 5, 1)]


@pytest.mark.parametrize(("count", "channels", "width", "side", "padding"), SIZES)
def test_a_convolution_has_the_gradients_of_torch(count, channels, width, side, padding):
    draws = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(channels, width, 3, padding=padding)
    x = torch.randn(count, channels, side, side, generator=draws).contiguous(memory_format=torch.channels_last)
    along = torch.randn(conv.weight.shape, generator=draws)

    def all_gradients(convolve) -> list[torch.Tensor]:
        images = x.clone().requires_grad_()
        value = convolve(images).square().sum()
        first = torch.autograd.grad(value, [images, conv.weight, conv.bias], create_graph=True)
        mixed = (first[0].square()).sum() + (first[1] * along).sum() + first[2].square().sum()
        alone = torch.autograd.grad(mixed, images, retain_graph=True)
        return [value, *first, *alone, *torch.autograd.grad(mixed, [images, conv.weight, conv.bias])]

    for mine, other in zip(all_gradients(lambda i: kernels.convolve(i, conv)), all_gradients(conv), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_convolution_computes_no_gradient_that_is_not_asked_for():
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    images = torch.randn(2, 3, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(kernels.convolve(images, conv).square().sum(), conv.weight, create_graph=True)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        torch.autograd.grad(gradient.square().sum(), images)
    counted = {event.key: event.count for event in seen.key_averages()}
    assert counted["aten::convolution_backward"] == 2  # by way of x, and by way of g; none for the weights
    assert counted["aten::convolution"] == 1


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
    monkeypatch.setattr(cpu_block, "built_kernels", lambda _: None)
    for mine, other in zip(ours, logits_and_gradients(), strict=True):
        assert float((mine - other).detach().norm()) < 1e-4 * float(other.detach().norm()) + 1e-5


def test_other_types_are_left_to_torch():
    x, weight, bias = inputs((2, 4, 4, 4), torch.float64)
    assert kernels.norm_relu_pool(x, weight, bias, EPS) is None


def test_without_a_compiler_there_are_no_kernels_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert cpu_block.built_kernels.__wrapped__(torch.float32) is None


def test_the_kernels_are_built_once_into_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path))
    assert cpu_block.built_kernels.__wrapped__(torch.float32) is not None
    (built,) = (tmp_path / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    assert cpu_block.built_kernels.__wrapped__(torch.float32) is not None
    assert built.stat().st_mtime_ns == before


def test_which_networks_the_kernels_serve():
    assert runs_on_kernels(ConvNet(10, width=4), CPU)
    assert not runs_on_kernels(ConvNet(10, width=4, norm="batch"), CPU)
    assert not runs_on_kernels(ResNetAP(10, size=32, width=0.1), CPU)
    assert not runs_on_kernels(ConvNet(10, width=4), torch.device("meta"))

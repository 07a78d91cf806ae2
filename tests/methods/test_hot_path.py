"""The hot path: classes in one launch, bfloat16 over float32 masters, no host reads, no compilation after warm-up."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from matched import make_method
from torch.utils._python_dispatch import TorchDispatchMode

from ddistill.methods import GradientMatching, chunking
from ddistill.methods.match import gradient_distance, match_in_parts
from ddistill.networks import ConvNet, ResNetAP
from ddistill.runtime.errors import UserError
from ddistill.runtime.gradients import eager_grad_and_value
from ddistill.runtime.memory import free_memory_bytes
from ddistill.training import Forward

CLASSES, SIDE = 4, 16


def step_of(method: GradientMatching) -> torch.Tensor:
    method.outer_step(1, lambda done, total: None)
    return method.context.synthetic.images


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("class_chunk", [2, 3, 4, 9])
@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (2, 2, 1, 1)])
def test_images_do_not_depend_on_the_class_chunk(class_chunk, counts):
    operations = ("color", "crop", "scale", "rotate", "cutout")  # other choices for other classes
    start = make_method(counts).context.synthetic.images
    one_by_one = step_of(make_method(counts, 1, operations=operations)) - start
    together = step_of(make_method(counts, class_chunk, operations=operations)) - start
    assert relative_error(together, one_by_one) < 1e-4


def test_chunks_are_runs_of_classes_with_equally_many_images():
    runs = chunking.class_runs([2, 2, 2, 1, 1, 2], 2, range(6))
    assert runs == [range(2), range(2, 3), range(3, 5), range(5, 6)]
    assert chunking.class_runs([3] * 5, 1, range(1, 5)) == [range(c, c + 1) for c in range(1, 5)]
    assert chunking.class_runs([3] * 5, 99, range(5)) == [range(5)]


@pytest.mark.parametrize(
    "network", [ConvNet(CLASSES, size=SIDE, width=8, depth=2), ResNetAP(CLASSES, 3, SIDE, width=0.125)]
)
def test_classes_matched_in_one_launch_agree_with_one_after_the_other(network):
    method = make_method(network=network, class_chunk=3)
    draws = torch.Generator().manual_seed(3)
    real, synthetic = (torch.randn(3, n, 3, SIDE, SIDE, generator=draws) for n in (5, 4))
    labels = torch.tensor([2, 0, 3])
    losses, gradients = method.classes_gradient(method.networks, real, synthetic, labels)
    for k in range(3):
        loss, gradient = method.class_gradient(method.networks, real[k], synthetic[k], labels[k])
        assert float(losses[k]) == pytest.approx(float(loss), rel=1e-4)
        assert relative_error(gradients[k], gradient) < 1e-4


def test_bf16_keeps_float32_masters_and_comes_near_the_float32_step():
    exact, method = make_method(), make_method(precision="bf16")
    start = method.context.synthetic.images.clone()
    weights = {name: p.detach().clone() for name, p in method.context.network.named_parameters()}
    moved = step_of(method) - start
    assert relative_error(moved, step_of(exact) - start) < 0.2
    for name, parameter in method.context.network.named_parameters():
        assert parameter.dtype == torch.float32
        assert not torch.equal(parameter, weights[name])
        assert method.context.trainer.momenta[name].dtype == torch.float32
    assert method.context.synthetic.images.dtype == method.optimiser.velocity.dtype == torch.float32


def test_only_convolutions_and_products_are_bf16():
    network = ConvNet(CLASSES, size=SIDE, width=8, depth=2)
    seen = {}
    for path, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, inputs, out, path=path: seen.update({path: (inputs[0], out)}))
    forward = Forward(network, "bf16")
    logits = forward(dict(network.named_parameters()), torch.randn(2, 3, SIDE, SIDE))
    assert logits.dtype == torch.float32
    assert seen["blocks.0.conv"][1].dtype == seen["classifier"][1].dtype == torch.bfloat16
    assert network.blocks[0].norm.weight.dtype == torch.float32
    exact = network(torch.zeros(2, 3, SIDE, SIDE))
    assert exact.dtype == torch.float32


class HostReads(TorchDispatchMode):
    """Counts reads of a value by the host: `item`, `tolist`, truth of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_an_outer_step_reads_nothing_on_the_host_between_its_draws_and_its_end():
    method = make_method()
    plan, (positions, training) = method.draw(1), method.network_draws(1)
    with HostReads() as reads:
        for inner in range(2):
            method.image_step(inner, plan)
            batches = positions[inner].unbind()
            method.context.trainer.run(batches, training.part(inner * len(batches), len(batches)))
    assert reads.count == 0
    with HostReads() as control:
        torch.rand(()).item()
    assert control.count == 1


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_between_the_draws_of_an_outer_step_and_its_end(waiting_forbidden):
    method = make_method(device="cuda")
    plan, (positions, training) = method.draw(1), method.network_draws(1)

    def all_inner_steps() -> None:
        for inner in range(2):
            method.image_step(inner, plan)
            batches = positions[inner].unbind()
            method.context.trainer.run(batches, training.part(inner * len(batches), len(batches)))

    all_inner_steps()  # what is made once may wait
    with waiting_forbidden():
        all_inner_steps()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_computes_what_the_cpu_does(precision):
    start = make_method().context.synthetic.images
    ours = step_of(make_method(device="cuda", precision=precision)).cpu() - start
    assert relative_error(ours, step_of(make_method()) - start) < {"fp32": 1e-2, "bf16": 0.2}[precision]


compiling = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, on import


@pytest.mark.slow
@compiling
def test_nothing_compiles_again_for_another_class_step_or_network():
    method = make_method(compiled=True)
    step_of(method)
    with torch._dynamo.config.patch(error_on_recompile=True):
        other = ConvNet(CLASSES, size=SIDE, width=8, depth=2).state_dict()
        method.context.network.load_state_dict(other)
        method.outer_step(2, lambda done, total: None)


@pytest.mark.slow
@compiling
def test_the_compiled_step_agrees_with_the_eager_one():
    start = make_method().context.synthetic.images
    eager, compiled = step_of(make_method()) - start, step_of(make_method(compiled=True)) - start
    assert relative_error(compiled, eager) < 1e-4


@pytest.mark.parametrize(
    ("per_class", "free", "classes"), [(1, 100, 10), (5, 100, 8), (100, 100, 1), (0, 100, 10), (10**12, 1, 1)]
)
def test_as_many_classes_go_into_a_launch_as_fit(per_class, free, classes):
    assert chunking.classes_that_fit(per_class, free) == classes


def test_what_one_more_image_keeps_for_its_backward_passes_is_counted():
    method = make_method()
    maps = 8 * SIDE * SIDE * 4  # of one image in the first block
    assert 3 * maps < method.activation_bytes() < 30 * maps
    halves = make_method(network=ConvNet(CLASSES, size=SIDE, width=4, depth=2)).activation_bytes()
    assert 0.4 < halves / method.activation_bytes() < 0.7


def test_a_device_that_is_no_cpu_asks_for_its_free_memory(monkeypatch):
    context = make_method().context
    elsewhere = replace(context, synthetic=replace(context.synthetic, images=torch.empty(8, 3, 8, 8, device="meta")))
    for free, classes, part in ((10**9, 10, None), (100, 5, None), (15, 1, 6), (1, 1, 1)):  # 8 images a class
        monkeypatch.setattr(chunking, "free_memory_bytes", lambda device, free=free: free)
        chosen = chunking.choose(elsewhere, 8, lambda: 1, mapped=True, divided=True)
        assert (chosen.classes, chosen.images) == (classes, part)


def test_a_method_whose_loss_cannot_be_mapped_or_divided_matches_whole_classes_one_by_one(monkeypatch):
    context = make_method(class_chunk=4).context
    monkeypatch.setattr(chunking, "free_memory_bytes", lambda device: 1)
    for mapped, classes in ((False, 1), (True, 4)):
        chosen = chunking.choose(context, 8, lambda: 1, mapped=mapped, divided=False)
        assert (chosen.classes, chosen.images) == (classes, None)


def setting_of(network: torch.nn.Module, distance: str):
    return Forward(network), distance, {name: parameter.detach() for name, parameter in network.named_parameters()}


def matched_at_once(network: torch.nn.Module, distance: str, real: torch.Tensor, synthetic: torch.Tensor):
    """The distance and its gradient, without parts."""

    def loss(images: torch.Tensor) -> torch.Tensor:
        setting = (eager_grad_and_value, *setting_of(network, distance))
        return gradient_distance(*setting, real, images, torch.tensor(1))

    gradient, value = eager_grad_and_value(loss)(synthetic)
    return value, gradient


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine"])
@pytest.mark.parametrize("part", [1, 3, 100])
def test_images_do_not_depend_on_how_many_activations_are_kept(distance, part):
    network = ConvNet(CLASSES, size=SIDE, width=8, depth=2)
    draws = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(n, 3, SIDE, SIDE, generator=draws) for n in (7, 5))
    value, gradient = matched_at_once(network, distance, real, synthetic)
    in_parts, parts_gradient = match_in_parts(*setting_of(network, distance), real, synthetic, torch.tensor(1), part)
    assert in_parts.item() == pytest.approx(value.item(), rel=1e-4)
    assert relative_error(parts_gradient, gradient) < 1e-4


class Holder:
    """What autograd keeps in place of a tensor; gone with the graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_parts_keep_less():
    network = ConvNet(CLASSES, size=SIDE, width=8, depth=2)
    real, synthetic = torch.randn(2, 12, 3, SIDE, SIDE)

    def most_kept(match) -> int:
        """Bytes that the backward passes of one graph keep, at most."""
        alive: dict[int, int] = {}
        most = 0

        def keep(tensor):
            nonlocal most
            alive[id(holder := Holder(tensor))] = tensor.nbytes
            weakref.finalize(holder, alive.pop, id(holder))
            most = max(most, sum(alive.values()))
            return holder

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
            match()
        return most

    whole = most_kept(partial(matched_at_once, network, "mse", real, synthetic))
    parts = most_kept(partial(match_in_parts, *setting_of(network, "mse"), real, synthetic, torch.tensor(1), 2))
    assert parts < 0.4 * whole


@pytest.mark.parametrize("image_chunk", [1, 4])
def test_a_whole_step_does_not_depend_on_the_image_chunk(image_chunk):
    start = make_method().context.synthetic.images
    whole, parts = step_of(make_method()) - start, step_of(make_method(image_chunk=image_chunk)) - start
    assert relative_error(parts, whole) < 1e-3


def test_a_class_that_does_not_fit_is_divided(monkeypatch):
    start = make_method().context.synthetic.images
    whole = step_of(make_method()) - start
    per_image = make_method().activation_bytes()
    monkeypatch.setattr(chunking, "free_memory_bytes", lambda device: 10 * per_image)
    method = make_method()
    assert method.chunking.images == 4  # of 10 that would fill the memory
    assert method.chunking.classes == 1
    assert relative_error(step_of(method) - start, whole) < 1e-3


def test_batch_norm_looks_at_whole_classes():
    network = ConvNet(CLASSES, size=SIDE, width=8, depth=2, norm="batch")
    with pytest.raises(UserError, match=r"run\.image_chunk=2.*network\.norm=instance"):
        make_method(network=network, image_chunk=2)
    assert make_method(network=network).chunking.images is None


def test_less_and_less_is_kept_after_running_out_of_memory():
    method = make_method(class_chunk=3, operations=())
    said = []
    while (change := method.smaller_chunk()) is not None:
        said.append(change.split(" are")[0])
    assert said[0] == "1 classes"
    assert said[-1] == "1 images of a class"
    assert len(said) == len(set(said)) == 4
    start = make_method(operations=()).context.synthetic.images
    whole = step_of(make_method(operations=())) - start
    assert relative_error(step_of(method) - start, whole) < 1e-3


def test_free_memory_is_some_of_the_machine():
    assert 1 << 20 < free_memory_bytes(torch.device("cpu")) < 1 << 50

"""Networks computed ahead are those of the plain loop, whatever computes them."""

import gc
from dataclasses import replace

import pytest
import torch
from matched import make_method
from recorded import captured_on_cpu, without_kernels
from torch.func import functional_call
from torch.nn import functional as F

from ddistill.augment import Normalisation
from ddistill.data import ImageSet
from ddistill.methods import DSASettings, GradientMatching
from ddistill.methods import paths as module
from ddistill.methods.along_training import AlongTraining, AlongTrainingSettings
from ddistill.methods.distribution_matching import DistributionMatching, DistributionMatchingSettings
from ddistill.methods.paths import MEMORY_SHARE, Paths
from ddistill.network_sources import NetworkDraw, copy_of
from ddistill.networks import ConvNet
from ddistill.runtime.capture import Beside, Captured
from ddistill.runtime.distributed import ALONE, Ranks
from ddistill.runtime.randomness import generator
from ddistill.training import Trainer, TrainingSettings

INNER, BATCHES, BATCH = 4, 3, 8
Seen = dict[tuple[int, int], torch.Tensor]


class Fresh:
    """Other first weights, and momenta, for each outer step."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.asked = network, []

    def draw(self, step: int) -> NetworkDraw:
        self.asked.append(step)
        weights = copy_of(self.network.state_dict())
        for number, tensor in enumerate(weights.values()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator(0, "fresh", step, number)))
        momenta = {name: torch.full_like(p, 0.01 * step) for name, p in self.network.named_parameters()}
        return NetworkDraw(weights, momenta=momenta if step % 2 else None)


def trainer_of(network: torch.nn.Module, *, captured: str | None = None) -> Trainer:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 16, 16, generator=draws)
    source = ImageSet(images, torch.arange(40) % 4, Normalisation((0.5,) * 3, (0.25,) * 3))
    network = network.double()
    source = replace(source, images=images.double())
    return Trainer(network, source, TrainingSettings(batch=BATCH), captured=captured)


def draws_of(trainer: Trainer):
    def draws(step: int):
        random = generator(0, "batches", step)
        positions = torch.randint(40, (INNER, BATCHES, BATCH), generator=random)
        return positions, trainer.draw(INNER * BATCHES, BATCH, random)

    return draws


def plain_weights(trainer: Trainer, source: Fresh, step: int) -> list[dict[str, torch.Tensor]]:
    """The inner loop as it is written down: SGD with momentum and weight decay, a batch at a time, by autograd."""
    rate = float(torch.tensor(trainer.settings.lr))  # rates are float32
    settings, drawn, (positions, training) = trainer.settings, source.draw(step), draws_of(trainer)(step)
    weights = {name: tensor.clone() for name, tensor in drawn.weights.items()}
    momenta = {name: t.clone() for name, t in (drawn.momenta or {}).items()}
    found = [{name: tensor.clone() for name, tensor in weights.items()}]
    names = [name for name, _ in trainer.module.named_parameters()]
    for inner in range(INNER - 1):
        for batch in range(BATCHES):
            call, chosen = inner * BATCHES + batch, positions[inner, batch]
            augment, mix = training.augment, training.mix
            images = trainer.pipeline(trainer.image_set.images[chosen], augment.uniforms[call], augment.choices[call])
            partner = mix.keys[call].argsort()
            top, bottom, left, right = mix.box[call].tolist()
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images[partner][:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / 256
            labels = trainer.image_set.labels[chosen]
            leaves = {name: weights[name].clone().requires_grad_() for name in names}
            logits = functional_call(trainer.module, leaves, (mixed,))
            loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[partner])
            for name, gradient in zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                decayed = gradient + settings.weight_decay * weights[name]
                momenta[name] = settings.momentum * momenta.get(name, torch.zeros_like(decayed)) + decayed
                weights[name] = weights[name] - rate * momenta[name]
        found.append({name: tensor.clone() for name, tensor in weights.items()})
    return found


def followed(
    paths: Paths, source: Fresh, network: torch.nn.Module, steps: range
) -> dict[tuple[int, int], torch.Tensor]:
    """The weights that a method sees, in the order in which it asks for them."""
    seen = {}
    for step in steps:
        for inner in range(INNER):
            paths.load_into(network, step, inner, source if inner == 0 else None)
            paths.advance()
            seen[step, inner] = torch.cat([p.detach().flatten() for p in network.parameters()])
    return seen


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_path_is_the_plain_loop_at_every_inner_step(monkeypatch, width):
    network = ConvNet(4, size=16, width=8, depth=2)
    trainer = trainer_of(network)
    source, steps = Fresh(trainer.module), range(1, 6)
    paths = Paths(trainer, draws_of(trainer), ALONE, INNER, steps)
    paths.width = width
    paths._start_over()
    seen = followed(paths, source, ConvNet(4, size=16, width=8, depth=2).double(), steps)
    assert sorted(source.asked) == list(steps)  # each once, none beyond the last
    for step in steps:
        for inner, weights in enumerate(plain_weights(trainer, Fresh(trainer.module), step)):
            expected = torch.cat([weights[name].flatten() for name, _ in network.named_parameters()])
            torch.testing.assert_close(seen[step, inner], expected, rtol=0, atol=1e-12)


def test_captured_steps_of_several_networks_make_the_same_path(monkeypatch):
    network, steps = ConvNet(4, size=16, width=8, depth=2), range(1, 6)
    plain = trainer_of(network)
    target = ConvNet(4, size=16, width=8, depth=2).double()
    expected = followed(Paths(plain, draws_of(plain), ALONE, INNER, steps), Fresh(plain.module), target, steps)
    captures = captured_on_cpu(monkeypatch)
    trainer = trainer_of(network, captured="ahead")
    monkeypatch.setattr(Paths, "_seconds_each", lambda self, width: {1: 1.0, 2: 0.8, 4: 0.79}[width])
    paths = Paths(trainer, draws_of(trainer), ALONE, INNER, steps)
    assert paths.width == 2  # 4 would gain too little
    seen = followed(paths, Fresh(trainer.module), target, steps)
    for key, weights in expected.items():
        torch.testing.assert_close(seen[key], weights, rtol=0, atol=1e-12)
    # one graph: the steps after an image update, of both networks
    assert [len(shapes) for shapes in captures.made] == [12]
    assert captures.made[0][0] == (BATCHES, BATCH)


def test_as_many_networks_stand_side_by_side_as_the_memory_holds(monkeypatch):
    def seconds(self, width: int) -> float:
        if width == 4:
            raise torch.OutOfMemoryError("none left for 4")
        return 1.0 / width

    captured_on_cpu(monkeypatch)
    monkeypatch.setattr(Paths, "_seconds_each", seconds)
    trainer = trainer_of(ConvNet(4, size=16, width=8, depth=2), captured="ahead")
    assert Paths(trainer, draws_of(trainer), ALONE, INNER, range(1, 99)).width == 2
    monkeypatch.setattr(module, "free_memory_bytes", lambda _: 1)
    assert Paths(trainer, draws_of(trainer), ALONE, INNER, range(1, 99)).width == 1


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_any_number_of_ranks_finds_the_same_weights(norm):
    def network():
        torch.manual_seed(0)
        return ConvNet(4, size=16, width=8, depth=2, norm=norm)

    steps, trainer = range(1, 6), trainer_of(network())

    def seen_by(who: Ranks) -> Seen:
        paths = Paths(trainer, draws_of(trainer), who, INNER, steps)
        return followed(paths, Fresh(trainer.module), network().double(), steps)

    expected = seen_by(ALONE)
    for rank in range(3):
        who = Given(rank, 3)
        seen = seen_by(who)
        for key, weights in expected.items():
            if (key[0] - 1) % 3 == rank:
                assert torch.equal(seen[key], weights)
        assert who.sent == [(step - 1) % 3 for step in steps for _ in range(INNER)]


class Given(Ranks):
    """One of several ranks; what it would exchange is noted."""

    def __init__(self, rank: int, count: int) -> None:
        super().__init__(rank, count)
        object.__setattr__(self, "sent", [])

    def gather(self, value):
        return [value] * self.count

    def from_first(self, value):
        return value

    def broadcast_(self, tensors, source=0):
        self.sent.append(source)


@pytest.mark.parametrize(("free", "whole"), [(1.01, True), (0.99, False)])
def test_a_rank_whose_memory_does_not_hold_two_windows_trains_for_itself(monkeypatch, free, whole):
    trainer = trainer_of(ConvNet(4, size=16, width=8, depth=2))
    size = 2 * INNER * sum(tensor.nbytes for tensor in trainer.module.state_dict().values()) * 3 / MEMORY_SHARE
    monkeypatch.setattr(module, "free_memory_bytes", lambda _: free * size)
    paths = Paths(trainer, draws_of(trainer), Given(1, 3), INNER, range(1, 9))
    assert (paths.ranks.count, paths.whole) == ((3, True) if whole else (1, False))


@pytest.mark.parametrize("width", [1, 2])
def test_a_step_may_be_asked_for_again_and_a_run_may_start_anywhere(width):
    trainer = trainer_of(ConvNet(4, size=16, width=8, depth=2))
    target, source = ConvNet(4, size=16, width=8, depth=2).double(), Fresh(trainer.module)
    paths = Paths(trainer, draws_of(trainer), ALONE, INNER, range(1, 9))
    paths.width = width
    paths._start_over()
    whole = followed(paths, source, target, range(3, 6))
    half = {(3, inner): weights for (_, inner), weights in followed(paths, source, target, range(3, 4)).items()}
    again = followed(paths, source, target, range(3, 5))
    assert all(torch.equal(whole[key], weights) for key, weights in {**again, **half}.items())


def test_memory_that_runs_out_halves_the_networks_before_the_classes(monkeypatch):
    method = make_method(class_chunk=4)
    method.draw_networks(1, Fresh(method.context.network))
    assert method.paths is not None
    method.paths.width = 4
    said = [method.smaller_chunk() for _ in range(4)]
    assert said[:2] == [f"networks of {n} outer steps are trained at once from here on" for n in (2, 1)]
    assert "classes are matched at once" in said[2]


def test_a_class_loop_in_one_launch_is_the_class_loop(monkeypatch):
    """Other images, networks and draws go through the launch that was captured with the first ones."""
    without_kernels(monkeypatch)
    start = make_method(class_chunk=4)
    plain, images = [], start.context.synthetic.images
    for step in (1, 2, 3):
        start.outer_step(step, lambda done, total: None)
        plain.append(images.clone())
    captures = captured_on_cpu(monkeypatch)
    launched = make_method(class_chunk=4)
    for step, expected in zip((1, 2, 3), plain, strict=True):
        launched.outer_step(step, lambda done, total: None)
        torch.testing.assert_close(launched.context.synthetic.images, expected, rtol=1e-4, atol=1e-6)
    matching = [shapes for shapes in captures.made if len(shapes) == 5]
    assert len(matching) == 1
    assert launched._launch is not None
    assert not launched._launch.refused


@pytest.mark.parametrize("operations", [("color", "crop", "scale", "rotate", "cutout")])
@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (2, 2, 1, 1)])
def test_a_launch_chooses_among_operations_on_the_device(monkeypatch, operations, counts):
    without_kernels(monkeypatch)
    plain = make_method(counts, class_chunk=1, operations=operations)
    captured_on_cpu(monkeypatch)
    launched = make_method(counts, class_chunk=4, operations=operations)
    for method in (plain, launched):
        for step in (1, 2):
            method.outer_step(step, lambda done, total: None)
    ours, theirs = launched.context.synthetic.images, plain.context.synthetic.images
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DistributionMatching, DistributionMatchingSettings(real_batch=6)),
        (AlongTraining, AlongTrainingSettings(real_batch=6, steps="sweeps", falling=True)),
        (AlongTraining, AlongTrainingSettings(real_batch=6, distance="characteristic", frequencies=8, max_decoded=5)),
        (GradientMatching, DSASettings(real_batch=6, inner_steps=2)),
    ],
    ids=["dm", "sweeps", "characteristic", "dsa"],
)
@pytest.mark.parametrize("class_chunk", [1, 4])
def test_other_methods_in_one_launch_are_themselves(monkeypatch, kind, settings, class_chunk):
    def made():
        context = make_method(class_chunk=class_chunk).context
        torch.manual_seed(3)
        other = ConvNet(4, size=16, width=8, depth=2)
        return kind(settings, replace(context, reference=other, outer_steps=3))

    def images_of(method) -> list[torch.Tensor]:
        seen = []
        for step in (1, 2, 3):
            torch.manual_seed(step)
            for one in (method.context.network, method.context.reference):
                one.load_state_dict(ConvNet(4, size=16, width=8, depth=2).state_dict())
            method.outer_step(step, lambda done, total: None)
            seen.append(method.context.synthetic.images.clone())
        return seen

    without_kernels(monkeypatch)
    plain = images_of(made())
    captured_on_cpu(monkeypatch)
    launched = made()
    for ours, theirs in zip(images_of(launched), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert launched._launch is not None
    assert launched._launch.captured
    assert not launched._launch.refused


@pytest.mark.gpu
@pytest.mark.parametrize("width", [1, 2])
def test_paths_beside_the_matching_on_a_gpu_give_the_images_of_the_plain_loop(monkeypatch, width):
    monkeypatch.setattr(Paths, "_fastest", lambda self, widths: width)
    monkeypatch.setenv("DDISTILL_CUDA_GRAPHS", "off")
    plain = make_method(class_chunk=4, device="cuda")
    for step in (1, 2, 3):
        plain.outer_step(step, lambda done, total: None)
    monkeypatch.delenv("DDISTILL_CUDA_GRAPHS")
    method = make_method(class_chunk=4, device="cuda", captured="ahead")
    weights = copy_of(method.context.network.state_dict())
    for step in (1, 2, 3):
        method.context.network.load_state_dict(weights)
        method.outer_step(step, lambda done, total: None)
        weights = copy_of(method.context.network.state_dict())
        gc.collect()
    ours, theirs = method.context.synthetic.images, plain.context.synthetic.images
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    assert method._launch is not None
    assert not method._launch.refused


@pytest.mark.gpu
def test_a_step_that_a_gpu_cannot_capture_goes_on_plainly_where_it_stood():
    device = torch.device("cuda")
    state, beside = torch.zeros(4, device=device), Beside(device)

    def step(x: torch.Tensor) -> torch.Tensor:
        return state.add_(float(x.sum()))

    captured, x, current = Captured(step, [state], "test"), torch.ones(4, device=device), torch.cuda.current_stream()
    with beside.launched(), pytest.warns(UserWarning, match="launched operator by operator"):
        captured(x)
    with beside.launched():
        captured(x)
    beside.join()
    assert torch.cuda.current_stream() == current
    assert state.tolist() == [8.0] * 4

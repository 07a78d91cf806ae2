"""Training on a fixed set: python -m pytest tests/training/test_trainer.py.

The trainer is compared with torch.optim.SGD and cross entropy step by step in float64, absolute tolerance 1e-6: its
learning rate is held as float32.
"""

from __future__ import annotations

import os

import pytest
import torch
from recorded import captured_on_cpu
from torch import nn
from torch.nn import functional as F

from ddistill.augment import AugmentSettings, Normalisation, cutmix, draw_augment, draw_cutmix
from ddistill.data import ImageSet, load_data
from ddistill.evaluation import Evaluation, EvaluationSettings
from ddistill.evaluation.protocol import evaluation_epochs
from ddistill.networks import ConvNet, NetworkSettings, build_network
from ddistill.training import Trainer, TrainingSettings, predict_accuracy, thirds_and_sixths
from ddistill.training.compilation import REPAYING_FLOPS, maybe_compile, repays_compilation

TOLERANCE = 1e-6
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NO_AUGMENTATION = AugmentSettings(operations=())
PLAIN = TrainingSettings(augment=NO_AUGMENTATION, cutmix=0.0, batch=6)


def toy_source(dtype: torch.dtype = torch.float64) -> ImageSet:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 8, 8, generator=draws, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 4, (20,), generator=draws)
    return ImageSet(images, labels, Normalisation(MEAN, STD))


def toy_network(dtype: torch.dtype = torch.float64, norm: str = "instance") -> nn.Module:
    return build_network(NetworkSettings(width=4, depth=2, norm=norm), 4, 3, 8, "toy").to(dtype)


def toy_batches(steps: int, size: int = 6) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(5)
    return [torch.randperm(20, generator=draws)[:size] for _ in range(steps)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def sgd(module: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    return torch.optim.SGD(
        module.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


def assert_same_weights(first: nn.Module, second: nn.Module, atol: float = TOLERANCE) -> None:
    for (name, mine), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("compiled", [False, True], ids=["autograd", "functional"])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 5e-4), (0.0, 0.0), (0.5, 0.1)])
def test_the_trainer_is_sgd_with_momentum_and_weight_decay_on_cross_entropy(
    momentum, weight_decay, compiled, monkeypatch
):
    # The functional gradients of compiled training, without the compiler.
    monkeypatch.setattr("ddistill.training.trainer.maybe_compile", lambda function, _: function)
    settings = PLAIN.model_copy(update={"momentum": momentum, "weight_decay": weight_decay, "lr": 0.05})
    source, ours, theirs = toy_source(), toy_network(), toy_network()
    trainer, optimiser = Trainer(ours, source, settings, compiled=compiled), sgd(theirs, settings)
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
        for v in (source.normalisation.mean, source.normalisation.std)
    )
    for step, batch in enumerate(toy_batches(5)):
        rate = 0.05 / (step + 1)
        loss = trainer.run([batch], generator(), [rate])
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        expected = F.cross_entropy(theirs((source.images[batch] - mean) / std), source.labels[batch])
        expected.backward()
        optimiser.step()
        assert float(loss) == pytest.approx(float(expected.detach()), abs=TOLERANCE)
        assert_same_weights(ours, theirs)


def test_many_steps_in_one_call_are_the_same_as_one_call_each():
    one, many = toy_network(), toy_network()
    batches = toy_batches(4)
    trainer = Trainer(one, toy_source(), PLAIN)
    for batch in batches:
        trainer.run([batch], generator())
    Trainer(many, toy_source(), PLAIN).run(batches, generator())
    assert_same_weights(one, many, atol=0)


def test_restart_forgets_the_momentum_as_a_new_optimiser_would():
    source, ours, theirs = toy_source(), toy_network(), toy_network()
    trainer, batches = Trainer(ours, source, PLAIN), toy_batches(4)
    trainer.run(batches[:2], generator())
    trainer.restart()
    trainer.run(batches[2:], generator())
    Trainer(theirs, source, PLAIN).run(batches[:2], generator())
    Trainer(theirs, source, PLAIN).run(batches[2:], generator())
    assert_same_weights(ours, theirs, atol=0)
    straight = toy_network()
    Trainer(straight, source, PLAIN).run(batches, generator())
    assert not torch.equal(straight.classifier.weight, ours.classifier.weight)


def test_cutmix_mixes_the_images_in_a_box_and_both_labels_losses_by_area():
    settings = PLAIN.model_copy(update={"cutmix": 1.0})
    source, ours, theirs = toy_source(), toy_network(), toy_network()
    batch = toy_batches(1)[0]
    loss = Trainer(ours, source, settings).run([batch], generator())
    # The same draws in the same order: augmentation first, then CutMix.
    draws = generator()
    draw_augment(NO_AUGMENTATION, 1, len(batch), draws)
    mixes = draw_cutmix(1.0, 1, len(batch), 8, draws)
    top, bottom, left, right = mixes.box[0].tolist()
    partner = mixes.keys[0].argsort()
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
        for v in (source.normalisation.mean, source.normalisation.std)
    )
    images = (source.images[batch] - mean) / std
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner][:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / 64
    assert 0 < share < 1
    labels = source.labels[batch]
    logits = theirs(mixed)
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels[partner])
    assert float(loss) == pytest.approx(float(expected.detach()), abs=TOLERANCE)
    optimiser = sgd(theirs, settings)
    expected.backward()
    optimiser.step()
    assert_same_weights(ours, theirs)


def test_a_smaller_last_batch_is_mixed_within_itself():
    settings = PLAIN.model_copy(update={"cutmix": 1.0})
    batches = [*toy_batches(2), torch.tensor([3])]
    network = toy_network()
    assert bool(Trainer(network, toy_source(), settings).run(batches, generator()).isfinite())
    draws = generator()
    draw_augment(NO_AUGMENTATION, 3, 6, draws)
    mixes = draw_cutmix(1.0, 3, 6, 8, draws)
    image = toy_source().images[batches[2]]
    mixed, _ = cutmix(image, mixes.box[2], mixes.keys[2, :1].argsort())
    assert torch.equal(mixed, image)


def test_the_same_generator_gives_the_same_bits_and_another_one_other_bits():
    settings = TrainingSettings(batch=6, cutmix=0.5)

    def trained(seed: int) -> torch.Tensor:
        network = toy_network(torch.float32)
        Trainer(network, toy_source(torch.float32), settings).run(toy_batches(4), torch.Generator().manual_seed(seed))
        return network.classifier.weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_training_leaves_the_global_generator_and_the_images_alone():
    source = toy_source()
    before, images = torch.get_rng_state(), source.images.clone()
    Trainer(toy_network(), source, TrainingSettings(batch=6)).run(toy_batches(2), generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(source.images, images)


def test_the_trainer_updates_the_networks_own_tensors():
    network = toy_network()
    addresses = [parameter.data_ptr() for parameter in network.parameters()]
    before = network.classifier.weight.detach().clone()
    Trainer(network, toy_source(), PLAIN).run(toy_batches(1), generator())
    assert [parameter.data_ptr() for parameter in network.parameters()] == addresses
    assert not torch.equal(network.classifier.weight, before)


def test_images_of_whole_numbers_are_read_as_0_to_1():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    source = ImageSet(pixels, torch.zeros(1, dtype=torch.int64), Normalisation((0.5,), (0.5,)))
    torch.testing.assert_close(source.fetch(torch.tensor([0])).flatten(), torch.arange(256) / 255, rtol=0, atol=1e-7)
    assert torch.equal(pixels.flatten(), torch.arange(256, dtype=torch.uint8))


def test_a_batch_norm_network_trains_and_its_running_statistics_move():
    network = toy_network(torch.float32, norm="batch")
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    trainer = Trainer(network, toy_source(torch.float32), PLAIN, compiled=True)  # falls back to eager
    first = trainer.run(toy_batches(1), generator())
    last = trainer.run([toy_batches(1)[0]] * 40, generator())
    assert float(last) < float(first)
    assert before
    assert all(not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    predict_accuracy(network, toy_source(torch.float32))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())


def test_training_on_digits_learns_them():
    data = load_data("digits")
    network = build_network(NetworkSettings(width=16, depth=2), 10, 1, 8, 0)
    train = ImageSet(data.train.images, data.train.labels, Normalisation(*data.statistics))
    test = ImageSet(data.test.images, data.test.labels, Normalisation(*data.statistics))
    before = predict_accuracy(network, test)
    order = torch.randperm(len(data.train), generator=generator())
    settings = TrainingSettings(augment=NO_AUGMENTATION, cutmix=0.0, lr=0.05)
    Trainer(network, train, settings).run(list(order.split(64)) * 2, generator())
    assert before < 30
    assert predict_accuracy(network, test) > 85


@pytest.mark.parametrize("correct", [0, 1, 299, 600])
def test_accuracy_is_the_percentage_of_largest_logits_on_the_label_over_all_batches(correct):
    class Says(nn.Module):
        """Reads the class off the first pixel; wrong from position ``correct`` on."""

        def forward(self, x):
            assert not self.training
            return F.one_hot((x[:, 0, 0, 0] * 4).round().long() % 4, 4).float()

    labels = torch.arange(600) % 4
    shown = torch.where(torch.arange(600) < correct, labels, (labels + 1) % 4)
    images = (shown / 4).float().view(600, 1, 1, 1).expand(600, 1, 2, 2).contiguous()
    accuracy = predict_accuracy(Says(), ImageSet(images, labels, Normalisation((0.0,), (1.0,))))
    assert accuracy == pytest.approx(100 * correct / 600, abs=1e-9)


@pytest.mark.parametrize(
    ("epochs", "epoch", "factor"),
    [
        *[(6, 3, 1), (6, 4, 0.2), (6, 5, 0.04), (300, 199, 1), (300, 200, 0.2), (300, 249, 0.2), (300, 250, 0.04)],
        *[(1000, 0, 1), (1000, 665, 1), (1000, 667, 0.2), (1000, 832, 0.2), (1000, 834, 0.04), (1000, 999, 0.04)],
    ],
)
def test_the_rate_falls_to_a_fifth_at_two_thirds_and_again_at_five_sixths(epochs, epoch, factor):
    assert thirds_and_sixths(epochs).rate(0.1, epoch) == pytest.approx(0.1 * factor, rel=1e-12)


@pytest.mark.parametrize("epochs", [2, 3, 5, 10, 17])
def test_the_rate_starts_full_and_never_rises(epochs):
    rates = [thirds_and_sixths(epochs).rate(0.1, epoch) for epoch in range(epochs)]
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("mode", "share", "expected"),
    [("on", 0.0, True), ("off", 100.0, False), ("auto", 0.99, False), ("auto", 1.0, True)],
)
def test_training_is_compiled_where_it_is_asked_for_or_repays(mode, share, expected, monkeypatch):
    monkeypatch.setattr("ddistill.training.compilation.compiler_available", lambda: True)
    assert repays_compilation(mode, share * REPAYING_FLOPS) is expected


def test_without_a_compiler_auto_never_compiles(monkeypatch):
    monkeypatch.setattr("ddistill.training.compilation.compiler_available", lambda: False)
    assert not repays_compilation("auto", 1e30)


def test_a_training_step_is_counted_as_three_forward_passes_but_for_the_images_gradient():
    source = ImageSet(
        torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), Normalisation((0.5,) * 3, (0.5,) * 3)
    )
    per_image = Trainer(ConvNet(10), source, TrainingSettings(batch=8)).flops_per_step() / 8
    # 0.101 GFLOP forward at width 128 (design, section 4); the first convolution needs no gradient of the images.
    first = 2 * 32 * 32 * 128 * 27
    forward = first + 2 * 16 * 16 * 128 * 1152 + 2 * 8 * 8 * 128 * 1152 + 2 * 2048 * 10
    assert forward == pytest.approx(0.101e9, rel=0.02)
    assert per_image == pytest.approx(3 * forward - first, rel=1e-6)


@pytest.mark.parametrize(
    ("decoded", "ten", "hundred"),
    [
        *[(1, 3000, 2000), (2, 2000, 1300), (10, 2000, 1300), (11, 1500, 1000), (50, 1500, 1000)],
        *[(51, 1000, 600), (200, 1000, 600), (201, 500, 300), (500, 500, 300), (501, 300, 200)],
    ],
)
def test_the_epochs_of_imagenet_evaluation_follow_the_decoded_images_per_class(decoded, ten, hundred):
    settings = EvaluationSettings(epochs=None)
    assert evaluation_epochs(settings, decoded, 10) == ten
    assert evaluation_epochs(settings, decoded, 100) == hundred


def test_epochs_that_are_set_are_used_as_they_are():
    assert evaluation_epochs(EvaluationSettings(epochs=7), 1, 100) == 7


def test_an_evaluation_reports_mean_and_population_spread_over_its_runs():
    evaluation = Evaluation((50.0, 53.0, 56.0), {})
    assert evaluation.mean == pytest.approx(53.0)
    assert evaluation.std == pytest.approx(6.0**0.5)
    assert evaluation.as_dict() == {"mean": 53.0, "std": 2.45, "runs": [50.0, 53.0, 56.0]}


def test_what_the_compiler_makes_is_kept_with_the_other_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of the test session")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    maybe_compile(torch.sin, False)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    maybe_compile(torch.sin, True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    maybe_compile(torch.sin, True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("operations", [("color", "crop"), ("crop", "scale", "rotate")])
@pytest.mark.parametrize("soft", [False, True])
def test_a_launch_of_many_steps_makes_the_steps(monkeypatch, optimiser, operations, soft):
    """Two epochs in blocks of 3 mini-batches and what is left over, on images that are changed in between."""
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(60) % 4
    labels = torch.nn.functional.one_hot(classes, 4) * 0.6 + 0.1 if soft else classes
    first, second = (ImageSet(x, labels, Normalisation((0.5,) * 3, (0.25,) * 3)) for x in (images, images.flip(0)))
    settings = TrainingSettings(
        optimiser=optimiser, lr=0.005, batch=8, cutmix=0.7, augment=AugmentSettings(operations=operations)
    )

    def trained(captured: str | None) -> torch.Tensor:
        torch.manual_seed(1)
        trainer = Trainer(ConvNet(4, size=16, width=8, depth=2), first, settings, captured=captured)
        for epoch, source in enumerate((first, first, second)):
            if source is not trainer.image_set:
                trainer.look_at(source)
            trainer.run_epoch(torch.Generator().manual_seed(epoch), 0.005 / (1 + epoch))
        return torch.cat([parameter.detach().flatten() for parameter in trainer.parameters.values()])

    captures = captured_on_cpu(monkeypatch)
    plain = trained(None)
    monkeypatch.setattr("ddistill.training.trainer.STEPS_AT_ONCE", 3)
    torch.testing.assert_close(trained("training"), plain, rtol=1e-3, atol=1e-5)
    assert [shapes[0] for shapes in captures.made] == [(3, 8), (1, 8), (1, 4)] * 2


def test_batches_of_any_sizes_and_the_rule_of_imagenet_are_launched_whole(monkeypatch):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=draws)
    source = ImageSet(images, torch.arange(60) % 4, Normalisation((0.5,) * 3, (0.25,) * 3))
    settings = TrainingSettings(batch=8, cutmix=0.7, augment=AugmentSettings(rule="imagenet"))
    batches = [torch.randperm(60, generator=draws)[:size] for size in (6, 6, 8, 6, 8)]

    def trained(captured: str | None) -> torch.Tensor:
        torch.manual_seed(1)
        trainer = Trainer(ConvNet(4, size=16, width=8, depth=2), source, settings, captured=captured)
        trainer.run(batches, torch.Generator().manual_seed(2))
        assert trainer._launch is None or not trainer._launch.refused
        return torch.cat([parameter.detach().flatten() for parameter in trainer.parameters.values()])

    captures = captured_on_cpu(monkeypatch)
    torch.testing.assert_close(trained("training"), trained(None), rtol=1e-3, atol=1e-5)
    assert [shapes[0] for shapes in captures.made] == [(2, 6), (1, 8), (1, 6)]


@pytest.mark.gpu
def test_captured_training_on_a_gpu_is_training():
    draws = torch.Generator().manual_seed(0)
    # 20 steps at once and a smaller one by itself; after 150 steps 1e-7 has become 0.02, on a CPU, too
    images = torch.randint(0, 256, (164, 3, 16, 16), dtype=torch.uint8, generator=draws).cuda()
    source = ImageSet(images, (torch.arange(164) % 4).cuda(), Normalisation((0.5,) * 3, (0.25,) * 3))

    def trained(captured: str | None) -> torch.Tensor:
        torch.manual_seed(1)
        network = ConvNet(4, size=16, width=8, depth=2).cuda()
        trainer = Trainer(network, source, TrainingSettings(batch=8), captured=captured)
        trainer.run_epoch(torch.Generator().manual_seed(0))
        assert trainer._launch is None or (trainer._launch.captured and not trainer._launch.refused)
        return torch.cat([parameter.detach().flatten() for parameter in trainer.parameters.values()])

    torch.testing.assert_close(trained("training"), trained(None), rtol=1e-2, atol=1e-4)

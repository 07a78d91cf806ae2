"""Matching along training against its slow reference (1e-4, float32), and its sources of networks."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from matched import CLASSES, PLAIN, make_context, nothing, real_batches
from network_sources.test_sources import copied, same, toy_factory, toy_pool
from reference import along_training as reference
from torch.func import grad_and_value

from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.methods import AlongTraining, AlongTrainingSettings, Context, class_matching
from ddistill.methods.image_optimiser import ImageAdam
from ddistill.network_sources import (
    LineSource,
    ModelAugmentationSettings,
    NetworkStore,
    PerturbedSource,
    SnapshotSource,
)
from ddistill.observer import Observer
from ddistill.recipe import Recipe
from ddistill.recipes import find
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution, ExecutionSettings
from ddistill.training import Trainer, thirds_and_sixths

DISTANCES = ("mean", "characteristic")
SMALL_STEP = {"image_optimiser": "sgd", "image_lr": 0.01}


def with_reference(*, compiled: bool = False, **changes: object) -> Context:
    """A context whose second network is another one than its first."""
    context = make_context(compiled=compiled)
    older = copy.deepcopy(context.network)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in older.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draws)
    return replace(context, reference=older, **changes)


def make(context: Context | None = None, **settings: object) -> AlongTraining:
    values = {"real_batch": 8, "frequencies": 16, "augment": PLAIN, **settings}
    return AlongTraining(AlongTrainingSettings(**values), context or with_reference())


def plain(method: AlongTraining, real: torch.Tensor, images: torch.Tensor, label: int) -> list[torch.Tensor]:
    """Distance and weighted constraint of one class, by the reference."""
    context, settings = method.context, method.settings
    embedded = [context.network.features(x).flatten(1).double() for x in (real, images)]
    distance = (
        reference.mean_distance(*embedded)
        if settings.distance == "mean"
        else reference.characteristic_distance(*embedded, method.frequencies.double())
    )
    return [distance, settings.alpha * reference.constraint(context.reference(images), label)]


def normalised(method: AlongTraining, stored: torch.Tensor) -> list[torch.Tensor]:
    """The stored images of each class, as the network sees them."""
    synthetic = method.context.synthetic
    whole = method.context.real.normalisation(stored)
    return [whole[synthetic.class_slice(c)] for c in range(CLASSES)]


# ---------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_and_gradient_of_a_class_are_those_of_the_formulas(distance, functional, monkeypatch):
    monkeypatch.setattr(class_matching, "maybe_compile", lambda function, _: function)  # without the compiler
    method = make(with_reference(compiled=functional), distance=distance)
    assert (method.grad_and_value is grad_and_value) == functional
    method.begin(1)
    draws = torch.Generator().manual_seed(3)
    real, images = (torch.randn(n, 3, 16, 16, generator=draws) for n in (8, 4))
    leaf = images.clone().requires_grad_()
    expected = sum(plain(method, real, leaf, 1))
    (by_images,) = torch.autograd.grad(expected, leaf)
    loss, gradient = method.class_gradient(method.networks, real, images, torch.tensor(1))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
    assert float((gradient - by_images).norm()) < 1e-4 * float(by_images.norm())


def test_the_characteristic_distance_of_the_reference_is_that_of_complex_numbers():
    draws = torch.Generator().manual_seed(0)
    real, synthetic, t = (torch.randn(n, 5, generator=draws, dtype=torch.float64) for n in (4, 3, 1))
    ours = reference.characteristic_distance(real, synthetic, t.T)
    expected = reference.characteristic_distance_by_phases(real.tolist(), synthetic.tolist(), t[0].tolist())
    assert float(ours) == pytest.approx(expected, rel=1e-9)


def test_two_equal_sets_have_a_finite_gradient():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    method = make(distance="characteristic", alpha=0.0)
    method.begin(1)
    loss, gradient = method.class_gradient(method.networks, images, images, torch.tensor(0))
    assert 0.0 <= float(loss) < 1e-2
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_joint_update_steps_pixels_along_the_sum_of_both_terms(distance):
    method = make(distance=distance, **SMALL_STEP)
    start, draws = method.context.synthetic.images.clone(), method.draw(1)
    method.begin(1)
    real, leaf = real_batches(method.context, draws.real), start.clone().requires_grad_()
    loss = sum(sum(plain(method, real[c], x, c)) for c, x in enumerate(normalised(method, leaf)))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(method.image_step(0, draws)) == pytest.approx(loss.item(), rel=1e-4)
    moved = method.context.synthetic.images - start
    assert float((moved + 0.01 * gradient).norm()) < 1e-4 * float(moved.norm())


def test_sweeps_step_along_the_distance_and_then_along_the_constraint():
    method = make(steps="sweeps", **SMALL_STEP, alpha=2.0)
    images, draws = method.context.synthetic.images.clone(), method.draw(1)
    real, velocity, total = real_batches(method.context, draws.real), torch.zeros_like(images), 0.0
    for term in (0, 1):
        leaf = images.clone().requires_grad_()
        loss = sum(plain(method, real[c], x, c)[term] for c, x in enumerate(normalised(method, leaf)))
        velocity = 0.5 * velocity + torch.autograd.grad(loss, leaf)[0]
        images, total = images - 0.01 * velocity, total + loss.item()
    start = method.context.synthetic.images.clone()
    assert float(method.image_step(0, draws)) == pytest.approx(total, rel=1e-4)
    ours = method.context.synthetic.images
    assert float((ours - images).norm()) < 1e-4 * float((images - start).norm())


def test_coasting_steps_are_those_of_one_tensor_of_all_images():
    method = make(image_lr=0.01)
    draws = method.draw(1)
    images, real = method.context.synthetic.images.clone(), real_batches(method.context, draws.real)
    start, velocity = images.clone(), torch.zeros_like(images)
    for _ in range(2):
        for c in range(CLASSES):
            leaf = images.clone().requires_grad_()
            loss = sum(plain(method, real[c], normalised(method, leaf)[c], c))
            velocity = 0.5 * velocity + torch.autograd.grad(loss, leaf)[0]
            images = images - 0.01 * velocity
    for _ in range(2):
        method.image_step(0, draws)
    ours = method.context.synthetic.images
    assert float((ours - images).norm()) < 1e-4 * float((images - start).norm())


def test_adamw_moves_the_images_and_takes_its_settings():
    method = make(image_optimiser="adamw", image_lr=0.001)
    assert isinstance(method.optimiser, ImageAdam)
    group = method.optimiser.optimiser.param_groups[0]
    start = method.context.synthetic.images.clone()
    method.outer_step(1, nothing)
    assert (group["lr"], group["weight_decay"]) == (0.001, 5e-4)
    moved = (method.context.synthetic.images - start).abs()
    assert 0.0005 < float(moved.median()) <= 0.0011  # the first step of Adam is as long as its rate


def test_the_networks_stay_as_they_are():
    context = with_reference()
    before = [copied(dict(network.state_dict())) for network in (context.network, context.reference)]
    make(context).outer_step(1, nothing)
    for network, weights in zip((context.network, context.reference), before, strict=True):
        assert same(dict(network.state_dict()), weights)


def test_a_falling_rate_ends_near_zero_and_cannot_be_extended():
    rates = []
    for step in (1, 6, 10):
        method = make(with_reference(outer_steps=10), falling=True, image_lr=0.1)
        method.outer_step(step, nothing)
        rates.append(method.optimiser.lr)
    assert rates == pytest.approx([0.1, 0.05, 0.01])
    assert method.settings.needs.fixed_length
    assert not make().settings.needs.fixed_length


def test_frequencies_are_new_in_each_step_and_normal():
    method = make(distance="characteristic", frequencies=64)
    drawn = []
    for step in (1, 2, 1):
        method.begin(step)
        drawn.append(method.frequencies.clone())
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape == (method.context.network.features(torch.zeros(1, 3, 16, 16)).numel(), 64)
    assert float(drawn[0].mean()) == pytest.approx(0.0, abs=0.05)
    assert float(drawn[0].std()) == pytest.approx(1.0, abs=0.05)


def test_a_class_has_at_most_so_many_decoded_images_in_a_step():
    method = make(max_decoded=1)
    draws = method.draw(1)
    assert {label: len(chosen[0]) for label, chosen in draws.subset.items()} == dict.fromkeys(range(CLASSES), 1)


def test_a_sweep_of_the_constraint_costs_no_real_images():
    joint, sweeps, alone = (make(**s).flops_per_outer_step() for s in ({}, {"steps": "sweeps"}, {"alpha": 0.0}))
    assert joint == sweeps  # the same forward and backward passes
    assert 0 < alone < joint


@pytest.mark.parametrize(("steps", "distance"), [("joint", "mean"), ("sweeps", "characteristic")])
def test_classes_of_a_launch_move_as_they_do_one_by_one(steps, distance):
    moved = []
    for chunk in (1, 3):
        method = make(
            with_reference(execution=Execution(settings=ExecutionSettings(class_chunk=chunk))),
            steps=steps,
            distance=distance,
            **SMALL_STEP,
        )
        start = method.context.synthetic.images.clone()
        method.outer_step(1, nothing)
        moved.append(method.context.synthetic.images - start)
        assert method.chunking.classes == chunk
    assert float((moved[0] - moved[1]).norm()) < 1e-4 * float(moved[0].norm())


def test_ranks_share_the_classes():
    assert [make(with_reference(execution=Execution(ranks=Ranks(rank, 2)))).assigned for rank in range(2)] == [
        range(1),
        range(1, 3),
    ]


# ------------------------------------------------------------------------------------------------------- the networks


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory) -> NetworkStore:
    """Two networks of four epochs."""
    return toy_pool(tmp_path_factory.mktemp("snapshots"), epochs=4, kind="snapshots")


def test_snapshots_are_the_weights_of_a_plain_training_run(snapshots):
    factory, name = toy_factory(), "pool"
    for network in range(2):
        module = factory.build(0, name, network)
        trainer = Trainer(module, factory.real, factory.training)
        for epoch in range(5):
            assert same(snapshots.weights(network, epoch), dict(module.state_dict()))
            if epoch < 4:
                random = class_matching.generator(0, f"{name} epoch", network, epoch)
                trainer.run_epoch(random, thirds_and_sixths(4).rate(factory.training.lr, epoch), filled=True)


def test_snapshots_are_a_file_for_each_network(snapshots):
    names = sorted(path.name for path in snapshots.folder.iterdir())
    assert names == ["member-000.safetensors", "member-001.safetensors", "snapshots.json"]


class Remembering:
    """A store that tells what it is asked for, in place of weights."""

    def __init__(self, size: int, epochs: int) -> None:
        self.size, self.epochs = size, epochs

    def weights(self, network: int, epoch: int) -> dict[str, torch.Tensor]:
        return {"of": torch.tensor([network, epoch])}


def test_draws_of_snapshots_have_the_distribution_of_the_reference():
    last, ahead, networks, steps = 4, 3, 2, 6000
    source = SnapshotSource(Remembering(networks, last), ahead, 0)
    seen = Counter()
    for step in range(1, steps + 1):
        drawn = source.draw(step)
        (network, s), (other, p) = drawn.weights["of"].tolist(), drawn.reference["of"].tolist()
        assert network == other
        seen[network, s, p] += 1
    expected = {
        (network, s, p): chance / networks
        for network in range(networks)
        for (s, p), chance in reference.chances(last, ahead).items()
    }
    assert sum(expected.values()) == pytest.approx(1.0)
    assert seen.keys() == expected.keys()
    for drawn, chance in expected.items():
        deviation = (steps * chance * (1 - chance)) ** 0.5
        assert abs(seen[drawn] - steps * chance) < 5 * deviation


def test_one_epoch_ahead_gives_one_network_for_both(snapshots):
    for step in range(1, 6):
        drawn = SnapshotSource(snapshots, 1, 0).draw(step)
        assert same(drawn.weights, drawn.reference)


def test_a_line_goes_from_the_last_weights_to_the_first_evenly(snapshots):
    source, shares, networks = LineSource(snapshots, 0), [], Counter()
    for step in range(1, 401):
        drawn = source.draw(step)
        network = next(n for n in range(2) if same(drawn.reference, snapshots.weights(n, 4)))
        networks[network] += 1
        first, last = snapshots.weights(network, 0), snapshots.weights(network, 4)
        along = torch.cat([(first[name] - last[name]).flatten() for name in last])
        moved = torch.cat([(drawn.weights[name] - last[name]).flatten() for name in last])
        share = float(moved @ along / (along @ along))
        torch.testing.assert_close(moved, share * along, rtol=0, atol=1e-6)  # one share for all weights
        shares.append(share)
    counts = torch.histc(torch.tensor(shares), bins=4, min=0.0, max=1.0)
    assert counts.sum() == 400
    assert counts.min() > 100 - 5 * 75**0.5
    assert min(networks.values()) > 200 - 5 * 10


@pytest.mark.parametrize("kind", ["snapshots", "line"])
def test_these_sources_are_pure_and_give_copies(snapshots, kind):
    def source(seed: int = 0) -> SnapshotSource | LineSource:
        return SnapshotSource(snapshots, 3, seed) if kind == "snapshots" else LineSource(snapshots, seed)

    given = [source().draw(step) for step in range(1, 9)]
    again = [source().draw(step) for step in range(8, 0, -1)][::-1]
    assert all(same(a.weights, b.weights) and same(a.reference, b.reference) for a, b in zip(given, again, strict=True))
    assert any(not same(source(1).draw(step).weights, given[step - 1].weights) for step in range(1, 9))
    before = copied(given[0].weights)
    for weights in (given[0].weights, given[0].reference):
        for tensor in weights.values():
            tensor.zero_()
    assert same(source().draw(1).weights, before)


def test_perturbation_moves_the_matched_network_and_not_the_reference(snapshots):
    inner = SnapshotSource(snapshots, 3, 0)
    moved, still = (s.draw(1) for s in (PerturbedSource(inner, ModelAugmentationSettings(perturb=True), 0), inner))
    assert same(moved.reference, still.reference)
    assert not same(moved.weights, still.weights)


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(("ipc", "lr", "alpha"), [(1, 0.01, 2.5), (10, 0.1, 2.5), (50, 0.5, 0.5)])
def test_recipes_have_the_settings_of_the_programs(ipc, lr, alpha):
    tgdd, dance, ncfm = (find(f"{family}-cifar10", ipc) for family in ("tgdd", "dance", "ncfm"))
    for recipe in (tgdd, dance, ncfm):
        assert (recipe.synthetic.factor, recipe.network.width, recipe.network.depth) == (2, 128, 3)
        assert (recipe.model_augmentation.pool_size, recipe.model_augmentation.pool_epochs) == (5, 60)
        assert recipe.method.augment.operations == ("color", "crop", "cutout")
        training = recipe.training
        assert (training.lr, training.momentum, training.weight_decay, training.batch) == (0.01, 0.9, 5e-4, 64)
        assert (training.augment.operations, training.cutmix) == (("color", "crop"), 0.5)
        assert recipe.method.max_decoded == 200
    for recipe in (tgdd, dance):
        images = recipe.method
        assert (images.distance, images.image_optimiser, images.real_batch) == ("mean", "coasting", 128)
        assert (images.image_lr, images.image_momentum) == (pytest.approx(lr), 0.5)
        assert recipe.budget.steps == 10000
    assert (tgdd.method.steps, tgdd.method.alpha) == ("joint", alpha)
    assert (tgdd.model_augmentation.networks, tgdd.model_augmentation.ahead) == ("snapshots", 7)
    for recipe in (dance, ncfm):
        assert (recipe.method.steps, recipe.method.alpha) == ("sweeps", 1.0)
        assert recipe.model_augmentation.networks == "line"
    assert (ncfm.method.distance, ncfm.method.frequencies, ncfm.method.real_batch) == ("characteristic", 4096, 1024)
    assert (ncfm.method.image_optimiser, ncfm.method.image_lr, ncfm.budget.steps) == ("adamw", 0.001, 20000)


@pytest.mark.parametrize("data", ["imagenette", "imagenet-10", "imagenet-100"])
def test_recipes_of_large_images_differ_where_the_programs_do(data):
    for family, epochs in (("tgdd", 80), ("dance", 80), ("ncfm", 80), ("tgdd-ma", 10)):
        recipe = find(f"{family}-{data}", 10)
        assert (recipe.model_augmentation.pool_size, recipe.model_augmentation.pool_epochs) == (5, epochs)
        training = recipe.training
        assert (training.lr, training.weight_decay, training.batch, training.cutmix) == (0.01, 5e-4, 64, 0.5)
        assert recipe.method.image_lr == (0.001 if family == "ncfm" else pytest.approx(1.0))


@pytest.mark.parametrize("family", ["tgdd", "tgdd-ma", "dance", "ncfm"])
def test_a_network_without_convolutions_can_be_matched(family):
    find(family, 1, "digits").changed({"network.name": "mlp"}).check(load_data("digits"))


def test_with_model_augmentation_the_pool_is_early_and_perturbed():
    recipe = find("tgdd-ma-cifar10", 10)
    source = recipe.model_augmentation
    assert (source.networks, source.pool_epochs, source.perturb, recipe.budget.steps) == ("snapshots", 10, True, 2000)
    assert (recipe.method.image_optimiser, recipe.method.image_momentum) == ("sgd", 0.9)


# ----------------------------------------------------------------------------------------------------- what it refuses


def test_a_method_that_needs_an_older_network_says_which_sources_give_one():
    for networks in ("fresh", "pool"):
        changes = {"method.name": "along-training", "model_augmentation.networks": networks}
        with pytest.raises(UserError, match=f"second, older network.*networks={networks}.*use snapshots or line"):
            Recipe().changed(changes)
        assert Recipe().changed({**changes, "method.alpha": 0}).method.alpha == 0
    with pytest.raises(UserError, match="needs a source that gives a reference"):
        make(make_context())


@pytest.mark.parametrize("networks", ["snapshots", "line"])
def test_other_methods_take_these_networks_too(networks):
    source = {"model_augmentation.networks": networks}
    assert Recipe().changed({"method.name": "dm", **source}).model_augmentation.networks == networks
    with pytest.raises(UserError, match=f"uses no network: model_augmentation.networks={networks}"):
        Recipe().changed({"method.name": "random", "budget.outer_steps": 1, "synthetic.factor": 1, **source})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_augmentation.selection": "average"}, "selection=average is of networks=pool"),
        ({"model_augmentation.pool_epochs": 0}, "pool_epochs to 1 or more"),
    ],
)
def test_what_would_have_no_effect_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        find("tgdd", 1, "digits").changed(changes)


def test_a_schedule_that_the_budget_cuts_is_told():
    notes = []

    class Heard(Observer):
        def note(self, line: str) -> None:
            notes.append(line)

    cut = {"method.falling": True, "budget.flops": 1.0, "budget.outer_steps": 50, "evaluation.baselines": ()}
    few = {"model_augmentation.pool_epochs": 1, "evaluation.steps": 1, "evaluation.repeats": 1, "network.width": 8}
    distill_data(load_data("digits"), find("tgdd", 1, "digits").changed({**cut, **few}), observer=Heard())
    assert any("laid over 50 outer steps, and the budget ended the run after 1" in line for line in notes)

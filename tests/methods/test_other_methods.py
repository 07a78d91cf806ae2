"""DC, DSA, DM and coresets against slow references (1e-4, float32), and what recipes may compose."""

import copy
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from matched import CLASSES, IPC, MEAN, PER_CLASS, PLAIN, SIDE, STD, make_context, nothing, real_batches
from reference import convnet, other_methods
from reference.matching import normalise
from torch.func import grad_and_value

from ddistill.augment import AugmentSettings, Normalisation, Pipeline
from ddistill.methods import (
    CAFE,
    EL2N,
    METHODS,
    RDED,
    CAFESettings,
    Coreset,
    DCSettings,
    DistributionMatching,
    DistributionMatchingSettings,
    DSASettings,
    EL2NSettings,
    GradientMatching,
    HerdingSettings,
    KCenterSettings,
    RandomSettings,
    RDEDSettings,
    TrajectoryMatching,
    TrajectoryMatchingSettings,
    class_matching,
)
from ddistill.methods import cafe as fast_cafe
from ddistill.methods import coresets as fast_coresets
from ddistill.methods import trajectory_matching as fast_tm
from ddistill.networks import NETWORKS, ConvNet
from ddistill.recipe import Recipe
from ddistill.recipes import find
from ddistill.runtime.errors import RunError, UserError
from ddistill.runtime.gradients import eager_grad_and_value, grad_and_value_for
from ddistill.runtime.randomness import generator


def assert_moved_alike(ours: torch.Tensor, theirs: torch.Tensor, start: torch.Tensor) -> None:
    assert float((theirs - start).norm()) > 1e-3
    assert float((ours - theirs).norm()) < 1e-4 * float((theirs - start).norm())


def test_dc_steps_normalised_images_along_the_sum_of_all_classes_cosine_distances():
    context = make_context()
    settings = DCSettings(inner_steps=1, real_batch=8, network_epochs=0)
    method, start = GradientMatching(settings, context), context.synthetic.images.clone()
    plan = method.draw(1)
    real = real_batches(context, plan.real)
    parameters = {name: p.detach() for name, p in context.network.named_parameters()}

    def loss(label: int, images: torch.Tensor) -> torch.Tensor:
        return other_methods.dc_loss(
            lambda p, x: convnet.convnet_forward(p, x, depth=2), parameters, real[label], images, label
        )

    expected = other_methods.summed_step(loss, start, IPC, MEAN, STD, 0.1, 0.5, steps=2)
    for _ in range(2):
        method.image_step(0, plan)
    assert_moved_alike(context.synthetic.images, expected, start)


def test_dm_steps_normalised_images_along_the_sum_of_all_classes_distances_of_mean_embeddings():
    context = make_context()
    method = DistributionMatching(DistributionMatchingSettings(real_batch=8, augment=PLAIN), context)
    start = context.synthetic.images.clone()
    real = real_batches(context, method.draw(1).real)

    def loss(label: int, images: torch.Tensor) -> torch.Tensor:
        return other_methods.dm_loss(context.network.features, real[label], images)

    expected = other_methods.summed_step(loss, start, IPC, MEAN, STD, 1.0, 0.5, steps=1)
    method.outer_step(1, nothing)
    assert_moved_alike(context.synthetic.images, expected, start)


def test_the_compiled_form_of_dm_is_the_eager_one(monkeypatch):
    monkeypatch.setattr(class_matching, "maybe_compile", lambda function, _: function)  # without the compiler
    draws = torch.Generator().manual_seed(3)
    real, synthetic = (torch.randn(n, 3, SIDE, SIDE, generator=draws) for n in (8, 4))
    forms = [DistributionMatching(DistributionMatchingSettings(), make_context(compiled=c)) for c in (True, False)]
    assert [form.grad_and_value for form in forms] == [grad_and_value, eager_grad_and_value]
    (loss, gradient), (expected_loss, expected) = (
        form.class_gradient(form.networks, real, synthetic, torch.tensor(1)) for form in forms
    )
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-4)
    assert float((gradient - expected).norm()) < 1e-4 * float(expected.norm())


def test_dm_leaves_the_network_as_it_is():
    context = make_context()
    before = {name: p.detach().clone() for name, p in context.network.named_parameters()}
    DistributionMatching(DistributionMatchingSettings(real_batch=8), context).outer_step(1, nothing)
    assert all(torch.equal(p, before[name]) for name, p in context.network.named_parameters())


@pytest.mark.parametrize("settings", [DCSettings, DSASettings])
def test_dc_and_dsa_train_the_network_on_the_synthetic_set_between_image_steps_only(settings):
    weights = []
    for steps in (1, 2):
        context = make_context()
        start = {name: p.detach().clone() for name, p in context.network.named_parameters()}
        method = GradientMatching(settings(inner_steps=steps, real_batch=8, network_epochs=2), context)
        method.outer_step(1, nothing)
        weights.append([not torch.equal(p, start[name]) for name, p in context.network.named_parameters()])
    assert not any(weights[0])  # after the last image step nothing would use the trained network
    assert all(weights[1][index] for index in (0, -1))


def test_dc_moves_the_statistics_of_batch_norms_by_real_images_and_holds_them_while_matching():
    context = make_context(norm="batch")
    norm = context.network.blocks[0].norm
    before = norm.running_mean.clone()
    method = GradientMatching(DCSettings(inner_steps=1, real_batch=8, network_epochs=0), context)
    method.before(1, 0)
    moved = norm.running_mean.clone()
    assert not torch.equal(moved, before)
    assert not norm.training
    method.image_step(0, method.draw(1))
    assert torch.equal(norm.running_mean, moved)
    assert not norm.training


@pytest.mark.parametrize("compiled_form", [False, True])
def test_cafe_steps_along_alignment_at_every_layer_and_discrimination(compiled_form, monkeypatch):
    for module in (fast_cafe, class_matching):
        monkeypatch.setattr(module, "maybe_compile", lambda function, _: function)  # without the compiler
    context = make_context(compiled=compiled_form)
    settings = CAFESettings(real_batch=8, discrimination_weight=0.5, image_lr=0.02)
    method, start = CAFE(settings, context), context.synthetic.images.clone()
    draws = method.draw(1)
    real = real_batches(context, draws.real)
    images = [normalise(start[c * IPC : (c + 1) * IPC], MEAN, STD).requires_grad_() for c in range(CLASSES)]
    loss = other_methods.cafe_loss(context.network.layers, real, images, [0.1, 1.0, 1.0], 0.5)
    gradients = torch.autograd.grad(loss, images)
    expected = torch.cat([image.detach() - 0.02 * g for image, g in zip(images, gradients, strict=True)])
    ours = method.image_step(0, draws)
    assert float(ours) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert_moved_alike(context.synthetic.images, other_methods.denormalise(expected, MEAN, STD), start)


def test_cafe_weighs_the_last_two_layers_and_the_embedding_most():
    assert fast_cafe.layer_weights(4, 0.1) == [0.1, 0.1, 1.0, 2.0]


def test_cafe_ends_an_outer_step_when_the_accuracy_settles_and_counts_what_it_did():
    def steps_of(**settings) -> tuple[int, int, float]:
        method = CAFE(CAFESettings(real_batch=8, max_network_epochs=2, window=3, **settings), make_context())
        method.outer_step(1, nothing)
        return method.done.image_steps, method.done.network_epochs, method.flops_done()

    settled, moving = steps_of(stop_matching_range=1.0), steps_of(stop_matching_range=0.0, max_inner_steps=6)
    assert settled[:2] == (3, 4)
    assert moving[:2] == (6, 12)
    assert 0 < settled[2] < moving[2]


def test_cafe_halves_the_image_rate_late_in_the_run():
    rates = []
    for step in (1200, 1201, 1601, 1801):
        context = replace(make_context(), outer_steps=2000)
        method = CAFE(CAFESettings(real_batch=8, max_inner_steps=1), context)
        method.outer_step(step, nothing)
        rates.append(method.optimiser.lr)
    assert rates == [0.1, 0.05, 0.025, 0.0125]


def make_trajectory_matching(**settings) -> tuple[TrajectoryMatching, dict, dict]:
    context = make_context()
    start = {name: p.detach().clone() for name, p in context.network.named_parameters()}
    draws = torch.Generator().manual_seed(5)
    target = {name: w + 0.1 * torch.randn(w.shape, generator=draws) for name, w in start.items()}
    reference = copy.deepcopy(context.network)
    reference.load_state_dict(target)
    context = replace(context, reference=reference)
    return TrajectoryMatching(TrajectoryMatchingSettings(**settings), context), start, target


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(("steps", "batch"), [(1, 6), (4, 6), (5, 4)])
def test_tm_gradients_are_those_of_the_unrolled_graph(steps, batch, functional):
    method, start, target = make_trajectory_matching(student_lr=0.05, student_steps=steps)
    method.grad_and_value = grad_and_value_for(functional)
    augment = AugmentSettings(operations=("color", "flip"))
    method.pipeline = Pipeline(augment, Normalisation(MEAN, STD))
    draws = torch.Generator().manual_seed(6)
    order = torch.stack([torch.randperm(6, generator=draws)[:batch] for _ in range(steps)])
    augmented = fast_tm.draw_augment(augment, steps, batch, draws)
    stored = method.context.synthetic.images.clone().requires_grad_()
    rate = torch.tensor(0.05, requires_grad=True)
    batches = [
        (method.pipeline(stored[order[i]], augmented.uniforms[i], augmented.choices[i]), method.labels[order[i]])
        for i in range(steps)
    ]
    loss = other_methods.trajectory_loss(
        lambda p, x: convnet.convnet_forward(p, x, depth=2), start, target, batches, rate
    )
    by_images, by_rate = torch.autograd.grad(loss, [stored, rate])
    ours = method.gradients(start, target, order, augmented, nothing)
    assert float(ours[0]) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert float((ours[1] - by_images).norm()) < 1e-4 * float(by_images.norm())
    assert float(ours[2]) == pytest.approx(float(by_rate), rel=1e-4)


def test_the_activations_that_tm_keeps_do_not_grow_with_the_student_steps():
    def largest(steps: int) -> int:
        method, _, _ = make_trajectory_matching(student_steps=steps, augment=PLAIN)
        alive, peak = weakref.WeakSet(), 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal peak
            alive.add(holder := Held(tensor))
            peak = max(peak, sum(held.tensor.numel() for held in alive))
            return holder

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
            method.outer_step(1, nothing)
        return peak

    assert largest(8) == largest(2)


class Held:
    """A saved tensor that can be counted while autograd holds it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_tm_learns_the_students_rate_and_stops_when_it_turns_negative():
    method, _, _ = make_trajectory_matching(student_steps=2, lr_lr=1e-4)
    method.outer_step(1, nothing)
    assert float(method.student_lr) != pytest.approx(0.01, abs=1e-12)
    broken, _, _ = make_trajectory_matching(student_steps=2, lr_lr=0.0)
    broken.student_lr.fill_(-0.01)  # what a step too far leaves
    with pytest.raises(RunError, match=r"outer step 1: the learned rate.*method\.lr_lr \(now 0\.0\)"):
        broken.outer_step(1, nothing)


@pytest.mark.parametrize("count", [1, 4, 10])
def test_herding_and_k_center_choose_as_a_plain_search_does(count):
    embeddings = torch.randn(25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for fast, slow in (
        (fast_coresets.herding, other_methods.herding),
        (fast_coresets.k_center, other_methods.k_center),
    ):
        chosen = fast(embeddings, count)
        assert chosen == slow(embeddings.numpy(), count)
        assert len(set(chosen)) == count


@pytest.mark.parametrize("settings", [RandomSettings(), HerdingSettings(), KCenterSettings()])
def test_a_coreset_is_made_of_different_real_images_of_the_class(settings):
    context = make_context()
    Coreset(settings, context).outer_step(1, nothing)
    real = context.real.images.float() / 255
    for index, image in enumerate(context.synthetic.images):
        matches = (real == image).flatten(1).all(dim=1).nonzero().flatten()
        assert len(matches) == 1
        assert context.real.labels[matches] == context.synthetic.labels[index]
    assert len(context.synthetic.images.unique(dim=0)) == CLASSES * IPC


def test_a_coreset_fills_mosaics_with_different_images_of_the_class():
    context = make_context()
    context = replace(context, synthetic=replace(context.synthetic, factor=2))
    Coreset(RandomSettings(), context).outer_step(1, nothing)
    real = (context.real.images.float() / 255)[:, :, ::2, ::2]  # what is left of a picture in a cell
    for label in range(CLASSES):
        stored = context.synthetic.images[context.synthetic.class_slice(label)]
        cells = [stored[:, :, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)]
        found = [int((real == cell).flatten(1).all(dim=1).nonzero()) for cell in torch.cat(cells)]
        assert len(set(found)) == 4 * IPC
        assert {int(context.real.labels[position]) for position in found} == {label}


@pytest.mark.parametrize("choose", ["easy", "hard"])
def test_el2n_chooses_by_the_mean_error_over_all_networks_so_far(choose):
    context = make_context()
    method, total = EL2N(EL2NSettings(choose=choose), context), [0.0] * PER_CLASS * CLASSES
    for step in (1, 2):
        context.network.load_state_dict(ConvNet(CLASSES, size=SIDE, width=8, depth=2).state_dict())
        if step == 2:  # as after an interruption
            state, method = method.state(), EL2N(EL2NSettings(choose=choose), context)
            method.load_state(state)
        method.outer_step(step, nothing)
        for position, label in enumerate(context.real.labels.tolist()):
            image = normalise(context.real.images[position : position + 1].float() / 255, MEAN, STD)
            shares = context.network(image).detach().softmax(dim=1)[0].tolist()
            total[position] += sum((share - (c == label)) ** 2 for c, share in enumerate(shares)) ** 0.5
    torch.testing.assert_close(method.total, torch.tensor(total), rtol=1e-4, atol=0)
    for label in range(CLASSES):
        positions = range(PER_CLASS * label, PER_CLASS * (label + 1))
        best = sorted(positions, key=lambda p: total[p], reverse=choose == "hard")[:IPC]
        chosen = context.synthetic.images[context.synthetic.class_slice(label)]
        assert torch.equal(chosen, context.real.images[best].float() / 255)


def test_rded_chooses_the_crops_of_least_loss_as_a_plain_search_does():
    context, settings = make_context(), RDEDSettings(candidates=6, crops=3)
    RDED(settings, context).outer_step(1, nothing)

    def loss(image: np.ndarray, label: int) -> float:
        logits = context.network(normalise(torch.from_numpy(image[None]), MEAN, STD)).detach()
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor([label])))

    for label in range(CLASSES):
        draws = generator(0, "rded", label)
        positions = torch.randperm(PER_CLASS, generator=draws)[:6] + PER_CLASS * label
        numbers = [torch.rand((4, 6), generator=draws) for _ in range(3)]
        crops = [
            [
                other_methods.crop(
                    (context.real.images[position].float() / 255).numpy(),
                    0.08 + 0.92 * float(own[0, i]),
                    float(4 / 3) ** (float(own[1, i]) - 0.5),
                    *own[2:, i].tolist(),
                )
                for own in numbers
            ]
            for i, position in enumerate(positions)
        ]
        expected = other_methods.rded(crops, lambda image, c=label: loss(image, c), IPC)
        chosen = context.synthetic.images[context.synthetic.class_slice(label)]
        torch.testing.assert_close(chosen, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-4)


def test_a_coreset_of_a_small_class_repeats_what_it_has():
    context = make_context()
    context = replace(context, class_offsets=[0, 1, 2, 3])
    for made in (RDED(RDEDSettings(), context), Coreset(RandomSettings(), context), EL2N(EL2NSettings(), context)):
        made.outer_step(1, nothing)
        assert torch.equal(context.synthetic.images[0], context.synthetic.images[1])


def test_coresets_differ_from_each_other():
    chosen = []
    for settings in (RandomSettings(), HerdingSettings(), KCenterSettings()):
        context = make_context()
        Coreset(settings, context).outer_step(1, nothing)
        chosen.append(context.synthetic.images)
    assert not any(torch.equal(chosen[a], chosen[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


# ---------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", METHODS)
def test_another_method_comes_with_its_own_fields_and_survives_the_file(name, tmp_path):
    needs, more = METHODS[name][0]().needs, {}
    if needs.one_step:
        more = {"budget.outer_steps": 1}
    if needs.reference == "older":
        more = {"model_augmentation.networks": "line"}
    if needs.trajectories:
        more = {"model_augmentation.networks": "trajectories", "model_augmentation.pool_epochs": 50}
    recipe = Recipe().changed({"method.name": name, "synthetic.factor": 1, **more})
    assert recipe.method == METHODS[name][0]()
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_yaml(path) == recipe


def test_fields_are_those_of_the_chosen_method():
    recipe = Recipe().changed({"method.name": "dm", "method.real_batch": 32})
    assert recipe.method == DistributionMatchingSettings(real_batch=32)
    with pytest.raises(UserError, match=r"unknown recipe field 'method.distance'"):
        recipe.changed({"method.distance": "l1"})
    with pytest.raises(UserError, match=r"method.distance: must be 'mse', 'l1' or 'cosine', got 'l3'"):
        Recipe().changed({"method.name": "dsa", "method.distance": "l3"})


def test_an_unknown_method_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown method 'dcc'; did you mean dc"):
        Recipe().changed({"method.name": "dcc"})
    path = tmp_path / "recipe.yaml"
    path.write_text("method: {name: dcc}\n")
    with pytest.raises(UserError, match="unknown method 'dcc'; did you mean dc"):
        Recipe.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method.name": "random", "budget.outer_steps": 1, "model_augmentation.networks": "pool"}, "uses no network"),
        ({"method.name": "random", "budget.outer_steps": 1, "model_augmentation.perturb": True}, "uses no network"),
        ({"method.name": "herding"}, "one outer step, got 2000: set budget.outer_steps=1"),
        ({"method.name": "tm"}, "set model_augmentation.networks=trajectories"),
        (
            {"model_augmentation.networks": "trajectories"},
            "for method tm; method idc takes fresh, pool, snapshots or line",
        ),
        (
            {"method.name": "tm", "model_augmentation.networks": "trajectories"},
            r"epoch 21 \(max_start_epoch - 1 \+ expert_epochs\).*pool_epochs is 2",
        ),
        ({"method.name": "dc", "method.network_samples": 64}, "set one of them to 0"),
    ],
)
def test_what_does_not_compose_is_refused_with_the_reason(changes, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        Recipe().changed(changes)
    assert "\n" not in str(refusal.value)


def test_a_network_without_features_is_refused_where_they_are_asked_for(monkeypatch):
    class Plain(torch.nn.Module):
        def __init__(self, num_classes: int, channels: int, size: int) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(channels * size**2, num_classes)

    monkeypatch.setitem(NETWORKS, "plain for features", Plain)
    with pytest.raises(UserError, match=r"dm asks the network.*'plain for features' has no method `features`"):
        Recipe().changed({"method.name": "dm", "network.name": "plain for features"})
    Recipe().changed({"network.name": "plain for features"})


@pytest.mark.parametrize(("ipc", "loops"), [(1, (1, 1)), (5, (1, 1)), (10, (10, 50)), (20, (20, 25)), (50, (50, 10))])
@pytest.mark.parametrize("family", ["dc", "dsa", "dc-ma", "dsa-ma"])
def test_condensation_recipes_have_the_published_settings(family, ipc, loops):
    recipe = find(family, ipc, "cifar10")
    method = recipe.method
    assert (method.inner_steps, method.network_epochs) == loops
    assert (method.distance, method.image_lr, method.image_momentum, method.real_batch) == ("cosine", 0.1, 0.5, 256)
    training = method.synthetic_training
    assert (training.lr, training.momentum, training.batch, training.cutmix) == (0.01, 0.0, 256, 0.0)
    assert (method.augment.rule == "dsa") == (training.augment.rule == "dsa") == family.startswith("dsa")
    assert recipe.budget.steps == (200 if family.endswith("-ma") else 1000)
    assert recipe.synthetic.factor == 1


def test_dm_recipes_have_the_published_settings():
    recipe = find("dm", 10, "cifar100")
    assert (recipe.method.image_lr, recipe.method.image_momentum, recipe.method.real_batch) == (1.0, 0.5, 256)
    assert (recipe.budget.steps, recipe.method.inner_steps) == (20000, 1)
    assert recipe.method.augment.rule == "dsa"
    augmented = find("dm-ma", 10, "cifar100")
    assert augmented.budget.steps == 4000
    assert augmented.model_augmentation.networks == "pool"
    assert augmented.model_augmentation.perturb


@pytest.mark.parametrize(
    ("data", "ipc", "expected"),
    [
        ("cifar10", 1, (50, 2, 2, 1e2, 1e-7, 0.01, None)),
        ("cifar10", 10, (30, 2, 20, 1e5, 1e-6, 0.01, None)),
        ("cifar10", 50, (30, 2, 40, 1e3, 1e-5, 0.001, None)),
        ("cifar100", 1, (20, 3, 20, 1e3, 1e-5, 0.01, None)),
        ("cifar100", 50, (80, 2, 40, 1e3, 1e-5, 0.01, 125)),
    ],
)
def test_tm_recipes_have_the_published_settings(data, ipc, expected):
    recipe = find("tm", ipc, data)
    method, experts = recipe.method, recipe.model_augmentation
    assert expected == (
        method.student_steps,
        method.expert_epochs,
        method.max_start_epoch,
        method.image_lr,
        method.lr_lr,
        method.student_lr,
        method.synthetic_batch,
    )
    assert (experts.networks, experts.pool_size, experts.pool_epochs) == ("trajectories", 100, 50)
    assert (recipe.training.lr, recipe.training.momentum, recipe.training.batch) == (0.01, 0.0, 256)
    assert (recipe.training.cutmix, recipe.training.augment.rule, recipe.budget.steps) == (0.0, "dsa", 5000)

"""The fast matching code against the slow reference, written apart from it: loss, image gradient, class loop.

Tolerance 1e-4 relative, float32.
"""

from functools import partial

import pytest
import torch
from reference import convnet, matching
from torch.func import grad_and_value

from ddistill.augment import AugmentSettings, Normalisation, Pipeline
from ddistill.data import ImageSet
from ddistill.methods import Context, GradientMatching, IDCSettings
from ddistill.methods.image_optimiser import coast
from ddistill.methods.match import gradient_distance, match_in_parts
from ddistill.networks import ConvNet, ResNetAP
from ddistill.runtime.gradients import eager_grad_and_value
from ddistill.synthetic import SyntheticSet
from ddistill.training import Forward, Trainer, TrainingSettings

DISTANCES = {"mse": matching.distance_mse, "l1": matching.distance_l1, "cosine": matching.distance_cosine}
DECODERS = {"single": matching.decode_single, "multi": matching.decode_multi, "bound": matching.decode_bound}
TOLERANCE = 1e-4
CLASSES, IPC, SIDE, BATCH = 3, 2, 16, 8


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def make_method(
    distance: str,
    factor: int,
    decoder: str,
    augment: AugmentSettings | None = None,
    counts: tuple[int, ...] | None = None,
) -> GradientMatching:
    draws = torch.Generator().manual_seed(1)
    counts = counts or (IPC,) * CLASSES
    real = torch.randint(0, 256, (20 * CLASSES, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws)
    labels = torch.repeat_interleave(torch.arange(CLASSES), 20)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    stored_labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(counts))
    images = torch.rand(len(stored_labels), 3, SIDE, SIDE, generator=draws)
    synthetic = SyntheticSet(images, stored_labels, ("a", "b", "c"), factor, decoder, Normalisation(mean, std))
    torch.manual_seed(2)
    network = ConvNet(CLASSES, size=SIDE, width=16, depth=2)
    source = ImageSet(real, labels, Normalisation(mean, std))
    settings = IDCSettings(
        distance=distance,
        image_lr={"mse": 1.0, "l1": 0.01, "cosine": 0.1}[distance],
        inner_steps=2,
        real_batch=BATCH,
        augment=augment or AugmentSettings(operations=()),
        network_samples=0,
    )
    trainer = Trainer(network, source, TrainingSettings())
    return GradientMatching(settings, Context(trainer, [0, 20, 40, 60], synthetic, 0))


def forward(parameters: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    return convnet.convnet_forward(parameters, images, depth=2)


def matched(grad_and_value, forward, distance, weights, real, synthetic, label):
    def loss(images):
        return gradient_distance(grad_and_value, forward, distance, weights, real, images, label)

    gradient, value = grad_and_value(loss)(synthetic)
    return value, gradient


IMPLEMENTATIONS = {
    "functional": partial(matched, grad_and_value),
    "eager": partial(matched, eager_grad_and_value),
    "in parts": partial(match_in_parts, part=3),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_and_image_gradient_agree_with_the_reference(distance, implementation):
    method = make_method(distance, 1, "single")
    draws = torch.Generator().manual_seed(3)
    real, synthetic = (torch.randn(n, 3, SIDE, SIDE, generator=draws) for n in (BATCH, 5))
    label = torch.tensor(1)
    network = method.context.network
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    loss, gradient = implementation(Forward(network), distance, parameters, real, synthetic, label)
    expected_loss, expected = matching.class_loss_and_image_gradient(
        forward, parameters, real, label.expand(BATCH), synthetic, label.expand(5), DISTANCES[distance]
    )
    assert float(loss) == pytest.approx(float(expected_loss), rel=TOLERANCE)
    assert relative_error(gradient, expected) < TOLERANCE


@pytest.mark.parametrize(("distance", "side"), [*((name, SIDE) for name in DISTANCES), ("l1", 224)])
def test_resnet_ap_image_gradient_agrees_with_the_reference(distance, side):
    torch.manual_seed(0)
    network = ResNetAP(CLASSES, size=side, width=0.125)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    real, synthetic = torch.randn(4, 3, side, side), torch.randn(3, 3, side, side)
    label = torch.tensor(2)
    loss, gradient = IMPLEMENTATIONS["eager"](Forward(network), distance, parameters, real, synthetic, label)
    expected_loss, expected = matching.class_loss_and_image_gradient(
        convnet.resnet_ap_forward,
        parameters,
        real,
        label.expand(4),
        synthetic,
        label.expand(3),
        DISTANCES[distance],
    )
    assert float(loss) == pytest.approx(float(expected_loss), rel=TOLERANCE)
    assert relative_error(gradient, expected) < TOLERANCE


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("distance", DISTANCES)
def test_images_after_class_loops_agree_with_the_sequential_reference(distance, factor, decoder):
    method = make_method(distance, factor, decoder)
    context, settings = method.context, method.settings
    plan = method.draw(1)
    stored = context.synthetic.images.view(CLASSES, IPC, 3, SIDE, SIDE).clone()
    parameters = {name: p.detach() for name, p in context.network.named_parameters()}
    velocity = None
    for inner in range(settings.inner_steps):
        real = [context.real.images[plan.real[c, inner]].float() / 255 for c in range(CLASSES)]
        stored, velocity, losses = matching.class_loop(
            forward,
            parameters,
            stored,
            velocity,
            real,
            context.real.normalisation.mean,
            context.real.normalisation.std,
            factor,
            DECODERS[decoder],
            DISTANCES[distance],
            method.optimiser.lr,
            settings.image_momentum,
        )
        total = method.image_step(inner, plan)
        assert float(total) == pytest.approx(float(sum(losses)), rel=TOLERANCE)
    assert relative_error(context.synthetic.images, stored.flatten(0, 1)) < TOLERANCE
    moved = stored.flatten(0, 1) - make_method(distance, factor, decoder).context.synthetic.images
    ours = context.synthetic.images - make_method(distance, factor, decoder).context.synthetic.images
    assert relative_error(ours, moved) < TOLERANCE
    assert relative_error(method.optimiser.velocity, velocity.flatten(0, 1)) < TOLERANCE


def test_one_augmentation_draw_is_shared_by_real_and_synthetic_images():
    augment = AugmentSettings(operations=("color", "crop", "cutout"))
    method = make_method("mse", 2, "single", augment)
    context, plan = method.context, method.draw(1)
    stored = context.synthetic.images.view(CLASSES, IPC, 3, SIDE, SIDE).clone()
    calls = iter(range(CLASSES))

    def same_draw(images: torch.Tensor) -> torch.Tensor:
        call = next(calls)
        return Pipeline(augment, Normalisation((0.0,) * 3, (1.0,) * 3))(
            images, plan.augment.uniforms[call], plan.augment.choices[call]
        )

    real = [context.real.images[plan.real[c, 0]].float() / 255 for c in range(CLASSES)]
    stored, _, _ = matching.class_loop(
        forward,
        {name: p.detach() for name, p in context.network.named_parameters()},
        stored,
        None,
        real,
        context.real.normalisation.mean,
        context.real.normalisation.std,
        2,
        matching.decode_single,
        matching.distance_mse,
        method.optimiser.lr,
        0.5,
        augment=same_draw,
    )
    method.image_step(0, plan)
    assert relative_error(context.synthetic.images, stored.flatten(0, 1)) < TOLERANCE


def test_classes_may_store_different_numbers_of_images():
    method = make_method("mse", 2, "single", counts=(1, 4, 2))
    before = method.context.synthetic.images.clone()
    method.outer_step(1, lambda done, total: None)
    changed = (method.context.synthetic.images - before).flatten(1).norm(dim=1)
    assert (changed > 0).all()


def test_more_decoded_images_than_the_limit_are_cut_to_a_random_subset():
    method = make_method("mse", 3, "single")
    small = method.settings.model_copy(update={"max_decoded": 5})
    limited = GradientMatching(small, method.context)
    plan = limited.draw(1)
    shapes = {label: [tuple(index.shape) for index in rows.values()] for label, rows in plan.subset.items()}
    assert shapes == {label: [(5,), (5,)] for label in range(CLASSES)}
    assert not torch.equal(plan.subset[0][0].sort().values, plan.subset[0][1].sort().values)
    limited.outer_step(1, lambda done, total: None)


@pytest.mark.parametrize(("steps", "momentum"), [(0, 0.5), (1, 0.5), (9, 0.5), (99, 0.9), (5, 0.0)])
def test_coasting_equals_steps_with_a_zero_gradient(steps, momentum):
    image = torch.nn.Parameter(torch.rand(4, dtype=torch.float64))
    ours, velocity = image.detach().clone(), torch.rand(4, dtype=torch.float64)
    optimiser = torch.optim.SGD([image], lr=0.1, momentum=momentum)
    optimiser.state[image]["momentum_buffer"] = velocity.clone()
    for _ in range(steps):
        image.grad = torch.zeros_like(image)
        optimiser.step()
    coast(ours, velocity, 0.1, momentum, torch.tensor(steps))
    assert torch.allclose(ours, image.detach(), rtol=1e-12)

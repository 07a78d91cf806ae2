"""What moves the stored images: plain optimisers of torch on one tensor, in pixels or in another space."""

import pytest
import torch
from matched import gradients, make_set

from ddistill.augment import Normalisation
from ddistill.methods.image_optimiser import ImageAdam, ImageSGD

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_that_of_torch_and_goes_on_after_an_interruption(weight_decay):
    ours, theirs = make_set(), torch.nn.Parameter(make_set().images)
    optimiser, expected = (
        ImageAdam(ours, 0.01, weight_decay),
        torch.optim.AdamW([theirs], 0.01, weight_decay=weight_decay),
    )
    for number, gradient in enumerate(gradients()):
        if number == 2:
            kept = {name: tensor.clone() for name, tensor in optimiser.state().items()}
            optimiser = ImageAdam(ours, 0.01, weight_decay)
            optimiser.load_state(kept)
        optimiser.begin()
        optimiser.take(slice(0, 2), gradient[:2])
        optimiser.take(slice(2, 4), gradient[2:])
        optimiser.finish()
        theirs.grad = gradient
        expected.step()
    assert torch.equal(ours.images, theirs.detach())
    assert not ours.images.requires_grad
    assert ours.images.grad is None


def test_a_step_in_the_space_of_normalised_images_is_one_on_normalised_images():
    ours, space = make_set(), Normalisation(MEAN, STD)
    theirs = torch.nn.Parameter(space(make_set().images))
    optimiser = ImageSGD(ours, 0.1, 0.5, space)
    expected = torch.optim.SGD([theirs], 0.1, 0.5)
    std = torch.tensor(STD).view(1, -1, 1, 1)
    for gradient in gradients():
        optimiser.step(gradient / std)  # with respect to pixels
        theirs.grad = gradient
        expected.step()
    torch.testing.assert_close(space(ours.images), theirs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(space.inverse(theirs.detach()), ours.images, rtol=1e-4, atol=1e-5)


def test_coasting_class_by_class_is_one_tensor_that_steps_once_a_class():
    ours, theirs = make_set(), torch.nn.Parameter(make_set().images)
    optimiser, expected = ImageSGD(ours, 0.1, 0.5, coasts=True), torch.optim.SGD([theirs], 0.1, 0.5)
    for gradient in gradients():
        optimiser.begin()
        for label in range(2):
            rows = slice(2 * label, 2 * label + 2)
            optimiser.take(rows, gradient[rows])
            theirs.grad = torch.zeros_like(theirs)
            theirs.grad[rows] = gradient[rows]
            expected.step()
        optimiser.finish()
        torch.testing.assert_close(ours.images, theirs.detach(), rtol=1e-5, atol=1e-6)

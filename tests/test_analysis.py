"""Gradients of a network by its age, against the obvious computation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddistill import recipes
from ddistill.analysis import class_gradients, effective_rank, gradients_by_age
from ddistill.augment import Normalisation
from ddistill.data import ImageSet, load_data
from ddistill.networks import NetworkSettings, build_network
from ddistill.runtime.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def recipe():
    return recipes.find("idc", 1, "digits").changed({"network.width": 8, "method.real_batch": 16})


def test_class_gradients_are_those_of_the_convolution_weights(digits):
    network = build_network(NetworkSettings(width=4, depth=2), 10, 1, 8, "a key")
    source = ImageSet(digits.train.images, digits.train.labels, Normalisation(*digits.statistics))
    every = int(digits.class_counts.max())  # the whole class, so that the draw does not matter
    found = class_gradients(network, source, digits, every, 2, seed=0)
    for label in (0, 7):
        first, end = digits.class_offsets[label : label + 2].tolist()
        images = digits.train.images[first:end].float() / 255
        (mean,), (std,) = digits.statistics
        loss = F.cross_entropy(network((images - mean) / std), torch.full((end - first,), label))
        network.zero_grad()
        loss.backward()
        expected = torch.cat([m.weight.grad.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
        for number in range(2):
            torch.testing.assert_close(found[number, label], expected, rtol=1e-4, atol=1e-6)


def test_the_effective_rank_counts_directions():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1, abs=1e-3)
    shares = torch.tensor([3.0, 1.0]) / 4
    entropy = -float((shares * shares.log()).sum())
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(entropy))


def test_an_age_does_not_depend_on_those_that_follow(digits, recipe):
    short = gradients_by_age(digits, recipe, (0, 1))
    longer = gradients_by_age(digits, recipe, (1, 2))
    assert short[1] == longer[0]
    assert [one.epochs for one in longer] == [1, 2]
    assert short[0].accuracy < longer[1].accuracy
    assert all(one.samples == 40 and 1 <= one.effective_rank <= 40 and one.norm > 0 for one in short)
    assert gradients_by_age(digits, recipe.changed({"run.seed": 1}), (0,)) != short[:1]


@pytest.mark.parametrize("ages", [(), (-1, 2), (2, 1), (1, 1)])
def test_ages_must_ascend(digits, recipe, ages):
    with pytest.raises(UserError, match="epochs must ascend"):
        gradients_by_age(digits, recipe, ages)

"""The front door: data and changes make a complete recipe."""

from __future__ import annotations

import pytest
from PIL import Image

from ddistill import api
from ddistill.runtime.errors import UserError


def pairs(side: int) -> list[tuple[Image.Image, int]]:
    return [(Image.new("L", (side, side), 20 * number), number % 2) for number in range(12)]


def test_the_size_that_is_asked_for_decides_the_network_and_a_change_of_both_is_taken():
    for size, depth in ((8, 2), (16, 3), (48, 4)):
        real, recipe = api.resolve((pairs(32), pairs(32)), changes={"data.size": size})
        assert (real.size, recipe.network.depth) == (size, depth)
    changes = {"data.size": 4, "network.depth": 1}
    _, small = api.resolve((pairs(32), pairs(32)), changes=changes)
    assert small.network.depth == 1
    assert api.resolve((pairs(32), pairs(32)), small.changed({"data.size": 8, "network.depth": 2}), changes=changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.size": 0}, "data.size: must be at least 1, got 0"),
        ({"data.size": 4}, "network.depth 2 normalises maps of 2 px .* on 4-px images.* use network.depth=1"),
        ({"data.sise": 8}, "unknown recipe field 'data.sise'"),
        ({"method.inner_steps": 0}, "method.inner_steps: must be at least 1"),
    ],
)
def test_a_change_that_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        api.resolve((pairs(8), pairs(8)), changes=changes)


@pytest.mark.parametrize(
    ("side", "changes", "family"),
    [
        (12, {}, "idc-ma"),
        (16, {}, "tgdd-ma"),
        (16, {"data.size": 8}, "idc-ma"),
        (16, {"method.network_samples": 50}, "idc-ma"),  # a field of that family alone
        (12, {"method.falling": True}, "tgdd-ma"),
    ],
)
def test_without_a_recipe_the_size_of_the_images_chooses_the_family_that_has_what_is_set(side, changes, family):
    _, recipe = api.resolve((pairs(side), pairs(side)), changes=changes)
    assert recipe.name == f"{family} for {recipe.data.size or side}-px images"


def test_a_change_that_neither_family_has_is_refused_before_the_images_are_read():
    with pytest.raises(UserError, match=r"unknown recipe field 'method\.network_sampels'"):
        api.resolve("nowhere", changes={"method.network_sampels": 50})

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

"""Sheets of pictures: the right image in the right place, and all of them within bounds."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddistill.report.sprites import CLASSES_PER_BLOCK, make_sprites

COUNTS = [1, 3, 2] * 15


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def opened(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_where_its_block_says(channels):
    images, order = noise(sum(COUNTS), channels, 8, 8), list(reversed(range(len(COUNTS))))
    sprites = make_sprites({0: images, 7: 255 - images}, COUNTS, order)
    assert sprites.exact
    assert sprites.steps == [0, 7]
    assert [label for block in sprites.blocks for label in block] == order
    assert [len(block) for block in sprites.blocks] == [CLASSES_PER_BLOCK, CLASSES_PER_BLOCK, 5]
    for shown, pictures in zip((images, 255 - images), sprites.pictures, strict=True):
        for block, picture in zip(sprites.blocks, pictures, strict=True):
            sheet = opened(picture).reshape(len(block) * 8, 24, channels)
            for row, label in enumerate(block):
                for column in range(COUNTS[label]):
                    tile = sheet[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                    assert np.array_equal(tile, shown[sum(COUNTS[:label]) + column].permute(1, 2, 0).numpy())


def test_a_block_whose_classes_have_fewer_images_is_as_wide_as_the_others():
    counts = [1] * CLASSES_PER_BLOCK + [4] * 5
    sprites = make_sprites({1: noise(40, 3, 8, 8)}, counts, range(25))
    assert [opened(picture).shape[1] for picture in sprites.pictures[0]] == [32, 32]


def test_a_thousand_classes_of_ten_noisy_images_stay_below_fifteen_megabytes():
    images = noise(10_000, 3, 32, 32)  # nothing takes more room than noise
    sprites = make_sprites({0: images, 9: images}, [10] * 1000, range(1000))
    assert not sprites.exact
    assert sprites.columns == 10
    assert sum(len(picture) for pictures in sprites.pictures for picture in pictures) < 14_500_000


def test_snapshots_between_the_first_and_the_last_go_first_then_exactness_then_the_first_then_columns():
    images, counts = noise(200, 3, 16, 16), [10] * 20
    snapshots = dict.fromkeys(range(0, 50, 10), images)
    found = []
    for most in (10**6, 500_000, 200_000, 60_000, 20_000):
        sprites = make_sprites(snapshots, counts, range(20), most)
        found.append((sprites.steps, sprites.exact, sprites.columns))
        size = sum(len(base64.b64decode(p.partition(",")[2])) for pictures in sprites.pictures for p in pictures)
        assert size <= most
    assert found[0] == ([0, 10, 20, 30, 40], True, 10)
    assert [steps[-1] for steps, *_ in found] == [40] * 5
    assert [len(steps) for steps, *_ in found] == sorted((len(steps) for steps, *_ in found), reverse=True)
    assert found[-1][0] == [40]
    assert found[-1][2] < 10

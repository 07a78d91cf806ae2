"""A user's own images, from files to artifact."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import ddistill

TINY = {
    "network.width": 4,
    "network.depth": 2,
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "method.inner_steps": 1,
    "method.network_samples": 16,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 1,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
}


def picture(draws: np.random.Generator, side: int, grey: bool = False) -> Image.Image:
    pixels = draws.integers(0, 256, (side, side + 3) if grey else (side, side + 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_folder_of_mixed_sizes_unequal_classes_and_markup_in_names(tmp_path):
    draws = np.random.default_rng(0)
    for part, counts in (("train", {"<b>cats</b>": 7, "dogs & co": 15}), ("test", {"<b>cats</b>": 3, "dogs & co": 3})):
        for name, count in counts.items():
            folder = tmp_path / "pets" / part / name.replace("/", "\u2215")
            folder.mkdir(parents=True)
            for index in range(count):
                picture(draws, 18 + index, grey=index == 0).save(folder / f"{index}.png")
    run = ddistill.distill(tmp_path / "pets", out=tmp_path / "run", changes={**TINY, "data.size": 16})
    assert run.synthetic.images.shape == (2, 3, 16, 16)
    assert run.summary["decoded_images"] == 8
    assert (tmp_path / "run" / "distilled" / "synthetic.json").exists()


def test_parquet_in_the_hubs_layout(tmp_path):
    import datasets

    draws = np.random.default_rng(0)

    def encoded() -> dict:
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    for part, count in (("train", 8), ("test", 2)):
        rows = {"img": [encoded() for _ in range(3 * count)], "label": [0, 1, 2] * count}
        table = datasets.Dataset.from_dict(rows, features=features)
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet")
    run = ddistill.distill(tmp_path / "set", changes=TINY)
    assert run.synthetic.class_names == ("a", "b", "c")


def test_any_map_style_dataset_and_an_own_network():
    class Small(torch.nn.Module):
        def __init__(self, num_classes, channels, size):
            super().__init__()
            self.conv = torch.nn.Conv2d(channels, 4, 3)
            self.head = torch.nn.Linear(4 * (size - 2) ** 2, num_classes)

        def forward(self, x):
            return self.head(torch.relu(self.conv(x)).flatten(1))

    ddistill.networks.register("small of this test", Small)
    draws = torch.Generator().manual_seed(0)
    parts = [TensorDataset(torch.rand(n, 3, 16, 16, generator=draws), torch.arange(n) % 2) for n in (24, 8)]
    changes = {**TINY, "network.name": "small of this test", "network.width": None, "network.depth": None}
    run = ddistill.distill((parts[0], parts[1]), changes=changes)
    assert run.synthetic.num_classes == 2
    result = ddistill.evaluate(run.synthetic, (parts[0], parts[1]), run.recipe.evaluation, network="small of this test")
    assert len(result.runs) == 1


def test_evaluating_on_other_data_is_refused():
    run = ddistill.distill("digits", changes=TINY)
    draws = torch.Generator().manual_seed(0)
    other = TensorDataset(torch.rand(24, 1, 8, 8, generator=draws), torch.arange(24) % 2)
    with pytest.raises(ddistill.UserError, match="classes"):
        ddistill.evaluate(run.synthetic, (other, other))

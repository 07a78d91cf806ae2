"""Sets as people have them: two label columns, labels as text, few images in a class, many classes; what happens."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from ddistill import api
from ddistill.data import DataSettings, load_data
from ddistill.engine import Observer, distill_data
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.synthetic import initial_set

SIDE = 8


def pictures(count: int) -> list[Pictures.Image]:
    draws = np.random.default_rng(0)
    return [Pictures.fromarray(one) for one in draws.integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)]


class Labelled:
    """A map-style set, with so many images of each class."""

    def __init__(self, counts: list[int]) -> None:
        self.labels = [label for label, count in enumerate(counts) for _ in range(count)]
        self.images = pictures(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Pictures.Image, int]:
        return self.images[index], self.labels[index]


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """A table of 100 classes in 20 groups: a column of each as numbers, and the classes as text."""
    folder, fine = tmp_path_factory.mktemp("hundred"), [number for number in range(100) for _ in range(2)]
    features = Features(
        {
            "img": Image(),
            "fine_label": ClassLabel(names=[f"fine {number}" for number in range(100)]),
            "coarse_label": ClassLabel(names=[f"coarse {number}" for number in range(20)]),
            "word": Value("string"),
        }
    )
    columns = {
        "img": pictures(len(fine)),
        "fine_label": fine,
        "coarse_label": [number // 5 for number in fine],
        "word": [f"w{99 - number}" for number in fine],
    }
    for part in ("train", "test"):
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{part}.parquet")
    return folder


def test_of_two_label_columns_the_finer_is_taken_and_the_other_is_named(hundred):
    data = load_data(hundred)
    assert data.num_classes == 100
    assert any(
        "from column 'fine_label' (data.label_column chooses another: coarse_label" in x for x in data.account.lines
    )
    assert load_data(hundred, DataSettings(label_column="coarse_label")).num_classes == 20


def test_labels_as_text_are_classes_and_three_of_a_hundred_can_be_chosen(hundred):
    data = load_data(hundred, DataSettings(label_column="word"))
    assert data.num_classes == 100
    three = load_data(hundred, DataSettings(label_column="word", classes=("w7", "w50", "w0")))
    assert three.class_names == ("w7", "w50", "w0")
    assert three.class_counts.tolist() == [2, 2, 2]


def test_a_class_with_one_image_is_refused_with_its_name_and_one_of_two_is_distilled():
    with pytest.raises(UserError, match=r"a single image of the class '1' .* needs at least two, or .* data\.classes"):
        load_data((Labelled([4, 1, 4]), Labelled([2, 2, 2])))
    data = load_data((Labelled([4, 2, 4]), Labelled([2, 2, 2])))
    with pytest.raises(UserError, match=r"starts from 4 real images per class .* has 2; use synthetic\.init=noise"):
        initial_set(Recipe().synthetic, data, 0)
    run = distill_data(data, Recipe().changed({**TINY, "method.classes_per_step": 1, "budget.outer_steps": 3}))
    assert run.synthetic.counts == [1, 1, 1]


def test_an_ipc_above_the_smallest_class_is_refused_with_the_largest_that_fits():
    data = load_data((Labelled([5, 3, 5]), Labelled([2, 2, 2])))
    with pytest.raises(UserError, match=r"ipc 4 starts from 4 real images .* has 3; use ipc at most 3, or"):
        distill_data(data, Recipe().changed({**TINY, "synthetic.ipc": 4}))


TINY = {
    "method.name": "dm",
    "method.real_batch": 2,
    "network.width": 4,
    "network.depth": 1,
    "synthetic.factor": 1,
    "synthetic.ipc": 1,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
    "evaluation.baselines": (),
    "budget.outer_steps": 1,
}


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_thousand_classes_of_two_images_go_in_groups_and_the_run_says_so():
    data = load_data((Labelled([2] * 1000), Labelled([1] * 1000)))
    own = {key: value for key, value in TINY.items() if key not in ("method.name", "network.depth")}
    _, recipe = api.resolve(data, "dm", ipc=1, changes=own)
    assert recipe.method.classes_per_step == 100
    observer, start = Notes(), initial_set(recipe.synthetic, data, 0).images
    run = distill_data(data, recipe, observer=observer)
    moved = (run.synthetic.images != start).flatten(1).any(dim=1)
    assert int(moved.sum()) == 100
    assert any("one of the 1000 has its turn in one of 10 image updates, 0 or 1" in note for note in observer.notes)
    assert torch.isfinite(run.synthetic.images).all()

"""One contract for every method and every network source; a new method costs one row of METHODS."""

import hashlib

import pytest
import torch

from ddistill.data import load_data
from ddistill.engine import Observer, distill_data
from ddistill.recipe import Recipe
from ddistill.runtime.errors import RunError
from ddistill.synthetic import initial_set, load_synthetic

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.ipc": 2,
    "training.batch": 16,
    "evaluation.epochs": 2,
    "evaluation.repeats": 1,
    "evaluation.baselines": (),
    "budget.outer_steps": 2,
    "run.compile": "off",
}
METHODS = {
    "idc": {
        "method.distance": "l1",
        "method.image_lr": 0.05,
        "method.base_side": 8,
        "method.inner_steps": 2,
        "method.real_batch": 8,
        "method.network_samples": 32,
    },
    "idc mse F=1": {
        "synthetic.factor": 1,
        "method.image_lr": 0.5,
        "method.base_side": 8,
        "method.inner_steps": 2,
        "method.real_batch": 8,
        "method.network_samples": 32,
    },
    "idc cosine F=3 multi": {
        "synthetic.factor": 3,
        "synthetic.decode": "multi",
        "method.distance": "cosine",
        "method.image_lr": 0.05,
        "method.base_side": 8,
        "method.inner_steps": 1,
        "method.real_batch": 8,
        "method.network_samples": 0,
    },
}
CONDENSATION = {
    "synthetic.factor": 1,
    "method.inner_steps": 2,
    "method.real_batch": 8,
    "method.network_epochs": 1,
}
ONE_STEP = {"synthetic.factor": 1, "budget.outer_steps": 1}
METHODS |= {
    "dc": {"method.name": "dc", **CONDENSATION},
    "dsa": {"method.name": "dsa", **CONDENSATION},
    "dm": {"method.name": "dm", "synthetic.factor": 1, "method.real_batch": 8},
    "cafe": {
        "method.name": "cafe",
        "synthetic.factor": 1,
        "method.real_batch": 8,
        "method.window": 2,
        "method.max_inner_steps": 2,
        "method.max_network_epochs": 1,
    },
    "tm": {
        "method.name": "tm",
        "synthetic.factor": 1,
        "method.student_steps": 2,
        "method.expert_epochs": 1,
        "method.max_start_epoch": 1,
    },
    "along training": {"method.name": "along-training", "method.real_batch": 8},
    "along training, sweeps": {
        "synthetic.factor": 1,
        "method.name": "along-training",
        "method.distance": "characteristic",
        "method.frequencies": 16,
        "method.steps": "sweeps",
        "method.image_optimiser": "sgd",
        "method.real_batch": 8,
    },
    "dm in groups": {
        "method.name": "dm",
        "synthetic.factor": 1,
        "method.real_batch": 8,
        "method.classes_per_step": 7,  # of 10: two groups of 5
    },
    "idc in groups": {
        "method.image_lr": 0.05,
        "method.base_side": 8,
        "method.inner_steps": 2,
        "method.real_batch": 8,
        "method.network_samples": 16,
        "method.classes_per_step": 3,  # four groups, of 2 or 3
    },
    "along training in groups": {
        "method.name": "along-training",
        "method.image_optimiser": "adamw",
        "method.image_lr": 0.01,
        "method.real_batch": 8,
        "method.classes_per_step": 5,
    },
    "random": {"method.name": "random", **ONE_STEP},
    "herding": {"method.name": "herding", **ONE_STEP},
    "k-center": {"method.name": "k-center", **ONE_STEP},
    "el2n": {"method.name": "el2n"},
    "rded": {"method.name": "rded", "method.candidates": 20, "budget.outer_steps": 1},
}
SOURCES = {
    "fresh": {"model_augmentation.networks": "fresh"},
    "fresh, trained": {"model_augmentation.networks": "fresh", "model_augmentation.fresh_epochs": 1},
    "pool": {
        "model_augmentation.networks": "pool",
        "model_augmentation.pool_size": 2,
        "model_augmentation.pool_epochs": 1,
    },
    "pool + perturb": {
        "model_augmentation.networks": "pool",
        "model_augmentation.pool_size": 2,
        "model_augmentation.pool_epochs": 1,
        "model_augmentation.perturb": True,
    },
    "average + fixed alpha": {
        "model_augmentation.networks": "pool",
        "model_augmentation.pool_size": 2,
        "model_augmentation.pool_epochs": 1,
        "model_augmentation.selection": "average",
        "model_augmentation.perturb": True,
        "model_augmentation.perturb_alpha": 0.05,
    },
}
EXPERTS = {
    "model_augmentation.networks": "trajectories",
    "model_augmentation.pool_size": 2,
    "model_augmentation.pool_epochs": 2,
}
SOURCES |= {
    "trajectories": EXPERTS,
    "trajectories + perturb": {**EXPERTS, "model_augmentation.perturb": True},
    "snapshots + perturb": {
        **EXPERTS,
        "model_augmentation.networks": "snapshots",
        "model_augmentation.ahead": 2,
        "model_augmentation.perturb": True,
    },
    "line": {**EXPERTS, "model_augmentation.networks": "line"},
}
SOME_SOURCES = {
    "idc": list(SOURCES)[:5],
    "tm": ["trajectories", "trajectories + perturb"],
    "along training": ["snapshots + perturb", "line"],
    "along training, sweeps": ["line"],
    "dm in groups": ["pool + perturb"],
    "idc in groups": ["fresh"],
    "along training in groups": ["snapshots + perturb"],
    "dc": ["fresh", "pool", "pool + perturb"],
    "random": ["fresh"],
    "el2n": ["pool + perturb"],
    "rded": ["pool"],
}
EVERY = [
    pytest.param({**METHODS[method], **SOURCES[source]}, id=f"{method} / {source}")
    for method in METHODS
    for source in SOME_SOURCES.get(method, ["fresh", "pool + perturb"])
]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def make_recipe(changes, **more) -> Recipe:
    return Recipe().changed({**TINY, **changes, **more})


def bits(images: torch.Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("changes", EVERY)
def test_a_run_improves_images_and_nothing_else(changes, digits):
    recipe = make_recipe(changes)
    before, start = digits.train.images.clone(), initial_set(recipe.synthetic, digits, 0)
    run = distill_data(digits, recipe)
    images = run.synthetic.images
    assert torch.isfinite(images).all()
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    per_image = (images - start.images).flatten(1).norm(dim=1)
    moved = float((per_image > 0).float().mean())
    assert moved == 1.0 or (recipe.method.needs.one_step and moved > 0.5)  # one may be chosen that was there
    assert torch.equal(run.synthetic.labels, start.labels)
    assert torch.equal(digits.train.images, before)
    assert 0.0 <= run.summary["accuracy"]["mean"] <= 100.0
    assert (run.summary["flops"]["distill"] > 0) == recipe.method.needs.network


@pytest.mark.parametrize("changes", EVERY)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(changes, digits):
    first, second = (distill_data(digits, make_recipe(changes)) for _ in range(2))
    other = distill_data(digits, make_recipe(changes, **{"run.seed": 1}))
    assert bits(first.synthetic.images) == bits(second.synthetic.images)
    assert first.summary["accuracy"] == second.summary["accuracy"]
    assert bits(first.synthetic.images) != bits(other.synthetic.images)


@pytest.mark.parametrize("method", METHODS)
def test_the_class_chunk_changes_nothing_but_rounding(method, digits, auto_precision):
    source = SOURCES[SOME_SOURCES.get(method, ["fresh"])[0]]
    one, four = (
        distill_data(digits, make_recipe(METHODS[method], **source, **{"run.class_chunk": chunk})).synthetic.images
        for chunk in (1, 4)
    )
    if auto_precision == "fp32":
        assert torch.allclose(one, four, atol=1e-4)
    else:  # bfloat16 rounds a matching gradient by up to a tenth, with the kernels and without
        start = initial_set(make_recipe(METHODS[method], **source).synthetic, digits, 0).images
        assert float((one - four).norm()) < 0.25 * float((one - start).norm())


@pytest.mark.parametrize("changes", EVERY)
def test_recipe_and_artifact_come_back_from_disk(changes, digits, tmp_path):
    run = distill_data(digits, make_recipe(changes), out=tmp_path / "run")
    assert Recipe.from_yaml(tmp_path / "run" / "recipe.yaml") == run.recipe
    loaded = load_synthetic(tmp_path / "run")
    assert bits(loaded.images) == bits(run.synthetic.images)
    assert torch.equal(loaded.labels, run.synthetic.labels)
    assert (loaded.factor, loaded.decoder, loaded.class_names) == (
        run.synthetic.factor,
        run.synthetic.decoder,
        digits.class_names,
    )


class StopAfter(Observer):
    """Interrupts in the middle of an outer step."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def progress(self, phase, done, total, **figures):
        if phase == "distill":
            self.calls -= 1
            if self.calls == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("changes", EVERY)
def test_an_interrupted_run_resumes_to_the_same_bits(changes, digits, tmp_path):
    recipe = make_recipe(changes, **{} if "budget.outer_steps" in changes else {"budget.outer_steps": 3})
    whole = distill_data(digits, recipe)
    calls = getattr(recipe.method, "inner_steps", 1) + 1
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, recipe, out=tmp_path / "run", observer=StopAfter(calls))
    resumed = distill_data(digits, recipe, out=tmp_path / "run", resume=True)
    assert bits(resumed.synthetic.images) == bits(whole.synthetic.images)
    assert resumed.summary["accuracy"] == whole.summary["accuracy"]


def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_last_good_images(digits, tmp_path):
    changes = {**METHODS["idc mse F=1"], "method.image_lr": 1e38}
    with pytest.raises(RunError, match=r"outer step 1.*method\.image_lr"):
        distill_data(digits, make_recipe(changes), out=tmp_path / "run")
    stored = sorted((tmp_path / "run" / "checkpoint").glob("*.safetensors"))
    assert [path.name for path in stored] == ["step-00000000.safetensors"]

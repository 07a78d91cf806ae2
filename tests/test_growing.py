"""Sets that grow: kept images, the order of classes, images that differ in number, a bound on all of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from helpers import Interrupt
from typer.testing import CliRunner

import ddistill
from ddistill.cli import app
from ddistill.data import load_data
from ddistill.data.settings import DataSettings
from ddistill.growing import shared
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.synthetic import GrowSettings, SyntheticSet, SyntheticSettings, initial_set, save_synthetic

OLD = ("0", "1", "2", "3", "4", "5", "6", "9")
TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.ipc": 2,
    "synthetic.factor": 1,
    "method.inner_steps": 2,
    "method.real_batch": 8,
    "method.network_samples": 16,
    "method.base_side": 8,
    "training.batch": 16,
    "evaluation.epochs": 2,
    "evaluation.repeats": 1,
    "budget.outer_steps": 2,
    "run.compile": "off",
}
SHORT = [f"--set={path}={value}" for path, value in TINY.items() if path != "synthetic.ipc"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Eight classes of digits, the last of which sorts behind those that are missing."""
    changes = {**TINY, "data.classes": list(OLD)}
    return ddistill.distill("digits", Recipe(), out=tmp_path_factory.mktemp("run") / "old", changes=changes)


@pytest.fixture(scope="module")
def grown(finished):
    return ddistill.distill("digits", out=finished.folder.with_name("new"), add_classes_to=finished.folder)


def kept(run, finished) -> bool:
    old = finished.synthetic.images
    return torch.equal(run.synthetic.images[: len(old)], old)


def test_the_finished_classes_come_first_and_keep_every_bit(finished, grown):
    assert grown.synthetic.class_names == (*OLD, "7", "8")
    assert grown.synthetic.counts == [2] * 10
    assert kept(grown, finished)
    again = ddistill.load_synthetic(grown.folder)
    assert kept(type(grown)(grown.recipe, again, {}, None), finished)
    assert again.class_names == grown.synthetic.class_names


def test_the_new_classes_are_distilled_from_images_of_their_own(grown):
    real = load_data("digits", DataSettings(classes=(*OLD, "7", "8")))
    assert grown.recipe.data.fingerprint == real.fingerprint
    for label in (8, 9):
        own = grown.synthetic.images[grown.synthetic.class_slice(label)]
        distance = [
            min(float((real.class_images(c) / 255 - image).square().sum((1, 2, 3)).min()) for image in own)
            for c in (label, *range(8))
        ]
        assert 0 < distance[0] == min(distance)


def test_a_grown_run_is_judged_on_all_classes(finished, grown):
    assert grown.summary["baselines"]["random"]["images"] == grown.summary["stored_images"] == 20
    found = ddistill.evaluate(grown.folder)
    assert list(found.runs) == pytest.approx(grown.summary["accuracy"]["runs"], abs=0.01)
    assert found.protocol["test_images"] == 359 > ddistill.evaluate(finished.folder).protocol["test_images"]
    assert '"9", "7", "8"]' in (grown.folder / "report.html").read_text()


POOLED = {"model_augmentation.networks": "pool", "model_augmentation.pool_size": 1}


@pytest.fixture(scope="module")
def whole(finished):
    return ddistill.distill("digits", changes=POOLED, add_classes_to=finished.folder)


@pytest.mark.parametrize(("phase", "at"), [("pool", 1), ("distill", 3), ("evaluate", 1)])
def test_an_interrupted_growth_goes_on_to_the_same_bits(finished, whole, tmp_path, phase, at):
    how = {"out": tmp_path / "run", "changes": POOLED, "add_classes_to": finished.folder}
    with pytest.raises(KeyboardInterrupt):
        ddistill.distill("digits", observer=Interrupt(phase, at), **how)
    again = ddistill.distill("digits", resume=True, **how)
    assert torch.equal(again.synthetic.images, whole.synthetic.images)
    assert again.summary["accuracy"] == whole.summary["accuracy"]
    assert kept(again, finished)


def test_the_recipe_of_a_grown_run_repeats_it_and_knows_the_set_that_it_grew_from(finished, grown, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "moved")
    recipe = Recipe.from_yaml(grown.folder / "recipe.yaml")
    moved = {"synthetic.grow.source": str(tmp_path / "moved")}
    again = ddistill.distill(None, recipe, changes=moved)
    assert torch.equal(again.synthetic.images, grown.synthetic.images)
    with pytest.raises(UserError, match="fingerprint differs"):
        ddistill.distill(None, recipe, changes={"synthetic.grow.source": str(grown.folder)})
    with pytest.raises(UserError, match=r"synthetic\.grow\.source=RUN"):
        ddistill.distill("digits", ddistill.api.recipe_of(grown.folder))  # what travels names no place here


def test_the_images_of_a_grown_run_that_is_moved_go_on(finished, grown, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "moved")
    shutil.copytree(grown.folder, tmp_path / "run")
    changes = {"budget.outer_steps": 3}
    more = ddistill.distill(
        "digits", out=tmp_path / "run", changes=changes, resume="extend", add_classes_to=tmp_path / "moved"
    )
    assert more.summary["outer_steps"] == 3
    assert kept(more, finished)


def test_with_refine_all_images_go_on_from_where_they_were(finished, tmp_path):
    run = ddistill.distill("digits", add_classes_to=finished.folder, refine=True)
    moved = (run.synthetic.images[:16] - finished.synthetic.images).abs().amax((1, 2, 3))
    assert float(moved.min()) > 0
    assert float(moved.mean()) < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"method.name": "dm", "method.image_lr": 1.0, "method.real_batch": 8, "method.inner_steps": 2},
        {"method.name": "dsa", "method.real_batch": 8, "method.inner_steps": 2},
        {
            "method.name": "along-training",
            "method.real_batch": 8,
            "method.image_optimiser": "adamw",
            "model_augmentation.networks": "line",
            "model_augmentation.pool_size": 1,
            "model_augmentation.pool_epochs": 1,
        },
        {"method.image_step": "sum"},
        {"method.image_momentum": 0.9, "run.class_chunk": 4},
        {"method.classes_per_step": 1},
    ],
    ids=["dm", "dsa", "adamw", "sum", "coasting", "groups"],
)
def test_methods_that_match_class_by_class_leave_the_others_alone(finished, changes):
    run = ddistill.distill("digits", changes={**changes, "synthetic.ipc": 3}, add_classes_to=finished.folder)
    first = initial_set(run.recipe.synthetic, load_data("digits", run.recipe.data), 0)
    assert kept(run, finished)
    assert run.synthetic.counts == [2] * 8 + [3, 3]
    for label in (8, 9):
        own = run.synthetic.class_slice(label)
        assert not torch.equal(run.synthetic.images[own], first.images[own])


@pytest.mark.parametrize(
    "changes", [{"method.name": "cafe"}, {"method.name": "random", "budget.outer_steps": 1}], ids=["cafe", "random"]
)
def test_methods_that_do_not_are_refused_before_anything_is_written(finished, tmp_path, changes):
    with pytest.raises(UserError, match=r"does not match class by class.*--refine"):
        ddistill.distill("digits", out=tmp_path / "run", changes=changes, add_classes_to=finished.folder)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- the data


def folder_of_images(path, names) -> str:
    from PIL import Image

    draws = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in names:
            (path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{number}.png")
    return str(path)


def test_a_folder_in_which_the_new_class_sorts_first(tmp_path):
    changes = {**TINY, "synthetic.ipc": 1, "evaluation.baselines": ()}
    before = folder_of_images(tmp_path / "two", ["bee", "cow"])
    old = ddistill.distill(before, Recipe(), out=tmp_path / "old", changes=changes)
    after = folder_of_images(tmp_path / "three", ["ant", "bee", "cow", "dog"])
    new = ddistill.distill(after, add_classes_to=tmp_path / "old", changes={"data.classes": ["ant"]})
    assert new.synthetic.class_names == ("bee", "cow", "ant")
    assert kept(new, old)
    with pytest.raises(UserError, match=r"lacks the class 'bee', 'cow'.*put the new ones beside .*two"):
        ddistill.distill(folder_of_images(tmp_path / "new", ["ant", "dog"]), add_classes_to=tmp_path / "old")
    with pytest.raises(UserError, match="no class besides those of"):
        ddistill.distill(None, add_classes_to=tmp_path / "old")


def test_classes_that_were_renamed_keep_their_new_names(tmp_path):
    changes = {**TINY, "data.classes": {"3": "three", "1": "one"}}
    old = ddistill.distill("digits", Recipe(), out=tmp_path / "old", changes=changes)
    new = ddistill.distill("digits", add_classes_to=tmp_path / "old", changes={"data.classes": {"0": "nought"}})
    assert new.synthetic.class_names == ("three", "one", "nought")
    assert kept(new, old)
    with pytest.raises(UserError, match="no class besides those"):
        ddistill.distill("digits", add_classes_to=tmp_path / "old", changes={"data.classes": {"5": "one"}})


def test_data_that_are_loaded_must_have_the_order(finished):
    with pytest.raises(UserError, match=r"load the data with DataSettings\(classes=\['0'.*'9', '7', '8'\]"):
        ddistill.distill(load_data("digits"), add_classes_to=finished.folder)
    real = load_data("digits", DataSettings(classes=(*OLD, "7", "8")))
    assert kept(ddistill.distill(real, add_classes_to=finished.folder), finished)


def test_what_does_not_fit_the_finished_set_is_refused(finished):
    with pytest.raises(UserError, match=r"has synthetic\.factor=1, not 2"):
        ddistill.distill("digits", add_classes_to=finished.folder, changes={"synthetic.factor": 2})
    with pytest.raises(UserError, match="holds images of 1 x 8 x 8, the data are of 1 x 16 x 16"):
        ddistill.distill("digits", add_classes_to=finished.folder, changes={"data.size": 16})
    with pytest.raises(UserError, match=r"class '0'.*has 2 images and is to have 5.*--refine"):
        ddistill.distill("digits", add_classes_to=finished.folder, changes={"synthetic.ipc_by_class": {"0": 5}})
    with pytest.raises(UserError, match="--refine goes with --add-classes-to"):
        ddistill.distill("digits", refine=True)
    with pytest.raises(TypeError, match="'add_class_to'"):
        ddistill.distill("digits", add_class_to=finished.folder)


# ------------------------------------------------------------------------------------------------------ the memory


@pytest.mark.parametrize(
    ("total", "most", "counts"),
    [
        (10, [None] * 3, [4, 3, 3]),
        (11, [None] * 3, [4, 4, 3]),
        (10, [1, None, None], [1, 5, 4]),
        (10, [1, 2, 3], [1, 2, 3]),
        (7, [2, 2, None, None], [2, 2, 2, 1]),
        (9, [1, 1, None, None], [1, 1, 4, 3]),
        (3, [None] * 3, [1, 1, 1]),
    ],
)
def test_images_are_shared_as_evenly_as_the_classes_allow(total, most, counts):
    assert shared(total, most) == counts


def test_a_memory_is_shared_by_the_classes(tmp_path):
    run = ddistill.distill("digits", Recipe(), changes={k: v for k, v in TINY.items() if "ipc" not in k}, memory=25)
    assert run.synthetic.counts == [3] * 5 + [2] * 5
    assert run.recipe.synthetic.ipc == 2
    assert run.summary["baselines"]["random"]["images"] == 25
    for memory, changes, match in (
        (9, {}, "less than one image for each of the 10 classes; give 10 or more"),
        (20, {"synthetic.ipc": 2}, r"says how many images each class has; leave out --ipc \(synthetic\.ipc\)"),
    ):
        with pytest.raises(UserError, match=match):
            ddistill.distill("digits", out=tmp_path / "run", changes=changes, memory=memory)
    assert not (tmp_path / "run").exists()


def test_finished_classes_make_room_for_new_ones(finished, tmp_path):
    run = ddistill.distill("digits", add_classes_to=finished.folder, memory=14, out=tmp_path / "run")
    assert run.synthetic.counts == [2, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    for label, count in enumerate(run.synthetic.counts[:8]):
        before = finished.synthetic.images[finished.synthetic.class_slice(label)]
        own = run.synthetic.images[run.synthetic.class_slice(label)]
        assert len({tuple(image.flatten().tolist()) for image in torch.cat([before, own])}) == len(before)
        assert len(own) == count
    more = ddistill.distill("digits", add_classes_to=finished.folder, memory=30)
    assert more.synthetic.counts == [2] * 8 + [7, 7]
    assert kept(more, finished)
    refined = ddistill.distill("digits", add_classes_to=finished.folder, memory=30, refine=True)
    assert refined.synthetic.counts == [3] * 10


def test_of_a_class_that_shrinks_those_stay_that_stand_for_all(tmp_path):
    levels = torch.tensor([0.1, 0.5, 0.8, 0.1, 0.5, 0.8])
    images = levels.view(-1, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    real = load_data("digits", DataSettings(classes=("0", "1", "2")))
    labels = torch.arange(2).repeat_interleave(3)
    save_synthetic(SyntheticSet(images, labels, ("0", "1"), 1, "single", real.normalisation), tmp_path, {})
    grow = GrowSettings(source=str(tmp_path))
    first = initial_set(SyntheticSettings(ipc_by_class={"1": 2}, factor=1, grow=grow), real, 0)
    assert first.counts == [1, 2, 1]
    # the mean is 0.467: 0.5 is nearest to it, then with 0.1 the mean is 0.3, with 0.8 it is 0.65
    assert first.images[:3, 0, 0, 0].tolist() == pytest.approx([0.5, 0.1, 0.5])


def test_the_command_grows_a_run(finished, tmp_path):
    words = ["distill", "digits", "--add-classes-to", str(finished.folder), "--memory", "20", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    grown = ddistill.load_synthetic(tmp_path / "run")
    assert grown.class_names == (*OLD, "7", "8")
    assert torch.equal(grown.images[:16], finished.synthetic.images)
    wrong = CliRunner().invoke(app, [*words, "--ipc", "3", "--out", str(tmp_path / "wrong")])
    assert (wrong.exit_code, (tmp_path / "wrong").exists()) == (2, False)

"""Classes in groups: each has its turn, absent ones wait, and what a step needs follows the group."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from matched import CLASSES, IPC, PER_CLASS, gradients, make_characteristic, make_context, make_set, nothing

from ddistill.data import ImageSet, load_data
from ddistill.data.real_data import Origin
from ddistill.methods import DistributionMatching, DistributionMatchingSettings, DSASettings, GradientMatching
from ddistill.methods.image_optimiser import ImageAdam, ImageSGD
from ddistill.methods.turns import appearances, class_turn, turns_in_words, updates_per_round
from ddistill.recipe import Recipe
from ddistill.recipes import FAMILIES, MOST_AT_ONCE, for_images
from ddistill.runtime.errors import UserError


@pytest.mark.parametrize(("classes", "most"), [(10, 3), (10, 5), (7, 1), (100, 30), (1000, 100)])
def test_each_class_has_its_turn_before_any_has_its_second(classes, most):
    groups = updates_per_round(classes, most)
    turns = [class_turn(0, update, range(classes), most) for update in range(3 * groups)]
    for start in range(0, len(turns), groups):
        assert sorted(label for turn in turns[start : start + groups] for label in turn) == list(range(classes))
    assert max(map(len, turns)) <= most
    assert max(map(len, turns)) - min(map(len, turns)) <= 1
    assert all(list(turn) == sorted(turn) for turn in turns)
    assert turns == [class_turn(0, update, range(classes), most) for update in range(3 * groups)]
    assert turns != [class_turn(1, update, range(classes), most) for update in range(3 * groups)]
    assert turns[:groups] != turns[groups : 2 * groups]


@pytest.mark.parametrize("most", [None, 10, 99])
def test_all_classes_are_no_group(most):
    assert class_turn(0, 5, range(10), most) == range(10)


def test_appearances_are_the_places_of_the_turns():
    assert appearances([[1, 2], [0], [2, 4]]) == {0: ([0], [1]), 1: ([0], [0]), 2: ([1, 0], [0, 2]), 4: ([1], [2])}


# ------------------------------------------------------------------------------------------------------ the optimiser


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_class_moves_by_its_own_steps_and_waits_for_its_turn(kind):
    ours, theirs = make_set(), make_set()
    parts = [torch.nn.Parameter(images.clone()) for images in theirs.images.split(2)]
    if kind == "sgd":
        optimiser, expected = ImageSGD(ours, 0.1, 0.9), torch.optim.SGD(parts, 0.1, 0.9)
    else:
        optimiser, expected = ImageAdam(ours, 0.01, 0.1), torch.optim.AdamW(parts, 0.01, weight_decay=0.1)
    for number, (gradient, turn) in enumerate(zip(gradients(5), [[1], [0], [0], [1], range(2)], strict=True)):
        before = {name: tensor.clone() for name, tensor in (("images", ours.images), *optimiser.state().items())}
        optimiser.begin(turn)
        for place, label in enumerate(turn):
            own = gradient[2 * label : 2 * label + 2]
            optimiser.take(slice(2 * place, 2 * place + 2), own)
            parts[label].grad = own
        optimiser.finish()
        expected.step()
        expected.zero_grad()
        torch.testing.assert_close(ours.images, torch.cat([part.detach() for part in parts]))
        for label in {0, 1} - set(turn):
            for name, tensor in (("images", ours.images), *optimiser.state().items()):
                rows = slice(label, label + 1) if name == "step" else slice(2 * label, 2 * label + 2)
                assert torch.equal(tensor[rows], before[name][rows]), (number, name)


def test_within_a_group_images_coast_as_one_tensor_of_its_classes():
    ours = make_set()
    three = replace(ours, images=torch.cat([ours.images, ours.images[:2]]), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    three = replace(three, class_names=("a", "b", "c"))
    before = three.images.clone()
    pair = torch.nn.Parameter(torch.cat([before[:2], before[4:]]))
    optimiser, expected = ImageSGD(three, 0.1, 0.5, coasts=True), torch.optim.SGD([pair], 0.1, 0.5)
    for gradient in gradients():
        optimiser.begin([0, 2])
        for place in range(2):
            rows = slice(2 * place, 2 * place + 2)
            optimiser.take(rows, gradient[rows])
            pair.grad = torch.zeros_like(pair)
            pair.grad[rows] = gradient[rows]
            expected.step()
        optimiser.finish()
    torch.testing.assert_close(torch.cat([three.images[:2], three.images[4:]]), pair.detach())
    assert torch.equal(three.images[2:4], before[2:4])
    assert not optimiser.velocity[2:4].any()


# ----------------------------------------------------------------------------------------------------------- a method


def make(**settings) -> DistributionMatching:
    values = {"real_batch": 8, "image_lr": 0.1, **settings}
    return DistributionMatching(DistributionMatchingSettings(**values), make_context())


def test_a_group_of_all_classes_gives_the_bits_of_none():
    one, other = make(), make(classes_per_step=CLASSES)
    losses = [[float(method.outer_step(step, nothing)) for step in range(1, 4)] for method in (one, other)]
    assert losses[0] == losses[1]
    assert torch.equal(one.context.synthetic.images, other.context.synthetic.images)


def test_a_step_reads_draws_moves_and_means_over_its_group(monkeypatch):
    method, asked = make(classes_per_step=2, inner_steps=2), []
    monkeypatch.setattr(ImageSet, "expect", lambda self, index: asked.append(index.clone()))
    counted = Counter()
    monkeypatch.setattr(method, "loss", lambda n, r, s, label: counted.update([int(label)]) or s.square().mean())
    for step in range(1, 4):
        before, asked[:] = method.context.synthetic.images.clone(), []
        turns = method.turns(step)
        draws = method.draw(step)
        assert draws.real.shape == (2, 2, 8)
        assert len(draws.augment.choices) == 4
        loss = float(method.outer_step(step, nothing))
        moved = (method.context.synthetic.images != before).flatten(1).any(dim=1).view(CLASSES, IPC).all(dim=1)
        assert moved.nonzero().flatten().tolist() == sorted({label for turn in turns for label in turn})
        assert 0.0 < loss < 10.0
        for turn, index in zip(turns, asked, strict=True):
            assert [int(rows.min()) // PER_CLASS for rows in index] == list(turn)
            assert [int(rows.max()) // PER_CLASS for rows in index] == list(turn)
    assert set(counted.values()) == {3}  # six updates of 2 and 1 classes: three rounds
    assert set(counted) == set(range(CLASSES))


def test_the_loss_of_a_step_is_the_mean_of_its_classes(monkeypatch):
    method = make(classes_per_step=2, inner_steps=2)
    monkeypatch.setattr(method, "loss", lambda n, r, s, label: s.sum() * 0 + label)
    turns = method.turns(1)
    expected = sum(map(sum, turns)) / sum(map(len, turns))
    assert float(method.outer_step(1, nothing)) == pytest.approx(expected)


def test_a_round_of_groups_costs_what_an_update_of_all_classes_costs():
    whole, parts = make().flops_per_outer_step(), make(classes_per_step=2).flops_per_outer_step()
    assert parts == pytest.approx(whole / 2, rel=0.01)


def test_decoded_subsets_are_drawn_for_the_classes_of_the_turn():
    method = make_characteristic()
    assert method.turns(1) == [range(CLASSES)]
    context = make_context()
    settings = DSASettings(inner_steps=3, real_batch=4, max_decoded=1, classes_per_step=2, network_epochs=1)
    method = GradientMatching(settings, context)
    draws = method.draw(2)
    for label, rows in draws.subset.items():
        assert [inner for inner, turn in enumerate(draws.turns) if label in turn] == list(rows)
    assert torch.isfinite(method.outer_step(1, nothing))


def test_batch_norms_see_the_images_of_the_group(monkeypatch):
    context, seen = make_context("batch"), []
    method = GradientMatching(DSASettings(inner_steps=1, real_batch=4, classes_per_step=1), context)
    monkeypatch.setattr(ImageSet, "fetch", lambda self, index: seen.append(index) or self.images[index].float() / 255)
    method.before(1, 0)
    (turn,) = method.turns(1)
    assert (seen[0] // PER_CLASS).unique().tolist() == turn


# --------------------------------------------------------------------------------------------------------- the recipes


@pytest.mark.parametrize("family", ["tgdd", "tgdd-ma", "dm", "dm-ma", "idc", "idc-ma", "ncfm", "dsa", "cafe", "tm"])
def test_recipes_for_many_classes_take_groups_and_keep_the_updates_of_a_class(family):
    few = load_data("digits")
    few = replace(few, origin=Origin("mine", "/somewhere/mine"))
    many = replace(few, class_names=tuple(f"c{number:04d}" for number in range(250)))
    usual, grouped = for_images(family, 1, few), for_images(family, 1, many)
    assert getattr(usual.method, "classes_per_step", None) is None
    if family in ("dsa", "cafe", "tm"):  # the network is trained on the whole set between updates, or no loop
        assert grouped == usual
        return
    assert grouped.method.classes_per_step == MOST_AT_ONCE == 100
    assert grouped.budget.outer_steps == 3 * usual.budget.outer_steps
    assert family in FAMILIES


def test_what_groups_mean_is_said():
    recipe = Recipe().changed({"method.name": "dm", "budget.outer_steps": 7})
    assert turns_in_words(recipe.method, 100, 7) == []
    (line,) = turns_in_words(recipe.changed({"method.classes_per_step": 30}).method, 100, 7)
    assert "one of the 100 has its turn in one of 4 image updates, 1 or 2 of them in the 7 outer steps" in line


@pytest.mark.parametrize("name", ["cafe", "tm"])
def test_methods_that_do_not_sum_over_classes_refuse_groups(name):
    with pytest.raises(UserError, match="classes_per_step"):
        Recipe().changed(
            {"method.name": name, "method.classes_per_step": 5, "model_augmentation.networks": "trajectories"}
        )

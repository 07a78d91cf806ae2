"""Early-stage pool, selection and weight perturbation, section 2 of the algorithm description.

    python -m pytest tests/network_sources/test_sources.py

Perturbed weights are compared with the reference in float64, relative tolerance 1e-6: draws are float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import perturbation, selection
from safetensors.torch import load_file, save_file

from ddistill.augment import Normalisation
from ddistill.data import ImageSet, load_data
from ddistill.network_sources import (
    AheadSource,
    FreshSource,
    ModelAugmentationSettings,
    NetworkDraw,
    NetworkFactory,
    NetworkStore,
    PerturbedSource,
    PoolSource,
    Wanted,
    Weights,
    load_into,
    train_networks,
)
from ddistill.network_sources.perturb import filter_normalised, perturbed, random_direction
from ddistill.networks import NetworkSettings
from ddistill.recipe import build
from ddistill.runtime.errors import UserError
from ddistill.training import Safety, TrainingSettings, predict_accuracy

NETWORK = NetworkSettings(width=4, depth=2)
DATA = "d" * 64


def toy_weights(seed: int = 0, dtype: torch.dtype = torch.float64) -> Weights:
    draws = torch.Generator().manual_seed(seed)
    shapes = {"conv": (4, 3, 3, 3), "conv.bias": (4,), "norm": (4,), "linear": (5, 6), "linear.bias": (5,)}
    weights = {name: torch.randn(shape, generator=draws, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: weight.to(dtype) for name, weight in weights.items()}


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copied(weights: Weights) -> Weights:
    return {name: weight.clone() for name, weight in weights.items()}


def toy_factory(network: NetworkSettings = NETWORK, seed: int = 0, **training: object) -> NetworkFactory:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=draws)
    labels = torch.arange(20) % 3
    settings = TrainingSettings(batch=8).model_copy(update=training)
    return NetworkFactory(network, settings, ImageSet(images, labels, Normalisation((0.5,), (0.3,))), 3)


# ------------------------------------------------------------------------------------------------ perturbation


def test_every_filter_of_a_direction_is_as_long_as_the_same_filter_of_the_weights():
    weights = toy_weights()
    weights["conv"][2] *= 100
    weights["linear"][1] = 0
    direction = random_direction(weights, torch.Generator().manual_seed(1))
    assert sorted(direction) == ["conv", "linear"]
    for name, d in direction.items():
        torch.testing.assert_close(d.flatten(1).norm(dim=1), weights[name].flatten(1).norm(dim=1), rtol=1e-6, atol=1e-9)


def test_a_direction_of_zeros_stays_finite():
    assert torch.equal(filter_normalised(torch.zeros(2, 3), torch.ones(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("coefficients", [[0.05], [0.03, -0.08]])
def test_perturbed_weights_are_what_the_reference_computes_from_the_same_draws(coefficients):
    weights = toy_weights()
    before = copied(weights)
    directions = [random_direction(weights, torch.Generator().manual_seed(seed)) for seed in range(len(coefficients))]
    raw = []
    for seed in range(len(coefficients)):
        draws = torch.Generator().manual_seed(seed)
        raw.append({n: torch.randn(w.shape, generator=draws).double() for n, w in weights.items() if w.ndim >= 2})
    got, expected = perturbed(weights, directions, coefficients), perturbation.perturb(weights, raw, coefficients)
    for name in weights:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-9)
    assert same(weights, before)
    assert all(torch.equal(got[name], weights[name]) for name in weights if weights[name].ndim < 2)


class Constant:
    """A source that always gives copies of the same weights."""

    def __init__(self, weights: Weights) -> None:
        self.kept = weights

    def draw(self, step: int) -> NetworkDraw:
        return NetworkDraw(copied(self.kept), {"reference": torch.ones(1)})


def moves_of(settings: ModelAugmentationSettings, steps: int, seed: int = 0) -> torch.Tensor:
    """How far each step moves each filter of a large layer, over the filter's own length: [steps, filters, fan-in]."""
    weight = torch.randn(8, 4000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    source = PerturbedSource(Constant({"w": weight}), settings, seed)
    return torch.stack(
        [(source.draw(step).weights["w"] - weight) / weight.norm(dim=1)[:, None] for step in range(steps)]
    )


def test_two_directions_with_magnitudes_in_the_range_make_the_move_of_the_program():
    lengths = moves_of(ModelAugmentationSettings(perturb=True), 300).norm(dim=2)
    # Two nearly orthogonal directions: |a d1 + b d2| = sqrt(a^2 + b^2), a and b in [0.01, 0.09].
    assert float(lengths.min()) >= 0.01 * 2**0.5 * 0.9
    assert float(lengths.max()) <= 0.09 * 2**0.5 * 1.1
    assert float((lengths.std(dim=1) / lengths.mean(dim=1)).max()) < 0.1  # the same coefficients for every filter
    per_step = lengths.mean(dim=1)
    # E(a^2) of U(0.01, 0.09) is 0.0091 / 3.
    assert float(per_step.square().mean()) == pytest.approx(2 * 0.0091 / 3, rel=0.1)


def coefficients_of(settings: ModelAugmentationSettings, steps: int, monkeypatch) -> np.ndarray:
    """The coefficients in force at each step, seen where they are applied."""
    seen = []

    def spy(weights: Weights, directions: list[Weights], coefficients: list[float]) -> Weights:
        assert len(directions) == len(coefficients)
        assert len({id(direction) for direction in directions}) == len(directions)
        if len(directions) == 2:
            assert not torch.equal(directions[0]["linear"], directions[1]["linear"])
        seen.append(coefficients)
        return perturbed(weights, directions, coefficients)

    monkeypatch.setattr("ddistill.network_sources.sources.perturbed", spy)
    source = PerturbedSource(Constant(toy_weights()), settings, 0)
    for step in range(1, steps + 1):
        source.draw(step)
    return np.array(seen)


def test_coefficients_have_random_signs_and_magnitudes_uniform_in_the_range(monkeypatch):
    drawn = coefficients_of(ModelAugmentationSettings(perturb=True), 600, monkeypatch)
    assert drawn.shape == (600, 2)
    magnitude = np.abs(drawn)
    assert 0.01 <= magnitude.min() < 0.012
    assert 0.088 < magnitude.max() <= 0.09
    assert magnitude.mean() == pytest.approx(0.05, abs=0.003)
    for first in (-1, 1):
        for second in (-1, 1):  # each of the four pairs of signs about equally often
            share = np.mean((np.sign(drawn[:, 0]) == first) & (np.sign(drawn[:, 1]) == second))
            assert share == pytest.approx(0.25, abs=0.09)
    assert abs(np.corrcoef(magnitude.T)[0, 1]) < 0.2


def test_another_range_is_kept(monkeypatch):
    settings = ModelAugmentationSettings(perturb=True, perturb_range=(0.2, 0.3))
    magnitude = np.abs(coefficients_of(settings, 100, monkeypatch))
    assert magnitude.min() >= 0.2
    assert magnitude.max() <= 0.3


def test_a_fixed_alpha_is_one_direction_with_that_coefficient():
    lengths = moves_of(ModelAugmentationSettings(perturb=True, perturb_alpha=0.07), 5).norm(dim=2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.07), rtol=1e-6, atol=0)


def test_directions_of_different_steps_and_seeds_are_nearly_orthogonal():
    settings = ModelAugmentationSettings(perturb=True, perturb_alpha=0.1)
    moves = torch.cat([moves_of(settings, 3), moves_of(settings, 1, seed=1)]).flatten(1) / (0.1 * 8**0.5)
    cosines = moves @ moves.T - torch.eye(4, dtype=torch.float64)
    assert float(cosines.abs().max()) < 5 / (8 * 4000) ** 0.5  # five standard deviations


def test_a_reference_is_not_perturbed():
    drawn = PerturbedSource(Constant(toy_weights()), ModelAugmentationSettings(perturb=True), 0).draw(1)
    assert torch.equal(drawn.reference["reference"], torch.ones(1))


def test_whole_number_buffers_are_not_perturbed():
    weights = {**toy_weights(), "seen": torch.tensor([[3, 4]])}
    got = PerturbedSource(Constant(weights), ModelAugmentationSettings(perturb=True), 0).draw(1).weights
    assert torch.equal(got["seen"], weights["seen"])
    assert got["seen"].dtype == torch.int64


@pytest.mark.parametrize("values", [{"perturb_range": (0.09, 0.01)}, {"perturb_range": (-0.1, 0.1)}])
def test_an_illegal_range_is_refused(values):
    with pytest.raises(UserError, match="perturb_range"):
        build(ModelAugmentationSettings, values)


# --------------------------------------------------------------------------------------------------- selection


def test_random_selection_gives_every_member_about_equally_often():
    members = [toy_weights(seed) for seed in range(4)]
    source = PoolSource(members, "random", 0)
    given = [source.draw(step).weights for step in range(1, 401)]
    counts = [sum(same(weights, member) for weights in given) for member in members]
    assert sum(counts) == 400
    assert min(counts) > 55  # 100 less five standard deviations


def test_average_selection_gives_the_mean_of_all_members_as_the_reference_does():
    members = [toy_weights(seed) for seed in range(3)]
    before = [copied(member) for member in members]
    expected = selection.average(members)
    source = PoolSource(members, "average", 0)
    for step in (1, 2, 7):
        got = source.draw(step).weights
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-12)
    assert all(same(a, b) for a, b in zip(members, before, strict=True))


SOURCES = {
    "fresh": lambda seed: FreshSource(toy_factory(), 0, seed),
    "fresh, trained first": lambda seed: FreshSource(toy_factory(), 1, seed),
    "pool": lambda seed: PoolSource([toy_weights(s) for s in range(5)], "random", seed),
    "pool, perturbed": lambda seed: PerturbedSource(
        PoolSource([toy_weights(s) for s in range(5)], "random", seed), ModelAugmentationSettings(perturb=True), seed
    ),
    "average, perturbed": lambda seed: PerturbedSource(
        PoolSource([toy_weights(s) for s in range(5)], "average", seed), ModelAugmentationSettings(perturb=True), seed
    ),
    "fresh, perturbed": lambda seed: PerturbedSource(
        FreshSource(toy_factory(), 0, seed), ModelAugmentationSettings(perturb=True), seed
    ),
    "pool, perturbed, drawn ahead": lambda seed: AheadSource(SOURCES["pool, perturbed"](seed)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_is_a_pure_function_of_seed_and_step(kind):
    one, other, another_seed = SOURCES[kind](0), SOURCES[kind](0), SOURCES[kind](1)
    forwards = [one.draw(step).weights for step in range(1, 5)]
    backwards = [other.draw(step).weights for step in range(4, 0, -1)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert any(not same(forwards[0], weights) for weights in forwards[1:])
    assert any(not same(another_seed.draw(step).weights, forwards[step - 1]) for step in range(1, 5))


def test_what_was_drawn_ahead_is_given_once_and_only_for_its_step():
    asked = []

    class Noted:
        def draw(self, step):
            asked.append(step)
            if step == 9:
                raise OSError("the disk is gone")
            return NetworkDraw(toy_weights(step))

    source = AheadSource(Noted())
    assert same(source.draw(1).weights, toy_weights(1))
    source.prepare(2)
    assert asked == [1, 2]
    assert same(source.draw(2).weights, toy_weights(2))
    assert asked == [1, 2]
    assert same(source.draw(2).weights, toy_weights(2))  # a step that is made again
    source.prepare(3)
    assert same(source.draw(7).weights, toy_weights(7))
    assert asked == [1, 2, 2, 3, 7]
    source.prepare(9)
    with pytest.raises(OSError, match="the disk is gone"):
        source.draw(9)


@pytest.mark.parametrize("kind", [*SOURCES, "average"])
def test_what_is_done_to_the_weights_given_never_reaches_the_source(kind):
    source = SOURCES[kind](0) if kind in SOURCES else PoolSource([toy_weights()], "average", 0)
    given = source.draw(1).weights
    before = copied(given)
    for tensor in given.values():
        tensor.zero_()
    assert same(source.draw(1).weights, before)


def test_loading_weights_keeps_the_modules_tensors():
    factory = toy_factory()
    module, weights = factory.build("a"), factory.build("b").state_dict()
    addresses = [parameter.data_ptr() for parameter in module.parameters()]
    load_into(module, weights)
    assert same(dict(module.state_dict()), dict(weights))
    assert [parameter.data_ptr() for parameter in module.parameters()] == addresses


# -------------------------------------------------------------------------------------------------------- pool


def toy_pool(folder: Path, factory: NetworkFactory | None = None, **changes: object) -> NetworkStore:
    settings = {"size": 2, "epochs": 1, "seed": 0, "kind": "pool", **changes}
    wanted = Wanted(*(settings.pop(name) for name in ("size", "epochs", "seed", "kind")))
    data = settings.pop("data_fingerprint", DATA)
    return train_networks(factory or toy_factory(), data, wanted, folder=folder, **settings)


def forbid_training(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was trained")

    monkeypatch.setattr(NetworkFactory, "stages", refuse)


def test_a_pool_is_trained_once_and_read_afterwards(tmp_path, monkeypatch):
    calls = []
    first = toy_pool(tmp_path, size=3, epochs=2, on_member=lambda done, total: calls.append((done, total)))
    assert not first.reused
    assert calls == [(done, 6) for done in range(1, 7)]
    assert len(first.members) == 3
    forbid_training(monkeypatch)
    again = toy_pool(tmp_path, size=3, epochs=2)
    assert again.reused
    assert again.seconds == first.seconds > 0
    assert again.folder == first.folder
    assert all(same(a, b) for a, b in zip(first.members, again.members, strict=True))


def test_a_pool_is_kept_in_the_cache_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "here"))
    pool = train_networks(toy_factory(), DATA, Wanted(size=1, epochs=0, seed=0))
    assert pool.folder.parent == tmp_path / "here" / "pools"


def test_members_differ_and_do_not_depend_on_the_size_of_the_pool(tmp_path):
    two, three = toy_pool(tmp_path, size=2), toy_pool(tmp_path, size=3)
    for index, member in enumerate(three.members):
        for other in three.members[index + 1 :]:
            assert all(not torch.equal(member[name], other[name]) for name in member)
    assert all(same(a, b) for a, b in zip(two.members, three.members[:2], strict=True))


@pytest.mark.parametrize("kind", ["pool", "snapshots", "trajectories"])
def test_a_store_grows_and_serves_who_wants_fewer(tmp_path, kind, monkeypatch):
    two, trained = toy_pool(tmp_path, size=2, kind=kind), []
    five = toy_pool(tmp_path, size=5, kind=kind, on_member=lambda done, total: trained.append((done, total)))
    assert trained == [(3, 5), (4, 5), (5, 5)]  # epochs
    assert not five.reused
    assert five.seconds > two.seconds
    whole = toy_pool(tmp_path / "whole", size=5, kind=kind)
    assert all(same(five.last(member), whole.last(member)) for member in range(5))
    forbid_training(monkeypatch)
    seconds = []
    for size in (1, 2, 4, 5):
        again = toy_pool(tmp_path, size=size, kind=kind)
        assert again.reused
        assert again.size == size
        assert len(again.members) == (size if kind == "pool" else 0)
        seconds.append(again.seconds)
        assert all(same(again.last(member), whole.last(member)) for member in range(size))
    assert seconds == sorted(seconds)
    assert (seconds[1], seconds[3]) == (two.seconds, five.seconds)


@pytest.mark.parametrize("kind", ["pool", "snapshots"])
def test_what_is_damaged_is_trained_again_and_the_rest_is_kept(tmp_path, kind, monkeypatch):
    five = toy_pool(tmp_path, size=5, kind=kind)
    weights = [copied(five.last(member)) for member in range(5)]
    (five.folder / "member-003.safetensors").write_bytes(b"x")
    with monkeypatch.context() as patch:
        forbid_training(patch)
        assert toy_pool(tmp_path, size=3, kind=kind).reused
    (five.folder / "member-001.safetensors").write_bytes(b"x")
    trained: list[int] = []
    assert not toy_pool(tmp_path, size=2, kind=kind, on_member=lambda done, total: trained.append(done)).reused
    assert trained == [2]
    again = toy_pool(tmp_path, size=5, kind=kind, on_member=lambda done, total: trained.append(done))
    assert trained == [2, 4, 5]
    assert all(same(again.last(member), weights[member]) for member in range(5))
    forbid_training(monkeypatch)
    assert toy_pool(tmp_path, size=5, kind=kind).reused


OTHERS = {
    "seed": {"seed": 1},
    "epochs": {"epochs": 2},
    "data": {"data_fingerprint": "e" * 64},
    "width": {"factory": toy_factory(NetworkSettings(width=5, depth=2))},
    "norm": {"factory": toy_factory(NetworkSettings(width=4, depth=2, norm="batch"))},
    "learning rate": {"factory": toy_factory(lr=0.02)},
    "CutMix": {"factory": toy_factory(cutmix=1.0)},
}


@pytest.mark.parametrize("change", OTHERS)
def test_other_settings_make_another_pool_and_leave_the_first(tmp_path, monkeypatch, change):
    first = toy_pool(tmp_path)
    other = toy_pool(tmp_path, **OTHERS[change])
    assert not other.reused
    assert other.folder != first.folder
    forbid_training(monkeypatch)
    assert toy_pool(tmp_path).reused
    assert toy_pool(tmp_path, **OTHERS[change]).reused


@pytest.mark.parametrize("seed", [0, 1])
def test_members_are_a_function_of_the_pools_seed(tmp_path, seed):
    one, other = toy_pool(tmp_path / "a", seed=seed), toy_pool(tmp_path / "b", seed=seed)
    assert not other.reused
    assert all(same(a, b) for a, b in zip(one.members, other.members, strict=True))
    assert not same(one.members[0], toy_pool(tmp_path / "a", seed=seed + 1).members[0])


def test_a_pool_is_stored_as_safetensors_and_plain_json(tmp_path):
    pool = toy_pool(tmp_path)
    names = sorted(path.name for path in pool.folder.iterdir())
    assert names == ["member-000.safetensors", "member-001.safetensors", "pool.json"]
    for index, member in enumerate(pool.members):
        assert same(load_file(pool.folder / f"member-{index:03d}.safetensors"), member)
    about = json.loads((pool.folder / "pool.json").read_text())
    assert (about["epochs"], about["seed"], about["data"]) == (1, 0, DATA)
    assert "size" not in about


def write_json_text(text: str):
    return lambda folder: (folder / "pool.json").write_text(text)


def cut(folder: Path) -> None:
    path = folder / "member-001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def foreign_member(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "member-000.safetensors")


def misshapen_member(folder: Path) -> None:
    path = folder / "member-000.safetensors"
    save_file({name: weight.flatten() for name, weight in load_file(path).items()}, path)


def changed_setting(folder: Path) -> None:
    path = folder / "pool.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 99}))


DAMAGES = {
    "a member is missing": lambda folder: (folder / "member-001.safetensors").unlink(),
    "a member is cut short": cut,
    "a member is empty": lambda folder: (folder / "member-000.safetensors").write_bytes(b""),
    "a member is another file": lambda folder: (folder / "member-000.safetensors").write_bytes(b"x" * 100),
    "a member is another network": foreign_member,
    "a member has other shapes": misshapen_member,
    "no description": lambda folder: (folder / "pool.json").unlink(),
    "an empty description": write_json_text(""),
    "a cut description": write_json_text('{"format": 1, "da'),
    "a list": write_json_text("[]"),
    "a number": write_json_text("3"),
    "null": write_json_text("null"),
    "nested too deeply": write_json_text("[" * 100_000),
    "seconds of another type": write_json_text('{"seconds": "soon"}'),
    "a description of other settings": changed_setting,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pool_is_trained_again(tmp_path, monkeypatch, damage):
    first = toy_pool(tmp_path)
    DAMAGES[damage](first.folder)
    again = toy_pool(tmp_path)
    assert not again.reused
    assert all(same(a, b) for a, b in zip(first.members, again.members, strict=True))
    forbid_training(monkeypatch)
    assert toy_pool(tmp_path).reused


def test_an_interrupted_pool_goes_on_after_its_last_whole_member_to_the_same_bits(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_pool(tmp_path, size=3, on_member=stop)
    trained: list[int] = []
    again = toy_pool(tmp_path, size=3, on_member=lambda done, total: trained.append(done))
    assert not again.reused
    assert trained == [2, 3]
    whole = toy_pool(tmp_path / "whole", size=3)
    assert all(same(a, b) for a, b in zip(again.members, whole.members, strict=True))
    assert {path.name for path in again.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_a_member_that_was_damaged_before_the_pool_was_whole_is_trained_again(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_pool(tmp_path, size=3, on_member=stop)
    (home,) = (path for path in tmp_path.rglob("pool.json"))
    (home.parent / "member-000.safetensors").write_bytes(b"x")
    whole = toy_pool(tmp_path / "whole", size=3)
    again = toy_pool(tmp_path, size=3)
    assert all(same(a, b) for a, b in zip(again.members, whole.members, strict=True))


def test_trajectories_keep_every_epoch_at_a_constant_rate(tmp_path, monkeypatch):
    experts = toy_pool(tmp_path, epochs=3, kind="trajectories")
    assert sorted(path.name for path in experts.folder.iterdir()) == [
        "expert-000.safetensors",
        "expert-001.safetensors",
        "trajectories.json",
    ]
    assert same(experts.weights(1, 0), dict(toy_factory().build(0, "expert", 1).state_dict()))
    short = toy_pool(tmp_path, epochs=2, kind="trajectories")  # so its last epoch is another's epoch on the way
    assert same(experts.weights(1, 2), short.weights(1, 2))
    assert not same(experts.weights(1, 3), experts.weights(1, 2))
    forbid_training(monkeypatch)
    assert toy_pool(tmp_path, epochs=3, kind="trajectories").reused


@pytest.mark.parametrize("kind", ["trajectories", "snapshots"])
def test_what_keeps_every_epoch_goes_on_in_the_middle_of_a_network(tmp_path, kind):
    seen: list[int] = []

    def go(stop_at: int) -> NetworkStore:
        safety = Safety(0.0, lambda: len(seen) == stop_at)
        report = lambda done, total: seen.append(done)  # noqa: E731
        return toy_pool(tmp_path, epochs=3, kind=kind, on_member=report, safety=safety)

    with pytest.raises(KeyboardInterrupt):
        go(5)
    again, whole = go(-1), toy_pool(tmp_path / "whole", epochs=3, kind=kind)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert all(same(again.weights(e, epoch), whole.weights(e, epoch)) for e in range(2) for epoch in range(4))


# -------------------------------------------------------------------------------------------------- early stage


def test_zero_epochs_give_the_first_weights():
    factory = toy_factory()
    assert same(factory.early_stage(0, 0, "pool", 1), dict(factory.build(0, "pool", 1).state_dict()))


def test_early_stage_training_raises_the_accuracy_on_digits():
    data = load_data("digits")
    source = ImageSet(data.train.images, data.train.labels, Normalisation(*data.statistics))
    factory = NetworkFactory(NetworkSettings(width=16, depth=2), TrainingSettings(cutmix=0.0, lr=0.05), source, 10)
    test = ImageSet(data.test.images, data.test.labels, Normalisation(*data.statistics))
    module = factory.build("holder")
    accuracies = []
    for epochs in (0, 2):
        load_into(module, factory.early_stage(epochs, 0, "pool", 0))
        accuracies.append(predict_accuracy(module, test))
    assert accuracies[0] < 30
    assert accuracies[1] > accuracies[0] + 30


def test_an_epoch_sees_every_image(monkeypatch):
    factory = toy_factory()
    seen: list[torch.Tensor] = []
    trainer = factory.trainer()
    monkeypatch.setattr(trainer, "run", lambda batches, *_: seen.extend(batches))
    factory.early_stage(1, 0, "pool", 0)
    assert len(seen) == factory.steps_per_epoch() == 3
    assert set(torch.cat(seen).tolist()) == set(range(20))


@pytest.mark.parametrize("kind", ["pool", "snapshots", "trajectories"])
def test_networks_trained_side_by_side_are_those_trained_alone_also_after_a_stop(tmp_path, kind, monkeypatch):
    wanted, factory = Wanted(5, 3, 0, kind), toy_factory()
    alone = train_networks(factory, DATA, wanted, folder=tmp_path / "alone")
    monkeypatch.setattr(NetworkFactory, "at_once", 2)
    epochs: list[int] = []

    def trained(stop_at: int) -> NetworkStore:
        safety = Safety(0.0, lambda: len(epochs) == stop_at)
        return train_networks(
            toy_factory(), DATA, wanted, folder=tmp_path / "two", safety=safety, on_member=lambda d, _: epochs.append(d)
        )

    for stop_at in (2, 4):  # within the first two networks, and within the next two
        with pytest.raises(KeyboardInterrupt):
            trained(stop_at)
    together = trained(-1)
    assert epochs == [2, 4, 6, 8, 10, 12, 13, 14, 15]
    for member in range(5):
        assert same(together.last(member), alone.last(member))
        if kind != "pool":
            assert all(same(together.weights(member, e), alone.weights(member, e)) for e in range(4))

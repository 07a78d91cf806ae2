"""Recipes: fields, refusals, files, and the published settings: python -m pytest tests/recipes/test_recipe.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddistill.data import RealData, Split, load_data
from ddistill.data.real_data import Origin
from ddistill.networks import NetworkSettings
from ddistill.recipe import BudgetSettings, Recipe, field_paths
from ddistill.recipes import FAMILIES, RECIPES, find, for_images, names
from ddistill.runtime.errors import UserError, unknown_name

NOT_A_NUMBER, INFINITY = float("nan"), float("inf")


def real_data(size: int, channels: int = 3, name: str = "own", count: int = 40) -> RealData:
    part = Split(torch.zeros(2 * count, channels, size, size, dtype=torch.uint8), torch.arange(2 * count) // count)
    return RealData(Origin(name, name), part, None, part, ("a", "b"), ((0.5,) * channels, (0.2,) * channels), "f" * 64)


# ------------------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("synthetic.ipc", 0, "ipc: must be at least 1, got 0"),
        ("synthetic.ipc", True, "ipc: must not be true or false, got True"),
        ("method.image_lr", True, "method.image_lr: must not be true or false, got True"),
        ("evaluation.every_seconds", False, "evaluation.every_seconds: must not be true or false, got False"),
        ("model_augmentation.perturb_range", [True, True], "perturb_range: must not be true or false"),
        ("network.norm", False, "network.norm: must be 'instance', 'batch' or 'none', got False"),
        ("synthetic.ipc", 2.5, "got 2.5"),
        ("synthetic.ipc", "many", "got 'many'"),
        ("synthetic.ipc", None, "got None"),
        ("synthetic.decode", "double", "synthetic.decode: must be 'single', 'multi' or 'bound', got 'double'"),
        ("synthetic.init", "zeros", "'mix', 'random' or 'noise', got 'zeros'"),
        ("method.distance", "l3", "method.distance: must be 'mse', 'l1' or 'cosine', got 'l3'"),
        ("method.image_lr", 0.0, "method.image_lr: must be greater than 0, got 0.0"),
        ("method.image_lr", NOT_A_NUMBER, "method.image_lr: must be a finite number, got nan"),
        ("method.image_lr", INFINITY, "method.image_lr: must be a finite number, got inf"),
        ("method.image_momentum", 1.0, "method.image_momentum: must be less than 1, got 1.0"),
        ("method.augment.operations", ("colour",), "augmentation 'colour'; did you mean color.*: color, crop"),
        ("training.lr", -INFINITY, "training.lr"),
        ("training.cutmix", 1.5, "training.cutmix: must be less than or equal to 1, got 1.5"),
        ("model_augmentation.networks", "old", "'fresh', 'pool', 'snapshots', 'line' or 'trajectories', got 'old'"),
        ("model_augmentation.pool_size", 0, "model_augmentation.pool_size: must be at least 1, got 0"),
        ("model_augmentation.perturb_alpha", NOT_A_NUMBER, "model_augmentation.perturb_alpha"),
        ("model_augmentation.perturb_range", (0.09, 0.01), "perturb_range.*0 <= low <= high"),
        ("model_augmentation.perturb_range", (NOT_A_NUMBER, 0.1), "perturb_range.*got nan"),
        ("evaluation.repeats", 0, "evaluation.repeats: must be at least 1, got 0"),
        ("evaluation.baselines", "random", r"evaluation.baselines: must be a list, such as \[random\], got 'random'"),
        (
            "evaluation.baselines",
            ("herdin",),
            "unknown baseline 'herdin'; did you mean herding.*choose from: all, el2n",
        ),
        ("evaluation.baselines", ("all",), "set evaluation.steps"),
        ("evaluation.steps", 0, "evaluation.steps: must be at least 1, got 0"),
        ("evaluation.network.name", "convnt", "unknown network 'convnt'; did you mean convnet"),
        ("network.name", "resnetap", "did you mean resnet_ap"),
        ("network.norm", "layer", "'instance', 'batch' or 'none', got 'layer'"),
        ("budget.speedup", 0, "budget.speedup: must be at least 1, got 0"),
        ("run.seed", -1, "run.seed: must be at least 0, got -1"),
        ("run.seed", 2**63, "run.seed"),
        ("data.size", 8, "network.depth 3.*8-px.*network.depth=2"),
    ],
)
def test_an_illegal_value_is_refused_in_one_line_with_its_name_and_the_reason(field, value, words):
    with pytest.raises(UserError, match=words) as refusal:
        Recipe().changed({field: value})
    assert "\n" not in str(refusal.value)


def test_a_refusal_by_a_check_of_several_fields_repeats_only_the_values_at_fault():
    with pytest.raises(UserError) as refusal:
        Recipe().changed({"model_augmentation.perturb_range": (0.09, 0.01)})
    assert "pool_size" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "nearest"),
    [
        ("synthetic.ipcs", "synthetic.ipc"),
        ("method.distence", "method.distance"),
        ("budget.speed_up", "budget.speedup"),
        ("distance", "method.distance"),
        ("synthetic.ipc.more", "synthetic.ipc"),
        ("network", "network.name"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_ones(field, nearest):
    with pytest.raises(UserError, match=rf"unknown recipe field '{field}'; did you mean .*{nearest}") as refusal:
        Recipe().changed({field: 1})
    assert len(str(refusal.value)) < 300


def test_changed_gives_a_copy_with_the_named_fields_changed_and_no_other():
    recipe = find("idc-cifar10", 10)
    changes = {"synthetic.ipc": 3, "budget.speedup": 4, "evaluation.network.depth": 4, "synthetic.ipc_by_class.cat": 7}
    changed = recipe.changed(changes)
    assert (recipe.synthetic.ipc, recipe.budget.speedup, recipe.evaluation.network) == (10, 1, None)
    assert (changed.synthetic.ipc, changed.budget.speedup) == (3, 4)
    assert (changed.evaluation.network.name, changed.evaluation.network.depth) == ("convnet", 4)
    assert changed.synthetic.ipc_by_class == {"cat": 7}
    back = changed.changed({"synthetic.ipc": 10, "budget.speedup": 1, "synthetic.ipc_by_class": {}})
    assert back.model_copy(update={"evaluation": recipe.evaluation}) == recipe


def test_every_field_path_leads_to_a_value_of_the_recipe():
    values = Recipe().changed({"evaluation.network.name": "convnet", "synthetic.grow.source": "runs/a"}).model_dump()
    paths = [path for path, _ in field_paths(Recipe)]
    assert len(paths) == len(set(paths)) > 50
    for path in paths:
        place: Any = values
        for part in path.split("."):
            place = place[part]


def test_every_field_has_a_sentence():
    def rooms(model):
        yield model
        for field in model.model_fields.values():
            for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(candidate, type) and hasattr(candidate, "model_fields"):
                    yield from rooms(candidate)

    silent = [f"{m.__name__}.{n}" for m in rooms(Recipe) for n, f in m.model_fields.items() if not f.description]
    assert silent == []


def test_a_recipe_and_its_rooms_are_frozen():
    recipe = Recipe()
    for change in (
        lambda: setattr(recipe, "name", "x"),
        lambda: setattr(recipe.synthetic, "ipc", 5),
        lambda: setattr(recipe.method.augment, "rule", "dsa"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            change()


@pytest.mark.parametrize(
    ("outer_steps", "speedup", "steps"), [(2000, 1, 2000), (2000, 5, 400), (500, 10, 50), (2000, 20, 100), (3, 7, 1)]
)
def test_a_speed_up_divides_the_outer_steps(outer_steps, speedup, steps):
    assert BudgetSettings(outer_steps=outer_steps, speedup=speedup).steps == steps


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"synthetic.ipc": 11}, "ipc 11.*44 real images.*'a' has 40.*at most 10"),
        ({"synthetic.ipc_by_class": {"c": 1}}, "'c'"),
        ({"network.depth": 4}, "network.depth=3"),
    ],
)
def test_what_the_data_cannot_support_is_refused_before_a_run(changes, words):
    with pytest.raises(UserError, match=words):
        Recipe().changed(changes).check(real_data(16))
    Recipe().check(real_data(16))


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"synthetic.ipc_by_class": {"né : [x]": 2, "true": 1, "3": 4}, "name": "ü: #1"},
        {"evaluation.network.name": "resnet_ap", "evaluation.epochs": None, "data.classes": ("a", "b")},
        {"method.image_lr": 1e-7, "run.seed": 2**63 - 1, "model_augmentation.perturb_alpha": 0.1},
    ],
)
def test_a_recipe_file_gives_the_recipe_back(tmp_path, changes):
    recipe = Recipe().changed(changes)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_yaml(path) == recipe
    assert Recipe.from_yaml(path).to_yaml() == recipe.to_yaml()


def test_a_recipe_file_holds_every_field_that_is_set(tmp_path):
    text = Recipe().to_yaml()
    for word in ("outer_steps: 2000", "pool_size: 5", "perturb_range:", "image_momentum: 0.5", "validation_fraction:"):
        assert word in text


def test_fields_that_a_file_leaves_out_have_their_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("synthetic:\n  ipc: 10\ntraining: {weight_decay: 1e-4}\n")
    assert Recipe.from_yaml(path) == Recipe().changed({"synthetic.ipc": 10, "training.weight_decay": 0.0001})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a recipe"),
        ("- 1\n- 2", "not a recipe.*list"),
        ("synthetic: [", "cannot read"),
        ("a: &a [*a]\nb: 1", "unknown recipe field"),
        ("!!python/object/apply:os.getcwd []", "cannot read"),
        ("\x00", "cannot read"),
        ("[" * 5000, "cannot read|not a recipe"),
        ("1: 2", "unknown recipe field '1'"),
        ("synthetic: {ipc: 0}", "ipc: must be at least 1, got 0"),
        ("synthetic: {ipcc: 1}", "unknown recipe field 'synthetic.ipcc'; did you mean synthetic.ipc"),
        ("synthetic: 3", "synthetic"),
        ("network: null", "network"),
        ("method: {image_lr: .nan}", "method.image_lr.*finite"),
        ("method: {image_lr: .inf}", "method.image_lr.*finite"),
        ("#" * (1024 * 1024 + 1), "1 MiB"),
        ("name: !!timestamp 2024-13-45", "cannot read"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as refusal:
        Recipe.from_yaml(path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(UserError, match="cannot read the recipe"):
            Recipe.from_yaml(path)


# --------------------------------------------------------------------------------------------- published settings

# The table of section 1: network, F, D, image lr (with model augmentation), T_base, B, n_net, net lr, weight decay.
CIFAR = ("convnet", 2, "mse", 0.005, 0.01, 2000, 64, 2000, 0.01, 5e-4)
IMAGENET_10 = ("resnet_ap", 3, "l1", 0.003, 0.003, 500, 64, 500, 0.01, 5e-4)
PUBLISHED = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "mnist": ("convnet", 2, "l1", 0.0001, 0.0001, 2000, 64, 500, 0.01, 5e-4),
    "fashion_mnist": ("convnet", 2, "l1", 0.0001, 0.0001, 2000, 64, 500, 0.01, 5e-4),
    "svhn": ("convnet", 2, "mse", 0.005, 0.005, 2000, 64, 500, 0.01, 5e-4),
    "imagenet-10": IMAGENET_10,
    "imagenette": IMAGENET_10,
    "imagewoof": IMAGENET_10,
    "imagenet-100": ("resnet_ap", 3, "l1", 0.001, 0.001, 500, 128, 500, 0.1, 1e-4),
}
POOLS = {"cifar10": (5, 2), "cifar100": (5, 2), "imagenet-10": (5, 10), "imagenette": (5, 10), "imagenet-100": (10, 5)}


@pytest.mark.parametrize("ipc", [1, 10, 20, 50])
@pytest.mark.parametrize("name", [name for name in names() if name not in FAMILIES])
def test_every_recipe_builds_and_survives_its_file(tmp_path, name, ipc):
    recipe = find(name, ipc)
    assert recipe.name == name
    assert recipe.synthetic.ipc == ipc
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_yaml(path) == recipe


@pytest.mark.parametrize("family", ["idc", "idc-ma"])
@pytest.mark.parametrize("data", PUBLISHED)
def test_a_recipe_has_the_published_settings(data, family):
    network, factor, distance, plain_lr, augmented_lr, steps, batch, samples, net_lr, decay = PUBLISHED[data]
    recipe = find(family, 10, data)
    assert recipe.network.name == network
    if network == "convnet":
        assert (recipe.network.width, recipe.network.depth) == (128, 3)
    assert recipe.synthetic.factor == factor
    assert recipe.synthetic.initialisation == "mix"
    assert recipe.method.distance == distance
    assert recipe.method.image_lr == (augmented_lr if family == "idc-ma" else plain_lr)
    assert (recipe.method.image_momentum, recipe.method.inner_steps, recipe.method.real_batch) == (0.5, 100, batch)
    assert (recipe.method.max_decoded, recipe.method.network_samples) == (128, samples)
    assert recipe.budget.outer_steps == steps
    assert (recipe.training.lr, recipe.training.weight_decay) == (net_lr, decay)
    assert (recipe.training.momentum, recipe.training.batch) == (0.9, 128 if data == "imagenet-100" else 64)
    assert recipe.training.cutmix == (1.0 if network == "resnet_ap" else 0.0 if data == "mnist" else 0.5)
    matching = ("color", "crop") if data == "mnist" else ("color", "crop", "cutout")
    assert (recipe.method.augment.rule, recipe.method.augment.operations) == ("idc", matching)
    assert recipe.training.augment == recipe.method.augment.model_copy(update={"operations": ("color", "crop")})


@pytest.mark.parametrize(
    ("data", "size", "lr"), [("cifar10", 32, 0.01), ("mnist", 28, 1e-4), ("imagenet-10", 224, 0.003)]
)
def test_the_image_rate_is_scaled_by_ipc_and_by_the_size_relative_to_the_base_size(data, size, lr):
    method = find("idc-ma", 10, data).method
    assert method.scaled_image_lr(10, size) == pytest.approx(lr)
    assert method.scaled_image_lr(50, size) == pytest.approx(5 * lr)
    assert method.scaled_image_lr(1, 2 * size) == pytest.approx(0.4 * lr)


@pytest.mark.parametrize("data", POOLS)
def test_model_augmentation_is_a_perturbed_pool_of_published_size_at_a_fifth_of_the_steps(data):
    plain, augmented = find("idc", 10, data), find("idc-ma", 10, data)
    pool = augmented.model_augmentation
    assert (pool.networks, pool.perturb, pool.selection) == ("pool", True, "random")
    assert (pool.pool_size, pool.pool_epochs) == POOLS[data]
    assert (pool.perturb_alpha, pool.perturb_range) == (None, (0.01, 0.09))
    of_plain = "pool" if data == "imagenet-100" else "fresh"
    assert (plain.model_augmentation.networks, plain.model_augmentation.perturb) == (of_plain, False)
    assert augmented.budget.steps == plain.budget.steps // 5
    assert plain.budget.steps == plain.budget.outer_steps


def test_plain_idc_trains_fresh_networks_first_on_imagenet_10_only():
    epochs = {
        data: find("idc", 10, data).model_augmentation.fresh_epochs for data in ("cifar10", "mnist", "imagenet-10")
    }
    assert epochs == {"cifar10": 0, "mnist": 0, "imagenet-10": 10}


@pytest.mark.parametrize("family", ["idc", "idc-ma"])
@pytest.mark.parametrize(
    ("ipc", "decoder"), [(1, "single"), (10, "single"), (19, "single"), (20, "bound"), (50, "bound")]
)
def test_imagenet_decodes_with_a_bound_from_20_images_on_and_nothing_else_does(family, ipc, decoder):
    assert find(family, ipc, "imagenet-10").synthetic.decode == decoder
    assert find(family, ipc, "imagenet-100").synthetic.decode == decoder
    assert find(family, ipc, "cifar10").synthetic.decode == "single"
    assert find(family, ipc, "mnist").synthetic.decode == "single"


def test_cifar_is_evaluated_by_its_protocol():
    evaluation = find("idc", 10, "cifar10").evaluation
    assert (evaluation.epochs, evaluation.repeats, evaluation.network) == (1000, 3, None)
    training = evaluation.training
    assert (training.lr, training.momentum, training.weight_decay, training.batch) == (0.01, 0.9, 5e-4, 64)
    assert training.cutmix == 0.5
    assert training.augment.rule == "idc"
    assert set(training.augment.operations) == {"color", "crop", "flip", "scale", "rotate"}


@pytest.mark.parametrize(
    ("data", "lr", "decay", "batch"), [("imagenet-10", 0.01, 5e-4, 64), ("imagenet-100", 0.1, 1e-4, 128)]
)
def test_imagenet_is_evaluated_by_its_protocol(data, lr, decay, batch):
    evaluation = find("idc-ma", 10, data).evaluation
    assert (evaluation.epochs, evaluation.repeats) == (None, 3)
    training = evaluation.training
    assert (training.lr, training.weight_decay, training.batch, training.cutmix) == (lr, decay, batch, 1.0)
    assert training.augment.rule == "imagenet"


def test_every_recipe_says_what_it_is_and_what_to_expect():
    for entry in RECIPES.values():
        assert entry.about
        assert entry.expected
    assert "67.1" in RECIPES["idc-ma-cifar10"].expected
    assert "67.5" in RECIPES["idc-cifar10"].expected
    assert {*FAMILIES, *RECIPES} < set(names())
    assert not [
        entry for entry in RECIPES.values() if not entry.expected.startswith(("published: ", "measured here: "))
    ]


def test_what_was_measured_on_digits_stands_in_the_table():
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    latest = {}
    names = [f"2026-11-26-{name}" for name in ("digits-all", "along-training", "digits-mended", "digits-coresets")]
    for name in (*names, "2026-11-27-digits-mended", "2026-11-27-digits-dm"):
        rows = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        latest |= {(row["recipe"], row["ipc"]): row["accuracy"]["mean"] for row in rows if row["data"] == "digits"}
    for (recipe, ipc), mean in latest.items():
        assert f"ipc {ipc} {mean:.1f}" in RECIPES[recipe].expected


@pytest.mark.parametrize(
    ("name", "ipc", "data", "words"),
    [
        ("idc-cifar10", 0, None, "ipc must be at least 1, got 0"),
        ("idc-cifar", 1, None, "did you mean .*idc-cifar10"),
        ("nonsense", 1, None, "unknown recipe 'nonsense'"),
        ("idc", 1, None, "no settings for data None.*choose from: .*idc-cifar10"),
        ("idc-ma", 1, "cifar", "no settings for data 'cifar'.*choose from: .*idc-ma-cifar10"),
    ],
)
def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(name, ipc, data, words):
    with pytest.raises(UserError, match=words) as refusal:
        find(name, ipc, data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "channels", "network", "depth"),
    [
        (8, 1, "convnet", 2),
        (8, 3, "convnet", 2),
        (12, 3, "convnet", 2),
        (13, 3, "convnet", 2),
        (16, 3, "convnet", 3),
        (28, 1, "convnet", 3),
        (28, 3, "convnet", 3),
        (32, 3, "convnet", 3),
        (48, 3, "convnet", 4),
        (64, 3, "convnet", 4),
        (65, 3, "resnet_ap", None),
        (224, 3, "resnet_ap", None),
    ],
)
def test_other_data_get_settings_by_the_size_of_their_images_that_these_support(family, size, channels, network, depth):
    data = real_data(size, channels)
    recipe = for_images(family, 1, data)
    assert (recipe.network.name, recipe.network.depth) == (network, depth)
    recipe.check(data)
    usual = "pool" if family.endswith("-ma") else "fresh"
    own = {
        "tm": "trajectories",
        "tgdd": "snapshots",
        "tgdd-ma": "snapshots",
        "dance": "line",
        "ncfm": "line",
        "el2n": "pool",
        "herding": "pool",
        "k-center": "pool",
        "rded": "pool",
    }
    source = own.get(family, usual)
    assert recipe.model_augmentation.networks == source
    if family in ("idc", "idc-ma"):
        assert recipe.method.base_side == (8 if size <= 12 else size)
        assert recipe.synthetic.factor == (3 if network == "resnet_ap" else 1 if size <= 12 else 2)
        assert recipe.method.distance == ("mse" if 12 < size <= 64 and (size, channels) != (28, 1) else "l1")


def test_data_of_a_known_name_get_their_own_settings():
    assert for_images("idc-ma", 10, real_data(32, name="svhn")) == find("idc-ma", 10, "svhn")
    with pytest.raises(UserError, match="did you mean idc"):
        for_images("icd", 10, real_data(32))


@pytest.mark.parametrize(("name", "size", "channels"), [("digits", 64, 3), ("digits", 8, 3), ("mnist", 28, 3)])
def test_other_images_that_are_called_like_a_known_set_get_settings_by_their_size(name, size, channels):
    own = for_images(
        "idc-ma", 1, replace(real_data(size, channels, name=name), origin=Origin(name, f"/somewhere/{name}"))
    )
    assert own == for_images("idc-ma", 1, real_data(size, channels, name="mine"))
    own.check(real_data(size, channels))


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "legal", "expected"),
    [
        ("l3", ["mse", "l1"], "unknown distance 'l3'; did you mean l1? choose from: l1, mse"),
        ("zzz", ["mse", "l1"], "unknown distance 'zzz'; choose from: l1, mse"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_legal_ones(name, legal, expected):
    assert str(unknown_name("distance", name, legal)) == expected


def test_where_there_are_many_names_only_the_near_ones_are_given_and_where_to_look():
    many = [f"name{i:03d}" for i in range(100)]
    text = str(unknown_name("field", "name00", many, "see the list"))
    assert text.endswith("? see the list")
    assert text.count("name0") <= 4


@pytest.mark.parametrize(("value", "meant"), [(False, "off"), (True, "on"), ("auto", "auto")])
def test_a_bare_on_or_off_of_yaml_is_taken_as_written(value, meant):
    assert Recipe().changed({"run.compile": value}).run.compile == meant


def test_another_network_does_not_inherit_the_options_of_the_recipes():
    recipe = Recipe().changed({"network.width": 32, "network.depth": 2})
    assert recipe.changed({"network.name": "resnet10"}).network == NetworkSettings(name="resnet10")
    changed = recipe.changed({"network.name": "resnet10", "network.width": 0.5})
    assert changed.network == NetworkSettings(name="resnet10", width=0.5)
    assert recipe.changed({"network.name": "convnet"}).network == recipe.network


def test_an_option_that_the_network_does_not_have_is_refused_with_the_recipe():
    with pytest.raises(
        UserError,
        match=r"'resnet_ap' has no depth: leave out network\.depth; it takes network\.width and network\.norm",
    ):
        Recipe().changed({"network.name": "resnet_ap", "network.depth": 2})
    with pytest.raises(UserError, match="'resnet_ap' has no depth"):
        Recipe().changed({"evaluation.network": {"name": "resnet_ap", "depth": 2}})


@pytest.mark.parametrize("family", ["random", "herding", "k-center", "el2n", "rded"])
def test_a_coreset_may_be_larger_than_a_class(family):
    recipe, data = find(family, 400, "digits"), load_data("digits")
    with pytest.raises(UserError, match=r"synthetic\.init=noise"):
        recipe.check(data)
    recipe.changed({"synthetic.init": "noise"}).check(data)

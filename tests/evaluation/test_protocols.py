"""The evaluation protocols have the values of the published programs, and a set is judged by the one that is named."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from ddistill import api, recipes
from ddistill.augment import DSA_AUGMENTATION, NO_AUGMENTATION, Normalisation
from ddistill.cli import app
from ddistill.data import ImageSet, load_data
from ddistill.evaluation import OWN, PROTOCOLS, EvaluationSettings, evaluate_set
from ddistill.networks import NetworkSettings
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.synthetic import load_synthetic, random_set
from ddistill.training import Trainer, TrainingSettings, train_epochs
from ddistill.training.side_by_side import SideBySide

IDC_AUGMENTATION = ("color", "crop", "flip", "scale", "rotate")
SIX = ("color", "crop", "cutout", "flip", "scale", "rotate")
OFFICIAL = {
    # optimiser, rate, momentum, weight decay, batch, CutMix, rule and operations, passes
    "idc": ("sgd", 0.01, 0.9, 5e-4, 64, 0.5, "idc", IDC_AUGMENTATION, 1000),
    "dc": ("sgd", 0.01, 0.9, 5e-4, 256, 0.0, "idc", (), 301),
    "dsa": ("sgd", 0.01, 0.9, 5e-4, 256, 0.0, "dsa", SIX, 1001),
    "cafe": ("sgd", 0.01, 0.9, 5e-4, 256, 0.0, "idc", (), 601),
    "tm": ("sgd", 0.01, 0.9, 5e-4, 256, 0.0, "dsa", SIX, 1001),
    "ddranking": ("sgd", 0.01, 0.9, 5e-4, 256, 0.0, "dsa", SIX, 1000),
    "tgdd": ("sgd", 0.01, 0.9, 5e-4, 64, 0.5, "idc", IDC_AUGMENTATION, 1500),
    "ncfm": ("adamw", 0.001, 0.9, 0.01, 128, 0.5, "idc", IDC_AUGMENTATION, 2000),
}


def loop_of_condensation(epochs: int) -> tuple[list[float], list[int]]:
    """Rates by pass, and the passes before which an optimiser is made, of a loop that goes from 0 to ``epochs`` and
    looks after each pass whether its number is half of the epochs and one."""
    rate, rates, made = 1.0, [], [0]
    for epoch in range(epochs + 1):
        rates.append(rate)
        if epoch == epochs // 2 + 1:
            rate *= 0.1
            made.append(epoch + 1)
    return rates, made


def by_torch(epochs: int, make) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = make(optimiser), []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


STEP = torch.optim.lr_scheduler
SCHEDULES = {
    **{name: lambda epochs: loop_of_condensation(epochs - 1)[0] for name in ("dc", "dsa", "cafe", "tm")},
    "ddranking": lambda epochs: by_torch(epochs, lambda one: STEP.StepLR(one, epochs // 2 + 1, 0.1)),
    "ncfm": lambda epochs: by_torch(
        epochs, lambda one: STEP.MultiStepLR(one, [part * epochs // 5 for part in (1, 2, 3, 4)], 0.5)
    ),
    **{
        name: lambda epochs: by_torch(
            epochs, lambda one: STEP.MultiStepLR(one, [2 * epochs // 3, 5 * epochs // 6], 0.2)
        )
        for name in ("idc", "tgdd")
    },
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_has_the_values_of_its_program(name):
    settings = EvaluationSettings().under(name)
    training, augment = settings.training, settings.training.augment
    found = (training.optimiser, training.lr, training.momentum, training.weight_decay, training.batch, training.cutmix)
    assert (*found, augment.rule, augment.operations, settings.epochs) == OFFICIAL[name]
    assert settings.protocol == name
    assert settings.repeats == (5 if name == "ddranking" else 3)
    assert OFFICIAL.keys() == PROTOCOLS.keys()


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("fewer", [5, 10])
def test_the_rate_falls_as_in_the_program(name, fewer):
    epochs = OFFICIAL[name][-1] // fewer
    falls = EvaluationSettings().under(name).falls(epochs)
    assert [falls.rate(1.0, epoch) for epoch in range(epochs)] == pytest.approx(SCHEDULES[name](epochs))
    begun = [0, *falls.at] if falls.restart else [0]
    expected = loop_of_condensation(epochs - 1)[1] if name in ("dc", "dsa", "cafe", "tm") else [0]
    assert begun == expected


def test_only_the_first_protocol_takes_its_values_from_the_data():
    assert {name for name, one in PROTOCOLS.items() if one.learned_rate} == {"tm"}
    assert {
        **{name: name for name in ("dc", "dsa", "cafe", "tm", "tgdd", "ncfm")},
        "dm": "dsa",
        "dance": "tgdd",
    } == OWN
    digits = recipes.find("dsa", 1, "digits").evaluation
    assert digits.under("dsa").training.augment.operations == ("color", "crop", "cutout", "scale", "rotate")
    assert recipes.find("dm", 10, "imagenet-10").evaluation.under("dsa").training.augment == DSA_AUGMENTATION
    assert digits.under("tgdd").training == digits.training
    assert digits.under("dc").training.augment == NO_AUGMENTATION


def test_the_protocol_of_a_recipe_brings_its_values_and_what_is_named_with_it_wins():
    recipe = recipes.find("dm", 10, "cifar10")
    changed = recipe.changed({"evaluation.protocol": "dsa", "evaluation.epochs": 7})
    assert (changed.evaluation.training.batch, changed.evaluation.epochs) == (256, 7)
    assert changed.evaluation.training.augment == DSA_AUGMENTATION
    assert changed.changed({"evaluation.epochs": 8}).evaluation.training.batch == 256
    assert Recipe.model_validate(changed.model_dump()) == changed
    assert recipe.changed({"evaluation.protocol": "idc"}) == recipe
    with pytest.raises(UserError, match="start from a recipe by name"):
        changed.changed({"evaluation.protocol": "idc"})
    with pytest.raises(UserError, match=r"did you mean dsa.*cafe, dc, ddranking"):
        recipe.changed({"evaluation.protocol": "das"})
    with pytest.raises(UserError, match="method dm learns none"):
        recipe.changed({"evaluation.protocol": "tm"})


def test_settings_that_name_a_protocol_have_its_values_where_they_say_nothing_else():
    assert EvaluationSettings(protocol="dc") == EvaluationSettings().under("dc")
    written = EvaluationSettings.model_validate({"protocol": "dsa", "training": {"batch": 64}, "repeats": 2})
    expected = {"training.batch": 64, "repeats": 2}
    recipe = Recipe().changed({"evaluation.protocol": "dsa", **{f"evaluation.{k}": v for k, v in expected.items()}})
    assert written == recipe.evaluation
    with pytest.raises(ValueError, match="unknown protocol 'das'"):
        EvaluationSettings(protocol="das")


def toys(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, ImageSet]:
    draws = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=dtype))
    images = torch.rand(10, 3, 2, 2, generator=draws, dtype=dtype)
    return module, ImageSet(images, torch.arange(10) % 3, Normalisation((0.0,) * 3, (1.0,) * 3))


PLAIN = {"augment": NO_AUGMENTATION, "cutmix": 0.0, "batch": 10}


@pytest.mark.parametrize("name", ["dc", "ncfm"])
def test_training_is_that_of_torch_s_optimisers(name):
    ours, source = toys()
    theirs, _ = toys()
    evaluation = EvaluationSettings().under(name)
    settings = evaluation.training.model_copy(update={**PLAIN, "lr": 0.05})
    falls = evaluation.falls(7)

    def optimiser(rate: float) -> torch.optim.Optimizer:
        if name == "ncfm":
            return torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=0.01)
        return torch.optim.SGD(theirs.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    used, images = optimiser(0.05), source.images
    for epoch in range(7):
        if falls.restart and epoch in falls.at:
            used = optimiser(0.0)
        used.param_groups[0]["lr"] = falls.rate(0.05, epoch)
        used.zero_grad()
        F.cross_entropy(theirs(images), source.labels).backward()
        used.step()
    trainer = Trainer(ours, source, settings)
    for _ in train_epochs(trainer, 7, lambda epoch: torch.Generator().manual_seed(epoch), falls=falls):
        pass
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)  # rates are float32


@pytest.mark.parametrize("name", ["dsa", "ncfm"])
def test_networks_side_by_side_are_trained_as_if_each_were_alone_and_go_on_from_their_state(name):
    settings = EvaluationSettings().under(name).training.model_copy(update=PLAIN)
    falls = EvaluationSettings().under(name).falls(6)
    (module, source), states = toys(), []
    for number in range(2):
        state = {key: value + 0.01 * number for key, value in module.state_dict().items()}
        states.append(state)
    group, half = (SideBySide(Trainer(module, source, settings), [source] * 2) for _ in range(2))
    for number, state in enumerate(states):
        group.trainers[number].module.load_state_dict(state)

    def draws(number: int, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(10 * number + epoch)

    def both(epoch: int) -> list[torch.Generator]:
        return [draws(number, epoch) for number in range(2)]

    for done in train_epochs(group, 6, both, falls=falls):
        if done == 3:
            half.load_state({key: value.clone() for key, value in group.state().items()})
    for epoch in range(3, 6):
        if falls.restart and epoch in falls.at:
            half.restart()
        half.run_epoch(both(epoch), falls.rate(settings.lr, epoch))
    for number in range(2):
        alone, _ = toys()
        alone.load_state_dict(states[number])
        trainer = Trainer(alone, source, settings)
        for _ in train_epochs(trainer, 6, lambda epoch, number=number: draws(number, epoch), falls=falls):
            pass
        for key, value in alone.state_dict().items():
            assert torch.equal(group.trainers[number].module.state_dict()[key], value)
            assert torch.equal(half.trainers[number].module.state_dict()[key], value)


def test_a_new_optimiser_goes_on_after_the_fall_where_the_program_makes_one():
    (kept, source), (fresh, _) = toys(), toys()
    settings = TrainingSettings(**PLAIN, lr=0.1)
    falls = EvaluationSettings().under("dc").falls(6)
    assert falls.restart
    for module, own in ((kept, falls.__class__(falls.at, falls.factor)), (fresh, falls)):
        list(train_epochs(Trainer(module, source, settings), 6, lambda e: torch.Generator().manual_seed(e), falls=own))
    assert not torch.equal(kept[1].weight, fresh[1].weight)


QUICK = {"network.width": 8, "network.depth": 1, "run.precision": "fp32", "evaluation.repeats": 1}
TM = {
    **QUICK,
    "budget.outer_steps": 2,
    "method.student_steps": 2,
    "method.expert_epochs": 1,
    "method.max_start_epoch": 1,
    "method.lr_lr": 0.01,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 2,
    "evaluation.protocol": "tm",
    "evaluation.epochs": 3,
}


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    """A run of TM that was judged at its learned rate."""
    folder = tmp_path_factory.mktemp("tm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDISTILL_CACHE", str(folder / "cache"))
        return api.distill("digits", "tm", out=folder / "run", changes=TM)


def test_the_learned_rate_goes_with_the_set_and_evaluation_trains_at_it(matched):
    about = json.loads((matched.folder / "distilled" / "synthetic.json").read_text())
    rate = about["learned_rate"]
    assert rate != 0.05
    assert (about["evaluation"]["name"], about["evaluation"]["training"]["lr"]) == ("tm", rate)
    assert matched.summary["protocol"] == "tm"
    assert load_synthetic(matched.folder).learned_rate == rate
    again = api.evaluate(matched.folder, seed=0)
    assert list(again.runs) == pytest.approx(matched.summary["accuracy"]["runs"], abs=0.005)
    assert again.protocol["lr_decay"] == "x0.1 after epoch 3, with a new optimiser"
    others = {name: api.under_protocol(name, matched.recipe, load_data("digits")) for name in ("idc", "dsa")}
    assert others["idc"].training == recipes.find("idc", 1, "digits").evaluation.training
    assert (others["idc"].epochs, others["idc"].repeats) == (300, 1)
    assert others["dsa"].training.augment.operations == ("color", "crop", "cutout", "scale", "rotate")


@pytest.mark.parametrize("written", ["-0.1", "1", "true", '"0.1"'])
def test_a_learned_rate_that_is_none_is_damage(matched, written, tmp_path):
    import shutil

    from ddistill.runtime.storage import write_checked_json

    shutil.copytree(matched.folder / "distilled", tmp_path / "set")
    about = json.loads((tmp_path / "set" / "synthetic.json").read_text())
    del about["sha256"]
    about["learned_rate"] = json.loads(written)
    write_checked_json(tmp_path / "set" / "synthetic.json", about)
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(tmp_path / "set")


def test_the_best_images_come_with_their_own_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))
    changes = {**TM, "data.validation_fraction": 0.1, "evaluation.every": 1, "evaluation.select": "best"}
    run = api.distill("digits", "tm", out=tmp_path / "run", changes=changes)
    short = {**changes, "budget.outer_steps": run.summary["selected"]["step"]}
    assert run.synthetic.learned_rate == api.distill("digits", "tm", changes=short).synthetic.learned_rate


def test_a_set_without_a_learned_rate_is_not_judged_at_one():
    data = load_data("digits")
    synthetic = random_set(recipes.find("random", 1, "digits").synthetic, data, 0, 0)
    with pytest.raises(UserError, match="dsa is the same protocol"):
        api.evaluate(synthetic, data, "tm")
    with pytest.raises(UserError, match="unknown protocol 'mtt'"):
        api.evaluate(synthetic, data, "mtt")
    network = NetworkSettings(width=8, depth=1)
    settings = recipes.find("random", 1, "digits").evaluation.under("tm").model_copy(update={"epochs": 1, "repeats": 1})
    assert evaluate_set(synthetic, data, settings, network).protocol["training"]["lr"] == 0.01


def test_the_command_judges_by_every_protocol(matched):
    runner = CliRunner()

    def evaluate(*words: str):
        return runner.invoke(app, ["evaluate", str(matched.folder), "--device", "cpu", "--epochs", "2", *words])

    done = evaluate("--protocol", "all", "--repeats", "1")
    assert done.exit_code == 0, done.stderr
    assert [name for name in PROTOCOLS if f" {name} " in done.stdout] == list(PROTOCOLS)
    two = evaluate("--protocol", "idc", "--protocol", "tm")
    assert (" idc " in two.stdout, " tm " in two.stdout, " dsa " in two.stdout) == (True, True, False)
    wrong = evaluate("--protocol", "mtt")
    assert wrong.exit_code == 2
    assert "cafe, dc, ddranking, dsa, idc, ncfm, tgdd, tm" in wrong.stderr

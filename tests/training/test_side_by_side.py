"""Networks that are trained side by side are the networks that are trained one after the other."""

import pytest
import torch

from ddistill.augment import Normalisation
from ddistill.data import ImageSet, load_data
from ddistill.evaluation import Outcome, Progress, evaluate_set
from ddistill.networks import NetworkSettings, build_network
from ddistill.recipe import Recipe
from ddistill.runtime.execution import Execution
from ddistill.runtime.randomness import generator
from ddistill.synthetic import initial_set, random_set
from ddistill.training import Safety, Trainer, TrainingSettings, Unfinished
from ddistill.training.side_by_side import SideBySide

SMALL = NetworkSettings(width=8, depth=2)
RECIPE = Recipe().changed(
    {
        "network.width": 8,
        "network.depth": 2,
        "synthetic.factor": 1,
        "evaluation.epochs": 6,
        "evaluation.repeats": 3,
        "evaluation.training.batch": 8,
    }
)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def networks(count: int) -> list[torch.nn.Module]:
    return [build_network(SMALL, 4, 3, 16, "network", number) for number in range(count)]


@pytest.mark.parametrize("cutmix", [0.0, 0.7])
def test_each_network_learns_as_if_it_were_alone(cutmix):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 30, 3, 16, 16), dtype=torch.uint8, generator=draws)
    labels = torch.randint(0, 4, (30,), generator=draws)
    sources = [ImageSet(own, labels, Normalisation((0.4,) * 3, (0.2,) * 3)) for own in images]
    settings = TrainingSettings(batch=8, cutmix=cutmix)
    batches = [torch.randperm(30, generator=draws).split(8) for _ in range(3)]
    group = SideBySide(Trainer(networks(1)[0], sources[0], settings), sources)
    for one, network in zip(group.trainers, networks(3), strict=True):
        one.module.load_state_dict(network.state_dict())
    trainers = [Trainer(net, source, settings) for net, source in zip(networks(3), sources, strict=True)]
    for _ in range(2):
        drawn = [trainer.draw(4, 8, generator(0, "test", number)) for number, trainer in enumerate(trainers)]
        group.run(batches, drawn, 0.05)
        for trainer, own, numbers in zip(trainers, batches, drawn, strict=True):
            trainer.run(own, numbers, [0.05] * 4)
    for number, trainer in enumerate(trainers):
        for name, weight in trainer.module.state_dict().items():
            assert torch.equal(group.trainers[number].module.state_dict()[name], weight)
    assert not torch.equal(*(one.parameters["classifier.weight"] for one in group.trainers[:2]))


@pytest.mark.parametrize("several_sets", [False, True])
def test_an_evaluation_side_by_side_finds_the_same(digits, several_sets):
    synthetic = initial_set(RECIPE.synthetic, digits, 0)
    sets = [random_set(RECIPE.synthetic, digits, 0, draw) for draw in range(3)] if several_sets else synthetic
    judged = [
        evaluate_set(sets, digits, RECIPE.evaluation, RECIPE.network, execution=Execution(side_by_side=side_by_side))
        for side_by_side in (False, True)
    ]
    assert judged[0].runs == judged[1].runs
    for one in judged:
        assert one.confusion is not None
        assert int(one.confusion.images.sum()) == 3 * len(digits.test)
        hits = one.confusion.images[one.confusion.true == one.confusion.predicted].sum()
        assert 100.0 * int(hits) / (3 * len(digits.test)) == pytest.approx(one.mean)
    assert len(set(judged[1].runs)) == 3


def test_only_what_is_missing_is_trained(digits):
    seen = []
    judged = evaluate_set(
        initial_set(RECIPE.synthetic, digits, 0),
        digits,
        RECIPE.evaluation,
        RECIPE.network,
        execution=Execution(side_by_side=True),
        progress=Progress(finished={1: Outcome(12.5, None)}, on_run=lambda repeat, _: seen.append(repeat)),
    )
    assert judged.runs[1] == 12.5
    assert judged.confusion is None
    assert seen == [0, 2]


def test_what_was_cut_off_goes_on(digits, tmp_path):
    synthetic = initial_set(RECIPE.synthetic, digits, 0)
    whole = evaluate_set(synthetic, digits, RECIPE.evaluation, RECIPE.network, execution=Execution(side_by_side=True))
    epochs = []

    def unfinished(stop_at: int) -> Unfinished:
        return Unfinished(tmp_path / "state.safetensors", Safety(0.0, lambda: len(epochs) == stop_at))

    def judge(stop_at: int):
        return evaluate_set(
            synthetic,
            digits,
            RECIPE.evaluation,
            RECIPE.network,
            execution=Execution(side_by_side=True),
            progress=Progress(unfinished=unfinished(stop_at), on_epoch=lambda done, total: epochs.append(done / total)),
        )

    with pytest.raises(KeyboardInterrupt):
        judge(4)
    assert judge(-1).runs == whole.runs
    assert epochs == [number / 6 for number in range(1, 7)]


def test_networks_with_batch_norm_are_trained_side_by_side_too(digits):
    network = RECIPE.network.model_copy(update={"norm": "batch"})
    synthetic = initial_set(RECIPE.synthetic, digits, 0)
    judged = [
        evaluate_set(synthetic, digits, RECIPE.evaluation, network, execution=Execution(side_by_side=side_by_side))
        for side_by_side in (False, True)
    ]
    assert judged[0].runs == judged[1].runs


class Shifted(torch.nn.Module):
    """A network with a constant of its own, and one that a step moves."""

    def __init__(self, shift: float, moves: bool) -> None:
        super().__init__()
        self.moves = moves
        self.linear = torch.nn.Linear(3 * 64, 4)
        self.register_buffer("shift", torch.full((), shift))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and self.moves:
            self.seen += 1
        return self.linear(images.flatten(1) + self.shift)


@pytest.mark.parametrize("compiled", [False, True])
def test_buffers_are_each_networks_own_also_where_code_is_shared(monkeypatch, compiled):
    monkeypatch.setattr("ddistill.training.trainer.maybe_compile", lambda function, _compiled: function)
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 8, 8, generator=draws)
    source = ImageSet(images, torch.arange(24) % 4, Normalisation((0.5,) * 3, (0.25,) * 3))
    torch.manual_seed(0)
    workspace, other = Shifted(0.0, not compiled).eval(), Shifted(1.0, not compiled)  # torch.func moves no buffer
    alone = Trainer(other, source, TrainingSettings(batch=8), compiled=compiled)
    group = SideBySide(Trainer(workspace, source, TrainingSettings(batch=8), compiled=compiled), [source])
    group.trainers[0].module.load_state_dict(other.state_dict())
    alone.run_epoch(torch.Generator().manual_seed(1))
    group.run_epoch([torch.Generator().manual_seed(1)], 0.01)
    for name, expected in other.state_dict().items():
        assert torch.equal(group.trainers[0].module.state_dict()[name], expected)
    assert int(other.seen) == 3 * (not compiled)
    assert int(workspace.seen) == 0


def test_an_evaluation_that_does_not_fit_goes_on_with_fewer_networks_at_once(digits, monkeypatch):
    synthetic, widths, true_run = initial_set(RECIPE.synthetic, digits, 0), [], SideBySide.run_epoch

    def run_epoch(self, *given, **more):
        widths.append(len(self.trainers))
        if len(self.trainers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        true_run(self, *given, **more)

    monkeypatch.setattr(SideBySide, "run_epoch", run_epoch)
    settings = RECIPE.evaluation.model_copy(update={"repeats": 5})
    ways = [Execution(side_by_side=way) for way in (False, True)]
    judged = [evaluate_set(synthetic, digits, settings, RECIPE.network, execution=way) for way in ways]
    assert judged[0].runs == judged[1].runs
    assert list(dict.fromkeys(widths)) == [5, 2, 3]  # then 1 of the last three, by itself

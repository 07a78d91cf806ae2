"""The code of the guides, run as it stands there."""

import re
from pathlib import Path

import torch

from ddistill import methods
from ddistill.data import load_data
from ddistill.methods import Context
from ddistill.networks import NetworkSettings, build_network
from ddistill.recipes import FAMILIES
from ddistill.synthetic import SyntheticSettings, initial_set
from ddistill.training import Source, Trainer, TrainingSettings

DOCS = Path(__file__).parents[2] / "docs"


def test_the_method_of_the_walk_through_works(monkeypatch):
    code = re.findall(r"```python\n(.*?)```", (DOCS / "adding_a_method.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 2
    table = dict(methods.METHODS)
    names = {"METHODS": table, "__name__": "walk_through"}
    exec("\n".join(code), names)  # our own page
    monkeypatch.setattr(methods, "METHODS", table)
    digits = load_data("digits")
    source = Source(digits.train.images, digits.train.labels, digits.mean, digits.std)
    synthetic = initial_set(SyntheticSettings(ipc=2, factor=1, init="noise"), digits, 0)
    network = build_network(NetworkSettings(width=4, depth=2), 10, 1, 8, "walk-through")
    trainer = Trainer(network, source, TrainingSettings())
    context = Context(source, digits.class_offsets.tolist(), synthetic, network, trainer, 0, False)
    method = methods.build_method(names["MeanMatchingSettings"](), context)
    losses = [float(method.outer_step(step, lambda done, total: None)) for step in range(1, 21)]
    assert losses[-1] < losses[0] / 5
    state = {name: tensor.clone() for name, tensor in method.state().items()}
    method.load_state(state)
    assert all(torch.equal(method.state()[name], tensor) for name, tensor in state.items())


def test_every_family_of_recipes_has_a_card():
    cards = " ".join(path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md"))
    for family in FAMILIES:
        assert f"`{family}`" in cards or f"--recipe {family} " in cards

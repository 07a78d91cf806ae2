"""Sets to publish and export, and a stand-in of the hub that the client in this process talks to."""

from __future__ import annotations

import pytest
import torch
from hub_stand_in import asked_by_this_process

from ddistill.augment import Normalisation
from ddistill.synthetic import SyntheticSet
from ddistill.whitening import Whitening


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in; a token that may write is there."""
    with asked_by_this_process(monkeypatch, tmp_path) as server:
        yield server


def made(kind: str) -> SyntheticSet:
    """A small set: "colour" (factor 2, classes of several sizes), "grey" or "whitened"."""
    channels, names = (1 if kind == "grey" else 3), ("<b>ant</b> | [x](y) `t`", "no", "a/b ü")
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, 8, 8, generator=draw)
    constants = ((0.4,) * channels, (0.2,) * channels)
    whitening = None
    if kind == "whitened":
        images = images * 3 - 1
        whitening = Whitening(torch.rand(192, generator=draw), torch.rand(192, 192, generator=draw))
    factor = 2 if kind == "colour" else 1
    return SyntheticSet(
        images,
        torch.tensor([0, 0, 0, 1, 2]),
        names,
        factor,
        "single",
        Normalisation(*constants, whitening),
        learned_rate=0.0125 if kind == "grey" else None,
    )

"""Sets to publish and export, and a stand-in of the hub that the client in this process talks to."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from hub_stand_in import hub as stand_in
from huggingface_hub import constants

from ddistill.augment import Normalisation
from ddistill.synthetic import SyntheticSet
from ddistill.whitening import Whitening


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in; a token that may write is there."""
    with stand_in() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its store speaks another protocol
        monkeypatch.setenv("HF_TOKEN", "hf_writes")
        yield server
        huggingface_hub.close_session()


def made(kind: str) -> SyntheticSet:
    """A small set: "colour" (factor 2, classes of several sizes), "grey" or "whitened"."""
    channels, names = (1 if kind == "grey" else 3), ("<b>ant</b> | [x](y) `t`", "no", "a/b ü")
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, 8, 8, generator=draw)
    constants_ = ((0.4,) * channels, (0.2,) * channels)
    whitening = None
    if kind == "whitened":
        images = images * 3 - 1
        whitening = Whitening(torch.rand(192, generator=draw), torch.rand(192, 192, generator=draw))
    factor = 2 if kind == "colour" else 1
    return SyntheticSet(
        images, torch.tensor([0, 0, 0, 1, 2]), names, factor, "single", Normalisation(*constants_, whitening)
    )

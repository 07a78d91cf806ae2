"""Soft labels of a set: what networks that were trained on the real images make of its decoded images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ddistill.network_sources import NetworkFactory, NetworkStore, load_into
from ddistill.synthetic import SyntheticSet

LABELLED_AT_ONCE = 250
"""Images per forward pass."""


@dataclass(frozen=True)
class Teachers:
    """The networks of a pool, each after its last epoch.

    Attributes:
        factory: knows the architecture, and where to compute.
        pool: their weights.
    """

    factory: NetworkFactory
    pool: NetworkStore

    @torch.no_grad()
    def label(self, synthetic: SyntheticSet) -> SyntheticSet:
        """The set with targets: of each decoded image the mean over the networks of their softmax."""
        module = self.factory.build("workspace").eval()
        images = synthetic.decoded()[0].split(LABELLED_AT_ONCE)
        total = torch.zeros(())
        for member in range(self.pool.size):
            load_into(module, self.pool.last(member))
            logits = [module(synthetic.normalise(part.to(self.factory.real.device))) for part in images]
            total = total + torch.cat(logits).softmax(dim=1).cpu()
        return replace(synthetic, targets=(total / self.pool.size).half())

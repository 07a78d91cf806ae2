"""Soft labels of a set: what networks that were trained on the real images make of its decoded images."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddistill.network_sources import NetworkFactory, NetworkStore, load_into
from ddistill.synthetic import SyntheticSet

LABELLED_AT_ONCE = 250
"""Images per forward pass."""


@torch.no_grad()
def softly_labelled(synthetic: SyntheticSet, factory: NetworkFactory, pool: NetworkStore) -> SyntheticSet:
    """The set with targets: of each decoded image the mean softmax of the networks, each after its last epoch.

    Args:
        synthetic: the set.
        factory: knows the architecture, and where to compute.
        pool: the weights of the networks.
    """
    module = factory.build("workspace").eval()
    images = synthetic.decoded()[0].split(LABELLED_AT_ONCE)
    total = torch.zeros(())
    for member in range(pool.size):
        load_into(module, pool.last(member))
        logits = [module(synthetic.normalise(some.to(factory.real.device))) for some in images]
        total = total + torch.cat(logits).softmax(dim=1).cpu()
    return replace(synthetic, targets=(total / pool.size).half())

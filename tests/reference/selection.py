"""Selection of a network from the early-stage pool (section 2, ingredient 2)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def average(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Section 2, `average`: the mean over members, tensor by tensor. Each member is name -> weight, same shapes."""
    mean = {}
    for name in members[0]:
        total = torch.zeros_like(members[0][name])
        for member in members:
            total = total + member[name]
        mean[name] = total / len(members)
    return mean

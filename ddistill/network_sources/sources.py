"""Where the network of an outer step comes from: the paper's contribution, and nothing else of a method knows of it.

Model augmentation, https://arxiv.org/abs/2212.06152: early-stage networks and weight perturbation.

A network source is a pure function of the outer step: asked again, it gives the same weights.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator

from ddistill.network_sources.perturb import Weights, perturbed, random_direction, signed_coefficients
from ddistill.network_sources.store import NetworkStore
from ddistill.network_sources.training import NetworkFactory, copy_of
from ddistill.runtime.randomness import generator
from ddistill.runtime.settings import Settings


class ModelAugmentationSettings(Settings):
    """The network source: fresh networks, or early-stage ones from a pool, perturbed or not."""

    networks: Literal["fresh", "pool", "snapshots", "line", "trajectories"] = "fresh"
    """fresh: a new network at each outer step; pool: one of the early-stage networks; snapshots: one of them after any
    of its epochs, and for reference the same up to some epochs later; line: between the first and the last weights of
    one, and for reference the last; trajectories: a pool that keeps every epoch, for trajectory matching."""
    fresh_epochs: int = Field(default=0, ge=0)
    """Epochs on real data that a fresh network is trained for before it is used (IDC on ImageNet-10: 10)."""
    pool_size: int = Field(default=5, ge=1)
    """Networks in the pool (N in the paper)."""
    pool_epochs: int = Field(default=2, ge=0)
    """Epochs on real data that each network of the pool is trained for (P)."""
    early_rate: Literal["falling", "constant"] = "falling"
    """How fresh networks and those of a pool are trained before they are used. falling: the rate falls to a fifth at
    2/3 and 5/6 of the epochs (for a pool of one epoch more, as the program of model augmentation counts); constant: as
    in the program of IDC, where the optimiser of a fresh network goes on within the outer step."""
    pool_seed: int = 0
    """Seed of the pool; apart from the run's seed, so that runs share a pool."""
    ahead: int = Field(default=7, ge=1)
    """snapshots: the reference is of one of this many epochs, that of the network itself the first (L in TGDD)."""
    selection: Literal["random", "average"] = "random"
    """random: one network of the pool; average: the mean of all their weights (Table 6)."""
    perturb: bool = False
    """Perturb the weights once per outer step."""
    perturb_alpha: float | None = Field(default=None, gt=0)
    """One direction with this fixed coefficient, as the paper writes; if not set two random ones, as in its program."""
    perturb_range: tuple[float, float] = (0.01, 0.09)
    """Smallest and largest magnitude of the two random coefficients."""

    @model_validator(mode="after")
    def _check(self) -> ModelAugmentationSettings:
        low, high = self.perturb_range
        if not 0 <= low <= high:
            raise ValueError(f"perturb_range must be (low, high) with 0 <= low <= high, got {self.perturb_range}")
        return self


@dataclass(frozen=True)
class NetworkDraw:
    """The networks of one outer step, as states of their modules.

    Attributes:
        weights: of the network that is matched.
        reference: of a second network, where the source has one: what a trajectory leads to, or an older network.
        momenta: of the optimiser that trained the first one, where it goes on within the outer step.
    """

    weights: Weights
    reference: Weights | None = None
    momenta: Weights | None = None


class NetworkSource(Protocol):
    """Gives the network of each outer step."""

    def draw(self, step: int) -> NetworkDraw:
        """The networks to use at outer step ``step`` (from 1); they never alias what the source keeps."""
        ...


@dataclass(frozen=True)
class FreshSource:
    """A newly drawn network at each outer step, trained for some epochs first where asked for.

    Attributes:
        factory: builds and trains it.
        epochs: on the real data.
        seed: of the run.
        constant: the rate does not fall, and the same optimiser goes on within the outer step, as in the program of IDC
            (its ``early``).
    """

    factory: NetworkFactory
    epochs: int
    seed: int
    constant: bool = False

    def draw(self, step: int) -> NetworkDraw:
        """Weights, and momenta if their optimiser goes on, that depend on (seed, step)."""
        falls_over = None if self.constant else self.epochs
        weights = self.factory.early_stage(self.epochs, self.seed, "fresh", step, falls_over=falls_over)
        momenta = copy_of(self.factory.trainer().momenta) if self.constant and self.epochs else None
        return NetworkDraw(weights, momenta=momenta)


class PoolSource:
    """Selects among early-stage networks; the pool itself never changes."""

    def __init__(self, members: list[Weights], selection: Literal["random", "average"], seed: int) -> None:
        self.members = [average(members)] if selection == "average" else members
        self.seed = seed

    def draw(self, step: int) -> NetworkDraw:
        """A copy of the member that (seed, step) selects, or of the average."""
        chosen = torch.randint(len(self.members), (), generator=generator(self.seed, "pool member", step)).item()
        return NetworkDraw({name: tensor.clone() for name, tensor in self.members[int(chosen)].items()})


@dataclass(frozen=True)
class TrajectorySource:
    """A random expert at a random early epoch, by (seed, step), and for reference the same some epochs later.

    Attributes:
        experts: keep all epochs.
        max_start_epoch: a start is drawn from the epochs below it.
        ahead: epochs from start to reference.
        seed: of the run.
    """

    experts: NetworkStore
    max_start_epoch: int
    ahead: int
    seed: int

    def draw(self, step: int) -> NetworkDraw:
        """The expert's weights at the start epoch, and those ``ahead`` epochs later."""
        draws = generator(self.seed, "trajectory", step)
        expert = int(torch.randint(self.experts.size, (), generator=draws))
        start = int(torch.randint(self.max_start_epoch, (), generator=draws))
        return NetworkDraw(*(self.experts.weights(expert, epoch) for epoch in (start, start + self.ahead)))


@dataclass(frozen=True)
class SnapshotSource:
    """A random network after a random number of epochs, and for reference the same as old or older (TGDD).

    Attributes:
        networks: keep all epochs 0..T.
        ahead: L; with the network of epoch s the reference is of an epoch in s..min(s + L - 1, T).
        seed: of the run.
    """

    networks: NetworkStore
    ahead: int
    seed: int

    def draw(self, step: int) -> NetworkDraw:
        """The network, its epoch and that of the reference are uniform, one given the other, by (seed, step)."""
        draws, last = generator(self.seed, "snapshot", step), self.networks.epochs
        network = int(torch.randint(self.networks.size, (), generator=draws))
        epoch = int(torch.randint(last + 1, (), generator=draws))
        later = epoch + int(torch.randint(min(self.ahead, last - epoch + 1), (), generator=draws))
        return NetworkDraw(*(self.networks.weights(network, which) for which in (epoch, later)))


@dataclass(frozen=True)
class LineSource:
    """A random point between the first and the last weights of a random network, and for reference the last (DANCE).

    Attributes:
        networks: keep all epochs.
        seed: of the run.
    """

    networks: NetworkStore
    seed: int

    def draw(self, step: int) -> NetworkDraw:
        """lambda * first + (1 - lambda) * last, lambda uniform in [0, 1) and one for all weights, by (seed, step)."""
        draws = generator(self.seed, "line", step)
        network = int(torch.randint(self.networks.size, (), generator=draws))
        share = float(torch.rand((), generator=draws))
        first, last = (self.networks.weights(network, epoch) for epoch in (0, self.networks.epochs))
        between = {
            name: share * first[name] + (1.0 - share) * weight if weight.is_floating_point() else weight.clone()
            for name, weight in last.items()
        }
        return NetworkDraw(between, last)


@dataclass(frozen=True)
class PerturbedSource:
    """Wraps any source and perturbs the network that is matched; a reference stays as it is."""

    inner: NetworkSource
    settings: ModelAugmentationSettings
    seed: int

    def draw(self, step: int) -> NetworkDraw:
        """theta + alpha * d, or theta + a * d1 + b * d2 with random coefficients."""
        draws = generator(self.seed, "perturbation", step)
        drawn = self.inner.draw(step)
        weights = drawn.weights
        if self.settings.perturb_alpha is not None:
            coefficients = [self.settings.perturb_alpha]
        else:
            coefficients = signed_coefficients(2, *self.settings.perturb_range, draws)
        trained = {name: weights[name] for name in weights if weights[name].is_floating_point()}
        directions = [random_direction(trained, draws) for _ in coefficients]
        return replace(drawn, weights=perturbed(weights, directions, coefficients))


class AheadSource:
    """Wraps a source that draws on the CPU: the next outer step's networks are drawn while a GPU makes this one.

    To perturb a ConvNet-3 of width 128 takes a core 3 to 7 ms, and the kernels of an outer step of TGDD an H200 5.
    """

    def __init__(self, inner: NetworkSource) -> None:
        self.inner = inner
        self.kept: tuple[int, NetworkDraw] | None = None

    def prepare(self, step: int) -> None:
        """Draw the networks of ``step``, which is asked for next; what fails is tried again then, and raised."""
        with suppress(Exception):
            self.kept = step, self.inner.draw(step)

    def draw(self, step: int) -> NetworkDraw:
        """What the wrapped source gives."""
        kept, self.kept = self.kept, None
        return kept[1] if kept and kept[0] == step else self.inner.draw(step)


def average(members: list[Weights]) -> Weights:
    """Mean of all members' weights, tensor by tensor (integer buffers from the first)."""
    return {
        name: torch.stack([member[name] for member in members]).mean(dim=0) if first.is_floating_point() else first
        for name, first in members[0].items()
    }

"""Why early-stage networks: the gradients of a network by its age (section 1 of the paper's supplement).

At each age, in epochs of training on the real images, class gradients are taken: of the mean cross-entropy of a batch
of one class, with respect to the weights that gradient matching compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional as F

from ddistill.augment import NO_AUGMENTATION
from ddistill.data import ImageSet, RealData
from ddistill.network_sources import NetworkFactory, load_into
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.runtime.randomness import generator
from ddistill.training import choose_hot_path, predict_accuracy, train_epochs, training_work

ROUNDS = 4
"""Batches of each class at each age."""
OnEpoch = Callable[[int, int], None]


@dataclass(frozen=True)
class GradientsAtAge:
    """The class gradients of a network after some epochs of training.

    Attributes:
        epochs: passes over the real images.
        norm: mean Euclidean norm of a class gradient.
        cosine: mean cosine between successive class gradients (class c and c + 1, in one round over the classes).
        cosine_same_class: mean cosine between those of one class in successive rounds.
        effective_rank: exp of the entropy of the normalised singular values of all class gradients, in units of their
            number: 1 where they all point the same way, ``samples`` where they are orthogonal and of one length.
        samples: class gradients that were taken.
        accuracy: percent on the test set.
    """

    epochs: int
    norm: float
    cosine: float
    cosine_same_class: float
    effective_rank: float
    samples: int
    accuracy: float

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return asdict(self)


def gradients_by_age(
    data: RealData,
    recipe: Recipe,
    epochs: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> list[GradientsAtAge]:
    """Train a network of the recipe on the real images and look at its class gradients on the way.

    The rate is constant, as in the inner loop, so that an age does not depend on the ages that follow.

    Args:
        data: real images.
        recipe: gives network, training, ``method.real_batch`` and the seed.
        epochs: ages, ascending, from 0.
        device: to compute on.
        on_epoch: called with (epochs done, epochs in all).

    Raises:
        UserError: ages that do not ascend.
    """
    ages = list(epochs)
    if not ages or ages[0] < 0 or ages != sorted(set(ages)):
        raise UserError(f"epochs must ascend from 0 or more, got {', '.join(map(str, ages)) or 'none'}")
    device, seed, data = torch.device(device), recipe.run.seed, data.normalised_as(recipe.data)
    source = ImageSet.of(data.train.images, data.train.labels, data, device)
    test = ImageSet.of(data.test.images, data.test.labels, data, device)
    factory = NetworkFactory(recipe.network, recipe.training, source, data.num_classes)
    work = training_work(factory.trainer(), ages[-1] * factory.steps_per_epoch())
    hot_path = choose_hot_path(factory.trainer().module, work, recipe.run.precision, "off")
    factory = NetworkFactory(recipe.network, recipe.training, source, data.num_classes, hot_path)
    trainer = factory.trainer()
    load_into(trainer.module, factory.build("gradients by age", seed).state_dict())
    batch, found = getattr(recipe.method, "real_batch", 64), []
    draws = lambda epoch: generator(seed, "gradients by age", epoch + 1)  # noqa: E731
    for epoch in chain([0], train_epochs(trainer, ages[-1], draws, filled=True)):
        if epoch and on_epoch:
            on_epoch(epoch, ages[-1])
        if epoch in ages:
            gradients = class_gradients(trainer.module, source, data, batch, ROUNDS, seed)
            found.append(_look(gradients, epoch, predict_accuracy(trainer.module, test)))
    return found


def class_gradients(
    network: nn.Module, source: ImageSet, data: RealData, batch: int, rounds: int, seed: int
) -> torch.Tensor:
    """Class gradients with respect to the convolution weights, (rounds, classes, weights), float32."""
    weights = [p for p in network.parameters() if p.dim() == 4] or [p for p in network.parameters() if p.dim() > 1]
    pipeline = source.pipeline(NO_AUGMENTATION)
    offsets, rows = data.class_offsets.tolist(), []
    was_training = network.training
    network.eval()
    for number in range(rounds):
        for label in range(data.num_classes):
            first, end = offsets[label : label + 2]
            draws = generator(seed, "class gradients", number, label)
            index = (torch.randperm(end - first, generator=draws)[:batch] + first).to(source.images.device)
            loss = F.cross_entropy(network(pipeline.normalise(source.fetch(index))), source.labels[index])
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    network.train(was_training)
    return torch.stack(rows).view(rounds, data.num_classes, -1)


def effective_rank(gradients: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of the rows of (n, d).

    >>> round(effective_rank(torch.eye(5)), 3), round(effective_rank(torch.ones(5, 3)), 3)
    (5.0, 1.0)
    """
    singular = torch.linalg.eigvalsh(gradients.double() @ gradients.double().T).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def _look(gradients: torch.Tensor, epochs: int, accuracy: float) -> GradientsAtAge:
    rows = gradients.flatten(0, 1)
    return GradientsAtAge(
        epochs,
        norm=float(rows.norm(dim=1).mean()),
        cosine=float(F.cosine_similarity(gradients[:, :-1], gradients[:, 1:], dim=-1).mean()),
        cosine_same_class=float(F.cosine_similarity(gradients[:-1], gradients[1:], dim=-1).mean()),
        effective_rank=effective_rank(rows),
        samples=len(rows),
        accuracy=accuracy,
    )

"""How the stored images move along the gradients of a pass over the classes."""

from __future__ import annotations

from typing import Any

import torch

from ddistill.augment import Normalisation
from ddistill.methods.turns import Turn
from ddistill.synthetic import SyntheticSet
from ddistill.synthetic.synthetic_set import labels_of

Tensors = dict[str, torch.Tensor]


class ImageOptimiser:
    """Gathers the gradients of the classes of a pass, then makes one step.

    Images of the classes that have no turn in a pass wait for theirs: neither they nor their momentum change, and a
    pass without a class is none for its images. So each class moves by the same optimiser, whatever the group.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.

    Attributes:
        coasts: steps class by class instead, within the pass; see `ImageSGD`.
        turn: the classes of the pass.
        moving: their stored images as they are within the pass, (n, channels, H, H).
        gradient: with respect to them, between `begin` and `finish`.
    """

    coasts = False

    def __init__(self, synthetic: SyntheticSet, lr: float) -> None:
        self.synthetic, self.images = synthetic, synthetic.images
        self.lr = lr
        self.all = range(synthetic.num_classes)
        self.look_at(self.all)
        self.gradient = torch.zeros_like(self.images[:0])

    def look_at(self, turn: Turn) -> None:
        """Take the images of some classes for those of the pass."""
        self.turn, self.rows = turn, self.synthetic.rows(turn)
        self.moving = self.images[self.rows]

    def begin(self, turn: Turn | None = None) -> None:
        """Start a pass over some classes, ascending, or over all."""
        self.look_at(self.all if turn is None else turn)
        if not self.coasts:
            self.gradient = torch.zeros_like(self.moving)

    def take(self, rows: slice, gradient: torch.Tensor) -> None:
        """The gradient with respect to the images of the pass at ``rows``, those of one class or a few."""
        self.gradient[rows] = gradient

    def finish(self) -> None:
        """End the pass: its images have made their step."""
        self.step(self.gradient)
        self.look_at(self.all)

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to the images of the pass; of all outside of one."""
        raise NotImplementedError

    @property
    def counts(self) -> list[int]:
        """Stored images of each class of the pass."""
        return [self.synthetic.counts[label] for label in self.turn]

    def state(self) -> Tensors:
        """What must be kept, besides the images, to go on."""
        raise NotImplementedError

    def load_state(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class ImageSGD(ImageOptimiser):
    """SGD with momentum on the stored images.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.
        momentum: of the velocity.
        space: normalisation of the images that ``lr`` is meant for, as DC, DSA, DM and TM publish it; None: pixels.
        coasts: step class by class, as the published program of IDC does with one tensor of all classes: during the
            step of a class the images of the others of the pass go on by momentum.
    """

    def __init__(
        self,
        synthetic: SyntheticSet,
        lr: float,
        momentum: float,
        space: Normalisation | None = None,
        *,
        coasts: bool = False,
    ) -> None:
        super().__init__(synthetic, lr)
        self.velocity = torch.zeros_like(self.images)
        self.momentum = momentum
        self.space = space
        self.coasts = coasts
        self.before = synthetic.labels
        self.speed = self.velocity

    def begin(self, turn: Turn | None = None) -> None:
        """Start a pass; images of its class number c coast through the c steps of the classes before it."""
        super().begin(turn)
        self.speed = self.velocity[self.rows]
        if self.coasts:
            whole = self.turn == self.all
            self.before = self.synthetic.labels if whole else labels_of(self.counts).to(self.images.device)
            coast(self.moving, self.speed, self.lr, self.momentum, self.before)

    def take(self, rows: slice, gradient: torch.Tensor) -> None:
        """The gradient with respect to the images of the pass at ``rows``."""
        if self.coasts:
            self._step(self.moving[rows], self.speed[rows], gradient)
        else:
            super().take(rows, gradient)

    def finish(self) -> None:
        """End a pass; images of its class number c coast through the steps of the classes after it."""
        if self.coasts:
            coast(self.moving, self.speed, self.lr, self.momentum, len(self.turn) - 1 - self.before)
        else:
            self.step(self.gradient)
        if not isinstance(self.rows, slice):
            self.images[self.rows], self.velocity[self.rows] = self.moving, self.speed
        self.look_at(self.all)
        self.speed = self.velocity

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to the images of the pass; of all outside of one."""
        self._step(self.moving, self.speed, gradient)

    def _step(self, images: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor) -> None:
        velocity.mul_(self.momentum).add_(self.space.pull_back(gradient) if self.space else gradient)
        images.sub_(velocity, alpha=self.lr)

    def state(self) -> Tensors:
        """The velocity."""
        return {"velocity": self.velocity}


class ImageAdam(ImageOptimiser):
    """Adam on the stored pixels; AdamW where ``weight_decay`` is not 0. Each class counts its own steps.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.
        weight_decay: decoupled: pixels shrink by lr * weight_decay at each step.
        options: ``betas`` and ``eps``, as of `torch.optim.AdamW`.
    """

    def __init__(self, synthetic: SyntheticSet, lr: float, weight_decay: float = 0.0, **options: Any) -> None:
        super().__init__(synthetic, lr)
        counts = synthetic.counts
        self.classes = self.images.split(counts)  # views: torch passes over those that have no gradient
        self.optimiser = torch.optim.AdamW(self.classes, lr=lr, weight_decay=weight_decay, **options)
        self.steps = torch.zeros(len(counts))
        self.moments = {name: torch.zeros_like(self.images) for name in ("exp_avg", "exp_avg_sq")}
        parts = {name: moment.split(counts) for name, moment in self.moments.items()}
        for label, images in enumerate(self.classes):
            of_class = {name: moments[label] for name, moments in parts.items()}
            self.optimiser.state[images] = {"step": self.steps[label], **of_class}

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to the images of the pass; of all outside of one."""
        self.optimiser.param_groups[0]["lr"] = self.lr
        for label, of_class in zip(self.turn, gradient.split(self.counts), strict=True):
            self.classes[label].grad = of_class
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> Tensors:
        """Both moments, and the number of steps of each class."""
        return {"step": self.steps, **self.moments}


def coast(images: torch.Tensor, velocity: torch.Tensor, lr: float, momentum: float, steps: torch.Tensor) -> None:
    """SGD steps with a zero gradient, ``steps`` of them for each image, in closed form and in place.

    They move an image with velocity v by lr * v * (mu + mu^2 + ... + mu^steps).

    Args:
        images, velocity: (n, ...).
        lr, momentum: of the images.
        steps: of each image, (n,) or 0-d.
    """
    decay = (momentum ** steps.to(images.dtype)).view(-1, *[1] * (images.ndim - 1))
    images.addcmul_(velocity, lr * momentum * (1.0 - decay) / (1.0 - momentum), value=-1.0)  # no copy of the set
    velocity.mul_(decay)

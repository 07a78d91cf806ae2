"""How the stored images move along the gradients of a pass over the classes."""

from __future__ import annotations

from typing import Any

import torch

from ddistill.augment import Normalisation
from ddistill.synthetic import SyntheticSet

Tensors = dict[str, torch.Tensor]


class ImageOptimiser:
    """Gathers the gradients of all classes, then makes one step.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.

    Attributes:
        coasts: steps class by class instead, within the pass; see `ImageSGD`.
        gradient: with respect to all stored images, between `begin` and `finish`.
    """

    coasts = False

    def __init__(self, synthetic: SyntheticSet, lr: float) -> None:
        self.images = synthetic.images
        self.lr = lr
        self.gradient = torch.zeros_like(self.images[:0])

    def begin(self) -> None:
        """Start a pass over the classes."""
        self.gradient = torch.zeros_like(self.images)

    def take(self, rows: slice, gradient: torch.Tensor) -> None:
        """The gradient with respect to the stored images at ``rows``, those of one class or a few."""
        self.gradient[rows] = gradient

    def finish(self) -> None:
        """End the pass: the images have made their step."""
        self.step(self.gradient)

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to all stored images, (n, channels, H, H)."""
        raise NotImplementedError

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
            step of a class the images of the others go on by momentum.
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
        self.before, self.after = synthetic.labels, synthetic.num_classes - 1 - synthetic.labels

    def begin(self) -> None:
        """Start a pass; images of class c coast through the c steps of the classes before it."""
        if self.coasts:
            coast(self.images, self.velocity, self.lr, self.momentum, self.before)
        else:
            super().begin()

    def take(self, rows: slice, gradient: torch.Tensor) -> None:
        """The gradient with respect to the stored images at ``rows``."""
        if self.coasts:
            self._step(self.images[rows], self.velocity[rows], gradient)
        else:
            super().take(rows, gradient)

    def finish(self) -> None:
        """End a pass; images of class c coast through the steps of the classes after it."""
        if self.coasts:
            coast(self.images, self.velocity, self.lr, self.momentum, self.after)
        else:
            super().finish()

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to all stored images, (n, channels, H, H)."""
        self._step(self.images, self.velocity, gradient)

    def _step(self, images: torch.Tensor, velocity: torch.Tensor, gradient: torch.Tensor) -> None:
        velocity.mul_(self.momentum).add_(self.space.pull_back(gradient) if self.space else gradient)
        images.sub_(velocity, alpha=self.lr)

    def state(self) -> Tensors:
        """The velocity."""
        return {"velocity": self.velocity}


class ImageAdam(ImageOptimiser):
    """Adam on the stored pixels; AdamW where ``weight_decay`` is not 0.

    Args:
        synthetic: the set; its image tensor is changed in place.
        lr: learning rate.
        weight_decay: decoupled: pixels shrink by lr * weight_decay at each step.
        options: ``betas`` and ``eps``, as of `torch.optim.AdamW`.
    """

    def __init__(self, synthetic: SyntheticSet, lr: float, weight_decay: float = 0.0, **options: Any) -> None:
        super().__init__(synthetic, lr)
        self.optimiser = torch.optim.AdamW([self.images], lr=lr, weight_decay=weight_decay, **options)
        moments = {name: torch.zeros_like(self.images) for name in ("exp_avg", "exp_avg_sq")}
        self.optimiser.state[self.images] = {"step": torch.zeros(()), **moments}

    def step(self, gradient: torch.Tensor) -> None:
        """One step along the gradient with respect to all stored images, (n, channels, H, H)."""
        self.optimiser.param_groups[0]["lr"] = self.lr
        self.images.grad = gradient
        self.optimiser.step()
        self.images.grad = None

    def state(self) -> Tensors:
        """Both moments, and the number of steps."""
        state: Tensors = self.optimiser.state[self.images]
        return state


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

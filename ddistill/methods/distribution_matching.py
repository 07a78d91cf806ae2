"""Distribution matching (DM): move synthetic images until a network maps them, on average, where it maps real ones.

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, E numbers of an embedding
(the input of the classifier).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import grad_and_value
from torch.utils.flop_counter import FlopCounterMode

from ddistill.augment import DSA_AUGMENTATION, AugmentSettings, draw_augment
from ddistill.methods.base import Context, ImageSGD, Needs, OnInner, draw_real
from ddistill.randomness import generator
from ddistill.settings import Settings
from ddistill.training import Forward, maybe_compile

Tensors = dict[str, torch.Tensor]


class DistributionMatchingSettings(Settings):
    """DM: class-mean embeddings under many networks that are never trained by the method."""

    name: Literal["dm"] = "dm"
    """The method."""
    image_lr: float = Field(default=1.0, gt=0)
    """Learning rate of the images, for images normalised by mean and spread."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    inner_steps: int = Field(default=1, ge=1)
    """Image updates per outer step, that is, per network."""
    real_batch: int = Field(default=256, ge=1)
    """Real images per class and step (B)."""
    augment: AugmentSettings = DSA_AUGMENTATION
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""

    @property
    def needs(self) -> Needs:
        """A network that gives embeddings; nothing of second order, no training."""
        return Needs(network=True, second_order=False, trains_network_on="nothing", features=True)


class Embedding(nn.Module):
    """The input of a network's classifier, as a module: (N, channels, H, H) to (N, E)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's `features`, flattened."""
        return self.network.features(images).flatten(1)  # type: ignore[operator]


def match_means(
    embed: Forward, weights: Tensors, real: torch.Tensor, synthetic: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """|| mean of the real embeddings - mean of the synthetic ones ||^2 of one class, and its gradient.

    Written with torch.func so that it compiles into one graph.

    Args:
        embed: from weights and images to embeddings (N, E).
        weights: of the network, detached.
        real: (B, channels, H, H), normalised and augmented.
        synthetic: (S, channels, H, H), the same way.

    Returns:
        The squared distance (0-d) and its gradient (S, channels, H, H).
    """
    target = embed(weights, real).mean(dim=0)
    gradient, value = grad_and_value(lambda images: (target - embed(weights, images).mean(dim=0)).square().sum())(
        synthetic
    )
    return value, gradient


def match_means_eager(
    embed: Forward, weights: Tensors, real: torch.Tensor, synthetic: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`match_means` by plain autograd; faster than it where nothing is compiled."""
    synthetic = synthetic.detach().requires_grad_()
    with torch.no_grad():
        target = embed(weights, real).mean(dim=0)
    # a view, since torch's FLOP counter cannot hook a leaf under autograd.grad
    value = (target - embed(weights, synthetic.view_as(synthetic)).mean(dim=0)).square().sum()
    return value.detach(), torch.autograd.grad(value, synthetic)[0]


class DistributionMatching:
    """The loop of DM (algorithm 1 of its paper): all classes' distances are summed, one image step.

    Deviations from the authors' program: the real images of a class start a new shuffled pass at each outer step; the
    stored images stay in [0, 1] pixels and are clamped there at each outer step.
    """

    def __init__(self, settings: DistributionMatchingSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.optimiser = ImageSGD(context.synthetic, settings.image_lr, settings.image_momentum, context.real)
        self.pipeline = context.real.pipeline(settings.augment)
        embedding = Embedding(context.network)
        self.embed = Forward(embedding, context.precision)
        self.weights = {name: parameter.detach() for name, parameter in embedding.named_parameters()}
        compiled = context.compiled and next(embedding.buffers(), None) is None
        self._match = maybe_compile(match_means, True) if compiled else match_means_eager

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """``inner_steps`` image updates under one network."""
        settings, context = self.settings, self.context
        context.synthetic.keep_in_range()
        context.network.train()
        classes, own = context.synthetic.num_classes, context.own_classes
        real = draw_real(context, "real batch", step, settings.real_batch, settings.inner_steps)
        draws = generator(context.seed, "siamese", step)
        augment = draw_augment(settings.augment, settings.inner_steps * classes, 1, draws).to(context.real.device)
        total = torch.zeros((), device=context.real.device)
        for inner in range(settings.inner_steps):
            context.real.expect(real[own.start : own.stop, inner])
            gradient, loss_sum = torch.zeros_like(context.synthetic.images), torch.zeros_like(total)
            for label in own:
                call, mine = inner * classes + label, context.synthetic.class_slice(label)
                loss, gradient[mine] = self.image_gradient(
                    context.synthetic.images[mine], real[label, inner], augment.uniforms[call], augment.choices[call]
                )
                loss_sum += loss
            context.ranks.add_([gradient, loss_sum.view(1)])
            total += loss_sum
            self.optimiser.step(gradient)
            on_inner(inner + 1, settings.inner_steps)
        return total / (settings.inner_steps * classes)

    def image_gradient(
        self, stored: torch.Tensor, real: torch.Tensor, uniforms: torch.Tensor, choice: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A class's squared distance and its gradient with respect to its stored images.

        Args:
            stored: (I, channels, H, H) in [0, 1].
            real: positions of its real images, (B,).
            uniforms: random numbers of the augmentation, (1, k).
            choice: the operation that the augmentation's rule picked.
        """
        stored = stored.detach().requires_grad_()
        augmented = self.pipeline(self.context.synthetic.decode_class(stored), uniforms, choice)
        images = self.pipeline(self.context.real.fetch(real), uniforms, choice)
        loss, gradient = self._match(self.embed, self.weights, images, augmented.detach())
        return loss, torch.autograd.grad(augmented, stored, gradient)[0]

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images."""
        return self.optimiser.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back the momentum of the images."""
        self.optimiser.load_state(state)

    def flops_per_outer_step(self) -> float:
        """Counted on one eager class per distinct number of stored images."""
        synthetic, settings = self.context.synthetic, self.settings
        real = torch.zeros(settings.real_batch, dtype=torch.int64, device=self.context.real.images.device)
        draws = draw_augment(settings.augment, 1, 1, generator(0, "count")).to(synthetic.images.device)
        match, self._match = self._match, match_means_eager
        counted: dict[int, float] = {}
        for label, count in enumerate(synthetic.counts):
            if count not in counted:
                images = synthetic.images[synthetic.class_slice(label)]
                with FlopCounterMode(display=False) as counter:
                    self.image_gradient(images, real, draws.uniforms[0], draws.choices[0])
                counted[count] = float(counter.get_total_flops())
        self._match = match
        return sum(counted[count] for count in synthetic.counts) * settings.inner_steps

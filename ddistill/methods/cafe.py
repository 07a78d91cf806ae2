"""CAFE: align synthetic and real class means at every layer, and let the synthetic means classify real images.

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, E numbers of an embedding
(the input of the classifier), L layers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import grad_and_value
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddistill.augment import NO_AUGMENTATION, AugmentDraws, AugmentSettings, draw_augment
from ddistill.methods.base import PLAIN_SGD, Context, ImageSGD, Needs, OnInner, draw_real
from ddistill.randomness import generator
from ddistill.settings import Settings
from ddistill.training import Forward, Source, Trainer, TrainingSettings, maybe_compile

Tensors = dict[str, torch.Tensor]

LATE_LAYERS = 2
"""Layers at the output side whose weight is 1."""
LR_FALLS = (0.6, 0.8, 0.9)
"""Parts of the run after which the image rate is halved: 1200, 1600 and 1800 of 2000 steps."""


class CAFESettings(Settings):
    """CAFE: layer-wise feature alignment, a discrimination loss, and a dynamic schedule of both loops."""

    name: Literal["cafe"] = "cafe"
    """The method."""
    image_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the images, for images normalised by mean and spread; halved at 0.6, 0.8 and 0.9 of the run."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    real_batch: int = Field(default=256, ge=1)
    """Real images per class and step (B)."""
    early_weight: float = Field(default=0.1, ge=0)
    """Weight of the distance at all layers but the last two, whose weight is 1."""
    discrimination_weight: float = Field(default=0.01, ge=0)
    """Weight of the cross-entropy of real images under the synthetic class means."""
    window: int = Field(default=10, ge=2)
    """Values of the real-batch accuracy that the schedule looks back on."""
    stop_matching_range: float = Field(default=0.04, ge=0, le=1)
    """An outer step ends when the accuracy's range over the window is under this."""
    stop_training_range: float = Field(default=0.03, ge=0, le=1)
    """Network training between image updates ends when the accuracy's range over the window is over this."""
    max_inner_steps: int = Field(default=50, ge=1)
    """Image updates per outer step at most; the published program has no bound."""
    max_network_epochs: int = Field(default=10, ge=0)
    """Epochs on the synthetic set between image updates at most; the published program has no bound."""
    augment: AugmentSettings = NO_AUGMENTATION
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""
    synthetic_training: TrainingSettings = PLAIN_SGD
    """How the network is trained on the synthetic set."""

    @property
    def needs(self) -> Needs:
        """A network that gives its layers and embeddings, and is trained on the synthetic set."""
        return Needs(
            network=True,
            second_order=False,
            trains_network_on="synthetic",
            features=True,
            layers=True,
            fixed_length=True,
        )


class Layers(nn.Module):
    """The maps of all layers, as a module: (N, channels, H, H) to L tensors (N, ...), from the input side on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The network's `layers`; the flattened last one is the embedding."""
        layers: list[torch.Tensor] = self.network.layers(images)  # type: ignore[operator]
        return layers


def layer_weights(layers: int, early: float) -> list[float]:
    """``early`` for all layers but the last two, 1 for those, and 1 more for the embedding, which is the last layer."""
    late = min(LATE_LAYERS, layers)
    weights = [early] * (layers - late) + [1.0] * late
    weights[-1] += 1.0
    return weights


def describe(layers: Forward, weights: Tensors, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Mean over the images of every layer, L tensors (...), and the embeddings (N, E)."""
    maps = layers(weights, images)
    return [layer.mean(dim=0) for layer in maps], maps[-1].flatten(1)


def align(
    layers: Forward,
    weights: Tensors,
    layer_weight: list[float],
    targets: list[torch.Tensor],
    pull: torch.Tensor,
    synthetic: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted squared distance of one class's layer means, and the gradient of it plus <pull, mean embedding>.

    Written with torch.func so that it compiles into one graph.

    Args:
        layers: from weights and images to the maps of all layers.
        weights: of the network, detached.
        layer_weight: of each layer.
        targets: layer means of the real images.
        pull: gradient of the discrimination loss with respect to the class's mean embedding, (E,).
        synthetic: (S, channels, H, H), normalised and augmented.

    Returns:
        The distance (0-d), and the gradient (S, channels, H, H).
    """

    def loss(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means, embeddings = describe(layers, weights, images)
        distance = torch.stack(
            [w * (m - t).square().sum() for w, m, t in zip(layer_weight, means, targets, strict=True)]
        ).sum()
        return distance + (pull * embeddings.mean(dim=0)).sum(), distance

    gradient, (_, distance) = grad_and_value(loss, has_aux=True)(synthetic)
    return distance, gradient


def align_eager(
    layers: Forward,
    weights: Tensors,
    layer_weight: list[float],
    targets: list[torch.Tensor],
    pull: torch.Tensor,
    synthetic: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`align` by plain autograd; faster than it where nothing is compiled."""
    synthetic = synthetic.detach().requires_grad_()
    # a view, since torch's FLOP counter cannot hook a leaf under autograd.grad
    means, embeddings = describe(layers, weights, synthetic.view_as(synthetic))
    parts = [w * (m - t).square().sum() for w, m, t in zip(layer_weight, means, targets, strict=True)]
    distance = torch.stack(parts).sum()
    total = distance + (pull * embeddings.mean(dim=0)).sum()
    return distance.detach(), torch.autograd.grad(total, synthetic)[0]


def discriminate(
    embeddings: torch.Tensor, labels: torch.Tensor, means: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of real images under the synthetic class means as classifier.

    Args:
        embeddings: of the real images of all classes, (C * B, E).
        labels: int64 (C * B,).
        means: synthetic mean embeddings, (C, E).

    Returns:
        The batch mean (0-d), its gradient with respect to the means (C, E), and the accuracy (0-d, in [0, 1]).
    """
    means = means.detach().requires_grad_()
    logits = embeddings @ means.T
    loss = F.cross_entropy(logits, labels)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return loss.detach(), torch.autograd.grad(loss, means)[0], accuracy


class Watch:
    """The accuracies of the last steps and their range."""

    def __init__(self, window: int) -> None:
        self.values: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> float | None:
        """The range over the window with this value, or None while it is not full."""
        self.values.append(value)
        return max(self.values) - min(self.values) if len(self.values) == self.values.maxlen else None


@dataclass
class Done:
    """What the dynamic schedule has done so far."""

    image_steps: int = 0
    network_epochs: int = 0


class CAFE:
    """The loop of CAFE: image updates, each followed by network training, until the real-batch accuracy settles.

    Deviations from the authors' program: both loops are bounded; the accuracy is that of real images under the
    synthetic class means while matching, and under the network's classifier while it is trained; stored images stay
    in [0, 1] pixels. The schedule reads one number per image update on the host, as it must.
    """

    def __init__(self, settings: CAFESettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.optimiser = ImageSGD(context.synthetic, settings.image_lr, settings.image_momentum, context.real)
        self.pipeline = context.real.pipeline(settings.augment)
        module = Layers(context.network)
        self.layers = Forward(module, context.precision)
        self.weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
        compiled = context.compiled and next(module.buffers(), None) is None
        self._align = maybe_compile(align, True) if compiled else align_eager
        self._describe = maybe_compile(describe, compiled)
        self.done = Done()

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Image updates under one network until the schedule ends them."""
        settings, context = self.settings, self.context
        context.synthetic.keep_in_range()
        passed = sum(step > part * context.outer_steps for part in LR_FALLS)
        self.optimiser.lr = settings.image_lr * 0.5**passed
        real = draw_real(context, "real batch", step, settings.real_batch, settings.max_inner_steps)
        calls = settings.max_inner_steps * context.synthetic.num_classes
        augment = draw_augment(settings.augment, calls, 1, generator(context.seed, "siamese", step))
        augment = augment.to(context.real.device)
        watch, total = Watch(settings.window), torch.zeros((), device=context.real.device)
        for inner in range(settings.max_inner_steps):
            context.network.train()
            loss, accuracy = self.image_step(real[:, inner], augment, inner)
            total += loss
            self.done.image_steps += 1
            spread = watch.add(float(accuracy))
            finished = spread is not None and spread < settings.stop_matching_range
            on_inner(settings.max_inner_steps if finished else inner + 1, settings.max_inner_steps)
            if finished:
                break
            self._train_network(real[:, inner].flatten(), step, inner)
        return total / (inner + 1)

    def image_step(self, real: torch.Tensor, augment: AugmentDraws, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One image update; the loss of all classes, and the accuracy of real images under the synthetic means.

        Args:
            real: positions of the real images of each class, (C, B).
            augment: random numbers of the outer step.
            inner: image updates before, in this outer step.
        """
        context, settings = self.context, self.settings
        synthetic, classes = context.synthetic, context.synthetic.num_classes
        calls = [(augment.uniforms[inner * classes + c], augment.choices[inner * classes + c]) for c in range(classes)]
        targets, embeddings, means = [], [], []
        with torch.no_grad():
            for label, call in enumerate(calls):
                images = self.pipeline(context.real.fetch(real[label]), *call)
                target, embedded = self._describe(self.layers, self.weights, images)
                targets.append(target)
                embeddings.append(embedded)
                own = self.pipeline(synthetic.decode_class(synthetic.images[synthetic.class_slice(label)]), *call)
                means.append(self._describe(self.layers, self.weights, own)[0][-1].flatten())
        labels = context.real.fetch_labels(real.flatten())
        loss, pulls, accuracy = discriminate(torch.cat(embeddings).float(), labels, torch.stack(means).float())
        total, gradient = settings.discrimination_weight * loss, torch.empty_like(synthetic.images)
        layer_weight = layer_weights(len(targets[0]), settings.early_weight)
        for label, call in enumerate(calls):
            mine = synthetic.class_slice(label)
            stored = synthetic.images[mine].detach().requires_grad_()
            augmented = self.pipeline(synthetic.decode_class(stored), *call)
            pull = settings.discrimination_weight * pulls[label]
            distance, slope = self._align(
                self.layers, self.weights, layer_weight, targets[label], pull, augmented.detach()
            )
            gradient[mine] = torch.autograd.grad(augmented, stored, slope)[0]
            total = total + distance
        self.optimiser.step(gradient)
        return total, accuracy

    def _train_network(self, real: torch.Tensor, step: int, inner: int) -> None:
        """Epochs on the synthetic set until the accuracy on the real batch has moved enough."""
        settings, context = self.settings, self.context
        trainer, labels = self._trainer()
        images, wanted = self.pipeline.normalise(context.real.fetch(real)), context.real.fetch_labels(real)
        watch = Watch(settings.window)
        draws = generator(context.seed, "synthetic batch", step, inner)
        for _ in range(settings.max_network_epochs):
            order = torch.randperm(len(labels), generator=draws).to(labels.device)
            trainer.run(order.split(min(settings.synthetic_training.batch, len(labels))), draws)
            self.done.network_epochs += 1
            with torch.no_grad():
                context.network.eval()
                accuracy = (context.network(images).argmax(dim=1) == wanted).float().mean()
            spread = watch.add(float(accuracy))
            if spread is not None and spread > settings.stop_training_range:
                break

    def _trainer(self) -> tuple[Trainer, torch.Tensor]:
        images, labels = self.context.synthetic.decoded()
        source = Source.like(images, labels, self.context.real)
        settings = self.settings.synthetic_training
        return Trainer(self.context.network, source, settings, precision=self.context.precision), labels

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images, and what was done."""
        return {
            **self.optimiser.state(),
            "done": torch.tensor([self.done.image_steps, self.done.network_epochs], dtype=torch.int64),
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.optimiser.load_state(state)
        self.done = Done(*state["done"].tolist())

    def flops_per_outer_step(self) -> float:
        """Of an outer step that ends as early as it can: as many image updates as the window is long."""
        image, epoch = self._flops()
        return self.settings.window * image + (self.settings.window - 1) * epoch * self.settings.max_network_epochs

    def flops_done(self) -> float:
        """Of what the dynamic schedule has done."""
        image, epoch = self._flops()
        return self.done.image_steps * image + self.done.network_epochs * epoch

    def _flops(self) -> tuple[float, float]:
        """Of one image update, counted on one class for each number of stored images, and of one network epoch."""
        context, settings = self.context, self.settings
        side, channels = context.synthetic.images.shape[-1], context.synthetic.images.shape[1]
        device = context.synthetic.images.device

        def counted(images: int, gradient: bool) -> float:
            some = torch.zeros(images, channels, side, side, device=device)
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradient):
                means, embeddings = describe(self.layers, self.weights, some)
                if gradient:
                    pull = torch.zeros_like(embeddings[0])
                    weights = layer_weights(len(means), settings.early_weight)
                    align_eager(self.layers, self.weights, weights, [m.detach() for m in means], pull, some)
            return float(counter.get_total_flops())

        one_real, synthetic = counted(1, False), 0.0
        for label in range(context.synthetic.num_classes):
            decoded = context.synthetic.decoded_per_class(label)
            synthetic += decoded * counted(1, True)
        trainer, labels = self._trainer()
        per_image = trainer.flops_per_step() / min(settings.synthetic_training.batch, len(labels))
        watched = one_real * settings.real_batch * context.synthetic.num_classes
        return watched + synthetic, per_image * len(labels) + watched

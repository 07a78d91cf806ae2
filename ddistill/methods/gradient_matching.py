"""Gradient matching: move synthetic images until they give a network the gradients that real images give it (IDC).

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, M inner steps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddistill.augment import (
    DSA_AUGMENTATION,
    NO_AUGMENTATION,
    AugmentDraws,
    AugmentSettings,
    draw_augment,
)
from ddistill.data import epoch_batches
from ddistill.errors import UserError
from ddistill.methods.base import PLAIN_SGD, Context, ImageSGD, Needs, OnInner, draw_real
from ddistill.methods.distances import DistanceName
from ddistill.methods.match import Match, match, match_classes, match_eager, match_in_parts, split_weights
from ddistill.randomness import generator
from ddistill.settings import Settings
from ddistill.training import (
    Forward,
    Source,
    Trainer,
    TrainingDraws,
    TrainingSettings,
    free_memory_bytes,
    maybe_compile,
)

BATCH_NORM_IMAGES = 16
"""Real images per class that set the statistics of a batch norm (DC)."""
CLASSES_AT_ONCE = 10
"""Most classes per launch where the device is no CPU and `Context.class_chunk` is not set."""
MEMORY_SHARE = 0.4
"""Of the free memory, that the activations of a launch may take: the work space of its operators comes on top."""


class GradientMatchingSettings(Settings):
    """What DC, DSA and IDC have in common, with the values of IDC."""

    distance: DistanceName = "mse"
    """mse, l1 or cosine."""
    image_lr: float = Field(default=0.005, gt=0)
    """Learning rate of the images, before it is scaled where ``base_side`` is set."""
    base_side: int | None = Field(default=32, ge=1)
    """Scale the rate by (ipc / 10) * (side / base side) ** 2, as IDC does: 224 px for ImageNet, 28 for MNIST, 32
    otherwise; not set: the rate is used as it is."""
    image_space: Literal["pixels", "normalised"] = "pixels"
    """What image_lr is meant for: pixels in [0, 1] (IDC), or images normalised by mean and spread (DC, DSA)."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    inner_steps: int = Field(default=100, ge=1)
    """Image updates per outer step (M)."""
    real_batch: int = Field(default=64, ge=1)
    """Real images per class and inner step (B)."""
    max_decoded: int = Field(default=128, ge=1)
    """At most this many decoded images per class and inner step; a random subset where there are more."""
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop", "cutout"))
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""
    network_samples: int = Field(default=2000, ge=0)
    """Real images that the network is trained on after each image update, rounded up to whole mini-batches."""
    network_epochs: int = Field(default=0, ge=0)
    """Epochs on the synthetic set that the network is trained for between image updates (DC, DSA)."""
    synthetic_training: TrainingSettings = PLAIN_SGD
    """How the network is trained on the synthetic set."""
    image_step: Literal["class", "sum"] = "class"
    """class: one SGD step on the images after each class, as IDC's program does; sum: one step on the sum of all
    classes' distances (DC, DSA)."""
    freeze_batch_norm: bool = False
    """Move the statistics of batch norms by 16 real images per class before each matching, and hold them (DC, DSA)."""

    @model_validator(mode="after")
    def _check(self) -> GradientMatchingSettings:
        if self.network_samples and self.network_epochs:
            raise ValueError(
                "method.network_samples trains the network on real images, method.network_epochs on the synthetic set; "
                "set one of them to 0"
            )
        return self

    @property
    def needs(self) -> Needs:
        """A network, gradients of second order, and what the network is trained on in between."""
        trained = "synthetic" if self.network_epochs else "real" if self.network_samples else "nothing"
        return Needs(network=True, second_order=True, trains_network_on=trained, spread=True)  # type: ignore[arg-type]

    def scaled_image_lr(self, ipc: int, side: int) -> float:
        """The rate that is used."""
        return self.image_lr * ((ipc / 10.0) * (side / self.base_side) ** 2 if self.base_side else 1.0)


class IDCSettings(GradientMatchingSettings):
    """IDC: per-class gradient matching, the network trained on real data between image steps."""

    name: Literal["idc"] = "idc"
    """The method."""


class CondensationSettings(GradientMatchingSettings):
    """The values that DC and DSA share."""

    distance: DistanceName = "cosine"
    image_lr: float = Field(default=0.1, gt=0)
    base_side: int | None = Field(default=None, ge=1)
    image_space: Literal["pixels", "normalised"] = "normalised"
    inner_steps: int = Field(default=1, ge=1)
    real_batch: int = Field(default=256, ge=1)
    augment: AugmentSettings = NO_AUGMENTATION
    network_samples: int = Field(default=0, ge=0)
    network_epochs: int = Field(default=1, ge=0)
    image_step: Literal["class", "sum"] = "sum"
    freeze_batch_norm: bool = True


class DCSettings(CondensationSettings):
    """DC: cosine distance, all classes' losses summed, the network trained on the synthetic set in between."""

    name: Literal["dc"] = "dc"
    """The method."""


class DSASettings(CondensationSettings):
    """DSA: DC with siamese augmentation, one operation per call, in matching and in training."""

    name: Literal["dsa"] = "dsa"
    """The method."""
    augment: AugmentSettings = DSA_AUGMENTATION
    synthetic_training: TrainingSettings = PLAIN_SGD.model_copy(update={"augment": DSA_AUGMENTATION})


def coast(images: torch.Tensor, velocity: torch.Tensor, lr: float, momentum: float, steps: torch.Tensor) -> None:
    """SGD steps with a zero gradient, ``steps`` of them for each image, in closed form and in place.

    The published program steps one tensor of all classes once per class, so a class's images keep moving by
    momentum during the other classes' steps: by lr * v * (mu + mu^2 + ... + mu^steps).

    Args:
        images, velocity: (n, ...).
        lr, momentum: of the images.
        steps: of each image, (n,) or 0-d.
    """
    decay = (momentum ** steps.to(images.dtype)).view(-1, *[1] * (images.ndim - 1))
    images.addcmul_(velocity, lr * momentum * (1.0 - decay) / (1.0 - momentum), value=-1.0)  # no copy of the set
    velocity.mul_(decay)


@dataclass(frozen=True)
class Plan:
    """Every random number of one outer step.

    Attributes:
        real: positions in the real images, int64 (C, M, B).
        subset: for classes with too many decoded images, the ones to use, int64 (M, max_decoded).
        augment: one call per (inner step, class).
        network: positions of the network's mini-batches, int64 (M, batches, batch).
        training: augmentation and CutMix of those mini-batches, one after another.
    """

    real: torch.Tensor
    subset: dict[int, torch.Tensor]
    augment: AugmentDraws
    network: torch.Tensor
    training: TrainingDraws


class GradientMatching:
    """The inner loop of DC, DSA and IDC, for whatever network the source gave.

    Deviations from the authors' programs: the real images of a class start a new shuffled pass at each outer step;
    the stored images of DC and DSA stay in [0, 1] pixels and are clamped there at each outer step.
    """

    def __init__(self, settings: GradientMatchingSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        images = context.synthetic.images
        lr = settings.scaled_image_lr(max(context.synthetic.counts), images.shape[-1])
        space = context.real if settings.image_space == "normalised" else None
        self.optimiser = ImageSGD(context.synthetic, lr, settings.image_momentum, space)
        self.pipeline = context.real.pipeline(settings.augment)
        compiled = context.compiled and next(context.network.buffers(), None) is None
        self.forward = Forward(context.network, context.precision)
        self.labels = torch.arange(context.synthetic.num_classes, device=images.device)
        self.own = context.own_classes
        self.chunk, self.part = self._choose_chunk()
        self.chunks = class_chunks(context.synthetic.counts, self.chunk, self.own)
        functional = not self.part and (compiled or any(len(chunk) > 1 for chunk in self.chunks))
        self.matched, self.fixed = split_weights(context.network, settings.distance, detach=functional)
        self._match: Match = maybe_compile(match, True) if compiled else match if functional else match_eager
        self._match_classes = maybe_compile(match_classes, compiled)
        if self.part:
            self._match = partial(match_in_parts, part=self.part)

    def _choose_chunk(self) -> tuple[int, int | None]:
        """Classes per launch, and the images of a class at once where not even one class fits (None: all).

        On a CPU classes go one after the other (grouped convolutions are slow there), else as many as fit.
        """
        context = self.context
        coupled = next(context.network.buffers(), None) is not None
        if context.image_chunk is not None:
            if coupled:
                raise UserError(
                    f"run.image_chunk={context.image_chunk} divides the images of a class, which a network with batch "
                    "norm cannot do; leave it out, or set network.norm=instance"
                )
            return 1, context.image_chunk
        if context.class_chunk is not None or not self.own:
            return context.class_chunk or 1, None
        per_image, free = self.activation_bytes(), free_memory_bytes(self.labels.device)
        images = self._images_at_once()
        fitting = int(free * MEMORY_SHARE / per_image)
        if fitting < images and not coupled:
            return 1, max(1, fitting)
        on_cpu = self.labels.device.type == "cpu"
        return 1 if on_cpu else classes_that_fit(per_image * images, free), None

    def _images_at_once(self) -> int:
        """Images of the largest class that go through the network at once when it is not divided."""
        most = max(map(self.context.synthetic.decoded_per_class, self.own))
        return max(self.settings.real_batch, min(most, self.settings.max_decoded))

    def activation_bytes(self) -> int:
        """What the backward passes of one more synthetic (and real) image keep, counted on two small eager calls."""
        synthetic = self.context.synthetic
        label = self.own.start
        stored = synthetic.images[synthetic.class_slice(label)]
        images = self.pipeline.normalise(synthetic.decode_class(stored).detach())
        matched, fixed = split_weights(self.context.network, self.settings.distance, detach=False)

        def kept_for(count: int) -> int:
            kept: dict[int, torch.Tensor] = {}

            def keep(tensor: torch.Tensor) -> torch.Tensor:
                kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
                return tensor

            some = images[:1].expand(count, *images.shape[1:]).contiguous()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                match_eager(self.forward, self.settings.distance, matched, fixed, some, some, self.labels[label])
            return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

        return max(1, kept_for(2) - kept_for(1))

    def _eager(self) -> GradientMatching:
        """The same method, uncompiled and undivided, with weights that gradients can be taken of."""
        eager = copy.copy(self)
        eager.matched, eager.fixed = split_weights(self.context.network, self.settings.distance, detach=False)
        eager._match = match_eager
        return eager

    def smaller_chunk(self) -> str | None:
        """Halve the classes per launch, after the device ran out of memory; then the images of a class at once."""
        most = max(map(len, self.chunks), default=1)
        if most > 1:
            self.chunk = most // 2
            self.chunks = class_chunks(self.context.synthetic.counts, self.chunk, self.own)
            return f"{self.chunk} classes are matched at once from here on (run.class_chunk)"
        part = self.part or self._images_at_once()
        if part == 1 or next(self.context.network.buffers(), None) is not None:
            return None
        self.part = part // 2
        self.matched, self.fixed = split_weights(self.context.network, self.settings.distance, detach=False)
        self._match = partial(match_in_parts, part=self.part)
        return f"{self.part} images of a class are matched at once from here on (run.image_chunk)"

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """M image updates per class, each followed by training the network on real data or on the synthetic set."""
        settings, context = self.settings, self.context
        context.synthetic.keep_in_range()
        context.trainer.restart()
        plan = self.draw(step)
        losses = torch.zeros((), device=self.labels.device)
        own = slice(self.own.start, self.own.stop)
        context.real.expect(plan.real[own, 0])
        for inner in range(settings.inner_steps):
            context.real.expect(plan.real[own, inner + 1 : inner + 2])
            if settings.freeze_batch_norm:
                self._freeze_batch_norm(step, inner)
            losses += self.class_loop(inner, plan) if settings.image_step == "class" else self.sum_step(inner, plan)
            if settings.image_step == "class" and (settings.network_epochs or inner + 1 == settings.inner_steps):
                self._join_classes()
            if settings.network_samples:
                batches = plan.network[inner].unbind()
                context.trainer.run(batches, plan.training.part(inner * len(batches), len(batches)))
            elif inner + 1 < settings.inner_steps:
                self._train_on_synthetic(step, inner)
            on_inner(inner + 1, settings.inner_steps)
        if settings.image_step == "class":
            context.ranks.add_([losses.view(1)])
        return losses / (settings.inner_steps * context.synthetic.num_classes)

    def _join_classes(self) -> None:
        """Bring together the images of all classes that ranks have moved on their own."""
        self.context.ranks.join_rows_(
            [self.context.synthetic.images, self.optimiser.velocity], self.context.synthetic.rows(self.own)
        )

    def sum_step(self, inner: int, plan: Plan) -> torch.Tensor:
        """One SGD step on the sum of all classes' distances (DC, DSA); the sum, a 0-d tensor."""
        synthetic = self.context.synthetic
        gradient, total = torch.zeros_like(synthetic.images), torch.zeros((), device=self.labels.device)
        for labels in self.chunks:
            mine = synthetic.rows(labels)
            loss, gradient[mine] = self.image_gradient(labels, synthetic.images[mine], inner, plan)
            total += loss
        self.context.ranks.add_([gradient, total.view(1)])
        self.optimiser.step(gradient)
        return total

    def class_loop(self, inner: int, plan: Plan) -> torch.Tensor:
        """One image update for every class under one network; the sum of their distances, a 0-d tensor.

        The images of class c first coast through the c steps of the classes before it, and last through those of the
        classes after it: the same as one SGD over all images that steps once per class.
        """
        synthetic, momentum, lr = self.context.synthetic, self.settings.image_momentum, self.optimiser.lr
        images, velocity, own = synthetic.images, self.optimiser.velocity, synthetic.labels
        coast(images, velocity, lr, momentum, own)
        total = torch.zeros((), device=velocity.device)
        for labels in self.chunks:
            mine = synthetic.rows(labels)
            loss, gradient = self.image_gradient(labels, images[mine], inner, plan)
            velocity[mine].mul_(momentum).add_(self.optimiser.in_space(gradient))
            images[mine].sub_(velocity[mine], alpha=lr)
            total += loss
        coast(images, velocity, lr, momentum, synthetic.num_classes - 1 - own)
        return total

    def image_gradient(
        self, labels: range, stored: torch.Tensor, inner: int, plan: Plan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the distances of consecutive classes and its gradient with respect to their stored images.

        Args:
            labels: classes with equally many stored images.
            stored: their images (K * I, channels, H, H), class-sorted.
            inner: inner step, from 0.
            plan: random numbers of the outer step.
        """
        stored = stored.detach().requires_grad_()
        real, synthetic = [], []
        for label, own in zip(labels, stored.chunk(len(labels)), strict=True):
            call = inner * self.context.synthetic.num_classes + label
            uniforms, choice = plan.augment.uniforms[call], plan.augment.choices[call]
            real.append(self.pipeline(self.context.real.fetch(plan.real[label, inner]), uniforms, choice))
            decoded = self.context.synthetic.decode_class(own)
            if label in plan.subset:
                decoded = decoded[plan.subset[label][inner]]
            synthetic.append(self.pipeline(decoded, uniforms, choice))
        if not self.settings.freeze_batch_norm:
            self.context.network.train()
        setting = (self.forward, self.settings.distance, self.matched, self.fixed)
        if len(labels) == 1:
            loss, gradient = self._match(*setting, real[0], synthetic[0].detach(), self.labels[labels[0]])
            return loss, torch.autograd.grad(synthetic[0], stored, gradient)[0]
        stacked = torch.stack(synthetic)
        mine = self.labels[labels.start : labels.stop]
        losses, gradient = self._match_classes(*setting, torch.stack(real), stacked.detach(), mine)
        return losses.sum(), torch.autograd.grad(stacked, stored, gradient)[0]

    def _freeze_batch_norm(self, step: int, inner: int) -> None:
        """Move the statistics of batch norms by one batch of 16 real images per class, then hold them still."""
        context, network = self.context, self.context.network
        network.train()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            chosen = draw_real(context, f"batch norm {inner}", step, BATCH_NORM_IMAGES, 1).flatten()
            with torch.no_grad():
                network(self.pipeline.normalise(context.real.fetch(chosen)))
        for norm in norms:
            norm.eval()

    def _train_on_synthetic(self, step: int, inner: int) -> None:
        """``network_epochs`` epochs on the decoded set as it now is."""
        settings, context = self.settings, self.context
        images, labels = context.synthetic.decoded()
        trainer = self._synthetic_trainer(Source.like(images, labels, context.real))
        draws = generator(context.seed, "synthetic batch", step, inner)
        batch = min(settings.synthetic_training.batch, len(labels))
        for _ in range(settings.network_epochs):
            order = torch.randperm(len(labels), generator=draws).to(labels.device)
            trainer.run(order.split(batch), draws)

    def _synthetic_trainer(self, source: Source) -> Trainer:
        return Trainer(self.context.network, source, self.settings.synthetic_training, precision=self.context.precision)

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images."""
        return self.optimiser.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back the momentum of the images."""
        self.optimiser.load_state(state)

    def flops_per_outer_step(self) -> float:
        """Counted on one eager class per distinct number of decoded images, and one network step."""
        synthetic, plan = self.context.synthetic, self.draw(0, inner_steps=1)
        counted = self._eager()
        by_count: dict[int, float] = {}
        matching = 0.0
        for label, count in enumerate(synthetic.counts):
            if count not in by_count:
                with FlopCounterMode(display=False) as counter:
                    images = synthetic.images[synthetic.class_slice(label)]
                    counted.image_gradient(range(label, label + 1), images, 0, plan)
                by_count[count] = float(counter.get_total_flops())
            matching += by_count[count]
        if not self.settings.network_epochs:
            training = self.context.trainer.flops_per_step() * plan.network.shape[1]
            return (matching + training) * self.settings.inner_steps
        images, labels = synthetic.decoded()
        trainer = self._synthetic_trainer(Source.like(images, labels, self.context.real))
        share = len(labels) / min(len(labels), self.settings.synthetic_training.batch)  # a last batch is smaller
        training = trainer.flops_per_step() * share * self.settings.network_epochs
        return matching * self.settings.inner_steps + training * (self.settings.inner_steps - 1)

    def only(self, classes: range) -> GradientMatching:
        """The same method, at work on some classes alone."""
        some = copy.copy(self)
        some.own, some.chunks = classes, class_chunks(self.context.synthetic.counts, self.chunk, classes)
        return some

    def draw(self, step: int, inner_steps: int | None = None) -> Plan:
        """Every random number of outer step ``step``."""
        settings, context = self.settings, self.context
        steps = inner_steps or settings.inner_steps
        seed, classes, device = context.seed, context.synthetic.num_classes, self.labels.device
        subset = {}
        for label in range(classes):
            decoded = context.synthetic.decoded_per_class(label)
            if decoded > settings.max_decoded:
                keys = torch.rand(steps, decoded, generator=generator(seed, "decoded subset", step, label))
                subset[label] = keys.argsort(dim=1)[:, : settings.max_decoded].to(device)
        real = draw_real(context, "real batch", step, settings.real_batch, steps)
        augment = draw_augment(settings.augment, steps * classes, 1, generator(seed, "siamese", step)).to(device)
        batch = min(context.trainer.settings.batch, len(context.real.labels))
        batches = -(-settings.network_samples // batch)
        order = epoch_batches(
            len(context.real.labels), batch, steps * batches, generator(seed, "network batch", step)
        ).view(steps, batches, batch)
        training = context.trainer.draw(steps * batches, batch, generator(seed, "network augmentation", step))
        return Plan(real, subset, augment, order.to(context.real.images.device), training)


def classes_that_fit(bytes_per_class: int, free_bytes: int) -> int:
    """How many classes to match in one launch, from 1 to `CLASSES_AT_ONCE`.

    >>> classes_that_fit(2**30, 80 * 2**30), classes_that_fit(4 * 2**30, 80 * 2**30), classes_that_fit(2**40, 2**30)
    (10, 8, 1)
    """
    return max(1, min(CLASSES_AT_ONCE, int(free_bytes * MEMORY_SHARE / max(1, bytes_per_class))))


def class_chunks(counts: list[int], most: int, labels: range | None = None) -> list[range]:
    """Runs of consecutive classes with equally many stored images, at most ``most`` in each; of ``labels``, or all."""
    chunks: list[range] = []
    for label in range(len(counts)) if labels is None else labels:
        last = chunks[-1] if chunks else range(0)
        if len(last) in range(1, most) and counts[last.start] == counts[label]:
            chunks[-1] = range(last.start, label + 1)
        else:
            chunks.append(range(label, label + 1))
    return chunks

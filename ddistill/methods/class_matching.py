"""What methods that match classes have in common, so that a method is its settings and a loss.

Shapes: C classes, B real images of a class per step, S decoded synthetic images of a class, I stored ones, M inner
steps.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from pydantic import Field
from torch import nn

from ddistill.augment import DSA_AUGMENTATION, AugmentDraws, AugmentSettings, draw_augment
from ddistill.methods.base import Context, Method, Needs, OnInner, draw_real
from ddistill.methods.chunking import Chunking, bytes_of_one_more, choose, class_runs
from ddistill.methods.image_optimiser import ImageOptimiser, ImageSGD
from ddistill.methods.turns import Turn, appearances, class_turn, labels_of, updates_per_round
from ddistill.networks import couples_batch
from ddistill.runtime.capture import Captured, wants_capture
from ddistill.runtime.distributed import ALONE
from ddistill.runtime.flops import flops_of
from ddistill.runtime.gradients import eager_grad_and_value, grad_and_value_for
from ddistill.runtime.randomness import generator
from ddistill.runtime.settings import Settings
from ddistill.training import Forward, Resolved, maybe_compile

Tensors = dict[str, torch.Tensor]


class ClassMatchingSettings(Settings):
    """What every such method has: how images move, and what a step looks at."""

    image_lr: float = Field(default=1.0, gt=0)
    """Learning rate of the images, for images normalised by mean and std."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images."""
    inner_steps: int = Field(default=1, ge=1)
    """Image updates per outer step, that is, per network."""
    classes_per_step: int | None = Field(default=None, ge=1)
    """Classes of an image update at most, drawn such that each has its turn before any has its second; not set: all."""
    real_batch: int = Field(default=256, ge=1)
    """Real images per class and step (B)."""
    augment: AugmentSettings = DSA_AUGMENTATION
    """Siamese augmentation: one draw for the real and the synthetic images of a class."""

    @property
    def needs(self) -> Needs:
        """A network; the classes are shared out to the processes of a run."""
        return Needs(network=True, sharded=True)


class Networks(NamedTuple):
    """Weights by name of the networks of an outer step; a reference is there where the source gives one."""

    weights: Tensors
    reference: Tensors | None = None


@dataclass(frozen=True)
class StepDraws:
    """Every random number of one outer step.

    A class is found by its place in the turn of an inner step: its label, where all classes have a turn in each. G is
    the number of places in the largest turn.

    Attributes:
        turns: the classes of each inner step.
        real: positions in the real images, int64 (G, M, B).
        subset: by label and inner step, for classes with too many decoded images: the ones to use, int64
            (max_decoded,).
        augment: one call per (inner step, place).
        labels: of the classes, on the device, int64 (G, M).
    """

    turns: list[Turn]
    real: torch.Tensor
    subset: dict[int, dict[int, torch.Tensor]]
    augment: AugmentDraws
    labels: torch.Tensor

    def place(self, label: int, inner: int) -> int:
        """Of a class in the turn of an inner step."""
        return bisect_left(self.turns[inner], label)

    def call(self, place: int, inner: int) -> int:
        """The augmentation of the class at a place."""
        return inner * len(self.real) + place


class Through:
    """A method of a network other than its forward (``features``, ``layers``), with weights given with each call."""

    def __init__(self, network: nn.Module, method: str, precision: Resolved) -> None:
        self.forward = Forward(_Calls(network, method), precision)

    def __call__(self, weights: Tensors, images: torch.Tensor) -> Any:
        """What the method makes of normalised images, with the network's weights by their own names."""
        return self.forward({f"network.{name}": weight for name, weight in weights.items()}, images)


class _Calls(nn.Module):
    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, images: torch.Tensor) -> Any:
        return getattr(self.network, self.method)(images)


class ClassMatching(Method):
    """One outer step: M image updates, each along the gradients of its classes' losses under one network.

    A method defines `loss`. It may also replace `image_optimiser`, `before` and `between` (what happens to the network
    around an image update), `settled` (an outer step that ends early) and `real_side` (what the loss gets of the real
    images). Everything random is drawn at the start of an outer step, so that nothing is read on the host within it.

    Attributes:
        assigned: classes that this rank may match.
        in_groups: an image update looks at some classes, not at all.
        mapped: `loss` can be mapped over classes, so that several go into one launch.
        captured: on a GPU `image_gradient` is captured: `loss` reads nothing but its arguments, `variant` and tensors
            that stay where they are, and `real_side` gives the real images; False, unless a method says so.
        divided: the method has `class_gradient_in_parts`.
    """

    chunking: Chunking
    mapped = True
    _launch: Captured | None = None
    divided = False

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings, self.context = settings, context
        synthetic, network = context.synthetic, context.network
        self.ranks = context.ranks if settings.needs.sharded else ALONE
        self.in_groups = self.updates_per_round > 1
        share = self.ranks.share(len(synthetic.open_classes))
        self.assigned = synthetic.open_classes if self.in_groups else synthetic.open_classes[share.start : share.stop]
        self.labels = torch.arange(synthetic.num_classes, device=synthetic.images.device)
        self.pipeline = context.real.pipeline(settings.augment)
        self.optimiser = self.image_optimiser()
        self.forward = Forward(network, context.precision)
        # detached: they share the network's memory, and no graph reaches the weights where none is asked for
        weights, reference = (
            {name: parameter.detach() for name, parameter in module.named_parameters()} if module is not None else None
            for module in (network, context.reference)
        )
        self.networks = Networks(weights or {}, reference)
        self.compiled = context.hot_path.compiled and not couples_batch(network)
        self.grad_and_value = eager_grad_and_value
        self.chunking = choose(
            context, self._images_at_once(), self.activation_bytes, mapped=self.mapped, divided=self.divided
        )
        self._prepare()

    def _prepare(self) -> None:
        """Choose the code for the chunks as they are."""
        chunking, counts = self.chunking, self.context.synthetic.counts
        largest = -(-len(self.assigned) // self.updates_per_round)
        chunking.classes = max(map(len, class_runs(counts, min(chunking.classes, largest), self.assigned)), default=1)
        self.grad_and_value = grad_and_value_for(not chunking.images and (self.compiled or chunking.classes > 1))
        self._one = maybe_compile(self.class_gradient, self.compiled)
        self._several = maybe_compile(self.classes_gradient, self.compiled)
        if chunking.images:
            self._one = self.class_gradient_in_parts
        if self._launch is not None:
            self._launch.release()
        self._launch, real = None, self.context.real
        # what somebody registered may read on the host
        captured = self.captured and real.travel_to is None and not self.settings.augment.registered
        if captured and wants_capture(self.labels.device):
            self._launch = Captured(self._gradient_of, list(self.context.network.buffers()), "matching")

    # ------------------------------------------------------------------------------------------ what a method says

    def loss(self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss of one class, a 0-d tensor, as a function of its arguments alone.

        Gradients inside of it are taken by ``self.grad_and_value``.

        Args:
            networks: weights for ``self.forward`` and `Through`.
            real: (B, channels, H, H), normalised and augmented.
            synthetic: (S, channels, H, H), the same way.
            label: 0-d int64, the class.
        """
        raise NotImplementedError

    def class_gradient_in_parts(
        self, networks: Networks, real: torch.Tensor, synthetic: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`class_gradient` with the activations of ``self.chunking.images`` images at a time."""
        raise NotImplementedError

    def image_optimiser(self) -> ImageOptimiser:
        """What moves the stored images: by default SGD at a rate that is meant for normalised images."""
        settings, context = self.settings, self.context
        return ImageSGD(context.synthetic, settings.image_lr, settings.image_momentum, context.real.normalisation)

    @property
    def inner_steps(self) -> int:
        """Image updates per outer step, at most."""
        steps: int = self.settings.inner_steps
        return steps

    @property
    def max_decoded(self) -> int | None:
        """Decoded images of a class per inner step at most, a random subset where there are more; None: no bound."""
        return None

    def begin(self, step: int) -> None:
        """Start an outer step."""

    def before(self, step: int, inner: int) -> None:
        """Make the network ready for an image update."""
        self.context.network.train()

    def between(self, step: int, inner: int, draws: Any) -> None:
        """Train the network after an image update, for example."""

    def settled(self) -> bool:
        """Whether the outer step ends with the image update that was just made."""
        return False

    def real_side(self, labels: Turn, inner: int, draws: StepDraws) -> Any:
        """What `loss` gets of the real images of each of some classes: themselves by default, (K, B, ...)."""
        return self.real_images(labels, inner, draws)

    @property
    def variant(self) -> Hashable:
        """What `loss` looks at besides its arguments, where that changes in the course of a run."""
        return None

    # ------------------------------------------------------------------------------------------------- the algorithm

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """Image updates under one network; the mean loss of a class, a 0-d tensor."""
        context, steps = self.context, self.inner_steps
        context.synthetic.keep_in_range()
        self.begin(step)
        draws = self.draw(step)
        total, matched = torch.zeros((), device=self.labels.device), 0
        self._expect(draws, 0)
        for inner in range(steps):
            self._expect(draws, inner + 1)  # read ahead, while this update is computed
            self.before(step, inner)
            total += self.image_step(inner, draws)
            matched += len(draws.turns[inner])
            ended = self.settled()
            if not ended:
                self.between(step, inner, draws)
            on_inner(steps if ended else inner + 1, steps)
            if ended:
                break
        if self.optimiser.coasts:
            if not self.in_groups:
                self.join_classes()
            self.ranks.add_([total.view(1)])
        return total / matched

    def image_step(self, inner: int, draws: StepDraws) -> torch.Tensor:
        """One update under the network as it is of the classes whose turn it is; the sum of their losses, 0-d."""
        counts, turn, optimiser = self.context.synthetic.counts, draws.turns[inner], self.optimiser
        share = self.ranks.share(len(turn))
        total = torch.zeros((), device=self.labels.device)
        optimiser.begin(turn)
        first = sum(counts[label] for label in turn[: share.start])
        for labels in class_runs(counts, self.chunking.classes, turn[share.start : share.stop]):
            rows = slice(first, first + len(labels) * counts[labels[0]])
            loss, gradient = self._gradient(labels, optimiser.moving[rows], inner, draws)
            optimiser.take(rows, gradient)
            total += loss
            first = rows.stop
        if not optimiser.coasts:  # one step on the sum of all classes' losses: ranks bring theirs together
            self.ranks.add_([optimiser.gradient, total.view(1)])
        optimiser.finish()
        if optimiser.coasts and self.in_groups:  # at its next turn a class may be another rank's
            self.join_classes(turn)
        return total

    def _expect(self, draws: StepDraws, inner: int) -> None:
        """Have the real images of an inner step read ahead."""
        if inner < len(draws.turns):
            share = self.ranks.share(len(draws.turns[inner]))
            self.context.real.expect(draws.real[share.start : share.stop, inner])

    def _gradient(
        self, labels: Turn, stored: torch.Tensor, inner: int, draws: StepDraws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`image_gradient`, as one launch where it is captured; for all classes alike but for their numbers."""
        if self._launch is None:
            return self.image_gradient(labels, stored, inner, draws)
        first = draws.place(labels[0], inner)
        places, augment = slice(first, first + len(labels)), draws.augment.part(draws.call(first, inner), len(labels))
        subset = [draws.subset[label][inner] for label in labels if label in draws.subset]
        inputs = (stored, draws.labels[places, inner], draws.real[places, inner], augment.uniforms, augment.chosen)
        given: tuple[torch.Tensor, torch.Tensor] = self._launch(*inputs, *subset, variant=self.variant)
        return given

    def _gradient_of(
        self, stored: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, *others: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        uniforms, chosen, *subset = others
        turn, augment = range(len(labels)), AugmentDraws(uniforms, (), chosen)
        chosen_few = {place: {0: positions} for place, positions in enumerate(subset)}
        return self.image_gradient(
            turn, stored, 0, StepDraws([turn], real[:, None], chosen_few, augment, labels[:, None])
        )

    def image_gradient(
        self, labels: Turn, stored: torch.Tensor, inner: int, draws: StepDraws
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of some classes and its gradient with respect to their stored images.

        Args:
            labels: classes with equally many stored images.
            stored: their images (K * I, channels, H, H), class-sorted.
            inner: inner step, from 0.
            draws: random numbers of the outer step.
        """
        stored = stored.detach().requires_grad_()
        synthetic = self.synthetic_images(labels, stored, inner, draws)
        real = self.real_side(labels, inner, draws)
        first = draws.place(labels[0], inner)
        chosen = draws.labels[first : first + len(labels), inner]
        # two backward passes: the compiled code ends at the network's input, decoding and augmentation stay eager
        if len(labels) == 1:
            loss, gradient = self._one(self.networks, real[0], synthetic[0].detach(), chosen[0])
            return loss, torch.autograd.grad(synthetic, stored, gradient[None])[0]
        losses, gradient = self._several(self.networks, real, synthetic.detach(), chosen)
        return losses.sum(), torch.autograd.grad(synthetic, stored, gradient)[0]

    def class_gradient(
        self, networks: Networks, real: Any, synthetic: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`loss`, and its gradient with respect to the class's decoded images (S, channels, H, H)."""
        gradient, value = self.grad_and_value(lambda images: self.loss(networks, real, images, label))(synthetic)
        return value, gradient

    def classes_gradient(
        self, networks: Networks, real: torch.Tensor, synthetic: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`class_gradient` of K classes in one launch: real (K, B, ...), synthetic (K, S, ...), labels (K,).

        The weights are shared, so forward passes and input gradients run as one batch of K times as many images; only
        the gradients of weights, and what is derived from them, have a class axis.
        """
        return torch.vmap(lambda x, s, c: self.class_gradient(networks, x, s, c))(real, synthetic, labels)

    def real_images(self, labels: Turn, inner: int, draws: StepDraws) -> torch.Tensor:
        """Real images of K neighbours in the turn of an inner step, (K, B, channels, H, H), normalised, augmented."""
        first = draws.place(labels[0], inner)
        index = draws.real[first : first + len(labels), inner]
        return self._augmented(self.context.real.fetch(index.flatten()).unflatten(0, index.shape), first, inner, draws)

    def synthetic_images(self, labels: Turn, stored: torch.Tensor, inner: int, draws: StepDraws) -> torch.Tensor:
        """Their decoded images, (K, S, channels, H, H), normalised and augmented by the draw of their real images.

        Args:
            labels: classes with equally many stored images.
            stored: these, (K * I, channels, H, H).
            inner: inner step, from 0.
            draws: random numbers of the outer step.
        """
        decoded = [self.context.synthetic.decode_class(images) for images in stored.chunk(len(labels))]
        few = [draws.subset[label][inner] if label in draws.subset else None for label in labels]
        taken = [images if some is None else images[some] for images, some in zip(decoded, few, strict=True)]
        return self._augmented(torch.stack(taken), draws.place(labels[0], inner), inner, draws)

    def _augmented(self, images: torch.Tensor, place: int, inner: int, draws: StepDraws) -> torch.Tensor:
        """Images of the classes from a place on, (K, n, channels, H, H), each class by its one draw."""
        (count, each), first, augment = images.shape[:2], draws.call(place, inner), draws.augment
        if augment.choices:
            calls = zip(images, augment.uniforms[first:], augment.choices[first:], strict=False)
            return torch.stack([self.pipeline(of_class, uniforms, choice) for of_class, uniforms, choice in calls])
        uniforms = augment.uniforms[first : first + count].expand(-1, each, -1).flatten(0, 1)
        choice = augment.chosen[first : first + count].repeat_interleave(each)
        return self.pipeline(images.flatten(0, 1), uniforms, choice).unflatten(0, (count, each))

    @property
    def updates_per_round(self) -> int:
        """Image updates in which each class has one turn; 1 where all classes have a turn in each."""
        classes = len(self.context.synthetic.open_classes)
        return updates_per_round(classes, getattr(self.settings, "classes_per_step", None))

    def turns(self, step: int) -> list[Turn]:
        """The classes of each inner step of an outer step; groups go on from one outer step to the next."""
        classes, most = self.context.synthetic.open_classes, getattr(self.settings, "classes_per_step", None)
        first = (step - 1) * self.inner_steps
        return [class_turn(self.context.seed, first + inner, classes, most) for inner in range(self.inner_steps)]

    def draw(self, step: int, turns: list[Turn] | None = None) -> StepDraws:
        """Every random number of outer step ``step``, with its own turns or with others."""
        context, seed = self.context, self.context.seed
        turns, device, most = turns or self.turns(step), self.labels.device, self.max_decoded
        subset = {}
        for label, (_, numbers) in appearances(turns).items():
            decoded = context.synthetic.decoded_per_class(label)
            if most is not None and decoded > most:
                keys = torch.rand(len(numbers), decoded, generator=generator(seed, "decoded subset", step, label))
                subset[label] = dict(zip(numbers, keys.argsort(dim=1)[:, :most].to(device), strict=True))
        real = draw_real(context, "real batch", step, self.settings.real_batch, len(turns), turns)
        augment = draw_augment(self.settings.augment, len(turns) * len(real), 1, generator(seed, "siamese", step))
        return StepDraws(turns, real, subset, augment.to(device), labels_of(turns, len(real)).to(device))

    def join_classes(self, turn: Turn | None = None) -> None:
        """Bring together the images of the classes of a turn (of all if None) that ranks have moved on their own."""
        if self.ranks.count == 1:
            return
        synthetic = self.context.synthetic
        turn = synthetic.open_classes if turn is None else turn
        rows, share = synthetic.rows(turn), self.ranks.share(len(turn))
        first, end = (sum(synthetic.counts[label] for label in turn[:place]) for place in (share.start, share.stop))
        moved = [synthetic.images, *self.optimiser.state().values()]
        parts = [tensor[rows] for tensor in moved]
        self.ranks.join_rows_(parts, slice(first, end))
        for tensor, part in zip(moved, parts, strict=True):
            tensor[rows] = part

    def state(self) -> Tensors:
        """What the image optimiser keeps."""
        return self.optimiser.state()

    def load_state(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        self.optimiser.load_state(state)

    # ------------------------------------------------------------------------------------------------ cost and memory

    def flops_per_outer_step(self) -> float:
        """Of the image updates: `class_work` counted on one class for each number of stored images; groups of classes
        in the mean."""
        classes = self.context.synthetic.open_classes
        counts = [self.context.synthetic.counts[label] for label in classes]
        first = {count: classes[counts.index(count)] for count in counts}
        draws = self.draw(0, [sorted(first.values()) if self.in_groups else classes])
        counted = self._eager()
        by_count = {count: flops_of(partial(counted.class_work, label, draws)) for count, label in first.items()}
        return self.inner_steps * sum(by_count[count] for count in counts) / self.updates_per_round

    def class_work(self, label: int, draws: StepDraws) -> None:
        """What an image update computes for one class."""
        images = self.context.synthetic.images[self.context.synthetic.class_slice(label)]
        self.image_gradient(range(label, label + 1), images, 0, draws)

    def activation_bytes(self) -> int:
        """What the backward passes of one more synthetic (and real) image keep, counted on two small eager calls."""
        synthetic, label = self.context.synthetic, self.assigned.start
        stored = synthetic.images[synthetic.class_slice(label)]
        images = self.pipeline.normalise(synthetic.decode_class(stored).detach())

        def work(count: int) -> None:
            some = images[:1].expand(count, *images.shape[1:]).contiguous()
            self._eager().class_gradient(self.networks, some, some, self.labels[label])

        return bytes_of_one_more(work)

    def _images_at_once(self) -> int:
        """Images of the largest class that go through the network at once when it is not divided; 0: no class."""
        most = max(map(self.context.synthetic.decoded_per_class, self.assigned), default=0)
        return max(self.settings.real_batch, min(most, self.max_decoded or most)) if most else 0

    def smaller_chunk(self) -> str | None:
        """Put less into a launch after the device ran out of memory; in words, or None where it is one image."""
        said = self.chunking.smaller()
        if said is not None:
            self._prepare()
        return said

    def _eager(self) -> Self:
        """The same method, uncompiled and undivided."""
        eager = copy.copy(self)
        eager.grad_and_value = eager_grad_and_value
        eager._one = eager.class_gradient
        eager._launch = None
        return eager

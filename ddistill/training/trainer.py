"""SGD on mini-batches with augmentation and CutMix; every random number is drawn before the loop.

Shapes: B batch, N images of the set, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ddistill.augment import (
    AugmentDraws,
    AugmentSettings,
    CutMixDraws,
    Pipeline,
    cutmix,
    draw_augment,
    draw_cutmix,
)
from ddistill.data import epoch_batches
from ddistill.data.image_set import ImageSet
from ddistill.networks import couples_batch
from ddistill.runtime.capture import Captured, wants_capture
from ddistill.runtime.flops import flops_of
from ddistill.runtime.gradients import eager_grad_and_value, grad_and_value_for
from ddistill.runtime.settings import Settings
from ddistill.training.compilation import maybe_compile
from ddistill.training.precision import Forward, Resolved

EVALUATION_BATCH = 250
READ_AHEAD = 8
"""Mini-batches."""
STEPS_AT_ONCE = 32
"""Steps of a launch where they are captured, at most: what an inner step of IDC trains a network for."""
BLOCK_BYTES = 2**28
"""Of the images of the steps of a launch, at most."""
SQUARES, STEPS = "square ", "steps"
"""Of adamw, in what an optimiser remembers: second moments by parameter, and the number of steps."""
SECOND_BETA, EPSILON = 0.999, 1e-8
"""Of adamw."""


class TrainingSettings(Settings):
    """How a network is trained: SGD with momentum, or AdamW, on mini-batches."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    """sgd; or adamw (https://arxiv.org/abs/1711.05101), whose second beta is 0.999 and epsilon 1e-8."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate at the start."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd, first beta of adamw."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """On all parameters; an L2 penalty of sgd, decoupled from the gradient in adamw."""
    batch: int = Field(default=64, ge=1)
    """Images in a mini-batch."""
    augment: AugmentSettings = AugmentSettings(operations=("color", "crop"))
    """Augmentation, drawn per image."""
    cutmix: float = Field(default=0.5, ge=0, le=1)
    """Probability that a batch is mixed by CutMix."""

    def identity(self) -> dict[str, Any]:
        """What decides a training, JSON-able: without the optimiser where it is sgd, as before there was another."""
        return self.model_dump(mode="json", exclude={"optimiser"} if self.optimiser == "sgd" else None)


@dataclass(frozen=True)
class TrainingDraws:
    """Augmentation and CutMix parameters of a number of mini-batches."""

    augment: AugmentDraws
    mix: CutMixDraws

    def part(self, first: int, count: int) -> TrainingDraws:
        """The parameters of ``count`` batches from ``first`` on."""
        chosen = slice(first, first + count)
        return TrainingDraws(self.augment.part(first, count), CutMixDraws(self.mix.box[chosen], self.mix.keys[chosen]))

    def tensors(self, images: int) -> tuple[torch.Tensor, ...]:
        """All of it for batches of so many images, as `of_tensors` takes it."""
        augment, mix = self.augment, self.mix
        return augment.uniforms[:, :images], augment.chosen, mix.box, mix.keys[:, :images]

    @classmethod
    def of_tensors(cls, uniforms: torch.Tensor, chosen: torch.Tensor, *mix: torch.Tensor) -> TrainingDraws:
        """Draws whose choices are known on the device alone."""
        return cls(AugmentDraws(uniforms, (), chosen), CutMixDraws(*mix))


@dataclass(frozen=True)
class Block:
    """Steps that are made by one launch.

    Attributes:
        batches: positions into the image set, int64 (K, B).
        draws: of the K batches.
        rates: learning rates, (K,).
    """

    batches: torch.Tensor
    draws: TrainingDraws
    rates: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of it, as `of_tensors` takes it."""
        return self.batches, self.rates, *self.draws.tensors(self.batches.shape[1])

    @classmethod
    def of_tensors(cls, batches: torch.Tensor, rates: torch.Tensor, *draws: torch.Tensor) -> Block:
        """A block whose choices are known on the device alone."""
        return cls(batches, TrainingDraws.of_tensors(*draws), rates)


def blocks(batches: Sequence[torch.Tensor], draws: TrainingDraws, rates: torch.Tensor, most: int) -> Iterator[Block]:
    """Mini-batches in blocks of at most ``most``; those that fill no block, and those of another size (the last one of
    an epoch), one by one, so that few shapes occur."""
    full = len(list(takewhile(lambda batch: len(batch) == len(batches[0]), batches)))
    most, first = min(most, full), 0
    while first < len(batches):
        count = most if first + most <= full else 1
        part = slice(first, first + count)
        yield Block(torch.stack(list(batches[part])), draws.part(first, count), rates[part])
        first += count


class Trainer:
    """Trains one module in place, again and again with the same code.

    Args:
        module: the network; its parameter tensors are updated, never replaced.
        image_set: images to train on.
        settings: optimiser, augmentation, CutMix.
        compiled: compile forward, backward and update into one graph, unless the module couples the images of a batch.
        precision: of convolutions and products; the weights and the optimiser's state are float32 always.
        captured: launch many steps at once on a GPU, captured on the stream of that name (`Captured`); pays where the
            trainer makes some hundred steps. None: launch operator by operator.
    """

    def __init__(
        self,
        module: nn.Module,
        image_set: ImageSet,
        settings: TrainingSettings,
        *,
        compiled: bool = False,
        precision: Resolved = "fp32",
        captured: str | None = None,
    ) -> None:
        self.settings = settings
        self.precision = precision
        self.compiled = compiled and not couples_batch(module)
        self.captured = captured
        self.grad_and_value = grad_and_value_for(self.compiled)
        self._hold(module)
        self._step = maybe_compile(self._update, self.compiled)
        self._launch: Captured | None = None
        self.look_at(image_set)

    def _hold(self, module: nn.Module) -> None:
        """Take a module for the one that is trained."""
        self.module = module
        self.forward = Forward(module, self.precision)
        self.parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        self.buffers = dict(module.named_buffers())
        self.momenta = no_momenta(self.settings, self.parameters)

    def look_at(self, image_set: ImageSet) -> None:
        """Take other images to train on."""
        self.image_set = image_set
        self.pipeline = image_set.pipeline(self.settings.augment)
        if self._launch is not None:
            self._launch.release()
        stream = self.captured if self.captures else None
        self._launch = Captured(self._steps_of, self.changed, stream) if stream else None

    def alike(self, image_set: ImageSet) -> Trainer:
        """A trainer of another network of the architecture, on other images of the shape, that shares compiled code."""
        other = copy.copy(self)
        other._launch = None
        module = copy.deepcopy(self.module).train()
        if self.image_set.device.type == "cuda":
            for weight in module.parameters():  # 12 % of a step were changes of layout on an H200
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        other._hold(module)
        if not self.compiled:
            other._step = other._update
        other.look_at(image_set)
        return other

    @property
    def captures(self) -> bool:
        """Whether steps are captured: not where images come from elsewhere, and not where an augmentation that somebody
        registered may ask the host."""
        here = self.image_set.travel_to is None and not self.settings.augment.registered
        return self.captured is not None and here and wants_capture(self.image_set.device)

    @property
    def changed(self) -> list[torch.Tensor]:
        """All that a step changes."""
        return [*self.parameters.values(), *self.buffers.values(), *self.momenta.values()]

    @property
    def steps_at_once(self) -> int:
        """Steps of a launch."""
        if not self.captures:
            return 1
        image = self.image_set.images[:1].numel() * 4
        return max(1, min(STEPS_AT_ONCE, BLOCK_BYTES // (image * self.settings.batch)))

    def restart(self, momenta: Mapping[str, torch.Tensor] | None = None) -> None:
        """Forget the momentum, as a new optimiser would, or take that of another training of the same network over; in
        place, where compiled and captured code knows it."""
        for name, momentum in self.momenta.items():
            momentum.zero_()
            if momenta is not None:
                momentum.copy_(momenta[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and momentum: all that decides how the training goes on."""
        weights = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        return {**weights, **{f"momentum.{name}": tensor for name, tensor in self.momenta.items()}}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave, into the tensors that compiled code knows.

        Raises:
            KeyError, RuntimeError: it is of another network.
        """
        prefix = "weights."
        weights = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        momenta = {name: state[f"momentum.{name}"] for name in self.momenta}
        with torch.no_grad():
            self.module.load_state_dict(weights)
            for name, tensor in momenta.items():
                self.momenta[name].copy_(tensor)

    def draw(self, steps: int, images: int, generator: torch.Generator) -> TrainingDraws:
        """Augmentation and CutMix parameters of ``steps`` batches of at most ``images`` each, on the device."""
        return draw_training(self.settings, self.image_set, steps, images, generator)

    def run(
        self,
        batches: Sequence[torch.Tensor],
        draws: TrainingDraws | torch.Generator,
        lrs: Sequence[float] | None = None,
    ) -> torch.Tensor:
        """One SGD step per batch of positions into the image set.

        Args:
            batches: int64 tensors of positions, at most ``settings.batch`` each.
            draws: augmentation and CutMix of all steps, or a generator to draw them from.
            lrs: learning rate of each step; the settings' constant rate by default.

        Returns:
            The loss of the last batch, a 0-d tensor on the device.
        """
        if not batches:
            return torch.zeros(())
        if isinstance(draws, torch.Generator):
            draws = self.draw(len(batches), max(map(len, batches)), draws)
        rates = _on_device(lrs or [self.settings.lr] * len(batches), self.image_set.device)
        self.module.train()
        loss = torch.zeros(())
        for ahead in batches[:READ_AHEAD]:
            self.image_set.expect(ahead)
        for step, block in enumerate(blocks(batches, draws, rates, self.steps_at_once)):
            if self._launch is not None:
                loss = self._launch(*block.tensors())
                continue
            if step + READ_AHEAD < len(batches):
                self.image_set.expect(batches[step + READ_AHEAD])
            loss = self.steps(block)
        return loss.clone()

    def steps(self, block: Block) -> torch.Tensor:
        """The steps of a block; the loss of the last one."""
        loss = torch.zeros(())
        mixed = mixed_batches(self.image_set, self.pipeline, block)
        for images, labels, partner_labels, share, rate in zip(*mixed, block.rates, strict=True):
            state = (self.parameters, self.momenta, self.buffers)
            loss = self._step(images, labels, partner_labels, share, rate, *state)
        return loss

    def _steps_of(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.steps(Block.of_tensors(*tensors))

    def run_epoch(self, draws: torch.Generator, lr: float | None = None, *, filled: bool = False) -> None:
        """One SGD step per mini-batch of one shuffled pass over the images.

        Args:
            draws: the order, then augmentation and CutMix.
            lr: learning rate; the settings' by default.
            filled: fill the last mini-batch from a further pass, else it is smaller.
        """
        batches = epoch_order(self.image_set, self.settings.batch, draws, filled=filled)
        self.run(batches, draws, [self.settings.lr if lr is None else lr] * len(batches))

    def flops_per_step(self) -> float:
        """Floating-point operations of one step on a full batch, by torch's counter."""
        images = self.image_set.fetch(
            torch.zeros(min(self.settings.batch, len(self.image_set.labels)), dtype=torch.int64)
        )
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        forward = Forward(copy.deepcopy(self.module))  # the statistics of a batch norm would move
        step = eager_grad_and_value(lambda weights: F.cross_entropy(forward(weights, images), labels))
        return flops_of(lambda: step(self.parameters))

    def flops_per_epoch(self) -> float:
        """Floating-point operations of a pass over the images."""
        total = len(self.image_set.labels)
        return self.flops_per_step() * (total / min(total, self.settings.batch))

    def _update(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        partner_labels: torch.Tensor,
        share: torch.Tensor,
        lr: torch.Tensor,
        parameters: dict[str, torch.Tensor],
        momenta: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        def loss_of(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return mixed_loss(self.forward({**weights, **buffers}, images), labels, partner_labels, share)

        gradients, loss = self.grad_and_value(loss_of)(parameters)
        descend(self.settings, gradients, lr, parameters, momenta)
        return loss


def draw_training(
    settings: TrainingSettings, image_set: ImageSet, steps: int, images: int, generator: torch.Generator
) -> TrainingDraws:
    """Augmentation and CutMix parameters of ``steps`` batches of at most ``images`` each, where the images are."""
    augment = draw_augment(settings.augment, steps, images, generator)
    mix = draw_cutmix(settings.cutmix, steps, images, image_set.images.shape[-1], generator)
    return TrainingDraws(augment.to(image_set.device), mix.to(image_set.device))


def epoch_order(image_set: ImageSet, batch: int, draws: torch.Generator, *, filled: bool) -> Sequence[torch.Tensor]:
    """Positions of the mini-batches of one shuffled pass, where the images are.

    Args:
        image_set: what is passed over.
        batch: images in a mini-batch, at most.
        draws: of the order.
        filled: fill the last mini-batch from a further pass, else it is smaller.
    """
    total, device = len(image_set.labels), image_set.images.device
    batch = min(batch, total)
    if filled:
        return epoch_batches(total, batch, -(-total // batch), draws).to(device).unbind()
    return torch.randperm(total, generator=draws).to(device).split(batch)


@torch.no_grad()
def mixed_batches(image_set: ImageSet, pipeline: Pipeline, block: Block) -> tuple[torch.Tensor, ...]:
    """The mini-batches of a block, augmented and mixed all at once.

    Returns:
        Images (K, B, channels, H, H), labels (K, B, ...), labels of what was mixed in, share of the own (K,).
    """
    (count, batch), positions = block.batches.shape, block.batches.flatten()
    augment, mix = block.draws.augment, block.draws.mix
    choice = augment.choices[0] if len(augment.choices) == 1 else augment.chosen.repeat_interleave(batch)
    images = pipeline(image_set.fetch(positions), augment.uniforms[:, :batch].flatten(0, 1), choice)
    partner = mix.keys[:, :batch].argsort(dim=1)
    images, share = cutmix(images.unflatten(0, (count, batch)), mix.box, partner)
    if images.device.type == "cuda":
        images = images.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(images)
    labels = image_set.fetch_labels(positions).unflatten(0, (count, batch))
    batches = torch.arange(count, device=labels.device)[:, None]
    return images, labels, labels[batches, partner], share


def mixed_loss(
    logits: torch.Tensor, labels: torch.Tensor, partner_labels: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy with both labels of a mixed batch, each classes (B,) or soft labels (B, C).

    It is linear in a soft label, so this is the loss with both mixed by area, as CutMix mixes them
    (https://arxiv.org/abs/1905.04899).
    """
    return share * F.cross_entropy(logits, labels) + (1.0 - share) * F.cross_entropy(logits, partner_labels)


def no_momenta(settings: TrainingSettings, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the optimiser remembers of a new training: zeros, by the name of the parameter; of adamw also second moments
    and the number of steps."""
    momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    if settings.optimiser == "sgd":
        return momenta
    squares = {f"{SQUARES}{name}": torch.zeros_like(momentum) for name, momentum in momenta.items()}
    like = next(iter(momenta.values()))
    return {**momenta, **squares, STEPS: torch.zeros((), dtype=like.dtype, device=like.device)}


@torch.no_grad()
def descend(
    settings: TrainingSettings,
    gradients: dict[str, torch.Tensor],
    lr: torch.Tensor,
    parameters: dict[str, torch.Tensor],
    momenta: dict[str, torch.Tensor],
) -> None:
    """One step of the optimiser with its weight decay, in place."""
    if settings.optimiser == "adamw":
        first, second, steps = settings.momentum, SECOND_BETA, momenta[STEPS].add_(1)
        for name, parameter in parameters.items():
            momentum = momenta[name].lerp_(gradients[name], 1 - first)
            square = momenta[SQUARES + name].mul_(second).addcmul_(gradients[name], gradients[name], value=1 - second)
            length = (square / (1 - second**steps)).sqrt_().add_(EPSILON)
            parameter.mul_(1 - lr * settings.weight_decay).sub_(lr * (momentum / (1 - first**steps)) / length)
        return
    for name, parameter in parameters.items():
        decayed = gradients[name] + settings.weight_decay * parameter
        momentum = momenta[name].mul_(settings.momentum).add_(decayed)
        parameter.sub_(lr * momentum)


def _on_device(rates: Sequence[float], device: torch.device) -> torch.Tensor:
    """Rates as a tensor; equal ones, the usual case, without a copy that a GPU would be waited for."""
    if min(rates) == max(rates):
        return torch.full((len(rates),), rates[0], device=device)
    return torch.tensor(rates, device=device)


@dataclass(frozen=True)
class Falls:
    """How the learning rate falls in the course of a training.

    Attributes:
        at: epochs done at which it falls, ascending.
        factor: that it is multiplied by at each.
        restart: a new optimiser goes on at each, without the momentum of the one before.
    """

    at: tuple[int, ...] = ()
    factor: float = 1.0
    restart: bool = False

    def rate(self, lr: float, epoch: int) -> float:
        """The rate in ``epoch`` (from 0)."""
        return lr * self.factor ** sum(epoch >= one for one in self.at)

    def in_words(self) -> str:
        """For the record."""
        if not self.at:
            return "constant"
        epochs = ", ".join(map(str, self.at))
        return f"x{self.factor:g} after epoch {epochs}" + (", with a new optimiser" if self.restart else "")


def thirds_and_sixths(epochs: int) -> Falls:
    """To a fifth at 2/3 of the epochs and again at 5/6, rounded down, as in IDC.

    The first epoch is always trained at the full rate. The published program of model augmentation counts one epoch
    more than it trains its pool for, so that both of two epochs are at the full rate there.
    """
    return Falls((max(1, 2 * epochs // 3), max(1, 5 * epochs // 6)), 0.2)


@torch.no_grad()
def predict_labels(module: nn.Module, image_set: ImageSet) -> torch.Tensor:
    """The class that the network takes each image of the set for: int64 (N,), where the labels are."""
    module.eval()
    positions = torch.arange(len(image_set.labels), device=image_set.images.device)
    batches = [
        module(image_set.normalisation(image_set.fetch(one))).argmax(dim=1) for one in positions.split(EVALUATION_BATCH)
    ]
    return torch.cat(batches).to(image_set.labels.device)


def predict_accuracy(module: nn.Module, image_set: ImageSet) -> float:
    """Top-1 accuracy in percent on all images of the set."""
    return 100.0 * (predict_labels(module, image_set) == image_set.labels).sum().item() / len(image_set.labels)

"""Siamese augmentation (DSA) as pure, differentiable functions of parameters drawn beforehand.

Images are normalised, (N, C, H, W), square. Uniform numbers come in a tensor (k, 12 or more): k = 1 when every image
of a call shares one draw (siamese), k = N for one draw per image. Which operation a rule picks is a number of the host,
or a tensor where the host may not be asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeVar

import torch
from pydantic import field_validator, model_validator
from torch.nn import functional as F

from ddistill.augment import imagenet
from ddistill.augment.normalisation import Normalisation
from ddistill.runtime import plugins
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.randomness import key_hash
from ddistill.runtime.settings import Settings

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From images (N, C, H, H) and uniforms (1 or N, numbers) in [0, 1) to images."""
Function = TypeVar("Function", bound=Operation)

SLOTS = {
    "flip": 0,
    "brightness": 1,
    "saturation": 2,
    "contrast": 3,
    "shift_y": 4,
    "shift_x": 5,
    "scale_y": 6,
    "scale_x": 7,
    "rotate": 8,
    "cutout_y": 9,
    "cutout_x": 10,
}
NUM_UNIFORMS = 12
"""Of the table that the operations here and `imagenet` share. Another column would deal all numbers anew, so an
operation that is added takes `register_augmentation`, which draws apart."""
SHIFT_SHARE = 0.125
CUTOUT_SHARE = 0.5
SCALE_RATIO = 1.2
ROTATE_DEGREES = 15.0
GEOMETRIC = ("crop", "scale", "rotate")


class AugmentSettings(Settings):
    """A set of operations and the rule that picks among them."""

    operations: tuple[str, ...] = ("color", "crop", "cutout")
    """Any of color, crop, cutout, flip, scale, rotate, and of those that were registered; () for none."""
    rule: Literal["idc", "dsa", "imagenet"] = "idc"
    """idc: flip, color, one of {crop, scale, rotate}, cutout, then registered ones; dsa: exactly one operation;
    imagenet: the fixed pipeline of ImageNet training (`augment.imagenet`), which has no operations to choose."""

    @field_validator("operations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in OPERATIONS:
                plugins.load_installed()
            if name not in OPERATIONS:
                raise unknown_name("augmentation", name, OPERATIONS)
        return names

    @model_validator(mode="before")
    @classmethod
    def _fixed_pipeline(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("rule") == "imagenet":
            return {"operations": (), **values}
        return values

    @model_validator(mode="after")
    def _no_idle_operations(self) -> AugmentSettings:
        if self.rule == "imagenet" and self.operations:
            raise ValueError(
                f"rule imagenet is a fixed pipeline, in which operations {', '.join(self.operations)} have no effect; "
                "set operations=[], or choose rule idc or dsa"
            )
        return self

    @property
    def alternatives(self) -> tuple[str, ...]:
        """The operations among which the rule picks one per call."""
        if self.rule == "dsa":
            return self.operations
        return tuple(operation for operation in self.operations if operation in GEOMETRIC)

    @property
    def registered(self) -> tuple[str, ...]:
        """The operations that have numbers of their own, in order."""
        return tuple(operation for operation in self.operations if OPERATIONS[operation].numbers)


@dataclass(frozen=True)
class Known:
    """An operation of the table.

    Attributes:
        apply: the function.
        numbers: uniforms of its own per draw; 0: it reads the common table by `SLOTS`.
    """

    apply: Operation
    numbers: int = 0


OPERATIONS: dict[str, Known] = {}  # filled below, by the functions that it names
"""From the name of an operation to what it does."""


def register_augmentation(name: str, numbers: int = 4) -> Callable[[Function], Function]:
    """Make an operation known by name, as a decorator of a function of images and uniforms.

    ``function(images, uniforms)`` takes normalised images (N, C, H, H) and uniforms (1 or N, ``numbers``) in [0, 1),
    one row for all images of a call or one per image, and gives images of the same shape; gradients flow through it.
    Its numbers are drawn apart, so that no other operation's change.

    Args:
        name: that ``operations`` of the settings may have.
        numbers: that the function needs per draw, at least 1.

    Raises:
        UserError: a name that is taken, or no numbers.
    """

    def register(function: Function) -> Function:
        if numbers < 1:
            raise UserError(f"augmentation {name!r} needs at least 1 number, got {numbers}")
        if name in OPERATIONS and not plugins.is_again(OPERATIONS[name].apply, function):
            raise UserError(f"augmentation name {name!r} is taken; choose another")
        OPERATIONS[name] = Known(function, numbers)
        plugins.note_registered(function)
        return function

    return register


def seeded(transform: Callable[[torch.Tensor], torch.Tensor]) -> Operation:
    """An operation of a callable that takes a batch and draws from torch's global generator, as kornia's modules do.

    Each call is seeded from its uniforms, in a fork of the global generator. For siamese augmentation the callable must
    draw once per batch (``same_on_batch=True`` of kornia), since real and synthetic batches differ in size.
    """

    def apply(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(int(uniforms[0, 0] * 2**24))
            return transform(images)

    return apply


@dataclass(frozen=True)
class AugmentDraws:
    """Parameters of a number of calls.

    Attributes:
        uniforms: U(0, 1), (calls, k, NUM_UNIFORMS and more): the common table, then those of registered operations.
        choices: for each call the index of the alternative that the rule picks.
        chosen: the same as a tensor, int64 (calls,), for work that cannot ask the host.
    """

    uniforms: torch.Tensor
    choices: Sequence[int]
    chosen: torch.Tensor

    def to(self, device: torch.device) -> AugmentDraws:
        """The same draws with their tensors on ``device``."""
        return AugmentDraws(self.uniforms.to(device), self.choices, self.chosen.to(device))

    def part(self, first: int, count: int) -> AugmentDraws:
        """The parameters of ``count`` calls from ``first`` on."""
        calls = slice(first, first + count)
        return AugmentDraws(self.uniforms[calls], self.choices[calls], self.chosen[calls])


def draw_augment(settings: AugmentSettings, calls: int, images: int, generator: torch.Generator) -> AugmentDraws:
    """Parameters of ``calls`` calls, for ``images`` images each (1: shared by every image of the call).

    The numbers of a registered operation follow from its name and from where ``generator`` stands, which they do not
    move on.
    """
    state = generator.get_state().numpy().tobytes() if settings.registered else b""
    stands = hashlib.blake2b(state, digest_size=8).hexdigest()
    uniforms = [torch.rand(calls, images, NUM_UNIFORMS, generator=generator)]
    for name in settings.registered:
        apart = torch.Generator().manual_seed(key_hash("augmentation", name, stands))
        uniforms.append(torch.rand(calls, images, OPERATIONS[name].numbers, generator=apart))
    alternatives = max(1, len(settings.alternatives))
    chosen = torch.randint(alternatives, (calls,), generator=generator)
    return AugmentDraws(torch.cat(uniforms, dim=2), chosen.tolist(), chosen)


def augment(
    settings: AugmentSettings, images: torch.Tensor, uniforms: torch.Tensor, choice: int | torch.Tensor
) -> torch.Tensor:
    """Apply one call of the strategy to normalised images (N, C, H, W); zero is the mean colour.

    Args:
        settings: operations and rule.
        images: (N, C, H, H), normalised; gradients flow through.
        uniforms: (1 or N, NUM_UNIFORMS and more) in [0, 1), as `draw_augment` gives them.
        choice: index into ``settings.alternatives``; as int64 (N,) one for each image, which is not read on the host:
            all alternatives are computed, and each image keeps its own.
    """
    alternatives, first = settings.alternatives, NUM_UNIFORMS
    for name in ("flip", "color", *GEOMETRIC, "cutout", *settings.registered):
        operation = OPERATIONS[name]
        numbers = uniforms[:, first : first + operation.numbers] if operation.numbers else uniforms
        first += operation.numbers
        always = settings.rule == "idc" and name not in GEOMETRIC and name in settings.operations
        if always or alternatives == (name,):
            images = operation.apply(images, numbers)
        elif name in alternatives:
            its = choice == alternatives.index(name)
            if torch.is_tensor(its):
                images = torch.where(its.view(-1, 1, 1, 1), operation.apply(images, numbers), images)
            elif its:
                images = operation.apply(images, numbers)
    return images


def check_registered(settings: AugmentSettings, channels: int, size: int) -> None:
    """Refuse an operation of a user's own that does not keep what `register_augmentation` asks for, by trying it.

    Args:
        settings: operations and rule.
        channels, size: of the images.

    Raises:
        UserError: it fails, gives something else than such images, changes those it is given, or stops gradients.
    """
    draws = torch.Generator().manual_seed(0)
    for name, rows in product(settings.registered, (1, 2)):
        operation = OPERATIONS[name]
        first = torch.rand(2, channels, size, size, generator=draws).requires_grad_()
        given, uniforms = first * 1.0, torch.rand(rows, operation.numbers, generator=draws)
        shape = tuple(given.shape)
        try:
            with torch.random.fork_rng(devices=[]):
                made: object = operation.apply(given, uniforms)
        except Exception as error:  # a user's own code raises what it likes
            raise UserError(
                f"augmentation {name!r} does not work for images of shape {shape} and numbers of shape "
                f"{tuple(uniforms.shape)}: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(made, torch.Tensor) or (made.shape, made.dtype) != (given.shape, given.dtype):
            what = (
                f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
            )
            raise UserError(
                f"augmentation {name!r} gives {what} for images of shape {shape}; it must give images of that kind"
            )
        if not torch.equal(given, first):
            raise UserError(f"augmentation {name!r} changes the images that it is given; let it work on images.clone()")
        if not made.isfinite().all():
            raise UserError(f"augmentation {name!r} gives values that are not finite (NaN or infinity)")
        if not made.requires_grad:
            raise UserError(
                f"augmentation {name!r} lets no gradient through, by which images are distilled; use operations of "
                f"torch alone, without detach() or no_grad()"
            )


class Pipeline:
    """From images in [0, 1] to the augmented, normalised input of a network.

    Args:
        settings: operations and rule.
        normalise: of the images.
    """

    def __init__(self, settings: AugmentSettings, normalise: Normalisation) -> None:
        self.settings = settings
        self.normalise = normalise

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor, choice: int | torch.Tensor) -> torch.Tensor:
        """Normalise and augment (N, C, H, H); the imagenet rule augments before it normalises."""
        if self.settings.rule == "imagenet":
            return self.normalise(imagenet.imagenet_augment(images, uniforms.expand(len(images), -1)))
        return augment(self.settings, self.normalise(images), uniforms, choice)


def flip(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Mirror left to right with probability 0.5."""
    return torch.where(_slot(uniforms, "flip") < 0.5, images.flip(3), images)


def color(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Brightness x + (u - 0.5), saturation (x - m_c) * 2u + m_c, contrast (x - m) * (u + 0.5) + m, in this order.

    m_c is the mean over channels at each pixel, m the mean of the image.
    """
    images = images + (_slot(uniforms, "brightness") - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2.0 * _slot(uniforms, "saturation")) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_slot(uniforms, "contrast") + 0.5) + mean


def crop(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Shift by whole pixels, up to 0.125 of the side in both directions, zeros outside."""
    side = images.shape[-1]
    reach = int(side * SHIFT_SHARE + 0.5)
    rows = _source_positions(uniforms[:, SLOTS["shift_y"]], side, reach)
    columns = _source_positions(uniforms[:, SLOTS["shift_x"]], side, reach)
    inside_rows, inside_columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    rows, columns = rows.clamp(0, side - 1), columns.clamp(0, side - 1)
    if len(uniforms) == 1:
        moved = images.index_select(2, rows[0]).index_select(3, columns[0])
    else:
        moved = images.gather(2, rows[:, None, :, None].expand(images.shape))
        moved = moved.gather(3, columns[:, None, None, :].expand(images.shape))
    return torch.where(inside, moved, 0.0)


def cutout(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Set a square of half the side, centred anywhere, to zero."""
    side = images.shape[-1]
    square = int(side * CUTOUT_SHARE + 0.5)
    position = torch.arange(side, device=images.device)

    def covered(slot: str) -> torch.Tensor:
        centre = (uniforms[:, SLOTS[slot]] * (side + 1 - square % 2)).floor().long()
        first = (centre - square // 2)[:, None]
        return (position >= first) & (position < first + square)

    hole = covered("cutout_y")[:, None, :, None] & covered("cutout_x")[:, None, None, :]
    return torch.where(hole, 0.0, images)


def scale(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Stretch both axes by factors uniform in [1/1.2, 1.2], bilinear, zeros outside."""
    low, span = 1.0 / SCALE_RATIO, SCALE_RATIO - 1.0 / SCALE_RATIO
    sx, sy = (uniforms[:, SLOTS[slot]] * span + low for slot in ("scale_x", "scale_y"))
    zero = torch.zeros_like(sx)
    return _resample(images, torch.stack([sx, zero, zero, zero, sy, zero], dim=1).view(-1, 2, 3))


def rotate(images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Rotate by an angle uniform in +-15 degrees, bilinear, zeros outside."""
    angle = torch.deg2rad((uniforms[:, SLOTS["rotate"]] * 2.0 - 1.0) * ROTATE_DEGREES)
    sin, cos, zero = torch.sin(angle), torch.cos(angle), torch.zeros_like(angle)
    return _resample(images, torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3))


def _slot(uniforms: torch.Tensor, name: str) -> torch.Tensor:
    return uniforms[:, SLOTS[name]].view(-1, 1, 1, 1)


def _source_positions(u: torch.Tensor, side: int, reach: int) -> torch.Tensor:
    shift = (u * (2 * reach + 1)).floor().long() - reach
    return torch.arange(side, device=u.device) + shift[:, None]


def _resample(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.to(images.dtype).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


OPERATIONS |= {one.__name__: Known(one) for one in (flip, color, crop, cutout, scale, rotate)}
NO_AUGMENTATION = AugmentSettings(operations=())
DSA_AUGMENTATION = AugmentSettings(operations=("color", "crop", "cutout", "flip", "scale", "rotate"), rule="dsa")
"""The strategy of DSA and DM."""

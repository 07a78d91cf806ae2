"""The synthetic set: stored images, labels and their decoder. It knows nothing of methods.

Shapes: n stored images in all, class-sorted; images (n, channels, side, side) float32 in [0, 1], un-normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field, field_validator
from torch.utils.data import TensorDataset

from ddistill.augment import Normalisation
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.settings import Settings
from ddistill.runtime.words import as_text
from ddistill.synthetic.decode import Decoder, decode, decode_single, decoded_count
from ddistill.synthetic.initialise import Initialisation

MAX_FACTOR = 16
MIN_CELL = 2
"""Smallest side of a cell in pixels."""

Labels = Literal["hard", "soft"]
"""What a network is trained on: the classes, or the stored targets."""


class GrowSettings(Settings):
    """The finished set whose classes a set starts with, in their order."""

    source: str | None = None
    """Folder of its run or artifact, or hub:OWNER/NAME."""
    fingerprint: str | None = None
    """That it must have; a run writes it. Not set: any."""
    refine: bool = False
    """Go on with the images of the finished classes, too; else they stay as they are, bit for bit."""


class SyntheticSettings(Settings):
    """How many images are stored per class, and how they are read."""

    ipc: int = Field(default=1, ge=1)
    """Stored images per class."""
    ipc_by_class: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Other numbers of stored images, by class name; each at least 1."""
    factor: int = Field(default=2, ge=1, le=MAX_FACTOR)
    """Multi-formation factor F: a stored image holds F x F cells; 1 stores plain images."""
    decode: Decoder = "single"
    """Decoder during matching: single, multi or bound; evaluation always decodes with single."""
    init: Initialisation | None = None
    """mix (a different real image in each cell), random (one real image), noise; mix where factor > 1 if not set."""
    labels: Literal["teacher"] | None = None
    """teacher: store soft labels, too, one per decoded image: the mean softmax of the networks of the pool
    (model_augmentation.pool_size, pool_epochs), which are trained for it where the run uses none. Not set: the classes
    alone."""
    grow: GrowSettings | None = None
    """Start with the classes of a finished set: `ddistill distill DATA --add-classes-to RUN` sets it."""

    @field_validator("ipc_by_class", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        """Classes may be given as the numbers that they are."""
        return {as_text(name): ipc for name, ipc in value.items()} if isinstance(value, dict) else value

    @property
    def initialisation(self) -> Initialisation:
        """The initialisation in force."""
        return self.init or ("mix" if self.factor > 1 else "random")

    def counts(self, class_names: tuple[str, ...]) -> list[int]:
        """Stored images of each class."""
        return [self.ipc_by_class.get(name, self.ipc) for name in class_names]

    def check(self, class_names: tuple[str, ...], class_counts: list[int], size: int) -> None:
        """Refuse what these data cannot fill.

        Raises:
            UserError: a cell smaller than 2 px, a class that holds too few images, an unknown class name.
        """
        if size // self.factor < MIN_CELL:
            raise UserError(
                f"synthetic.factor {self.factor} leaves cells of {size // self.factor} px in {size}-px images; "
                f"use at most {size // MIN_CELL}"
            )
        unknown = sorted(set(self.ipc_by_class) - set(class_names))
        if unknown:
            raise UserError(f"synthetic.ipc_by_class names {unknown[0]!r}, not a class; the classes are {class_names}")
        if self.initialisation == "noise":
            return
        cells = self.factor**2 if self.initialisation == "mix" else 1
        counts = list(zip(class_names, self.counts(class_names), class_counts, strict=True))
        short = [(real, name, ipc) for name, ipc, real in counts if ipc * cells > real]
        if short:
            real, name, ipc = min(short)
            raise UserError(
                f"ipc {ipc} starts from {ipc * cells} real images per class (factor {self.factor}, "
                f"init {self.initialisation}) but class {name!r} has {real}; "
                + (f"use ipc at most {real // cells}, or " if real >= cells else "use ")
                + "synthetic.init=noise"
            )


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """Stored images and all that is needed to train on them.

    Attributes:
        images: float32 (n, channels, side, side) in [0, 1], class-sorted; methods change it in place. With whitening
            they may lie outside: a small step on whitened images is a large one on smooth parts of pixels.
        labels: int64 (n,), ascending.
        class_names: one per class.
        factor: multi-formation factor F.
        decoder: how stored images are decoded during matching.
        normalisation: what is done to images before training.
        targets: soft labels of the decoded images in their order, float16 (F*F*n, classes), rows of shares that sum to
            1 up to rounding; None where the classes are all there is. A network is trained on them where they are
            there; `hard` is the set without.
        learned_rate: learning rate of a network's SGD that was distilled with the images (TM), if any.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    factor: int
    decoder: Decoder
    normalisation: Normalisation
    targets: torch.Tensor | None = None
    learned_rate: float | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def counts(self) -> list[int]:
        """Stored images of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes).tolist()

    @cached_property
    def offsets(self) -> list[int]:
        """Position of the first stored image of each class, and n at the end."""
        return [0, *torch.tensor(self.counts).cumsum(0).tolist()]

    @property
    def open_classes(self) -> range:
        """The classes whose images methods change."""
        return range(self.num_classes)

    def class_slice(self, label: int) -> slice:
        """Positions of the stored images of a class."""
        return slice(self.offsets[label], self.offsets[label + 1])

    def rows(self, labels: Sequence[int]) -> slice | torch.Tensor:
        """Positions of the stored images of some classes: a slice for a range of classes, else int64 (n,)."""
        if isinstance(labels, range):
            return slice(self.offsets[labels.start], self.offsets[labels.stop])
        rows = [torch.arange(self.offsets[label], self.offsets[label + 1]) for label in labels]
        return torch.cat(rows).to(self.images.device)

    def decode_class(self, stored: torch.Tensor) -> torch.Tensor:
        """Decode stored images of one class as matching sees them; gradients flow through."""
        return decode(stored, self.factor, self.decoder)

    def decoded_per_class(self, label: int) -> int:
        """How many images `decode_class` makes of a class."""
        return decoded_count(self.counts[label], self.factor, self.decoder)

    def decoded_labels(self) -> torch.Tensor:
        """Labels of the images that `decode_class` makes of all classes, int64, class-sorted."""
        counts = [self.decoded_per_class(label) for label in range(self.num_classes)]
        return labels_of(counts).to(self.labels.device)

    @torch.no_grad()
    def decoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What a network is trained on: images (F*F*n, channels, side, side) in range and labels, class-sorted."""
        parts = [decode_single(self.images[self.class_slice(c)], self.factor) for c in range(self.num_classes)]
        labels = labels_of([len(part) for part in parts]).to(self.labels.device)
        return self._in_range(torch.cat(parts)), labels

    def keep_in_range(self) -> None:
        """Clamp the stored images to [0, 1] in place, unless they are whitened before training."""
        self._in_range(self.images)

    def _in_range(self, images: torch.Tensor) -> torch.Tensor:
        return images.clamp_(0.0, 1.0) if self.normalisation.whitening is None else images

    def to_dataset(self, labels: Labels = "hard") -> TensorDataset:
        """Decoded, normalised (and whitened) images and what to train on, ready for a DataLoader.

        Args:
            labels: hard: the classes, int64 (N,); soft: the targets, float32 (N, classes). `torch.nn.CrossEntropyLoss`
                takes both.

        Raises:
            UserError: other labels, or soft ones where none are stored.
        """
        if labels not in get_args(Labels):
            raise unknown_name("kind of labels", str(labels), get_args(Labels))
        images, classes = self.decoded()
        return TensorDataset(self.normalise(images), classes if labels == "hard" else self.soft_labels())

    def soft_labels(self) -> torch.Tensor:
        """The targets of the decoded images, float32 (N, classes).

        Raises:
            UserError: none are stored.
        """
        if self.targets is None:
            raise UserError("the set has no soft labels; a run with `--labels teacher` stores them")
        return self.targets.float()

    def hard(self) -> SyntheticSet:
        """The same set without targets."""
        return replace(self, targets=None)

    @property
    def stored_bytes(self) -> dict[str, int]:
        """What is stored beside the classes, in bytes: ``images`` as float32, ``targets`` as float16."""
        return {"images": self.images.nbytes, "targets": 0 if self.targets is None else self.targets.nbytes}

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """What is done to images (N, channels, side, side) in [0, 1] before training, and to test images, too."""
        return self.normalisation.to(images.device)(images)

    def to(self, device: torch.device) -> SyntheticSet:
        """The set with its images, labels and targets on a device."""
        targets = None if self.targets is None else self.targets.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), targets=targets)

    def snapshot(self) -> SyntheticSet:
        """A copy on the CPU, in range, that later steps do not change."""
        images, labels = (tensor.detach().to("cpu", copy=True) for tensor in (self.images, self.labels))
        targets = None if self.targets is None else self.targets.to("cpu", copy=True)
        return replace(self, images=self._in_range(images), labels=labels, targets=targets)


def labels_of(counts: Sequence[int]) -> torch.Tensor:
    """Labels of class-sorted images, int64, from the number of images of each class."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))

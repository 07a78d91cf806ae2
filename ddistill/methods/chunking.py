"""How many classes, and images of a class, go through the network at once: as many as the memory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ddistill.methods.base import Context
from ddistill.methods.turns import Turn
from ddistill.networks import couples_batch, runs_on_kernels
from ddistill.runtime.errors import UserError
from ddistill.runtime.memory import free_memory_bytes

CLASSES_AT_ONCE = 10
"""Most classes per launch where the device is no CPU and ``run.class_chunk`` is not set."""
MEMORY_SHARE = 0.4
"""Of the free memory, that the activations of a launch may take: the work space of its operators comes on top."""


@dataclass
class Chunking:
    """What a method puts into one launch.

    Attributes:
        classes: most classes.
        images: most images of a class whose activations are kept; None: all.
        images_at_once: of the largest class, that go through the network where it is not divided.
        divisible: the images of a class can be divided.
    """

    classes: int
    images: int | None
    images_at_once: int
    divisible: bool

    def smaller(self) -> str | None:
        """Halve the classes of a launch, then the images at once; in words, or None where there is nothing to halve."""
        if self.classes > 1:
            self.classes //= 2
            return f"{self.classes} classes are matched at once from here on (run.class_chunk)"
        images = self.images or self.images_at_once
        if images == 1 or not self.divisible:
            return None
        self.images = images // 2
        return f"{self.images} images of a class are matched at once from here on (run.image_chunk)"


def choose(
    context: Context, images_at_once: int, bytes_per_image: Callable[[], int], *, mapped: bool, divided: bool
) -> Chunking:
    """The largest launch that fits.

    On a CPU classes go one after the other (grouped convolutions are slow there), else as many as fit.

    Args:
        context: of the method.
        images_at_once: of the largest class, that go through the network.
        bytes_per_image: measures what the backward passes of one of them keep.
        mapped: the method's loss can be mapped over classes.
        divided: the method can divide the images of a class.

    Raises:
        UserError: the images of a class should be divided, under a network that couples them.
    """
    coupled, device = couples_batch(context.network), context.synthetic.images.device
    asked = context.execution.settings
    if divided and coupled and asked.image_chunk is not None:
        raise UserError(
            f"run.image_chunk={asked.image_chunk} divides the images of a class, which a network with batch "
            "norm cannot do; leave it out, or set network.norm=instance"
        )
    divided = divided and not coupled
    on_cpu = device.type == "cpu"
    if divided and asked.image_chunk is not None:
        return Chunking(1, asked.image_chunk, images_at_once, divided)
    if asked.class_chunk is not None or not mapped or not images_at_once or (on_cpu and not divided):
        return Chunking((asked.class_chunk or 1) if mapped else 1, None, images_at_once, divided)
    per_image, free = bytes_per_image(), free_memory_bytes(device)
    fitting = int(free * MEMORY_SHARE / per_image)
    if divided and fitting < images_at_once:
        return Chunking(1, max(1, fitting), images_at_once, divided)
    # a batch norm that trains moves its statistics, and kernels are nothing that torch.func can follow
    alone = on_cpu or coupled or runs_on_kernels(context.network, device)
    return Chunking(1 if alone else classes_that_fit(per_image * images_at_once, free), None, images_at_once, divided)


def classes_that_fit(bytes_per_class: int, free_bytes: int) -> int:
    """How many classes to match in one launch, from 1 to `CLASSES_AT_ONCE`.

    >>> classes_that_fit(2**30, 80 * 2**30), classes_that_fit(4 * 2**30, 80 * 2**30), classes_that_fit(2**40, 2**30)
    (10, 8, 1)
    """
    return max(1, min(CLASSES_AT_ONCE, int(free_bytes * MEMORY_SHARE / max(1, bytes_per_class))))


def class_runs(counts: list[int], most: int, labels: Turn) -> list[Turn]:
    """Runs of neighbours among some classes with equally many stored images, at most ``most`` in each."""
    runs: list[Turn] = []
    start = 0
    for end in range(1, len(labels) + 1):
        if end == len(labels) or end - start == most or counts[labels[end]] != counts[labels[start]]:
            runs.append(labels[start:end])
            start = end
    return runs


def bytes_of_one_more(work: Callable[[int], object]) -> int:
    """What the backward passes of eager work keep for one more image, at least 1; from two small calls.

    Args:
        work: done on a number of images.
    """

    def kept_for(count: int) -> int:
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            work(count)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return max(1, kept_for(2) - kept_for(1))

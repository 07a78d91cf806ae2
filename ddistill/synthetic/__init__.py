"""The synthetic set: its images, decoder, initialisation, and its files."""

from __future__ import annotations

import torch

from ddistill.data import RealData
from ddistill.runtime.randomness import generator
from ddistill.synthetic.artifact import artifact_folder, load_synthetic, read_description, save_synthetic
from ddistill.synthetic.growth import GrowingSet, check_grown, fingerprint_of, finished_classes
from ddistill.synthetic.initialise import initial_images
from ddistill.synthetic.synthetic_set import MAX_FACTOR, GrowSettings, SyntheticSet, SyntheticSettings, labels_of
from ddistill.synthetic.torch_files import MOST_CUT, Constants, Imported, import_pt

__all__ = [
    "MAX_FACTOR",
    "MOST_CUT",
    "Constants",
    "GrowSettings",
    "Imported",
    "SyntheticSet",
    "SyntheticSettings",
    "artifact_folder",
    "check_grown",
    "fingerprint_of",
    "import_pt",
    "initial_set",
    "load_synthetic",
    "random_set",
    "read_description",
    "save_synthetic",
]


def initial_set(
    settings: SyntheticSettings, data: RealData, seed: int, purpose: str = "initial images"
) -> SyntheticSet:
    """The set before the first outer step, drawn class by class from (seed, purpose, class).

    Where it grows from a finished set, it has the images of that set's classes, and draws what is missing.

    Raises:
        UserError: the data cannot fill it, or the finished set does not fit.
    """
    settings.check(data.class_names, data.class_counts.tolist(), data.size)
    counts = settings.counts(data.class_names)
    images = finished_classes(settings, data)
    finished = len(images) if settings.grow and not settings.grow.refine else 0
    images += [torch.empty(0, data.channels, data.size, data.size)] * (len(counts) - len(images))
    for c, count in enumerate(counts):
        missing = count - len(images[c])
        if missing:
            draws = generator(seed, purpose, c)
            kind = (settings.factor, settings.initialisation, draws)
            images[c] = torch.cat([images[c], initial_images(data.class_images(c), missing, *kind)])
    kinds = (data.class_names, settings.factor, settings.decode, data.normalisation)
    parts = (torch.cat(images), labels_of(counts), *kinds)
    return GrowingSet(*parts, finished=finished) if finished else SyntheticSet(*parts)


def random_set(
    settings: SyntheticSettings, data: RealData, seed: int, draw: int = 0, *, decoded: bool = False
) -> SyntheticSet:
    """The baseline: real images drawn at random, as many per class as are stored (or decoded, where asked for).

    Another ``draw`` gives other images.

    A class that holds fewer gives all it has.
    """
    per_image = settings.factor**2 if decoded else 1
    wanted = settings.counts(data.class_names)
    counts = {
        name: min(count * per_image, real)
        for name, count, real in zip(data.class_names, wanted, data.class_counts.tolist(), strict=True)
    }
    kinds = {"factor": 1, "init": "random", "decode": "single", "grow": None}
    plain = settings.model_copy(update={**kinds, "ipc_by_class": counts})
    return initial_set(plain, data, seed, f"random baseline {draw}")

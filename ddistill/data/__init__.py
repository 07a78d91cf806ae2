"""Real images: from a name, a path or a data set to class-sorted tensors, and the positions of batches in them."""

from ddistill.data.facts import DIGITS_SIDE, KNOWN_SETS, KnownSet, is_copy, short_names, subset_classes
from ddistill.data.image_set import ImageSet
from ddistill.data.load import class_names_of, load_data
from ddistill.data.real_data import RealData, Split
from ddistill.data.rows import expect, touched
from ddistill.data.sampler import class_batches, epoch_batches
from ddistill.data.settings import DataSettings

__all__ = [
    "DIGITS_SIDE",
    "KNOWN_SETS",
    "DataSettings",
    "ImageSet",
    "KnownSet",
    "RealData",
    "Split",
    "class_batches",
    "class_names_of",
    "epoch_batches",
    "expect",
    "is_copy",
    "load_data",
    "short_names",
    "subset_classes",
    "touched",
]

"""What a user can say about the data: where it is, which part is which, and the size of the images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ddistill.runtime.settings import Settings
from ddistill.runtime.words import as_text


class DataSettings(Settings):
    """How real images are found, sized and divided; every field has a sensible default."""

    source: str | None = None
    """'digits', a hub id or its short name, or the path of image folders, a parquet file or an arrow folder."""
    fingerprint: str | None = None
    """SHA-256 that the images must have, in hex; a run writes that of its own images. Not set: any images."""
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side of the square images in pixels; by default that of a known set, or the side that all images share."""
    channels: Literal[1, 3] | None = None
    """Colour channels of the images: 1 (grey) or 3 (RGB); by default 3 if any image is in colour."""
    image_column: str | None = None
    """Name of the column of images, or of their file names, in a table; by default the only column of that type."""
    label_column: str | None = None
    """Name of the column of labels in a table; by default one called label, labels, class, target, category, y or
    fine_label, else the only column that can be it."""
    group_column: str | None = None
    """Name of a second column of labels in a table, coarser ones: every class belongs to one group. The page of a run
    puts the classes of a group together; nothing else depends on it."""
    split_column: str | None = None
    """Name of the column that tells the part of each row of a table; by default one called split whose values are words
    such as train and test."""
    train_split: str | None = None
    """Name of the part to distil; by default the one called train or training."""
    test_split: str | None = None
    """Name of the part to test on; by default the one called test, testing or eval, else validation, valid, val or
    dev."""
    validation_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of the training images of each class, 0 to 0.5, held out for validation; drawn by the run's seed."""
    test_fraction: float | None = Field(default=None, gt=0.0, le=0.5)
    """Share of the training images of each class, above 0 up to 0.5, set aside as test part when the set has none;
    the same images for every seed."""
    classes: str | tuple[str, ...] | dict[str, str] | None = None
    """Classes to keep: an ImageNet subset's short name; names or numbers in the order of their new labels, such as
    [1, 2, 3]; or with new names, such as {1: cat, 2: dog} (two of one new name become one class)."""
    background: str | None = None
    """Colour, by name or as '#rrggbb', that transparent pixels are put on; white if not set."""
    value_range: tuple[float, float] | None = None
    """Values that become black and white, such as [0, 4095]; if not set, whole numbers of more than 8 bits go by the
    smallest and the largest of the training images, floats by 0 to 1 or 0 to 255."""
    constants: Literal["measured", "cifar10", "cifar100", "svhn", "mnist", "fashion_mnist", "imagenet"] = "measured"
    """What images are normalised by: mean and std of the training images (measured), or those that the published
    programs use for a known set, which for CIFAR are other ones; the recipes of known sets take these. They travel with
    the artifact."""
    whitening: Literal["zca"] | None = None
    """zca: decorrelate the pixels before every network, in place of normalising them (optional in TM); for images of
    up to 40 px in colour. The map travels with the artifact."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, with a note, in place of stopping."""
    missing_shards: Literal["accept"] | None = None
    """accept: read the files NAME-00000-of-00003 that are there, though others of them are missing."""

    @field_validator("train_split", "test_split", mode="before")
    @classmethod
    def _name_as_text(cls, value: Any) -> Any:
        """Parts may be told by numbers or truth values of a column."""
        return as_text(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        """Labels may be given as the numbers that they are."""
        if isinstance(value, dict):
            return {as_text(old): as_text(new) for old, new in value.items()}
        return tuple(as_text(item) for item in value) if isinstance(value, list | tuple) else value

    @field_validator("background")
    @classmethod
    def _known_colour(cls, value: str | None) -> str | None:
        from PIL import ImageColor

        if value is not None:
            try:
                ImageColor.getrgb(value)
            except ValueError:
                raise ValueError("must be the name of a colour, such as white, or '#rrggbb'") from None
        return value

    @field_validator("value_range")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError("must be two values, the smaller one first, such as [0, 4095]")
        return value

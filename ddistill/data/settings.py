"""What a user can say about the data: where it is, which part is which, and the size of the images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ddistill.settings import Settings


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
    """Name of the column of images in a table; by default the only column of that type."""
    label_column: str | None = None
    """Name of the column of labels in a table; by default the only column of that type."""
    train_split: str | None = None
    """Name of the part to distil; by default 'train'."""
    test_split: str | None = None
    """Name of the part to test on; by default the first of 'test', 'validation', 'valid' and 'val' that is there."""
    validation_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of the training images of each class, 0 to 0.5, held out for validation; drawn by the run's seed."""
    test_fraction: float | None = Field(default=None, gt=0.0, le=0.5)
    """Share of the training images of each class, above 0 up to 0.5, set aside as test part when the set has none;
    the same images for every seed."""
    classes: str | tuple[str, ...] | None = None
    """Classes to keep: an ImageNet subset's short name, or class names in the order of their new labels."""
    whitening: Literal["zca"] | None = None
    """zca: decorrelate the pixels of the normalised images before every network (optional in TM); for images of up to
    40 px in colour. The map travels with the artifact."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, with a note, in place of stopping."""

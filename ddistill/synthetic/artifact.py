"""The artifact `distilled/`: stored images, decoded images in a common format, and a description of itself.

    stored.safetensors                       images (n, channels, side, side) float32 in [0, 1]; labels int64 (n,);
                                             where there are soft labels: targets float16 (decoded, classes)
    data/train-00000-of-00001-HASH.parquet   decoded images as PNG with labels; `datasets.load_dataset(folder)`.
                                             Of whitened sets column `pixels`, too: float32, what PNG would cut off;
                                             where there are soft labels `target`: float32 (classes,)
    whitening.safetensors                    where training was on whitened images: mean (d,), matrix (d, d) float32
    synthetic.json                           decoder, normalisation, class names, protocol, recipe, provenance
    README.md                                dataset card

Loading reads safetensors and JSON only: nothing is unpickled.

HASH is of the decoded images, labels, targets and class names, and the card names that very file: `datasets` keys its
cache by what the card says, so artifacts whose cards say the same would be given the images of the one loaded first.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddistill.augment import Normalisation
from ddistill.runtime.errors import UserError
from ddistill.runtime.storage import (
    file_checksum,
    read_checked_json,
    write_atomically,
    write_checked_json,
    write_tensors,
    write_text,
)
from ddistill.synthetic.card import UNPUBLISHED, Published, Table, dataset_card
from ddistill.synthetic.decode import in_bytes
from ddistill.synthetic.hub import HUB, download, is_on_hub
from ddistill.synthetic.layout import CARD, DESCRIPTION, PARQUET, PARQUETS, STORED, WHITENING
from ddistill.synthetic.synthetic_set import MAX_FACTOR, SyntheticSet
from ddistill.whitening import Whitening

FORMAT = 2
ROW_GROUP = 100
"""Images of a row group of the parquet file."""
ROUNDED_SHARES = 1e-2
"""How far a row of float16 targets may sum from 1."""


def save_synthetic(
    synthetic: SyntheticSet,
    folder: str | os.PathLike[str],
    about: Mapping[str, Any],
    published: Published = UNPUBLISHED,
) -> Path:
    """Write the artifact; ``synthetic.json`` comes last, so a folder that has it is whole.

    Args:
        synthetic: the set.
        folder: created where missing; its artifact files are replaced.
        about: JSON-able provenance (protocol, recipe, seed, versions, data, accuracy).
        published: where it is published, for the card.

    Returns:
        The folder.
    """
    folder = Path(folder)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    synthetic = synthetic.snapshot()
    tensors = {"images": synthetic.images, "labels": synthetic.labels}
    write_tensors(folder / STORED, tensors if synthetic.targets is None else {**tensors, "targets": synthetic.targets})
    columns = _decoded_columns(synthetic)
    parquet = PARQUET.format(_hash_of(columns, synthetic.class_names))
    write_atomically(folder / parquet, lambda path: _write_parquet(columns, _features(synthetic), path))
    for stale in folder.glob(PARQUETS):
        if stale != folder / parquet:
            stale.unlink()
    (folder / WHITENING).unlink(missing_ok=True)
    if synthetic.normalisation.whitening is not None:
        maps = {"mean": synthetic.normalisation.whitening.mean, "matrix": synthetic.normalisation.whitening.matrix}
        write_tensors(folder / WHITENING, {name: tensor.cpu() for name, tensor in maps.items()})
    card = dataset_card(synthetic, about, _table(folder, parquet, synthetic), published)
    write_text(folder / CARD, card)
    written = (STORED, parquet) if synthetic.normalisation.whitening is None else (STORED, parquet, WHITENING)
    files = {name: file_checksum(folder / name) for name in written}
    contents = {**description(synthetic, about), "files": files}
    write_checked_json(folder / DESCRIPTION, contents)
    return folder


def load_synthetic(path: str | os.PathLike[str]) -> SyntheticSet:
    """Read an artifact folder, the ``distilled`` folder of a run, or ``hub:OWNER/NAME`` (``@REVISION`` for one state).

    Raises:
        UserError: not an artifact, or one whose parts do not fit together; the hub has none of that name.
    """
    folder = artifact_folder(path)
    return _checked(folder, read_description(folder))


def artifact_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that holds the artifact: ``path`` itself, ``path/distilled`` of a run, or a copy of one of the hub."""
    if is_on_hub(path):
        return download(path)
    for folder in (Path(path), Path(path) / "distilled"):
        if (folder / DESCRIPTION).is_file():
            check_inside(folder, DESCRIPTION)
            return folder
    raise UserError(
        f"no distilled set in {os.fspath(path)!r}; give a run folder, one that holds {DESCRIPTION}, or {HUB}OWNER/NAME"
    )


def check_inside(folder: Path, name: str) -> None:
    """Refuse a file of an artifact that is a link to somewhere else, a device or a pipe.

    The cache of a hub links from ``snapshots/REVISION`` to ``blobs``; that is not somewhere else.

    Raises:
        UserError: not a regular file of this folder.
    """
    path, home = folder / name, folder.resolve()
    target = path.resolve()
    hub = home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"
    if path.exists() and (not target.is_file() or not (target.is_relative_to(home) or hub)):
        raise UserError(f"{path} is no plain file of its folder but leads to {target}; damaged, or not safe to read")


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of ``synthetic.json``."""
    path = folder / DESCRIPTION
    try:
        about = read_checked_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; the artifact is damaged") from error
    if about.get("format") != FORMAT:
        raise UserError(f"{path} is not an artifact of format {FORMAT}, the one that this version reads")
    return about


def description(synthetic: SyntheticSet, about: Mapping[str, Any]) -> dict[str, Any]:
    """What ``synthetic.json`` holds: how to read the images, then the provenance."""
    n, channels, side, _ = synthetic.images.shape
    return {
        "format": FORMAT,
        "images": {
            "stored": n,
            "channels": channels,
            "side": side,
            "range": [0.0, 1.0] if synthetic.normalisation.whitening is None else None,
            "layout": "NCHW",
        },
        "decoder": {"kind": "single", "matching": synthetic.decoder, "factor": synthetic.factor, "padding": 0.5},
        "normalisation": {
            "mean": list(synthetic.normalisation.mean),
            "std": list(synthetic.normalisation.std),
            **({"whitening": WHITENING} if synthetic.normalisation.whitening is not None else {}),
        },
        "class_names": list(synthetic.class_names),
        **({"targets": _about_targets(synthetic)} if synthetic.targets is not None else {}),
        **({} if synthetic.learned_rate is None else {"learned_rate": synthetic.learned_rate}),
        **about,
    }


def _about_targets(synthetic: SyntheticSet) -> dict[str, Any]:
    assert synthetic.targets is not None
    return {
        "rows": "decoded images, in order",
        "shape": list(synthetic.targets.shape),
        "dtype": str(synthetic.targets.dtype).removeprefix("torch."),
        "bytes": synthetic.stored_bytes["targets"],
    }


def _table(folder: Path, parquet: str, synthetic: SyntheticSet) -> Table:
    """What the card says of the file of decoded images."""
    import pyarrow.parquet as pq

    groups = pq.read_metadata(folder / parquet)
    size = sum(groups.row_group(index).total_byte_size for index in range(groups.num_row_groups))
    return Table(parquet, _features(synthetic), size, (folder / parquet).stat().st_size)


def _decoded_columns(synthetic: SyntheticSet) -> dict[str, np.ndarray]:
    """Columns of the decoded images: image uint8 (N, side, side, channels), label int64 (N,), where PNG would cut
    values off pixels float32 (N, channels, side, side), and soft labels, target float32 (N, classes)."""
    images, labels = synthetic.decoded()
    columns = {"image": in_bytes(images).permute(0, 2, 3, 1).contiguous().numpy(), "label": labels.numpy()}
    if synthetic.normalisation.whitening is not None:
        columns["pixels"] = images.numpy()
    if synthetic.targets is not None:
        columns["target"] = synthetic.soft_labels().numpy()
    return columns


def _features(synthetic: SyntheticSet) -> Any:
    """Types of the columns, as `datasets` knows them."""
    from datasets import Array3D, ClassLabel, Features, Image, Sequence, Value

    columns = {"image": Image(), "label": ClassLabel(names=list(synthetic.class_names))}
    if synthetic.normalisation.whitening is not None:
        columns["pixels"] = Array3D(tuple(synthetic.images.shape[1:]), "float32")
    if synthetic.targets is not None:
        columns["target"] = Sequence(Value("float32"), length=synthetic.num_classes)
    return Features(columns)


def _hash_of(columns: Mapping[str, np.ndarray], class_names: tuple[str, ...]) -> str:
    """16 hex digits that tell these images, labels and names from others, whatever writes them."""
    digest = hashlib.sha256(json.dumps([columns["image"].shape, columns["label"].tolist(), class_names]).encode())
    for name, values in columns.items():
        if name != "label":
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def _write_parquet(columns: Mapping[str, np.ndarray], features: Any, path: Path) -> None:
    """Images as PNG and the other columns, with the column types that `datasets` reads from the schema.

    Row groups are small enough for the hub to show a page of images without reading the others.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features.arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(columns["label"]), ROW_GROUP):
            rows: dict[str, Any] = {name: values[start : start + ROW_GROUP] for name, values in columns.items()}
            rows["image"] = [
                {"bytes": png(one), "path": f"{start + index:06d}.png"} for index, one in enumerate(rows["image"])
            ]
            for name in rows.keys() & {"pixels", "target"}:
                rows[name] = list(map(np.ndarray.tolist, rows[name]))
            writer.write_table(pa.table(rows, schema=schema))


def png(pixels: np.ndarray) -> bytes:
    """An image, uint8 (side, side, channels), as the bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _checked(folder: Path, about: dict[str, Any]) -> SyntheticSet:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / STORED
    check_inside(folder, STORED)
    try:
        if file_checksum(path) != about["files"][STORED]:
            raise ValueError(f"the checksum of {STORED} is not the one in {DESCRIPTION}")
        tensors = load_file(path)
        images, labels, targets = tensors["images"], tensors["labels"], tensors.get("targets")
        names, factor = tuple(about["class_names"]), about["decoder"]["factor"]
        decoder, learned_rate = about["decoder"]["matching"], about.get("learned_rate")
        mean, std = (tuple(map(float, about["normalisation"][key])) for key in ("mean", "std"))
        whitening = _whitening(folder, about) if "whitening" in about["normalisation"] else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder} is damaged: {type(error).__name__}: {error}") from error
    fits = (
        images.ndim == 4
        and images.dtype == torch.float32
        and images.shape[2] == images.shape[3]
        and labels.dtype == torch.int64
        and labels.shape == images.shape[:1]
        and len(mean) == len(std) == images.shape[1]
        and all(map(math.isfinite, mean + std))
        and min(std) > 0
        and (whitening is None or _whitens(whitening, images[0].numel()))
        and all(isinstance(name, str) for name in names)
        and isinstance(factor, int)
        and 1 <= factor <= min(MAX_FACTOR, images.shape[2])
        and decoder in ("single", "multi", "bound")
        and (learned_rate is None or (isinstance(learned_rate, float) and 0 < learned_rate < math.inf))
        and set(labels.tolist()) == set(range(len(names)))
        and bool((labels.diff() >= 0).all())
        and bool(torch.isfinite(images).all())
        and (whitening is not None or bool(((images >= 0) & (images <= 1)).all()))
        and (targets is None or _are_shares(targets, (len(images) * factor**2, len(names))))
    )
    if not fits:
        raise UserError(f"{folder} is damaged: {STORED} and {DESCRIPTION} do not fit together")
    return SyntheticSet(
        images, labels, names, factor, decoder, Normalisation(mean, std, whitening), targets, learned_rate
    )


def _are_shares(targets: torch.Tensor, shape: tuple[int, int]) -> bool:
    """Whether they are soft labels of so many images of so many classes; not where any value is not a number."""
    fits = targets.shape == shape and targets.dtype == torch.float16
    return fits and bool((targets >= 0).all()) and bool(((targets.float().sum(1) - 1).abs() < ROUNDED_SHARES).all())


def _whitening(folder: Path, about: Mapping[str, Any]) -> Whitening:
    from safetensors.torch import load_file

    check_inside(folder, WHITENING)
    if file_checksum(folder / WHITENING) != about["files"][WHITENING]:
        raise ValueError(f"the checksum of {WHITENING} is not the one in {DESCRIPTION}")
    tensors = load_file(folder / WHITENING)
    return Whitening(tensors["mean"], tensors["matrix"])


def _whitens(whitening: Whitening, values: int) -> bool:
    mean, matrix = whitening.mean, whitening.matrix
    shapes = mean.shape == (values,) and matrix.shape == (values, values)
    return shapes and mean.dtype == matrix.dtype == torch.float32 and bool(torch.isfinite(matrix).all())

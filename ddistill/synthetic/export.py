"""A set in the formats of other programs: what a network is trained on, decoded, with hard labels.

    imagefolder   PATH/CLASS/00000.png, and classes.json: torchvision's ImageFolder, `datasets`
    webdataset    PATH/train-000000.tar of 000000.png (whitened: .npy), .cls and .json, and classes.json
    torch         PATH.pt, tensors and plain containers: torch.load(PATH, weights_only=True)
    numpy         PATH.npz, arrays, nothing pickled: np.load(PATH)
    ddranking     PATH/images.pt, labels.pt, config.yaml, row.csv, scores.json: see `ddranking`

Values are pixels in [0, 1], not normalised, but for ddranking; PNG rounds them to 8 bits. A whitened set goes beyond
[0, 1], where PNG would be cut off: imagefolder and ddranking refuse it, webdataset writes .npy. Soft labels are in
torch and numpy alone; stored images, of which a decoder makes more, in the artifact alone.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.storage import atomic_folder, write_atomically, write_json, write_text
from ddistill.synthetic.artifact import png
from ddistill.synthetic.ddranking import Entry, write_ddranking
from ddistill.synthetic.decode import in_bytes
from ddistill.synthetic.synthetic_set import SyntheticSet

CLASSES = "classes.json"
READ_ME = "README.md"
PLAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_ .,()+-]{0,98}[A-Za-z0-9_,()+-])?")
"""Class names that are the names of folders on every system."""
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Not these, which Windows keeps for itself."""
PARTS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
"""Nor names with these words, which `datasets` takes for the part that the images belong to."""
SHARD_BYTES = 256 * 2**20


def write_imagefolder(synthetic: SyntheticSet, folder: Path) -> None:
    """A folder of PNG files for each class, whose names sort as the labels do."""
    _refuse_whitened(synthetic, "imagefolder")
    folders = folder_names(synthetic.class_names)
    images, labels = synthetic.decoded()
    pixels = in_bytes(images).permute(0, 2, 3, 1).numpy()
    numbers: Counter[int] = Counter()
    for label, one in zip(labels.tolist(), pixels, strict=True):
        path = folder / folders[label] / f"{numbers[label]:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(one))
        numbers[label] += 1
    _write_classes(synthetic, folder, {"folders": folders})
    # without it `datasets` would guess which files belong to which part, by words in the names of folders
    write_text(
        folder / READ_ME,
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: '*/*.png'\n---\n\n" + _about_values(synthetic),
    )


def write_webdataset(synthetic: SyntheticSet, folder: Path) -> None:
    """Tar shards; the images of all classes take turns, so that a reader that does not shuffle sees all of them."""
    for number, files in enumerate(_shards(_samples(synthetic))):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for name, data in files:
                entry = tarfile.TarInfo(name)  # no owner, no time: nothing of this machine
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
    _write_classes(synthetic, folder, {})
    write_text(folder / READ_ME, _about_values(synthetic))


def write_torch(synthetic: SyntheticSet, path: Path) -> None:
    """A dictionary of tensors and a list of names."""
    contents: dict[str, Any] = {name: torch.from_numpy(array) for name, array in _arrays(synthetic).items()}
    with path.open("wb") as file:
        torch.save({**contents, "class_names": list(synthetic.class_names)}, file)


def write_numpy(synthetic: SyntheticSet, path: Path) -> None:
    """Arrays by name; class names as fixed-width text."""
    arrays: dict[str, Any] = {**_arrays(synthetic), "class_names": np.array(synthetic.class_names, dtype=np.str_)}
    with path.open("wb") as file:
        np.savez(file, **arrays)


FOLDERS: dict[str, Callable[[SyntheticSet, Path], None]] = {
    "imagefolder": write_imagefolder,
    "webdataset": write_webdataset,
}
FILES: dict[str, tuple[str, Callable[[SyntheticSet, Path], None]]] = {
    "torch": (".pt", write_torch),
    "numpy": (".npz", write_numpy),
}
DDRANKING = "ddranking"
FORMATS = (DDRANKING, *FOLDERS, *FILES)


def check_format(to: str, path: Path) -> None:
    """Refuse an unknown format, or a path that does not suit it.

    Raises:
        UserError: saying what would.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if to in FILES:
        suffix = FILES[to][0]
        if path.is_dir() or path.suffix != suffix:
            instead = path / f"set{suffix}" if path.is_dir() else path.with_name(f"{path.name}{suffix}")
            raise UserError(f"{to} is one file: give a PATH that ends in {suffix}, such as {str(instead)!r}")
        if path.exists():
            raise UserError(f"{str(path)!r} is there already; give a PATH that is new")


def write(synthetic: SyntheticSet, about: Mapping[str, Any], to: str, path: Path, entry: Entry) -> None:
    """Write a set in a format; whole, or not at all.

    Args:
        synthetic: the set.
        about: its provenance.
        to: one of `FORMATS`.
        path: file or folder, new; a folder may be empty.
        entry: for ddranking.

    Raises:
        UserError: the format cannot hold the set.
    """
    if to in FILES:
        write_atomically(path, lambda temporary: FILES[to][1](synthetic, temporary))
        return
    with atomic_folder(path) as folder:
        if to == DDRANKING:
            write_ddranking(synthetic, about, entry, folder)
        else:
            FOLDERS[to](synthetic, folder)


def folder_names(names: tuple[str, ...]) -> list[str]:
    """A folder name for each class: its own where all are plain, differ in any letter case and sort as their labels.

    Otherwise a number with leading zeros, which sorts as the label, and what letters of the name are plain.

    >>> folder_names(("cat", "dog"))
    ['cat', 'dog']
    >>> folder_names(("dog", "a/b <i>ü</i>"))
    ['0_dog', '1_a_b_i_i']
    """
    usual = all(PLAIN.fullmatch(name) and not DEVICES.fullmatch(name) and not _names_a_part(name) for name in names)
    if usual and sorted(names) == list(names) and len({name.casefold() for name in names}) == len(names):
        return list(names)
    digits = len(str(len(names) - 1))
    slugs = ["" if _names_a_part(name) else re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] for name in names]
    return [f"{label:0{digits}d}{f'_{slug}' * bool(slug)}" for label, slug in enumerate(slugs)]


def _names_a_part(name: str) -> bool:
    return not PARTS.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def _arrays(synthetic: SyntheticSet) -> dict[str, np.ndarray]:
    """Decoded images float32 (N, channels, side, side), labels int64 (N,), mean and std (channels,), the whitening,
    soft labels float32 (N, classes), the learned rate."""
    images, labels = synthetic.decoded()
    normalisation = synthetic.normalisation
    arrays = {
        "images": images.contiguous().numpy(),
        "labels": labels.numpy(),
        "mean": np.array(normalisation.mean, np.float32),
        "std": np.array(normalisation.std, np.float32),
    }
    if normalisation.whitening is not None:
        arrays["whitening_mean"] = normalisation.whitening.mean.numpy()
        arrays["whitening_matrix"] = normalisation.whitening.matrix.numpy()
    if synthetic.learned_rate is not None:
        arrays["learned_rate"] = np.array(synthetic.learned_rate, np.float32)
    if synthetic.targets is not None:
        arrays["soft_labels"] = synthetic.soft_labels().numpy()
    return arrays


def _samples(synthetic: SyntheticSet) -> Iterator[list[tuple[str, bytes]]]:
    """Names and contents of the files of each decoded image, one of each class after the other."""
    images, labels = synthetic.decoded()
    numbers: Counter[int] = Counter()
    turns = []
    for position, label in enumerate(labels.tolist()):
        turns.append((numbers[label], label, position))
        numbers[label] += 1
    for number, (_turn, label, position) in enumerate(sorted(turns)):
        about = json.dumps({"label": label, "class": synthetic.class_names[label]}, ensure_ascii=False)
        if synthetic.normalisation.whitening is None:
            image = ("png", png(in_bytes(images[position]).permute(1, 2, 0).numpy()))
        else:
            buffer = io.BytesIO()
            np.save(buffer, images[position].numpy())
            image = ("npy", buffer.getvalue())
        files = (image, ("cls", str(label).encode()), ("json", about.encode()))
        yield [(f"{number:06d}.{suffix}", data) for suffix, data in files]


def _shards(samples: Iterable[list[tuple[str, bytes]]]) -> Iterator[list[tuple[str, bytes]]]:
    """The files of as many samples as a shard holds."""
    files: list[tuple[str, bytes]] = []
    size = 0
    for sample in samples:
        files += sample
        size += sum(len(data) for _name, data in sample)
        if size >= SHARD_BYTES:
            yield files
            files, size = [], 0
    if files:
        yield files


def _write_classes(synthetic: SyntheticSet, folder: Path, more: Mapping[str, Any]) -> None:
    """Class names in the order of their labels, and how to normalise."""
    normalisation = synthetic.normalisation
    constants: dict[str, Any] = {"mean": list(normalisation.mean), "std": list(normalisation.std)}
    if normalisation.whitening is not None:
        for name in ("mean", "matrix"):
            constants[f"whitening_{name}"] = getattr(normalisation.whitening, name).tolist()
    write_json(folder / CLASSES, {"classes": list(synthetic.class_names), **more, **constants})


def _about_values(synthetic: SyntheticSet) -> str:
    channels = "grey" if synthetic.images.shape[1] == 1 else "RGB"
    whitened = synthetic.normalisation.whitening is not None
    kind = "float32 in .npy, channels first, beyond [0, 1]" if whitened else "8-bit PNG"
    then = ", then whiten: `(x.flatten() - whitening_mean) @ whitening_matrix`" * whitened
    return (
        f"A distilled training set: {len(synthetic.images) * synthetic.factor**2} images of {synthetic.num_classes} "
        f"classes, {channels}, {kind}.\n\nScale to [0, 1] and normalise by `mean` and `std` of `{CLASSES}`{then}, for "
        f"training and test images alike. `{CLASSES}` has the class names in the order of their labels.\n\nMade with "
        "ddistill.\n"
    )


def _refuse_whitened(synthetic: SyntheticSet, to: str) -> None:
    if synthetic.normalisation.whitening is not None:
        raise UserError(
            f"{to} is of PNG files, in [0, 1], and a whitened set goes beyond: they would be cut off; choose torch, "
            "numpy or webdataset"
        )

"""The dataset card of an artifact, README.md: what `datasets` and the hub read, and what a person does.

The front matter names the images' file, their columns and class names, so that `datasets.load_dataset` and the hub's
viewer need nothing else. Names come from data and are put where no markup counts: the front matter, or a code span.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ddistill.baselines import BASELINES
from ddistill.synthetic.layout import DESCRIPTION, STORED, WHITENING
from ddistill.synthetic.synthetic_set import SyntheticSet

UNKNOWN_LICENCE = "unknown"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Numbers of images in the hub's words."""
LARGEST = "1M<n<10M"
CHOOSE = ("random", "herding", "k-center", "el2n", "rded")
"""Methods that choose real images, which are then what is published."""
CLASSES_SHOWN = 20
SOURCE_TITLE = "## Licence and source"
TO_FILL = "*To be filled in by who publishes this set:*"


@dataclass(frozen=True)
class Published:
    """What a card says of where it is published.

    Attributes:
        name: ``OWNER/NAME`` on the hub; None in a folder of its own.
        licence: identifier of the licence, as the hub knows them (mit, cc-by-4.0); for the owner to fill in if None.
        source: what the owner has written of licence and source; a text with what to fill in if None.
    """

    name: str | None = None
    licence: str | None = None
    source: str | None = None


UNPUBLISHED = Published()


@dataclass(frozen=True)
class Table:
    """The file of decoded images.

    Attributes:
        path: in the artifact.
        features: types of its columns, `datasets.Features`.
        num_bytes: of its contents in memory.
        download_size: of the file in bytes.
    """

    path: str
    features: Any
    num_bytes: int
    download_size: int


def dataset_card(
    synthetic: SyntheticSet, about: Mapping[str, Any], table: Table, published: Published = UNPUBLISHED
) -> str:
    """The text of the card.

    Args:
        synthetic: the set.
        about: its provenance, as `synthetic.json` holds it; what is not known is left out.
        table: the file of decoded images.
        published: where.
    """
    parts = [
        f"---\n{yaml.safe_dump(_header(synthetic, about, table, published), sort_keys=False, allow_unicode=True)}---",
        f"# {_title(synthetic, about)}",
        _what(synthetic, about),
        _accuracy(synthetic, about),
        _how_to_train(synthetic, about, published),
        _licence(about, published),
        _protocol(about),
        _files(synthetic),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: object) -> str:
    """Any text as a code span of Markdown, on one line, in which no markup counts.

    >>> code("a`<b>`")
    '`` a`<b>` ``'
    """
    words = " ".join(str(text).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    pad = " " if "`" in words else ""
    return f"{ticks}{pad}{words}{pad}{ticks}" if words else "(no name)"


def _header(synthetic: SyntheticSet, about: Mapping[str, Any], table: Table, published: Published) -> dict[str, Any]:
    decoded = len(synthetic.images) * synthetic.factor**2
    source = _known_source(about)
    return {
        "pretty_name": _title(synthetic, about),
        "license": published.licence or UNKNOWN_LICENCE,
        "task_categories": ["image-classification"],
        "size_categories": [next((words for most, words in SIZES if decoded < most), LARGEST)],
        **({"source_datasets": [source]} if source and "/" in source else {}),
        "tags": ["dataset-distillation", "dataset-condensation", "synthetic", "ddistill"],
        "dataset_info": {
            "features": table.features._to_yaml_list(),  # as `datasets` writes them into a card itself
            "splits": [{"name": "train", "num_bytes": table.num_bytes, "num_examples": decoded}],
            "download_size": table.download_size,
            "dataset_size": table.num_bytes,
        },
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": table.path}]}],
    }


def _title(synthetic: SyntheticSet, about: Mapping[str, Any]) -> str:
    each = _per_class(synthetic.counts)
    name, made = _known_source(about) or "Images", "cut" if _is_chosen(about) else "distilled"
    return f"{name} {made} to {each} image{'s' * (each != '1')} a class"


def _is_chosen(about: Mapping[str, Any]) -> bool:
    """Whether the images are real ones."""
    return about.get("recipe", {}).get("method", {}).get("name") in CHOOSE


def _known_source(about: Mapping[str, Any]) -> str | None:
    """A known set or an id of the hub that the set was distilled from; None for a user's own images."""
    source = about.get("recipe", {}).get("data", {}).get("source")
    return str(source) if source else None


def _per_class(counts: list[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _what(synthetic: SyntheticSet, about: Mapping[str, Any]) -> str:
    n, channels, side, _ = synthetic.images.shape
    decoded = f", each decoded to {synthetic.factor**2} training images" if synthetic.factor > 1 else ""
    chosen = _is_chosen(about)
    more = "" if chosen else "; they need not look like them"
    kind = f"small training set: {n} real images" if chosen else f"distilled training set: {n} synthetic images"
    lines = [
        f"A {kind} of {synthetic.num_classes} classes "
        f"({_per_class(synthetic.counts)} a class{decoded}), {side} x {side} pixels, "
        f"{'grey' if channels == 1 else 'RGB'}. A network that is trained from scratch on these few images is to reach "
        f"as much as it can of what it would reach on all real ones{more}.",
    ]
    if "name" in about.get("data", {}):
        source = _known_source(about)
        kind = "" if source else " (images that are not published under this name)"
        fingerprint = str(about["data"].get("fingerprint", ""))[:16]
        lines.append(f"Distilled from {code(source or about['data']['name'])}{kind}; fingerprint {code(fingerprint)}.")
    if "imported_from" in about:
        lines.append(f"Read from {code(about['imported_from'])}, which another program has written.")
    if "method" in about.get("recipe", {}) and "imported_from" not in about:
        recipe = about["recipe"]
        version = about.get("versions", {}).get("ddistill", "")
        lines.append(
            f"Method {code(recipe['method'].get('name', ''))}, recipe {code(recipe.get('name', ''))}, seed "
            f"{about.get('seed', 'not known')}, ddistill {version}; all settings are in `{DESCRIPTION}`."
        )
    shown = ", ".join(code(name) for name in synthetic.class_names[:CLASSES_SHOWN])
    more = f", ... ({synthetic.num_classes} in all)" if synthetic.num_classes > CLASSES_SHOWN else ""
    lines.append(f"Classes: {shown}{more}.")
    return "\n\n".join(lines)


def _accuracy(synthetic: SyntheticSet, about: Mapping[str, Any]) -> str:
    if "accuracy" not in about:
        return ""
    own = {"images": len(synthetic.images), **about["accuracy"]}
    rows = [("this set", own), *_titled(about.get("baselines", {})).items()]
    soft = {"this set": about.get("accuracy_soft"), **_titled(about.get("baselines_soft", {}))}
    table = "\n".join(
        f"| {name} | {row['images']} | {_figures(row)} |{_soft_cells(soft, name)} {len(row['runs'])} |"
        for name, row in rows
    )
    titles, line = (" soft labels % | std |", "---|---|") if soft["this set"] else ("", "")
    return (
        "## Accuracy\n\nOf networks trained from scratch, on the real test images, at the last epoch.\n\n"
        f"| training set | stored images | test accuracy % | std |{titles} networks |\n"
        f"|---|---|---|---|{line}---|\n{table}"
    )


def _titled(baselines: Mapping[str, Any]) -> dict[str, Any]:
    return {BASELINES[name].title if name in BASELINES else code(name): row for name, row in baselines.items()}


def _figures(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.1f} | {row['std']:.1f}"


def _soft_cells(soft: Mapping[str, Any], name: str) -> str:
    """Of the same networks trained on soft labels; nothing where there are none."""
    if not soft["this set"]:
        return ""
    return f" {_figures(soft[name])} |" if soft.get(name) else " | |"


def _how_to_train(synthetic: SyntheticSet, about: Mapping[str, Any], published: Published) -> str:
    mean, std = ([round(value, 4) for value in constants] for constants in _constants(synthetic))
    whitened = synthetic.normalisation.whitening is not None
    where = published.name or "path/to/this/folder"
    ours = f"hub:{published.name}" if published.name else where
    # what PNG would cut off is a column of its own
    image = 'row["pixels"]' if whitened else 'row["image"] / 255'
    shape = synthetic.images.shape[1:]
    channels = (1, shape[0], 1, 1)
    data = "" if _known_source(about) else " --data DATA"  # whose own images they were has them
    whitening = (
        f"\nThen whiten by `mean` and `matrix` of `{WHITENING}`: `(images.flatten(1) - mean) @ matrix`, then back in "
        "shape.\n"
    )
    return f"""## Train on it

```python
import ddistill

train = ddistill.load_synthetic("{ours}").to_dataset()  # a torch TensorDataset of (decoded, normalised image, label)
```

or without ddistill:

```python
import torch
from datasets import load_dataset

rows = load_dataset("{where}", split="train").with_format("torch")
images = torch.stack([{image} for row in rows]).reshape(-1, {", ".join(map(str, shape))})
images = (images - torch.tensor({mean}).view{channels}) / torch.tensor({std}).view{channels}
```
{whitening if whitened else ""}
Without the normalisation most of the accuracy is lost. Test images in [0, 1] need the same. Few images need many epochs
and strong augmentation: the protocol below is what was used, and `ddistill evaluate {ours}{data}` goes by it."""


def _constants(synthetic: SyntheticSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return synthetic.normalisation.mean, synthetic.normalisation.std


def _licence(about: Mapping[str, Any], published: Published) -> str:
    source = _known_source(about)
    lines = [SOURCE_TITLE]
    if published.source:
        return f"{SOURCE_TITLE}\n\n{published.source}"
    if source and "/" in source:
        lines.append(f"The real images are those of {code(source)} on the hub, whose terms hold for this set, too.")
    fill = [] if published.licence else ["the licence, `license` at the top of this file"]
    fill += [] if source else ["whose the real images are, how they were collected, and their licence"]
    if fill:
        lines.append(f"{TO_FILL} {'; '.join(fill)}.")
    made = "Distilled images are made from real ones and can show what is in them: distilling is no anonymiser."
    lines.append("These are real images: who has this set has them." if _is_chosen(about) else made)
    return "\n\n".join(lines)


def _protocol(about: Mapping[str, Any]) -> str:
    if "evaluation" not in about:
        return ""
    text = yaml.safe_dump(about["evaluation"], sort_keys=False, allow_unicode=True)
    return f"## Protocol\n\nHow the accuracy was measured.\n\n````yaml\n{text}````"


def _files(synthetic: SyntheticSet) -> str:
    whitening = f"- `{WHITENING}`: the whitening, float32.\n" * (synthetic.normalisation.whitening is not None)
    soft = f", and the soft label of each decoded image ({synthetic.stored_bytes['targets']} bytes)"
    soft = soft if synthetic.targets is not None else ""
    exact = ", and column `pixels`, float32, which goes beyond [0, 1] where PNG is cut off" * bool(whitening)
    exact += ", and column `target`, a soft label for each image" * bool(soft)
    return f"""## Files

- `data/`: the images to train on, decoded, as PNG in parquet{exact}.
- `{STORED}`: the stored images at full precision, float32{soft}.
{whitening}- `{DESCRIPTION}`: decoder, normalisation, class names, protocol, recipe, versions.

Made with ddistill."""

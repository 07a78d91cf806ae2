"""A set as DD-Ranking takes it, the field's ranking (Li et al., https://arxiv.org/abs/2505.13300; version 0.2.0).

Its evaluator takes images that are normalised by its own constants, class by class, and hard labels; its number of
images per class is that of the stored ones, by which it draws its random baseline. Its scores, from accuracies:

    HLR = all real images - this set, IOR = this set - random images of the same storage
    LRS = (exp(a) - exp(-1)) / (exp(1) - exp(-1)), a = w * IOR - (1 - w) * HLR, of accuracies as fractions

Version 0.2.0 puts per cent into the last formula, where exp grows beyond bounds, and its hard-label score fails when it
writes its file; so the score is computed here.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ddistill.data.facts import PUBLISHED_CONSTANTS, Statistics, known_name
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.storage import write_json, write_text
from ddistill.synthetic.synthetic_set import SyntheticSet

CIFAR, IMAGENET = PUBLISHED_CONSTANTS["cifar10"], PUBLISHED_CONSTANTS["imagenet"]
DATA_SETS: dict[str, tuple[int, Statistics]] = {
    "CIFAR10": (10, CIFAR),
    "CIFAR100": (100, CIFAR),
    "TinyImageNet": (200, IMAGENET),
    "ImageNet1K": (1000, IMAGENET),
    **dict.fromkeys(("ImageNette", "ImageWoof", "ImageMeow", "ImageSquawk", "ImageYellow"), (10, IMAGENET)),
}
"""Number of classes, mean and std, by its names. Not its ImageFruit, whose last class is another than that of ours."""
THEIRS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "imagenet-1k": "ImageNet1K"} | {
    name.lower(): name for name in DATA_SETS if name.startswith("Image") and name != "ImageNet1K"
}
"""Its names by ours."""
COLUMNS = ("method", "method_reference", "verified", "date", "dataset", "ipc", "label_type", "hlr", "ior")
"""Of its list of results; hlr and ior in points."""
DSA = {
    "flip": 0.5,
    "rotate": 15.0,
    "saturation": 2.0,
    "brightness": 1.0,
    "contrast": 0.5,
    "scale": 1.2,
    "crop": 0.125,
    "cutout": 0.5,
}
THEIR_WIDTH = 128
"""Of its ConvNets."""
IMAGES, LABELS, CONFIG, ROW, SCORES, READ_ME = (
    "images.pt",
    "labels.pt",
    "config.yaml",
    "row.csv",
    "scores.json",
    "README.md",
)


@dataclass(frozen=True)
class Entry:
    """What only the user knows of an entry.

    Attributes:
        dataset: its name of the real data; that of the set's own source if None.
        full: test accuracy in per cent of the same network trained on all real images, for HLR; left open if None.
        reference: of the method, a link.
    """

    dataset: str | None = None
    full: float | None = None
    reference: str | None = None


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """LRS of HLR and IOR as fractions, each -1 to 1; from 0 (the worst) to 1.

    >>> round(label_robust_score(hlr=0.0, ior=0.0), 4)
    0.2689
    """
    alpha = weight * ior - (1 - weight) * hlr
    return (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def write_ddranking(synthetic: SyntheticSet, about: Mapping[str, Any], entry: Entry, folder: Path) -> None:
    """Write tensors, its settings, its row and the scores into a folder that exists.

    Raises:
        UserError: data that it does not have, or a set that it cannot take.
    """
    dataset, (mean, std) = _dataset(synthetic, about, entry)
    images, labels = synthetic.decoded()
    shape = (1, len(mean), 1, 1)
    normalised = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    for name, tensor in ((IMAGES, normalised), (LABELS, labels)):
        with (folder / name).open("wb") as file:
            torch.save(tensor.clone(), file)
    scores = scores_of(about, entry.full)
    config, lr, differs = _config(synthetic, about, dataset)
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    write_text(folder / ROW, _row(about, entry, dataset, config["ipc"], scores))
    write_json(folder / SCORES, scores)
    write_text(folder / READ_ME, _read_me(scores, lr, differs))


def scores_of(about: Mapping[str, Any], full: float | None) -> dict[str, float | None]:
    """HLR and IOR in points, LRS from fractions; None where an accuracy that it needs is not known.

    Args:
        about: of the artifact, with ``accuracy`` and ``baselines``.
        full: accuracy in per cent on all real images.
    """
    ours = about.get("accuracy", {}).get("mean")
    random = about.get("baselines", {}).get("random", {}).get("mean")
    hlr = None if full is None or ours is None else round(full - ours, 2)
    ior = None if random is None or ours is None else round(ours - random, 2)
    lrs = None if hlr is None or ior is None else round(label_robust_score(hlr / 100, ior / 100), 4)
    return {"hlr": hlr, "ior": ior, "lrs": lrs}


def _dataset(synthetic: SyntheticSet, about: Mapping[str, Any], entry: Entry) -> tuple[str, Statistics]:
    """Its name of the data, and its constants; refuses what its evaluator cannot take."""
    data = about.get("recipe", {}).get("data", {})
    chosen = data.get("classes")  # a subset by name, or a choice that DD-Ranking does not know
    known = chosen if isinstance(chosen, str) else known_name(str(data.get("source"))) if not chosen else None
    dataset = entry.dataset or THEIRS.get(known or "")
    if dataset is None:
        raise UserError(
            f"the set does not say that it was distilled from data of DD-Ranking; if it was, give --dataset, one of: "
            f"{', '.join(DATA_SETS)}"
        )
    if dataset not in DATA_SETS:
        raise unknown_name("data set of DD-Ranking", dataset, DATA_SETS)
    classes, constants = DATA_SETS[dataset]
    channels = synthetic.images.shape[1]
    if (synthetic.num_classes, channels) != (classes, len(constants[0])):
        raise UserError(
            f"{dataset} of DD-Ranking has {classes} classes in RGB; the set has {synthetic.num_classes} of "
            f"{channels} channel{'s' * (channels > 1)}"
        )
    if len(set(synthetic.counts)) > 1:
        raise UserError(
            f"DD-Ranking compares sets with equally many images of each class; this one has {min(synthetic.counts)} to "
            f"{max(synthetic.counts)}; distil it with one --ipc"
        )
    if synthetic.normalisation.whitening is not None:
        raise UserError(
            "the set is whitened, by a map that DD-Ranking does not have: its networks would see other images; distil "
            "it without data.whitening"
        )
    return dataset, constants


def _config(synthetic: SyntheticSet, about: Mapping[str, Any], dataset: str) -> tuple[dict[str, Any], float, list[str]]:
    """Its settings, nearest to the protocol that the set was judged by; the learning rate; what differs, in words."""
    protocol = about.get("evaluation", {})
    network, training = protocol.get("network", {}), protocol.get("training", {})
    side, differs = synthetic.images.shape[2], []
    depth = max(3, round(math.log2(side)) - 2)  # 3 blocks for 32 px, 4 for 64, 5 for 128
    norm = ""
    if network.get("name", "convnet") == "convnet":
        depth, norm = network.get("depth") or depth, "-BN" * (network.get("norm") == "batch")
        if network.get("width") not in (None, THEIR_WIDTH):
            differs.append(f"its ConvNet has {THEIR_WIDTH} filters, here {network['width']:g} were used")
    else:
        differs.append(f"its ConvNet in place of {network['name']}")
    if training.get("cutmix"):
        differs.append("it has CutMix or an augmentation, not both; CutMix is left out")
    epochs = math.ceil(protocol.get("epochs") or 1000)
    config = {
        "dataset": dataset,
        "real_data_path": "./dataset/",
        "ipc": synthetic.counts[0],
        "im_size": [side, side],
        "model_name": f"ConvNet-{depth}{norm}",
        "use_torchvision": False,
        "data_aug_func": "dsa",
        "aug_params": DSA,
        "custom_train_trans": None,
        "custom_val_trans": None,
        "use_zca": False,
        "optimizer": training.get("optimiser", "sgd"),
        "lr_scheduler": "step",
        "step_size": epochs // 2 + 1,
        "weight_decay": training.get("weight_decay", 0.0005),
        "momentum": training.get("momentum", 0.9),
        "num_eval": 5,
        "num_epochs": epochs,
        "syn_batch_size": training.get("batch", 256),
        "real_batch_size": 256,
        "random_data_format": "tensor",
        "random_data_path": None,
        "eval_full_data": True,
        "num_workers": 4,
        "device": "cuda",
        "save_path": f"./results/{dataset.lower()}/ipc{synthetic.counts[0]}/scores.csv",
    }
    if protocol.get("name") not in ("ddranking", "dsa"):
        differs.append("its rate falls x0.1 after half of the epochs")
    return config, synthetic.learned_rate or training.get("lr", 0.01), differs


def _row(about: Mapping[str, Any], entry: Entry, dataset: str, ipc: int, scores: Mapping[str, float | None]) -> str:
    """Its row, with a head; a figure that is not known is left open."""
    row = {
        "method": about.get("recipe", {}).get("name", ""),
        "method_reference": entry.reference or "",
        "verified": False,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "dataset": dataset,
        "ipc": ipc,
        "label_type": "hard",
        **{name: "" if scores[name] is None else scores[name] for name in ("hlr", "ior")},
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def _read_me(scores: Mapping[str, float | None], lr: float, differs: list[str]) -> str:
    known = ", ".join(f"{name.upper()} {value}" for name, value in scores.items() if value is not None)
    others = "; ".join([*differs, "its augmentation is DSA", "it reports the best of its evaluations, not the last"])
    return f"""# For DD-Ranking

```python
import torch
from ddranking.config import Config
from ddranking.metrics import LabelRobustScoreHard

score = LabelRobustScoreHard(Config.from_file("{CONFIG}"))
images, labels = (torch.load(name, weights_only=True) for name in ("{IMAGES}", "{LABELS}"))
score.compute_metrics(image_tensor=images, hard_labels=labels, syn_lr={lr})
```

`{IMAGES}` holds decoded images, class by class, normalised by DD-Ranking's constants; `ipc` counts the stored ones.
Where `{CONFIG}` differs from the protocol of the set: {others}.

`{ROW}` is a row for its list, HLR and IOR in points, from the accuracies that the set was judged with; `{SCORES}` has
LRS, too, from fractions ({known or "no accuracy is known"}). HLR needs the accuracy on all real images: `--full`.
"""

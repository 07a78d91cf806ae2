"""The evaluation protocols of the published programs, by name: how a network is trained on a distilled set.

All report the last epoch here, on all test images; some of the programs report the best of several looks at them.

| name | of | batch | optimiser | passes | rate | augmentation | CutMix |
| --- | --- | --- | --- | --- | --- | --- | --- |
| idc | IDC; here as for CIFAR, other data differ | 64 | SGD | 1000 | x0.2 at 2/3 and 5/6 | IDC's | 0.5 |
| dc | DatasetCondensation, method DC | 256 | SGD | 301 | x0.1 after 152 | none | no |
| dsa | the same, methods DSA and DM | 256 | SGD | 1001 | x0.1 after 502 | DSA's | no |
| cafe | CAFE, without DSA | 256 | SGD | 601 | x0.1 after 302 | none | no |
| tm | MTT | 256 | SGD | 1001 | learned, x0.1 after 502 | DSA's | no |
| ddranking | DD-Ranking 0.2.0, as for DSA and DM | 256 | SGD | 1000 | x0.1 after 501 | DSA's | no |
| tgdd | TGDD and DANCE | 64 | SGD | 1500 | x0.2 at 2/3 and 5/6 | IDC's | 0.5 |
| ncfm | NCFM | 128 | AdamW | 2000 | x0.5 at each fifth | IDC's | 0.5 |

SGD: rate 0.01, momentum 0.9, weight decay 5e-4. AdamW: rate 0.001, weight decay 0.01. DSA's augmentation is one
operation a batch, drawn anew for each image; IDC's is drawn for each image. DC, DSA, CAFE and MTT make one pass more
than they say, and go on with a new optimiser after the fall. DC has an augmentation of its own for MNIST, which is not
here. DD-Ranking tries five rates on the test set, where this one has 0.01.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddistill.augment import DSA_AUGMENTATION, NO_AUGMENTATION, AugmentSettings
from ddistill.runtime.errors import unknown_name
from ddistill.training import Falls, thirds_and_sixths


@dataclass(frozen=True)
class Protocol:
    """What a name stands for.

    Attributes:
        about: in one line.
        training: fields of `TrainingSettings`; those that are not named stay as the data have them.
        epochs: passes over the decoded set; None: as the data have it.
        repeats: networks; None: as many as are asked for.
        falls: of the rate, from the epochs.
        learned_rate: training is at the rate that was learned with the images.
    """

    about: str
    training: dict[str, Any]
    epochs: int | None = None
    repeats: int | None = None
    falls: Callable[[int], Falls] = thirds_and_sixths
    learned_rate: bool = False

    @property
    def numbers(self) -> dict[str, int]:
        """The fields beside the training that it decides."""
        numbers = {"epochs": self.epochs, "repeats": self.repeats}
        return {name: value for name, value in numbers.items() if value is not None}

    def training_on(self, usual: AugmentSettings) -> dict[str, Any]:
        """The fields of the training that it decides; what IDC's protocol does not mirror in the data is not mirrored.

        Args:
            usual: augmentation of the data under IDC's protocol.
        """
        own = self.training.get("augment")
        if own is None or usual.rule == "imagenet" or "flip" in usual.operations:
            return self.training
        kept = tuple(name for name in own.operations if name != "flip")
        return {**self.training, "augment": own.model_copy(update={"operations": kept})}


def one_more_pass(epochs: int) -> Falls:
    """DC's program means to train E epochs, makes E + 1 passes, and falls after pass E // 2 + 2, to a new optimiser."""
    return Falls(((epochs - 1) // 2 + 2,), 0.1, restart=True)


def past_half(epochs: int) -> Falls:
    """To a tenth one epoch after half of them."""
    return Falls((epochs // 2 + 1,), 0.1)


def fifths(epochs: int) -> Falls:
    """To a half after each fifth of the epochs."""
    return Falls(tuple(max(1, part * epochs // 5) for part in range(1, 5)), 0.5)


def condensation(augment: AugmentSettings) -> dict[str, Any]:
    """How DC's program, and those that began as copies of it, train."""
    plain = {"optimiser": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 256, "cutmix": 0.0}
    return {**plain, "augment": augment}


IDC = "idc"
PROTOCOLS: dict[str, Protocol] = {
    IDC: Protocol("IDC's, with the values of the data set; every recipe's own unless it says otherwise", {}),
    "dc": Protocol("DC's: no augmentation", condensation(NO_AUGMENTATION), 301, falls=one_more_pass),
    "dsa": Protocol("DSA's and DM's", condensation(DSA_AUGMENTATION), 1001, falls=one_more_pass),
    "cafe": Protocol("CAFE's: as DC's, twice as long", condensation(NO_AUGMENTATION), 601, falls=one_more_pass),
    "tm": Protocol(
        "MTT's: as DSA's, at the learned rate",
        condensation(DSA_AUGMENTATION),
        1001,
        falls=one_more_pass,
        learned_rate=True,
    ),
    "ddranking": Protocol(
        "DD-Ranking's, at rate 0.01, over 5 networks",
        condensation(DSA_AUGMENTATION),
        1000,
        repeats=5,
        falls=past_half,
    ),
    "tgdd": Protocol("TGDD's and DANCE's: as IDC's, half as long again", {}, 1500),
    "ncfm": Protocol(
        "NCFM's: AdamW",
        {"optimiser": "adamw", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.01, "batch": 128},
        2000,
        falls=fifths,
    ),
}
"""From the name of a protocol to what it decides."""
OWN = {
    **{name: name for name in ("dc", "dsa", "cafe", "tm", "tgdd", "ncfm")},
    "dm": "dsa",
    "dance": "tgdd",
}
"""From a method (a family of recipes) to the protocol that its figures were published under; "idc" for all others."""


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: there is none; names those that there are.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]

"""Evaluations of the sets of a run: accuracies are kept as they come in, so that what was interrupted goes on."""

from __future__ import annotations

import base64
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ddistill.data import ImageSet, RealData
from ddistill.evaluation import Evaluation, EvaluationSettings, Outcome, Progress, evaluate_set
from ddistill.networks import NetworkSettings
from ddistill.observer import Observer, Phase
from ddistill.runtime.execution import Execution
from ddistill.runtime.storage import append_checked, checked_lines
from ddistill.synthetic import SyntheticSet
from ddistill.training import Unfinished

Key = tuple[str, int, int]
Sets = SyntheticSet | ImageSet | list[SyntheticSet] | list[ImageSet]
"""A set, or one for each trained network; images that need no decoding."""


class Accuracies:
    """Lines of ``accuracies.jsonl``, each with a checksum; without a folder they are kept in memory.

    The recipe and the seed decide them, so they hold for as long as the run's recipe does.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[Key, Outcome] = {}
        self.seconds = 0.0
        for row in checked_lines(path) if path is not None else ():
            with suppress(ValueError, KeyError, TypeError, zlib.error):  # what is not whole is measured again
                predicted = _unpacked(row["predicted"]) if "predicted" in row else None
                self.known[row["what"], row["step"], row["repeat"]] = Outcome(float(row["accuracy"]), predicted)
                self.seconds += float(row["seconds"])

    def of(self, what: str, step: int) -> dict[int, Outcome]:
        """What was measured by repeat, of a set after an outer step."""
        return {repeat: value for (w, s, repeat), value in self.known.items() if (w, s) == (what, step)}

    def add(self, key: Key, tested: Outcome, seconds: float) -> None:
        """Keep what a trained network made of the test images, and the seconds that it took.

        Which classes it took them for is kept of a distilled set only: nothing is made of the others'.
        """
        what, step, repeat = key
        tested = tested if what == "distilled" else Outcome(tested.accuracy, None)
        self.known[key] = tested
        self.seconds += seconds
        if self.path is None:
            return
        row = {"what": what, "step": step, "repeat": repeat, "accuracy": tested.accuracy, "seconds": seconds}
        if tested.predicted is not None:
            row["predicted"] = _packed(tested.predicted)
        append_checked(self.path, row)


def _packed(classes: torch.Tensor) -> str:
    """Numbers of classes as text: 10,000 of CIFAR-100 take 14 kB."""
    return base64.b64encode(zlib.compress(classes.numpy().astype("<i4").tobytes(), 9)).decode()


def _unpacked(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").astype(np.int64))


@dataclass(frozen=True)
class Evaluator:
    """What the evaluations of a run share.

    Attributes:
        data: gives the images to test on.
        execution: how is computed.
        seed: of first weights, batches and augmentation.
        accuracies: what was measured before, and will be.
        unfinished: keeps the training in progress.
        observer: hears of progress.
    """

    data: RealData
    execution: Execution
    seed: int
    accuracies: Accuracies
    unfinished: Unfinished
    observer: Observer

    def __call__(
        self,
        sets: Sets,
        settings: EvaluationSettings,
        network: NetworkSettings,
        key: tuple[str, int],
        *,
        phase: Phase = "baseline",
        validation: bool = False,
    ) -> Evaluation:
        """Train networks on a set and test them; ``key``: what is evaluated, and after which outer step."""
        what, step = key
        started = time.perf_counter()

        def on_run(repeat: int, tested: Outcome) -> None:
            nonlocal started
            now = time.perf_counter()
            self.accuracies.add((what, step, repeat), tested, now - started)
            started = now

        return evaluate_set(
            sets,
            self.data,
            settings,
            network,
            execution=self.execution,
            seed=self.seed,
            split="validation" if validation else "test",
            progress=Progress(
                finished=self.execution.ranks.from_first(self.accuracies.of(what, step)),
                on_run=on_run,
                on_epoch=lambda done, total: self.observer.progress(phase, done, total),
                unfinished=self.unfinished,
                name=f"{what} {step}",
            ),
        )

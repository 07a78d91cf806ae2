"""Accuracies of trained networks as they come in, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from ddistill.evaluation import Outcome
from ddistill.runtime.storage import append_line, fingerprint

Key = tuple[str, int, int]


class Accuracies:
    """Lines of ``accuracies.jsonl``, each with a checksum; without a folder they are kept in memory.

    The recipe and the seed decide them, so they hold for as long as the run's recipe does.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[Key, Outcome] = {}
        self.seconds = 0.0
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._take(line)

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
        append_line(self.path, json.dumps({**row, "sha256": fingerprint(row)}))

    def _take(self, line: str) -> None:
        """Take a line back; one that was cut off or changed is measured again."""
        try:
            row = json.loads(line)
            checksum = row.pop("sha256")
            if checksum == fingerprint(row):
                predicted = _unpacked(row["predicted"]) if "predicted" in row else None
                self.known[row["what"], row["step"], row["repeat"]] = Outcome(float(row["accuracy"]), predicted)
                self.seconds += float(row["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error):
            return


def _packed(classes: torch.Tensor) -> str:
    """Numbers of classes as text: 10,000 of CIFAR-100 take 14 kB."""
    return base64.b64encode(zlib.compress(classes.numpy().astype("<i4").tobytes(), 9)).decode()


def _unpacked(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").astype(np.int64))

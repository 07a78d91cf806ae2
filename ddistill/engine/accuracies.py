"""Accuracies of trained networks as they come in, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from ddistill.storage import append_line, fingerprint

Key = tuple[str, int, int]


class Accuracies:
    """Lines of ``accuracies.jsonl``, each with a checksum; without a folder they are kept in memory.

    The recipe and the seed decide them, so they hold for as long as the run's recipe does.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[Key, float] = {}
        self.seconds = 0.0
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._take(line)

    def of(self, what: str, step: int) -> dict[int, float]:
        """Accuracy in percent by repeat, of a set after an outer step."""
        return {repeat: value for (w, s, repeat), value in self.known.items() if (w, s) == (what, step)}

    def add(self, what: str, step: int, repeat: int, accuracy: float, seconds: float) -> None:
        """Keep the accuracy of one trained network, and the seconds that it took."""
        self.known[what, step, repeat] = accuracy
        self.seconds += seconds
        if self.path is None:
            return
        row = {"what": what, "step": step, "repeat": repeat, "accuracy": accuracy, "seconds": seconds}
        append_line(self.path, json.dumps({**row, "sha256": fingerprint(row)}))

    def _take(self, line: str) -> None:
        """Take a line back; one that was cut off or changed is measured again."""
        try:
            row = json.loads(line)
            checksum = row.pop("sha256")
            if checksum == fingerprint(row):
                self.known[row["what"], row["step"], row["repeat"]] = float(row["accuracy"])
                self.seconds += float(row["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return

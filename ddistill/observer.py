"""What a run tells the outside while it works; the command shows it, a library user may listen."""

from __future__ import annotations

from typing import Literal

Phase = Literal["data", "pool", "distill", "evaluate", "baseline", "estimate", "cells"]


class Observer:
    """Hears of progress; every method does nothing unless overridden."""

    def note(self, text: str) -> None:
        """A remark that a user should see: a conversion, a choice that was made."""

    def progress(self, phase: Phase, done: int, total: int, **figures: float) -> None:
        """``done`` of ``total`` units of a phase; figures such as the loss, by name."""

    def stopping(self) -> bool:
        """Whether the run should stop at the next safe point; asked there, so it must be quick."""
        return False

    def accuracy(self, what: str, mean: float, std: float, runs: int) -> None:
        """A measured test accuracy in percent: of the "distilled" set, of a baseline, after an outer step."""

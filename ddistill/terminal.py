"""What the command shows while it works and how it is stopped: progress bars, tables, signals."""

from __future__ import annotations

import _thread
import os
import threading
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ddistill.observer import Observer, Phase
from ddistill.runtime.units import in_time

PIPED_WIDTH = 200
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def print_table(table: Table) -> None:
    """On a terminal in its width; into a file or a pipe whole, as no width is known there."""
    if not out.quiet:
        (out if out.is_terminal else Console(width=PIPED_WIDTH)).print(table)


class Stop:
    """What a signal does: the first lets a run come to a safe point, for some seconds at most; the second ends it."""

    grace_seconds = 8.0

    def __init__(self) -> None:
        self.patient = False
        self.asked = False
        self.timer: threading.Timer | None = None

    def hear(self, _signal: int, _frame: object) -> None:
        """Handle a signal."""
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True
        self.timer = threading.Timer(self.grace_seconds, _thread.interrupt_main)
        self.timer.daemon = True
        self.timer.start()
        # no console here: the signal may have come in the middle of its printing
        os.write(2, b"\nstopping at the next safe point; once more to stop at once\n")

    def rest(self) -> None:
        """The run has ended."""
        self.patient = False
        if self.timer is not None:
            self.timer.cancel()


STOP = Stop()


def plain(text: str) -> str:
    """Text from data or files as it may be shown on a terminal: control characters are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def networks_in_words(count: int) -> str:
    """How many were trained, in words."""
    return f"{count} network{'' if count == 1 else 's'}"


class Screen(Observer):
    """Shows progress as bars on a terminal, as a line now and then elsewhere."""

    titles: dict[Phase, str] = {  # noqa: RUF012
        "data": "reading images",
        "estimate": "measuring a few steps",
        "cells": "runs",
        "pool": "early-stage networks",
        "distill": "distilling",
        "evaluate": "training on the distilled set",
        "baseline": "training on real images",
    }
    plain_seconds = 30.0
    quiet = False
    """Of a process whose run another one shows."""

    def __init__(self) -> None:
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            disable=self.quiet or not err.is_terminal,
            transient=True,
        )
        self.tasks: dict[Phase, Any] = {}
        self.began: dict[Phase, tuple[float, int, int, int]] = {}
        self.spoken = time.monotonic()

    def __enter__(self) -> Screen:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        STOP.rest()
        self.bars.stop()

    def stopping(self) -> bool:
        """A signal was heard."""
        return STOP.asked

    def note(self, text: str) -> None:
        """A line."""
        if not self.quiet:
            err.print(f"note: {escape(plain(text))}")

    def progress(self, phase: Phase, done: int, total: int, **figures: float) -> None:
        """A bar, or a line every half minute."""
        STOP.patient = phase not in ("data", "estimate")  # these have no state to keep
        if self.quiet:
            return
        text = "  ".join(f"{name} {value:.6g}" for name, value in figures.items())
        if not err.is_terminal:
            if time.monotonic() - self.spoken > self.plain_seconds:
                self.spoken = time.monotonic()
                err.print(f"{self.titles[phase]}: {done}/{total} {self._left(phase, done, total)}{text}")
            else:
                self._left(phase, done, total)
            return
        if phase not in self.tasks:
            self.tasks[phase] = self.bars.add_task(self.titles[phase], total=total, figures="")
        self.bars.update(self.tasks[phase], completed=done, total=total, figures=text)
        if done >= total:
            self.bars.remove_task(self.tasks.pop(phase))

    def _left(self, phase: Phase, done: int, total: int) -> str:
        """In words, how long a phase takes from here on; nothing where it has only begun."""
        now = time.monotonic()
        began, first, of, before = self.began.get(phase, (now, done, total, done))
        if of != total or done < before:  # another piece of work of this kind
            began, first = now, done
        self.began[phase] = (began, first, total, done)
        return f"about {in_time((now - began) / (done - first) * (total - done))} left  " if done > first else ""

    def accuracy(self, what: str, mean: float, std: float, runs: int) -> None:
        """A line."""
        if not self.quiet:
            err.print(f"{what}: {mean:.1f} % ({std:.1f}, {networks_in_words(runs)})")

    def cell_done(self, number: int, total: int, cell: Any, result: Any) -> None:
        """A run of a table is known."""
        marks = " ".join(str(value) for value in cell.labels.values())
        accuracy = sum(result.accuracy) / len(result.accuracy)
        seconds = sum(result.seconds.values())
        err.print(f"[{number}/{total}] {marks}: {accuracy:.1f} % ({seconds:.0f} s)", markup=False)

"""Errors whose text is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: an argument, a recipe field, a data set.

    The message is one line that names the value, the reason and the legal choices.
    The command prints it without a traceback and exits with code 2.

    Attributes:
        told: another process tells the user.
    """

    told = False


class RunError(RuntimeError):
    """A run that failed on the way (a loss that is not finite, say); the command exits with code 1."""


def in_words(error: OSError) -> str:
    """What the operating system said, and of which file.

    >>> in_words(OSError(28, "No space left on device", "runs/log.jsonl"))
    "no space left on device: 'runs/log.jsonl'"
    """
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    return f"{reason}: {error.filename!r}" if error.filename else reason


MANY_CHOICES = 24


def unknown_name(kind: str, name: str, legal: Iterable[str], see: str = "") -> UserError:
    """An error for a name that is not in a table, with the nearest legal ones first.

    Where there are many legal names and some are near, only those are given, and ``see`` says where the others are.

    >>> str(unknown_name("distance", "l3", ["cosine", "l1", "mse"]))
    "unknown distance 'l3'; did you mean l1? choose from: cosine, l1, mse"
    """
    choices = sorted(legal)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    if near and len(choices) > MANY_CHOICES:
        return UserError(f"unknown {kind} {name!r};{hint} {see}".rstrip())
    return UserError(f"unknown {kind} {name!r};{hint} choose from: {', '.join(choices)}")

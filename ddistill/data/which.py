"""Which data a user means by a path, a name or an object, and how a recipe can name them from any folder.

./digits  a/b  /data/x  ~/x  x/      written as a path: what is there; OWNER/NAME is an id of the hub where nothing is
digits  cifar10  Fashion-MNIST       a known set, in any letter case; refused where a file or folder is called so, too
images                               any other word: what is there
name:digits  name:OWNER/NAME         the known set or the set of the hub, whatever files there are; hub:OWNER/NAME too
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddistill.data.facts import KNOWN_SETS, known_name, short_names
from ddistill.data.settings import DataSettings
from ddistill.runtime.errors import UserError, unknown_name

NAME, HUB = "name:", "hub:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
AFTER_DECODING = ("data.validation_fraction", "data.constants", "data.whitening")
"""Settings that the fingerprint of the images does not depend on."""
AGAIN = "give the data again: as DATA of the command, as --data of `evaluate`, or as `data` in Python"


@dataclass(frozen=True)
class Which:
    """What data were meant.

    Attributes:
        place: a path that exists; a known short name or an id of the hub (text); or the user's own object.
        lasting: how a recipe names it: an absolute path, a short name, an id; None for an object.
        notes: what should be said of the choice.
    """

    place: Any
    lasting: str | None
    notes: tuple[str, ...] = ()


UNSAID = Which(None, None)


def which(source: Any) -> Which:
    """What ``source`` stands for.

    Raises:
        UserError: nothing there, and no such name; or a word that can be meant in two ways.
    """
    if isinstance(source, os.PathLike):
        return _path(Path(source))
    if not isinstance(source, str):
        return Which(source, None)
    if source.startswith((NAME, HUB)):
        return _name(source.partition(":")[2])
    path, known = _expanded(source), known_name(source)
    as_path = path.is_absolute() or any(separator in source for separator in (os.sep, os.altsep) if separator)
    if known is not None and not as_path:
        there = _called(source)
        if there is not None:
            kind = "folder" if (Path() / there).is_dir() else "file"
            raise UserError(
                f"{source!r} can be meant in two ways: the {kind} {str(Path(there).absolute())!r}, written ./{there}, "
                f"or {_about(known)}, written {NAME}{known}"
            )
        return Which(known, known)
    if source and path.exists():
        other = f"; {_about(known) if known else 'the set of the hub'} is written {NAME}{source}"
        chosen = _path(path)
        notes = (f"{source!r} is read from {chosen.lasting!r}{other}",) if HUB_ID.fullmatch(source) else ()
        return Which(chosen.place, chosen.lasting, notes)
    if HUB_ID.fullmatch(source):
        return _name(source)
    if as_path or path.suffix:
        raise UserError(f"no such file or folder: {source!r}, and no short name; those are: {', '.join(short_names())}")
    raise unknown_name("data set (no such path, no hub id OWNER/NAME, no short name)", source, short_names())


def remembered(settings: DataSettings) -> str:
    """What a recipe's own ``source`` stands for, as text for `which`.

    Raises:
        UserError: the recipe does not say where its images are, or they are not there any more.
    """
    source, written_by_a_run = settings.source, settings.fingerprint is not None
    if source is None and written_by_a_run:
        raise UserError(
            "the recipe does not say where its images are, since they came from a local path or were an object in "
            f"Python; {AGAIN}"
        )
    if source is None:
        raise UserError("no data; name a data set ('digits', 'cifar10', a hub id) or give a path")
    if written_by_a_run and not travels(source) and not _expanded(source).exists():
        raise UserError(f"the images of the recipe were at {source!r}, where nothing is now; {AGAIN}")
    # a run writes absolute paths, so its words are names, whatever the folder is called that it is read in
    return f"{NAME}{source}" if written_by_a_run and known_name(source) else source


def travels(source: str | None) -> bool:
    """Whether a lasting source means the same on every machine: a short name or an id of the hub, no path."""
    return source is not None and (known_name(source) is not None or HUB_ID.fullmatch(source) is not None)


def check_fingerprint(source: str, settings: DataSettings, found: str) -> None:
    """Refuse images that are not those of the recipe that asks for them.

    Raises:
        UserError: their fingerprint is not ``settings.fingerprint``.
    """
    if settings.fingerprint not in (None, found):
        raise UserError(
            f"the images of {source!r} are not those that the recipe was run on: fingerprint "
            f"{str(settings.fingerprint)[:12]} then, {found[:12]} now; the files, or what is read of them, have "
            f"changed; {AGAIN}"
        )


def _expanded(source: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises an error of its own for ~nobody


def _path(path: Path) -> Which:
    path = _expanded(path)
    if not path.exists():
        raise UserError(f"no such file or folder: {str(path)!r}")
    return Which(path, str(path.resolve() if ".." in path.parts else path.absolute()))


def _name(name: str) -> Which:
    known = known_name(name)
    if known is None and not HUB_ID.fullmatch(name):
        raise unknown_name("data set (no hub id OWNER/NAME, no short name)", name, short_names())
    return Which(known or name, known or name)


def _called(word: str) -> str | None:
    """What is called so in the working folder: exactly, or else but for the letter case."""
    with suppress(OSError):
        alike = [name for name in os.listdir() if name.casefold() == word.casefold()]  # noqa: PTH208
        return word if word in alike else min(alike, default=None)
    return word if Path(word).exists() else None


def _about(known: str) -> str:
    return (
        f"the known set {known} ({KNOWN_SETS[known].hub_id} on the hub)"
        if known in KNOWN_SETS
        else f"the known set {known} that comes with the program"
    )

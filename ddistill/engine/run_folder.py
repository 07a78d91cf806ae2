"""The folder of a run: whether it may be written, and whether the run in it is the one that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from ddistill.data import RealData
from ddistill.engine.lock import LOCK_FILES, locked
from ddistill.recipe import RECIPE, Recipe
from ddistill.runtime.distributed import Ranks
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import EXECUTION
from ddistill.runtime.storage import is_leftover, read_checked_json, remove_leftovers

DATA, SUMMARY = "data.json", "summary.json"
Resume = bool | Literal["extend"]


@contextmanager
def held_folder(out: Path, recipe: Recipe, data: RealData, resume: Resume, ranks: Ranks) -> Iterator[Path]:
    """The folder that a run is written into, made where missing, and locked by the first rank while the block runs.

    Raises:
        UserError: it cannot be used, holds a run of another recipe or other data, or is held by another process.
    """
    with ExitStack() as held:

        def prepare() -> Path:
            folder = check_folder(out, resume=bool(resume))
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--out {str(folder)!r} cannot be made: {error.strerror}") from error
            held.enter_context(locked(folder))
            check_same_recipe(folder, recipe, extend=resume == "extend")
            check_same_data(folder, data)
            remove_leftovers(folder)
            return folder

        yield ranks.first_does(prepare)


def check_folder(out: str | os.PathLike[str], *, resume: bool = False, called: str = "--out") -> Path:
    """Check that a run, or what else is ``called`` so, may be written there; nothing is created.

    Raises:
        UserError: the path is a file, or holds other files, or a run that is not to be resumed.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{called} {str(folder)!r} is a file; give a folder that is new or empty")
    check_writable(folder, called)
    if (folder / RECIPE).exists():
        if not resume:
            raise UserError(
                f"{called} {str(folder)!r} holds a run already; add --resume to go on with it, or give another"
            )
    elif folder.exists() and any(not (e.name in (*LOCK_FILES, EXECUTION) or is_leftover(e)) for e in folder.iterdir()):
        raise UserError(f"{called} {str(folder)!r} is not empty; give a folder that is new or empty")
    return folder


def check_writable(path: Path, called: str) -> None:
    """Check that a file or folder may be made there.

    Raises:
        UserError: naming what stands against it.
    """
    there = next((place for place in (path, *path.absolute().parents) if place.exists()), path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{called} {str(path)!r} cannot be written: {str(there)!r} is no folder that this user may write"
        )


def recorded(data: RealData) -> dict[str, str | None]:
    """What a recipe keeps of the data that it is run on, as changes to it: where they are, and their fingerprint."""
    return {"data.source": data.source, "data.fingerprint": data.fingerprint}


def source_beside(artifact: Path, recipe: Recipe) -> str | None:
    """Where the images of an artifact are, by the recipe of the run in whose folder it lies; None where it lies alone,
    or beside the recipe of another run."""
    with suppress(UserError):
        own = Recipe.from_yaml(artifact.parent / RECIPE)
        return own.data.source if own.data.fingerprint == recipe.data.fingerprint else None
    return None


def check_same_recipe(folder: Path, recipe: Recipe, *, extend: bool = False) -> None:
    """Refuse to resume a run under another recipe, or where it would not go on to the same bits.

    ``extend`` lets its budget differ. How much is computed at once and how often it is kept may differ always, and soft
    labels may be asked for that were not: they are made of the finished images.

    Raises:
        UserError: naming the fields that differ.
    """
    if not (folder / RECIPE).exists():
        return
    before = Recipe.from_yaml(folder / RECIPE)
    if started_with(folder):  # else the place is all that tells the data
        before = before.changed({"data.source": recipe.data.source})
    before = before.changed({"data.fingerprint": recipe.data.fingerprint})
    if before.synthetic.grow and recipe.synthetic.grow:  # its fingerprint tells the finished set
        before = before.changed({"synthetic.grow.source": recipe.synthetic.grow.source})
    if before.synthetic.labels is None:
        before = before.changed({"synthetic.labels": recipe.synthetic.labels})
    differing = _differences(before.identity(), recipe.identity())
    differing += ["run.compile"] if before.run.compile != recipe.run.compile else []
    if "auto" not in (before.run.precision, recipe.run.precision):
        check_same_precision(folder, {"precision": before.run.precision}, recipe.run.precision)
    longer = [field for field in differing if extend and field.startswith("budget.")]
    if longer and recipe.method.needs.fixed_length:
        raise UserError(
            f"the schedule of method {recipe.method.name} depends on the number of outer steps, so that a run cannot "
            "be extended; start another one with the larger budget"
        )
    if differing != longer:
        raise UserError(
            f"the run in {str(folder)!r} has another recipe; it differs in: {', '.join(differing)}; "
            "resume with the same settings, or give another --out"
        )


def has_other_budget(folder: Path | None, recipe: Recipe) -> bool:
    """Whether there is a run, of another budget than this recipe's, so that it is to be extended."""
    if folder is None or not (folder / RECIPE).exists():
        return False
    return Recipe.from_yaml(folder / RECIPE).budget != recipe.budget


def check_same_precision(folder: Path | None, began_with: dict[str, Any], precision: str) -> None:
    """Refuse to go on with a run in another precision than it began with.

    Raises:
        UserError: naming both.
    """
    before = began_with.get("precision", precision)
    if before != precision:
        raise UserError(
            f"the run in {str(folder)!r} is computed in {before} and would go on in {precision}, to other bits; "
            f"resume with --set run.precision={before}, or give another --out"
        )


def check_same_data(folder: Path, data: RealData) -> None:
    """Refuse to resume a run on other data.

    Raises:
        UserError: the images, labels or class names are not those that the run was started with.
    """
    before = started_with(folder)
    if before not in (None, data.fingerprint):
        raise UserError(
            f"the run in {str(folder)!r} was started on other data: fingerprint {str(before)[:12]}, now "
            f"{data.fingerprint[:12]}; resume with the same images, or give another --out"
        )


def started_with(folder: Path) -> str | None:
    """The fingerprint of the data that a run was started on; None where there is no run, or it does not say."""
    with suppress(OSError, ValueError, KeyError):
        return str(read_checked_json(folder / "checkpoint" / DATA)["fingerprint"])
    with suppress(UserError):
        return Recipe.from_yaml(folder / RECIPE).data.fingerprint
    return None


def _differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    differing = []
    for key in stored.keys() | asked.keys():
        a, b = stored.get(key), asked.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            differing += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            differing.append(prefix + key)
    return sorted(differing)

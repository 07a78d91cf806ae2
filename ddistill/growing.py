"""What a run becomes that adds classes to a finished one, or that is to fit into a memory: a recipe like any other.

The classes of the finished run come first, in their order, then the new ones in that of the data; the recipe says so by
``data.classes``, ``synthetic.grow`` and ``synthetic.ipc_by_class``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ddistill.data import RealData, class_names_of
from ddistill.data.labels import listed, resolve_wanted, wanted_classes
from ddistill.data.which import remembered
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError
from ddistill.synthetic import SyntheticSet, artifact_folder, fingerprint_of
from ddistill.synthetic.hub import is_on_hub


class Growth(TypedDict, total=False):
    """What `ddistill.distill` takes for a set that grows or has a bound; all may be left out."""

    add_classes_to: str | os.PathLike[str] | None
    """Folder of a finished run, or its artifact, whose classes come first."""
    refine: bool
    """Go on with the images of the finished classes, too, in place of keeping them bit for bit."""
    memory: int | None
    """Stored images of all classes together, shared as evenly as possible, in place of images per class."""


@dataclass(frozen=True)
class Finished:
    """The run that grows.

    Attributes:
        path: as the user named it.
        recipe: of it.
        synthetic: its set.
    """

    path: str | os.PathLike[str]
    recipe: Recipe
    synthetic: SyntheticSet


def shared(total: int, most: Sequence[int | None]) -> list[int]:
    """``total`` images shared by classes as evenly as possible, no class more than its ``most``; what does not divide
    goes to the first ones.

    >>> shared(10, [None, None, None]), shared(10, [1, None, None]), shared(10, [1, 2, 3])
    ([4, 3, 3], [1, 5, 4], [1, 2, 3])
    """
    counts = [0] * len(most)
    while total:
        hungry = [c for c, bound in enumerate(most) if bound is None or counts[c] < bound][:total]
        if not hungry:
            break
        room = [bound - counts[c] for c in hungry if (bound := most[c]) is not None]
        each = min([max(1, total // len(hungry)), *room])
        for c in hungry:
            counts[c] += each
        total -= each * len(hungry)
    return counts


def grown_changes(
    data: Any, draft: Recipe, changes: Mapping[str, Any], finished: Finished | None, growth: Growth
) -> dict[str, Any]:
    """The changes to a recipe that make it that of the set asked for.

    Args:
        data: what the user named; the recipe's own if None.
        draft: the recipe as far as it is known before the images are.
        changes: of the user.
        finished: the run that grows, if one does.
        growth: what else was asked for.

    Raises:
        UserError: the data do not hold all classes, or the bound cannot be kept.
    """
    changed = dict(changes)
    settings = draft.changed({path: value for path, value in changes.items() if path.startswith("data.")}).data
    place = remembered(settings) if data is None else data
    if finished is not None:
        asked = settings.classes if "data.classes" in changes else None
        names = _classes_of(place, settings, finished, asked)
        if not isinstance(place, RealData):
            same = all(old == new for old, new in names.items())
            changed["data.classes"] = list(names) if same else names
        path = finished.path
        source = os.fspath(path) if is_on_hub(path) else str(artifact_folder(path).absolute())
        grow = {"source": source, "fingerprint": fingerprint_of(path), "refine": growth.get("refine", False)}
        changed["synthetic.grow"] = grow
        class_names = tuple(dict.fromkeys(names.values()))
    else:
        class_names = place.class_names if isinstance(place, RealData) else class_names_of(place, settings)
    return changed | _counts(draft, changes, class_names, finished, growth)


def _counts(
    draft: Recipe, changes: Mapping[str, Any], names: tuple[str, ...], finished: Finished | None, growth: Growth
) -> dict[str, Any]:
    """How many images each class stores."""
    memory = growth.get("memory")
    before = dict(zip(finished.synthetic.class_names, finished.synthetic.counts, strict=True)) if finished else {}
    own = {path: value for path, value in changes.items() if path.startswith("synthetic.ipc")}
    if memory is None:
        base = draft.changed({"synthetic.ipc_by_class": before})
        asked = base.changed(own).synthetic.ipc_by_class
        return {"synthetic.ipc_by_class": {**before, **asked}}
    if own:
        raise UserError(f"--memory {memory} says how many images each class has; leave out --ipc ({', '.join(own)})")
    if memory < len(names):
        raise UserError(
            f"--memory {memory} is less than one image for each of the {len(names)} classes; give {len(names)} or more"
        )
    kept = before if not growth.get("refine") else {}
    counts = dict(zip(names, shared(memory, [kept.get(name) for name in names]), strict=True))
    usual = memory // len(names)
    by_class = {name: count for name, count in counts.items() if count != usual}
    return {"synthetic.ipc": usual, "synthetic.ipc_by_class": by_class}


def _classes_of(place: Any, data: Any, finished: Finished, asked: Any) -> dict[str, str]:
    """The classes of the data that the grown set has: those of the finished one, then the others in their order; of
    each its name there, and its name in the set."""
    old = finished.synthetic.class_names
    if isinstance(place, RealData):
        names = place.class_names
    else:
        names = class_names_of(place, data.model_copy(update={"classes": None}))
    where = repr(place.name if isinstance(place, RealData) else str(place))
    wanted = {name: name for name in old}
    if not set(old) <= set(names):
        wanted = wanted_classes(finished.recipe.data.classes) or wanted
    try:
        positions = resolve_wanted(where, names, wanted)
    except UserError as error:
        raise UserError(
            f"{where} lacks the class {listed(name for name in old if name not in names)} of {str(finished.path)!r}; "
            "the networks and the evaluation need real images of all classes, those of the finished ones, too: put the "
            f"new ones beside those that it was made from ({finished.recipe.data.source or 'an object in Python'}), "
            "and give them all"
        ) from error
    if asked is None:
        fresh = {position: name for position, name in enumerate(names) if position not in positions}
    else:
        others = {name: new for name, new in (wanted_classes(asked) or {}).items() if new not in old}
        found = resolve_wanted(where, names, others) if others else {}
        fresh = {position: new for position, new in found.items() if position not in positions}
    twice = [new for new in fresh.values() if new in old]
    if not fresh or twice:
        has = f"the class {listed(twice)} as a new one, too" if twice else "no class besides those"
        raise UserError(
            f"{where} has {has} of {str(finished.path)!r} ({listed(old)}); give data with other classes, or name the "
            "new ones: --set data.classes={NAME: NEW NAME}"
        )
    chosen = {names[position]: new for position, new in {**positions, **fresh}.items()}
    if isinstance(place, RealData) and tuple(chosen) != names:
        raise UserError(
            f"the classes of {str(finished.path)!r} come first in a grown set: load the data with "
            f"DataSettings(classes={list(chosen)})"
        )
    return chosen

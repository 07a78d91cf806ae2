"""Classes in groups: whose turn it is at an image update, a pure function of (seed, update).

A round gives every class one turn; it is divided into as few groups as the bound allows, which differ by one class at
most. Each round is shuffled anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ddistill.runtime.randomness import generator

Turn = Sequence[int]
"""Labels of the classes of an image update, ascending."""


def updates_per_round(classes: int, most: int | None) -> int:
    """Image updates until each class has had its turn; ``most`` classes in one at most, None: all.

    >>> updates_per_round(100, None), updates_per_round(100, 200), updates_per_round(100, 30)
    (1, 1, 4)
    """
    return -(-classes // min(most or classes, classes))


def turns_in_words(method: Any, classes: int, outer_steps: int) -> list[str]:
    """How often a class has its turn in a run, where not all have one in each image update; one line, or none."""
    most = getattr(method, "classes_per_step", None)
    groups = updates_per_round(classes, most)
    if groups == 1:
        return []
    rounds, rest = divmod(outer_steps * getattr(method, "inner_steps", 1), groups)
    turns = f"{rounds}" if not rest else f"{rounds} or {rounds + 1}"
    return [
        f"classes in groups of at most {most} (method.classes_per_step): one of the {classes} has its turn in one of "
        f"{groups} image updates, {turns} of them in the {outer_steps} outer steps of the run"
    ]


def class_turn(seed: int, update: int, classes: range, most: int | None) -> Turn:
    """The classes of an image update: all, or a group in which no class comes twice.

    Args:
        seed: of the run.
        update: image update of the run, from 0.
        classes: that have turns.
        most: classes in a group at most, at least 1; None: all.
    """
    number = len(classes)
    groups = updates_per_round(number, most)
    if groups == 1:
        return classes
    done, group = divmod(update, groups)
    order = torch.randperm(number, generator=generator(seed, "class turns", done))
    return sorted(classes[place] for place in order[number * group // groups : number * (group + 1) // groups].tolist())


def labels_of(turns: Sequence[Turn], places: int) -> torch.Tensor:
    """The labels at the places of each turn, int64 (places, turns); zeros fill the shorter ones."""
    labels = torch.zeros(places, len(turns), dtype=torch.int64)
    for number, turn in enumerate(turns):
        labels[: len(turn), number] = torch.tensor(turn)
    return labels


def appearances(turns: Sequence[Turn]) -> dict[int, tuple[list[int], list[int]]]:
    """For each class that has a turn, ascending: its positions in its turns, and which turns they are."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for number, turn in enumerate(turns):
        for place, label in enumerate(turn):
            places, numbers = found.setdefault(label, ([], []))
            places.append(place)
            numbers.append(number)
    return dict(sorted(found.items()))

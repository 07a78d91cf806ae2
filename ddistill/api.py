"""The library's front door: names, paths and data sets in; runs and evaluations out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from ddistill import recipes
from ddistill.config import Recipe
from ddistill.data import RealData, load_data
from ddistill.engine import Observer, Run, distill_data, prepare_folder
from ddistill.errors import UserError
from ddistill.evaluation import Evaluation, EvaluationSettings, evaluate_set
from ddistill.networks import NetworkSettings
from ddistill.synthetic import SyntheticSet, load_synthetic

DataLike = str | os.PathLike[str] | RealData | Dataset[Any] | tuple[Dataset[Any], Dataset[Any]]

DEFAULT_RECIPE = "idc-ma"


def resolve(
    data: DataLike | None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    *,
    ipc: int = 1,
    changes: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> tuple[RealData, Recipe]:
    """Load the data and complete the recipe for them.

    Args:
        data: a name, a path, loaded data or a map-style data set; the recipe's own source if None.
        recipe: a recipe, or a name in the table of recipes.
        ipc: stored images per class, for a recipe given by name.
        changes: other values for recipe fields, by dotted path.
        observer: hears of progress.

    Raises:
        UserError: anything that the user can mend.
    """
    observer = observer or Observer()
    changes = dict(changes or {})
    draft = recipe if isinstance(recipe, Recipe) else _draft(recipe, ipc)
    family = recipe if isinstance(recipe, str) and recipe in recipes.FAMILIES else None
    data_changes = {path: value for path, value in changes.items() if path.startswith(("data.", "run."))}
    # checks the names and values of all changes before any image is read
    draft.changed({path: value for path, value in changes.items() if not path.startswith("data.size")})
    placed = draft.changed(data_changes)
    real = data if isinstance(data, RealData) else _load(data, placed, observer)
    complete = recipes.for_images(family, ipc, real) if family else draft
    complete = complete.changed({**changes, "data.source": real.source})
    complete.check(real)
    return real, complete


def distill(
    data: DataLike | None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    *,
    out: str | os.PathLike[str] | None = None,
    ipc: int = 1,
    changes: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Run:
    """Distil a labelled image set into a few synthetic images per class.

    Args:
        data: ``"digits"``, a hub id or short name, a path, loaded data, or a map-style data set of (image, int)
            (a pair: training and test part); the recipe's own source if None.
        recipe: a recipe, or a name: see ``ddistill recipes``.
        out: folder of the run; nothing is written if None.
        ipc: stored images per class, for a recipe given by name.
        changes: other values for recipe fields, ``{"method.inner_steps": 50}``.
        resume: go on with the run in ``out``, or start one where there is none.
        device: "cpu", "cuda", "cuda:1".
        observer: hears of progress.

    Returns:
        The run: its recipe, the synthetic set on the CPU, the summary, the folder.

    Raises:
        UserError: anything that the user can mend; nothing has been written then.
        RunError: a failure on the way; the last good state is in ``out``.

    Example:
        >>> run = distill("digits", ipc=1, changes={"budget.outer_steps": 5})  # doctest: +SKIP
        >>> run.summary["accuracy"]["mean"]  # doctest: +SKIP
    """
    real, complete = resolve(data, recipe, ipc=ipc, changes=changes, observer=observer)
    return distill_data(real, complete, out=out, resume=resume, device=device, observer=observer)


def evaluate(
    synthetic: SyntheticSet | str | os.PathLike[str],
    data: DataLike,
    settings: EvaluationSettings | None = None,
    *,
    network: NetworkSettings | str | None = None,
    repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Evaluation:
    """Train fresh networks on a synthetic set and test them on real images.

    Args:
        synthetic: a set, a run folder or an artifact folder.
        data: gives the test images.
        settings: the protocol; the default one is that of CIFAR.
        network: architecture; that of the protocol, else ConvNet-3.
        repeats: networks to train; overrides the protocol.
        seed: of first weights, batches and augmentation.
        device: to train on.
        observer: hears of progress.

    Raises:
        UserError: set and data do not fit together.
    """
    observer = observer or Observer()
    settings = settings or EvaluationSettings()
    if not isinstance(synthetic, SyntheticSet):
        synthetic = load_synthetic(synthetic)
    real = data if isinstance(data, RealData) else load_data(data)
    if real.class_names != synthetic.class_names:
        raise UserError(
            f"the set has the classes {list(synthetic.class_names)[:12]}, data {real.name!r} has "
            f"{list(real.class_names)[:12]}; give the data that the set was distilled from"
        )
    shape, wanted = tuple(real.test.images.shape[1:]), tuple(synthetic.images.shape[1:])
    if shape != wanted:
        raise UserError(f"the set holds images of shape {wanted}, data {real.name!r} of {shape}")
    if network is not None:
        settings = settings.model_copy(
            update={"network": NetworkSettings(name=network) if isinstance(network, str) else network}
        )
    if repeats is not None:
        settings = settings.model_copy(update={"repeats": repeats})
    return evaluate_set(
        synthetic,
        real,
        settings,
        settings.network or NetworkSettings(),
        seed=seed,
        device=device,
        on_epoch=lambda done, total: observer.progress("evaluate", done, total),
    )


def _draft(name: str, ipc: int) -> Recipe:
    if name in recipes.FAMILIES:
        return recipes.find(name, ipc, "cifar10").changed({"data.source": None})
    return recipes.find(name, ipc)


def _load(data: Any, recipe: Recipe, observer: Observer) -> RealData:
    source = recipe.data.source if data is None else data
    if source is None:
        raise UserError("no data; name a data set ('digits', 'cifar10', a hub id) or give a path")
    return load_data(
        source,
        recipe.data,
        seed=recipe.run.seed,
        on_progress=lambda _what, done, total: observer.progress("data", done, total),
    )


__all__ = ["DataLike", "distill", "evaluate", "load_data", "prepare_folder", "resolve"]

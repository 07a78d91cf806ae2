"""The library's front door: names, paths and data sets in; runs and evaluations out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch.utils.data import Dataset

from ddistill import recipes
from ddistill.baselines import ALL, known_baseline
from ddistill.comparison import Candidates, Comparison, Wanted, check_place, compare_data
from ddistill.data import DIGITS_SIDE, RealData, load_data
from ddistill.data.which import AFTER_DECODING, remembered
from ddistill.engine import (
    Builder,
    Observer,
    Plan,
    Resume,
    Run,
    check_folder,
    check_writable,
    distill_data,
    plan_run,
    recorded,
    source_beside,
)
from ddistill.evaluation import IDC, Evaluation, EvaluationSettings, Progress, evaluate_set, protocol
from ddistill.growing import Finished, Growth, grown_changes
from ddistill.network_sources import NetworkStore
from ddistill.networks import NetworkSettings, check_trainable, network_of
from ddistill.recipe import Recipe, build, recipe_from
from ddistill.runtime.distributed import current
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution
from ddistill.synthetic import (
    MOST_CUT,
    Constants,
    SyntheticSet,
    artifact_folder,
    import_pt,
    load_synthetic,
    publish,
    read_description,
    save_synthetic,
)
from ddistill.synthetic.card import Published
from ddistill.synthetic.ddranking import Entry
from ddistill.synthetic.export import DDRANKING, FILES, check_format, write

DataLike = str | os.PathLike[str] | RealData | Dataset[Any] | tuple[Dataset[Any], Dataset[Any]]

DEFAULT_RECIPE = recipes.AUTO
REPEATS = 5
"""Networks on each row of a comparison."""


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
        recipe: a recipe, or a name in the table of recipes; "auto": by the size of the images.
        ipc: stored images per class, for a recipe given by name.
        changes: other values for recipe fields, by dotted path.
        observer: hears of progress.

    Raises:
        UserError: anything that the user can mend.
    """
    observer = observer or Observer()
    changes = dict(changes or {})
    auto = recipe == recipes.AUTO
    if auto:
        side = DIGITS_SIDE if data == "digits" else data.size if isinstance(data, RealData) else None
        recipe = _suited_family(side, ipc, changes)
    draft = recipe if isinstance(recipe, Recipe) else _draft(recipe, ipc)
    family = recipe if isinstance(recipe, str) and recipe in recipes.FAMILIES else None
    early = changes
    if family:
        # names and values of all changes are checked before any image is read; which network suits the size of the
        # images follows from them
        draft.changed({path: value for path, value in changes.items() if path != "data.size"})
        early = {path: value for path, value in changes.items() if path.startswith(("data.", "run."))}
        early["network.depth"] = 1
    if data is not None or any(path.startswith("data.") and path not in AFTER_DECODING for path in changes):
        early = {"data.fingerprint": None, **early}  # other images are asked for than those of the recipe
    placed = draft.changed(early)
    real = load_for(data, placed, observer)
    if auto:
        family = recipe = _suited_family(real.size, ipc, changes)
    complete = recipes.for_images(family, ipc, real) if family else draft
    if isinstance(recipe, str) and not family:
        complete = recipes.suited(draft, real)
    complete = complete.changed({**changes, **recorded(real)})
    complete.check(real)
    return real.normalised_as(complete.data), complete


def distill(
    data: DataLike | None,
    recipe: Recipe | str | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    ipc: int = 1,
    changes: Mapping[str, Any] | None = None,
    resume: Resume = False,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
    **growth: Unpack[Growth],
) -> Run:
    """Distil a labelled image set into a few synthetic images per class.

    Beside other busy processes, set ``OMP_WAIT_POLICY=passive`` before torch is imported, as the command does; see
    docs/machines.md.

    Args:
        data: ``"digits"``, a hub id or short name, a path, loaded data, or a map-style data set of (image, int)
            (a pair: training and test part); the recipe's own source if None.
        recipe: a recipe, or a name: see ``ddistill recipes``; if None that of the run that grows, or "auto": "tgdd-ma",
            for images up to 12 px "idc-ma".
        out: folder of the run; nothing is written if None.
        ipc: stored images per class, for a recipe given by name.
        changes: other values for recipe fields, ``{"method.inner_steps": 50}``.
        resume: go on with the run in ``out``, or start one where there is none; "extend": under a larger budget
            (``budget.outer_steps``, ``budget.speedup``).
        device: "cpu", "cuda", "cuda:1".
        observer: hears of progress.
        growth: ``add_classes_to="RUN"``: the classes of a finished run come first, with their images, and those that
            ``data`` has besides are added (``refine=True``: all images go on); ``memory=200``: stored images of all
            classes together, which share them evenly. See docs/grow.md.

    Returns:
        The run: its recipe, the synthetic set on the CPU, the summary, the folder.

    Raises:
        UserError: anything that the user can mend; nothing has been written then.
        RunError: a failure on the way; the last good state is in ``out``.

    Example:
        >>> run = distill("digits", ipc=1, changes={"budget.outer_steps": 5})  # doctest: +SKIP
        >>> run.summary["accuracy"]["mean"]  # doctest: +SKIP
    """
    if out is not None:
        current().first_does(lambda: check_folder(out, resume=bool(resume)))
    if growth.keys() - Growth.__annotations__.keys():
        raise TypeError(f"distill() takes no argument {min(growth.keys() - Growth.__annotations__.keys())!r}")
    finished = None
    if path := growth.get("add_classes_to"):
        finished = Finished(path, recipe_of(path), load_synthetic(path))
    elif growth.get("refine"):
        raise UserError("--refine goes with --add-classes-to RUN")
    recipe = recipe or (finished.recipe if finished else DEFAULT_RECIPE)
    if finished or growth.get("memory") is not None:
        draft = recipe if isinstance(recipe, Recipe) else _draft(recipe, ipc)
        changes = grown_changes(data, draft, changes or {}, finished, growth)
        ipc = changes.get("synthetic.ipc", ipc)
    real, complete = resolve(data, recipe, ipc=ipc, changes=changes, observer=observer)
    return distill_data(real, complete, out=out, resume=resume, device=device, observer=observer)


def compare(
    data: DataLike,
    *,
    ipc: int = 10,
    minutes: float | None = None,
    candidates: Candidates | None = None,
    changes: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Comparison:
    """Tell whether distilling pays: distilled sets beside chosen real images and all of them, equally trained.

    What ``out`` holds already is not made again, so that the same call goes on after an interruption.

    Args:
        data: as for `distill`.
        ipc: stored images per class.
        minutes: that all of it may take, divided among the rows; None: as long as recipes and protocol say.
        candidates: recipes, selections and networks; the usual ones if None.
        changes: other values for fields of every recipe; ``evaluation.repeats`` is 5 if not given.
        out: folder of everything.
        device: "cpu", "cuda", "cuda:1".
        observer: hears of progress.

    Raises:
        UserError: anything that the user can mend; nothing has been computed then but a few steps.
        RunError: a failure on the way; what was made is in ``out``.

    Example:
        >>> compare("digits", minutes=4, out="runs/compare").verdict  # doctest: +SKIP
    """
    candidates, observer = candidates or Candidates(), observer or Observer()
    chosen = dict.fromkeys(known_baseline(name) for name in ("random", *candidates.selections) if name != ALL)
    if "random_decoded" in chosen:
        raise UserError("random_decoded stores more than the others; leave it out")
    networks = {name: network_of(name) for name in candidates.networks}
    for name in candidates.recipes:
        if isinstance(name, str):
            _draft(name, ipc)
    real: DataLike = data
    resolved: dict[str, Recipe] = {}
    for recipe in candidates.recipes:
        asked = {"evaluation.repeats": REPEATS, **(changes or {}), "synthetic.ipc": ipc}
        usual_start = asked.get("synthetic.init", recipe.synthetic.init if isinstance(recipe, Recipe) else None)
        # noise fits any data; whether the usual start does is found out when all is known
        asked["synthetic.init"] = "noise"
        real, complete = resolve(real, recipe, ipc=ipc, changes=asked, observer=observer)
        complete = complete.changed({"synthetic.init": usual_start})
        name = recipe if isinstance(recipe, str) else recipe.name
        resolved[name if name not in resolved else f"{name} ({len(resolved) + 1})"] = complete
    assert isinstance(real, RealData)
    if not networks:
        usual = network_for(None, next(iter(resolved.values())))
        networks = {usual.name: usual}
    for network in networks.values():
        check_trainable(network, real.size)
    tell_account(real, observer)
    wanted = Wanted(resolved, tuple(chosen), networks, minutes)
    return compare_data(real, wanted, out=check_place(out), device=device, observer=observer)


def evaluate(
    synthetic: SyntheticSet | str | os.PathLike[str],
    data: DataLike | None = None,
    settings: EvaluationSettings | str | None = None,
    *,
    network: NetworkSettings | str | None = None,
    repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Evaluation:
    """Train fresh networks on a synthetic set and test them on real images.

    On a set with soft labels they are trained twice: on its classes, and for ``soft`` of the result on those labels.

    Args:
        synthetic: a set, a run folder, an artifact folder or ``"hub:OWNER/NAME"``; all but a set
            bring their own protocol, network and data.
        data: gives the test images; needed for a set, or where the folder's own source is not at hand.
        settings: the protocol, as settings or by its name ("dsa", see `evaluation.protocols`); that of the folder, else
            IDC's with its values for CIFAR.
        network: architecture, as settings, or as text such as "resnet18,norm=batch"; that of the protocol or the
            recipe, else ConvNet-3.
        repeats: networks to train; overrides the protocol.
        seed: of first weights, batches and augmentation.
        device: to train on.
        observer: hears of progress.

    Raises:
        UserError: set and data do not fit together, no data were named, or no such protocol.
    """
    observer = observer or Observer()
    recipe = Recipe()
    if not isinstance(synthetic, SyntheticSet):
        folder = artifact_folder(synthetic)
        recipe, synthetic = recipe_of(folder), load_synthetic(folder)
    if isinstance(settings, str):
        check_protocol(settings, synthetic)
    else:
        recipe = recipe.model_copy(update={"evaluation": settings or recipe.evaluation})
    chosen = network_for(network, recipe)
    real = load_for(data, recipe, observer)
    settings = under_protocol(settings, recipe, real) if isinstance(settings, str) else recipe.evaluation
    if repeats is not None:
        settings = build(EvaluationSettings, {**settings.model_dump(), "repeats": repeats})
    if real.class_names != synthetic.class_names:
        raise UserError(
            f"the set has the classes {_shortened(synthetic.class_names)}, data {real.name!r} has "
            f"{_shortened(real.class_names)}; give the data that the set was distilled from"
        )
    check_trainable(chosen, real.size)
    shape, wanted = tuple(real.test.images.shape[1:]), tuple(synthetic.images.shape[1:])
    if shape != wanted:
        raise UserError(f"the set holds images of shape {wanted}, data {real.name!r} of {shape}")
    if not isinstance(data, RealData):  # who has loaded them has been told
        tell_account(real, observer)

    def judged(one: SyntheticSet) -> Evaluation:
        return evaluate_set(
            one,
            real,
            settings.model_copy(update={"network": chosen}),
            chosen,
            execution=Execution(torch.device(device), recipe.run, current()),
            seed=seed,
            progress=Progress(on_epoch=lambda done, total: observer.progress("evaluate", done, total)),
        )

    return replace(judged(synthetic.hard()), soft=None if synthetic.targets is None else judged(synthetic))


def check_protocol(name: str, synthetic: SyntheticSet) -> None:
    """Refuse a protocol that there is not, or that needs a learned rate which the set does not have.

    Raises:
        UserError: naming those that there are.
    """
    if protocol(name).learned_rate and synthetic.learned_rate is None:
        raise UserError(
            f"protocol {name} trains at the rate that was learned with the images, and this set has none; dsa is the "
            "same protocol at a rate of 0.01"
        )


def under_protocol(name: str, recipe: Recipe, real: RealData) -> EvaluationSettings:
    """The settings of a named protocol for the set of a recipe; those of the recipe, where it is the recipe's own.

    Args:
        name: of `evaluation.protocols`.
        recipe: of the set.
        real: the images that it was distilled from, from which IDC's protocol takes its values.
    """
    usual = recipe.evaluation
    if usual.protocol not in (IDC, name):
        of_data = recipes.for_images(IDC, recipe.synthetic.ipc, real).evaluation
        usual = of_data.model_copy(update={"network": usual.network, "repeats": usual.repeats})
    return usual.under(name)


def pretrain(
    data: DataLike | None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    *,
    changes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> NetworkStore:
    """Train the pool of early-stage networks (or the expert trajectories) of a recipe, or find it if it is there.

    Args:
        data: as for `distill`.
        recipe: its ``network``, ``training`` and ``model_augmentation`` decide the pool.
        changes: other values for recipe fields.
        device: to train on.
        observer: hears of progress.

    Raises:
        UserError: anything that the user can mend.
    """
    observer = observer or Observer()
    real, complete = resolve(data, recipe, changes=changes, observer=observer)
    tell_account(real, observer)
    builder = Builder(real, complete, Execution(torch.device(device), complete.run, current()), observer)
    hot_path = builder.choose_hot_path(builder.network())  # that of a run, so that a run finds the pool
    return builder.networks(builder.factory(replace(hot_path, compiled=False)))


def plan(
    data: DataLike | None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    *,
    ipc: int = 1,
    changes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Plan:
    """Predict time, FLOPs and memory of a run from a few measured steps; arguments as for `distill`.

    Raises:
        UserError: anything that the user can mend.
    """
    real, complete = resolve(data, recipe, ipc=ipc, changes=changes, observer=observer)
    tell_account(real, observer or Observer())
    return plan_run(real, complete, device)


def import_set(
    path: str | os.PathLike[str],
    data: DataLike,
    out: str | os.PathLike[str],
    *,
    factor: int = 1,
    normalised: bool | Constants | None = None,
    most_cut: float = MOST_CUT,
    changes: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> SyntheticSet:
    """Make an artifact of a ``.pt`` file that another program has written; see `synthetic.import_pt`.

    What the file was taken for, and how much of it was cut, is told to the observer and kept in the artifact.

    Args:
        path: of the file.
        data: the real data that the set was distilled from.
        out: folder of the artifact, new or empty.
        factor: multi-formation factor of the images.
        normalised: whether the images are normalised, or (mean, std) by which they are; told by their range if None.
        most_cut: share of the values, 0 to 1, that may lie outside of [0, 1] as pixels and be cut.
        changes: other values for recipe fields, such as ``{"data.size": 32}``.
        observer: hears of progress.

    Raises:
        UserError: a file that cannot be read safely, does not fit the data, can be meant in two ways, or would lose
            more than ``most_cut``.
    """
    folder, observer, changes = check_folder(out), observer or Observer(), dict(changes or {})
    real = load_for(data, Recipe().changed({"network.depth": 1, **changes}), observer)
    real = real.normalised_as(recipes.for_images("idc", 1, real).changed(changes).data)
    imported = import_pt(path, real, factor=factor, normalised=normalised, most_cut=most_cut)
    synthetic = imported.synthetic
    tell_account(real, observer)
    observer.note(f"{imported.cut:.2%} of the values were cut to [0, 1]; taken for {imported.taken_for}")
    own = {**changes, **recorded(real), "synthetic.factor": factor, "name": "imported"}
    recipe = recipes.for_images("idc", max(synthetic.counts), real).changed(own)
    about = {
        "imported_from": os.path.basename(path),  # noqa: PTH119
        "imported_as": {"taken_for": imported.taken_for, "cut": imported.cut},
        "data": {"name": real.name, "fingerprint": real.fingerprint},
        "recipe": recipe.travelling().identity(),
    }
    save_synthetic(synthetic, folder, about)
    return synthetic


def export(
    run: str | os.PathLike[str],
    to: str,
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    full: float | None = None,
    reference: str | None = None,
) -> int:
    """Write the decoded images of a distilled set in another program's format; see `synthetic.export`.

    Args:
        run: run folder, artifact folder or ``"hub:OWNER/NAME"``.
        to: ddranking, imagefolder, webdataset, torch or numpy.
        path: file (torch: .pt, numpy: .npz) or folder, new; a folder may be empty.
        dataset: for ddranking, its name of the real data, if the set does not tell.
        full: for ddranking, accuracy in per cent on all real images.
        reference: for ddranking, a link to the method.

    Returns:
        The number of images.

    Raises:
        UserError: no such set, an unknown format, one that cannot hold the set, or a path that is taken.
    """
    path, entry = Path(path), Entry(dataset, full, reference)
    if to != DDRANKING and entry != Entry():
        raise UserError(f"--dataset, --full and --reference are for --to {DDRANKING}, not {to}")
    check_format(to, path)
    check_writable(path.parent, "PATH") if to in FILES else check_folder(path, called="PATH")
    folder = artifact_folder(run)
    synthetic = load_synthetic(folder)
    write(synthetic, read_description(folder), to, path, entry)
    return len(synthetic.images) * synthetic.factor**2


def push(
    run: str | os.PathLike[str],
    name: str,
    *,
    private: bool = False,
    licence: str | None = None,
    dry_run: str | os.PathLike[str] | None = None,
) -> str:
    """Publish a distilled set on the hub; see `synthetic.publish`.

    Args:
        run: run folder, artifact folder or ``"hub:OWNER/NAME"``.
        name: ``"hub:OWNER/NAME"``.
        private: only the owner may see it; of a new one.
        licence: identifier as the hub knows them.
        dry_run: folder, new or empty, that gets what would be sent; nothing is sent.

    Returns:
        The address of its page, or the folder.

    Raises:
        UserError: no such set; a name that is not free or not legal; no token that may write; no network.
    """
    if dry_run is None:
        return publish.push(run, name, private=private, licence=licence).url
    folder = check_folder(dry_run, called="--dry-run")
    publish.stage(run, folder, Published(publish.name_to_push(name), licence))
    return str(folder)


def recipe_of(path: str | os.PathLike[str]) -> Recipe:
    """The recipe inside an artifact, with what was asked for of its execution.

    Where its images are, on this machine, is told by the run that it lies in.

    Raises:
        UserError: no artifact there, or one whose recipe this version cannot read, or not without a plugin.
    """
    folder = artifact_folder(path)
    about = read_description(folder)
    if not isinstance(about.get("recipe"), dict):
        raise UserError(f"{folder} carries no recipe; give the protocol and the data")
    execution = about.get("execution")
    recipe = recipe_from(about["recipe"], execution if isinstance(execution, dict) else {})
    if recipe.data.fingerprint is None and isinstance(about.get("data"), dict):  # as earlier versions wrote it
        recipe = recipe.changed({"data.fingerprint": about["data"].get("fingerprint")})
    return recipe if recipe.data.source else recipe.changed({"data.source": source_beside(folder, recipe)})


def network_for(asked: NetworkSettings | str | None, recipe: Recipe) -> NetworkSettings:
    """The network that an evaluation trains: the one asked for, with the recipe's options where it is the recipe's.

    Raises:
        UserError: no such network, or an option that it does not have.
    """
    usual = recipe.evaluation.network or recipe.network
    if asked is None or asked == usual.name:
        return usual
    return network_of(asked) if isinstance(asked, str) else asked


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")


def _suited_family(side: int | None, ipc: int, changes: Mapping[str, Any]) -> str:
    """The family that `recipes.AUTO` stands for: the first for images of a size that has all fields of the changes."""
    families = recipes.families_for(side)
    for family in families:
        try:
            _draft(family, ipc).changed({path: value for path, value in changes.items() if path != "data.size"})
        except UserError:
            continue
        return family
    return families[0]


def _draft(name: str, ipc: int) -> Recipe:
    if name == recipes.AUTO:
        name = recipes.families_for(None)[0]
    if name in recipes.FAMILIES:
        return recipes.find(name, ipc, "cifar10").changed({"data.source": None})
    return recipes.find(name, ipc)


def load_for(data: DataLike | None, recipe: Recipe, observer: Observer | None = None) -> RealData:
    """The data that a recipe works on, read by its ``data`` settings and seed.

    Raises:
        UserError: no data named, or unusable ones; the recipe's own are gone, or have changed since it was run.
    """
    observer = observer or Observer()
    if isinstance(data, RealData):
        return data
    settings = recipe.data
    real = load_data(
        remembered(settings) if data is None else data,
        settings if data is None else settings.model_copy(update={"fingerprint": None}),
        seed=recipe.run.seed,
        on_progress=lambda _what, done, total: observer.progress("data", done, total),
    )
    if settings.fingerprint not in (None, real.fingerprint):
        observer.note(
            f"these are other images than the recipe was run on: fingerprint {real.fingerprint[:12]}, then "
            f"{str(settings.fingerprint)[:12]}"
        )
    return real


def tell_account(real: RealData, observer: Observer) -> None:
    """Let the observer hear what was taken: once recipe and data are known to fit, and before anything is computed."""
    for line in real.account.lines:
        observer.note(line)

"""Makes and judges the rows of a comparison, and goes on with one that was interrupted.

OUT/plan-KEY.json         how the time was divided, once for each set of wishes
OUT/accuracies.jsonl      a line per trained network, by the key of what decides it
OUT/selections/NAME-KEY/  chosen real images, as an artifact that `load_synthetic` reads
OUT/runs/NAME-KEY/        distilled sets: ordinary runs
OUT/compare.json, report.html, compare.png
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddistill.baselines import ALL, BASELINES, coreset_recipe
from ddistill.comparison.budget import Division, Measured, divide
from ddistill.comparison.page import save_page
from ddistill.comparison.table import Comparison, Row
from ddistill.data import RealData
from ddistill.engine import Observer, Session, check_folder, distill_data, evaluation_costs, plan_run, plan_training
from ddistill.engine.accuracies import Accuracies, Evaluator, Sets
from ddistill.engine.environment import machine, versions
from ddistill.engine.lock import locked
from ddistill.engine.run_folder import SUMMARY
from ddistill.evaluation import Evaluation, EvaluationSettings
from ddistill.evaluation.protocol import training_steps
from ddistill.networks import NetworkSettings
from ddistill.observer import Phase
from ddistill.recipe import Recipe, build
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution
from ddistill.runtime.storage import fingerprint, read_checked_json, write_checked_json
from ddistill.runtime.units import in_time
from ddistill.synthetic import SyntheticSet, load_synthetic, read_description, save_synthetic
from ddistill.training import Safety, Unfinished
from ddistill.training.stretches import STRETCHES, stretch

USUAL_SELECTIONS = ("random", "k-center", "herding", "el2n", "mosaic", "el2n-mosaic")
RESULT = "compare.json"
KEY = 12
"""Hex digits of a key in the name of a folder."""


@dataclass(frozen=True)
class Candidates:
    """What to compare, by names.

    Attributes:
        recipes: names in the table of recipes, or recipes; the most promising first: where the time is short, the last
            is left out.
        selections: baselines beside random images and all images: see `ddistill.baselines`.
        networks: architectures, as text such as "resnet18,norm=batch", the first decides; the recipe's if empty.
    """

    recipes: Sequence[Recipe | str] = ("idc-ma", "tgdd-ma")
    selections: Sequence[str] = USUAL_SELECTIONS
    networks: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What is to be compared.

    Attributes:
        recipes: by the names under which they are shown, the most promising first; the first one's evaluation is the
            protocol of all rows.
        selections: names of baselines; random images and all images are always there.
        networks: architectures by the names under which they are shown; the first decides.
        minutes: that all of it may take; None: as long as recipes and protocol say.
    """

    recipes: Mapping[str, Recipe]
    selections: tuple[str, ...]
    networks: Mapping[str, NetworkSettings]
    minutes: float | None = None

    @property
    def first(self) -> Recipe:
        """The recipe whose storage and protocol all rows share."""
        return next(iter(self.recipes.values()))

    def steps(self, data: RealData) -> int:
        """Optimiser steps that the protocol makes on the decoded images of the first recipe."""
        recipe, settings = self.first, self.first.evaluation
        decoded = sum(recipe.synthetic.counts(data.class_names)) * recipe.synthetic.factor**2
        return math.ceil(training_steps(settings, decoded, data.num_classes))

    def identity(self, data: RealData) -> dict[str, Any]:
        """All that decides how the time is divided, JSON-able."""
        return {
            "data": data.fingerprint,
            "recipes": {name: recipe.identity() for name, recipe in self.recipes.items()},
            "selections": list(self.selections),
            "networks": {name: network.model_dump(mode="json") for name, network in self.networks.items()},
            "minutes": self.minutes,
        }


def check_place(out: str | os.PathLike[str]) -> Path:
    """Check that a comparison may be written there, or goes on there; nothing is created.

    Raises:
        UserError: a file, a folder that may not be written, or one that holds other things.
    """
    folder = Path(out)
    own = folder.is_dir() and any(folder.glob("plan-*.json"))
    return folder if own and os.access(folder, os.W_OK | os.X_OK) else check_folder(folder)


def compare_data(
    data: RealData,
    wanted: Wanted,
    *,
    out: Path,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
) -> Comparison:
    """Compare; what is in ``out`` already is not made again.

    Args:
        data: real images.
        wanted: what.
        out: folder of everything.
        device: to compute on.
        observer: hears of progress.

    Raises:
        UserError: recipes and data do not fit, or the time is too short; only a few steps were computed.
        RunError: as a run.
        KeyboardInterrupt: the observer asked to stop; the state is kept.
    """
    observer, device = _Once(observer or Observer()), torch.device(device)
    wanted = replace(
        wanted, recipes={name: _fitting(name, recipe, data, observer) for name, recipe in wanted.recipes.items()}
    )
    for name in wanted.selections:
        if BASELINES[name].method:
            coreset_recipe(wanted.first, name).check(data)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        return _Comparing(data, wanted, out, Execution(device, wanted.first.run), observer).all()


def _fitting(name: str, recipe: Recipe, data: RealData, observer: Observer) -> Recipe:
    """The recipe from the first start that the data can fill: its own, whole images, noise."""
    starts = dict.fromkeys((recipe.synthetic.initialisation, "random", "noise"))
    for start in starts:
        changed = recipe if start == recipe.synthetic.initialisation else recipe.changed({"synthetic.init": start})
        try:
            changed.check(data)
        except UserError as error:
            if start == "noise":
                raise
            if "starts from" in str(error):
                continue
            raise
        if changed is not recipe:
            observer.note(f"{name}: a class has too few images for its usual start, so it starts from {start} images")
        return changed
    raise AssertionError("noise needs no images")


class _Once(Observer):
    """Hands on what it hears, each remark once: every run tells what was taken of the data."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.heard: set[str] = set()

    def progress(self, phase: Phase, done: int, total: int, **figures: float) -> None:
        """As it is."""
        self.observer.progress(phase, done, total, **figures)

    def stopping(self) -> bool:
        """As it is."""
        return self.observer.stopping()

    def accuracy(self, what: str, mean: float, std: float, runs: int) -> None:
        """As it is."""
        self.observer.accuracy(what, mean, std, runs)

    def note(self, text: str) -> None:
        """A remark that was not heard before."""
        if text not in self.heard:
            self.heard.add(text)
            self.observer.note(text)


class _Comparing:
    """A comparison in progress."""

    def __init__(self, data: RealData, wanted: Wanted, out: Path, execution: Execution, observer: Observer) -> None:
        self.data, self.wanted, self.out = data, wanted, out
        self.execution, self.observer = execution, observer
        self.accuracies = Accuracies(out / "accuracies.jsonl")
        safety = Safety(execution.settings.checkpoint_every, observer.stopping, observer.note)
        unfinished = Unfinished(out / "evaluation.safetensors", safety)
        self.evaluate = Evaluator(data, execution, wanted.first.run.seed, self.accuracies, unfinished, observer)

    def all(self) -> Comparison:
        """Every row, and the files."""
        wanted, data = self.wanted, self.data
        division = self._division()
        self.settings = self._protocol(division.steps)
        for line in self._division_in_words(division):
            self.observer.note(line)
        rows = []
        for name in division.selections:
            rows.append(self._selection(name))
        for name in division.seconds:
            rows.append(self._distilled(name, division))
        judged, everything = self._judged(ALL, self._session().real)
        rows.append(self._row(ALL, BASELINES[ALL].title, "all", len(data.train.labels), 0.0, judged))
        protocol = {**everything.protocol, "labels": "hard"}
        comparison = Comparison(
            data.name,
            wanted.first.synthetic.ipc,
            tuple(rows),
            tuple(wanted.networks),
            protocol,
            tuple(self._division_in_words(division)),
            {
                "where": _where(self.execution.device),
                "machine": machine(self.execution.device),
                "versions": versions(),
                "seed": wanted.first.run.seed,
                "account": list(data.account.lines),
                "fingerprint": data.fingerprint,
            },
            self.out,
        )
        write_checked_json(self.out / RESULT, comparison.as_dict())
        save_page(comparison, self.observer.note)
        return comparison

    # ------------------------------------------------------------------------------------------ dividing the time

    def _division(self) -> Division:
        wanted = self.wanted
        asked = fingerprint(wanted.identity(self.data))
        path = self.out / f"plan-{asked[:KEY]}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            return Division.from_dict(read_checked_json(path))
        steps = wanted.steps(self.data)
        if wanted.minutes is None:
            division = Division(steps, wanted.selections, dict.fromkeys(wanted.recipes))
        else:
            began = time.perf_counter()
            measured = self._measured()
            pools = {name: _pool_size(recipe) for name, recipe in wanted.recipes.items()}
            division = divide(
                wanted.selections,
                pools,
                measured,
                steps=steps,
                repeats=wanted.first.evaluation.repeats,
                seconds=wanted.minutes * 60 - (time.perf_counter() - began),
            )
        write_checked_json(path, division.as_dict())
        return division

    def _measured(self) -> Measured:
        """What a step of each kind of work takes here."""
        wanted, data, device = self.wanted, self.data, self.execution.device
        total, plans = len(wanted.recipes) + 1, {}
        for done, (name, recipe) in enumerate(wanted.recipes.items()):
            self.observer.progress("estimate", done, total)
            # only what the distillation costs is asked for
            cheap = {"evaluation.steps": 1, "evaluation.repeats": 1, "evaluation.baselines": ()}
            plans[name] = plan_run(data, recipe.changed(cheap), device)
        self.observer.progress("estimate", total - 1, total)
        mosaic = self._session().baseline("random")[0][0]
        costs = [
            evaluation_costs(mosaic, data, wanted.first.evaluation, network, self.execution)
            for network in wanted.networks.values()
        ]
        epoch = plan_training(data, wanted.first, 1, device).seconds["train"]
        look = costs[0][1].typical / len(data.test.labels) * len(data.train.labels)
        step, test = (sum(one[part].typical for one in costs) for part in (0, 1))
        return Measured(step, test, epoch, look, plans)

    def _division_in_words(self, division: Division) -> list[str]:
        taken, usual = stretch(division.steps) * STRETCHES, self.wanted.steps(self.data)
        steps = f"{taken} optimiser steps for each of {self.wanted.first.evaluation.repeats} networks on a row"
        lines = [steps + (f" (the protocol has {usual})" if taken < usual else "")]
        for name, share in division.seconds.items():
            got = "as long as its recipe" if share is None else f"at most {in_time(share)} of pool and distillation"
            fewer, asked = division.pools.get(name), self.wanted.recipes[name].model_augmentation.pool_size
            lines.append(f"{name}: {got}" + (f", with {fewer} of {asked} networks" if fewer else ""))
        return [*lines, *(f"left out: {name}: {reason}" for name, reason in division.left_out.items())]

    def _protocol(self, steps: int) -> EvaluationSettings:
        """Of every row: hard labels, the last epoch, as many steps for all."""
        usual = self.wanted.first.evaluation.model_dump()
        own = {"network": None, "steps": steps, "baselines": (), "select": "last"}
        return build(EvaluationSettings, {**usual, **own, "every": 0, "every_seconds": None, "every_flops": None})

    # ------------------------------------------------------------------------------------------------------- rows

    def _session(self) -> Session:
        return Session(self.data, self.wanted.first, None, self.execution, self.observer)

    def _selection(self, name: str) -> Row:
        """Real images, chosen once and kept, or drawn for each network."""
        baseline = BASELINES[name]
        sets: list[SyntheticSet] | SyntheticSet
        if baseline.redrawn:
            drawn, _ = self._session().baseline(name)
            sets, seconds, folder = [one for one in drawn if isinstance(one, SyntheticSet)], 0.0, ""
            one = sets[0]
            identity: dict[str, Any] = {"name": name, "recipe": self._storage()}
        else:
            recipe = coreset_recipe(self.wanted.first, name)
            identity = {"name": name, "recipe": _deciding(recipe)}
            folder = f"selections/{name}-{self._key(identity)[:KEY]}"
            one, seconds = self._chosen(name, self.out / folder, recipe)
            sets = one
        judged, _ = self._judged(name, sets, identity)
        return self._row(name, baseline.title, "selection", len(one.images), seconds, judged, folder)

    def _chosen(self, name: str, folder: Path, recipe: Recipe) -> tuple[SyntheticSet, float]:
        """The images of a coreset and the seconds that they took, from the folder where they are there."""
        with suppress(UserError, KeyError):
            return load_synthetic(folder), float(read_description(folder)["seconds"])
        sets, seconds = self._session().baseline(name)
        chosen = sets[0]
        assert isinstance(chosen, SyntheticSet)
        about = {
            "seconds": seconds,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "recipe": recipe.travelling().identity(),
        }
        save_synthetic(chosen, folder, about)
        return chosen, seconds

    def _distilled(self, name: str, division: Division) -> Row:
        """A run: its own evaluation is that of the first architecture."""
        recipe = self.wanted.recipes[name]
        first, network = next(iter(self.wanted.networks.items()))
        own: dict[str, Any] = {"budget.seconds": division.seconds[name]} if division.seconds[name] else {}
        if name in division.pools:
            own["model_augmentation.pool_size"] = division.pools[name]
        evaluation = self.settings.model_copy(update={"network": network})
        recipe = recipe.changed(own).model_copy(update={"evaluation": evaluation})
        identity = {"name": name, "recipe": _deciding(recipe)}
        folder = f"runs/{name}-{self._key(identity)[:KEY]}"
        synthetic, summary = self._run(recipe, self.out / folder)
        seconds = summary["seconds"]["pool"] + summary["seconds"]["distill"]
        others = {name: network for name, network in self.wanted.networks.items() if name != first}
        judged = {first: tuple(summary["accuracy"]["runs"])}
        if others:
            more, _ = self._judged(name, synthetic, identity, others)
            judged |= more
        return self._row(name, name, "distilled", len(synthetic.images), seconds, judged, folder)

    def _run(self, recipe: Recipe, folder: Path) -> tuple[SyntheticSet, dict[str, Any]]:
        """The set of a run and its summary: of the one in the folder if it is finished, whose name tells its recipe."""
        with suppress(OSError, ValueError):
            return load_synthetic(folder), read_checked_json(folder / SUMMARY)
        self.observer.note(f"distilling by {recipe.name}")
        device = self.execution.device
        run = distill_data(self.data, recipe, out=folder, resume=True, device=device, observer=self.observer)
        return run.synthetic, run.summary

    def _judged(
        self,
        name: str,
        sets: Sets,
        identity: Mapping[str, Any] | None = None,
        networks: Mapping[str, NetworkSettings] | None = None,
    ) -> tuple[dict[str, tuple[float, ...]], Evaluation]:
        """Accuracies of all networks by architecture; those in the folder are taken as they are."""
        found, last = {}, None
        for called, network in (networks or self.wanted.networks).items():
            settings = self.settings.model_copy(update={"network": network})
            key = self._key({"of": identity or name, "evaluation": settings.model_dump(mode="json")})
            known = len(self.accuracies.of(key, 0))
            last = self.evaluate(sets, settings, network, (key, 0))
            if known < settings.repeats:
                self.observer.accuracy(f"{name}, {called}", last.mean, last.std, len(last.runs))
            found[called] = tuple(round(run, 2) for run in last.runs)
        assert last is not None
        return found, last

    def _row(
        self, name: str, title: str, kind: Any, images: int, seconds: float, judged: dict[str, Any], folder: str = ""
    ) -> Row:
        size = images * self.data.channels * self.data.size**2
        return Row(name, title, kind, images, size, round(seconds, 1), judged, folder)

    def _storage(self) -> dict[str, Any]:
        """What decides which images are drawn at random."""
        recipe = self.wanted.first
        return {"synthetic": recipe.synthetic.model_dump(mode="json"), "data": recipe.data.model_dump(mode="json")}

    def _key(self, identity: Mapping[str, Any]) -> str:
        """Of a set, or of what was reached with it."""
        return fingerprint({**identity, "data": self.data.fingerprint, "seed": self.wanted.first.run.seed})


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe without the place of its images."""
    values = recipe.identity()
    for name in ("source", "fingerprint"):
        values["data"].pop(name, None)
    return values


def _pool_size(recipe: Recipe) -> int:
    settings = recipe.model_augmentation
    return 0 if settings.networks == "fresh" else settings.pool_size


def _where(device: torch.device) -> str:
    """The hardware, as it is named beside a time."""
    about = machine(device)
    if "gpu" in about:
        return str(about["gpu"])
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'' if threads == 1 else 's'}"

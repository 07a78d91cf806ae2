"""A run: pool, outer loop, evaluation, artifact; one loop for every method."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddistill.baselines import ALL, BASELINES, coreset_recipe
from ddistill.data import ImageSet, RealData
from ddistill.engine.accuracies import Accuracies, Evaluator, Sets
from ddistill.engine.builder import Builder
from ddistill.engine.checkpoint import BEST, BEST_RATE, Checkpoint, load_checkpoint, save_checkpoint, tensors_of
from ddistill.engine.environment import machine, versions
from ddistill.engine.log import RunLog
from ddistill.engine.run_folder import (
    DATA,
    SUMMARY,
    Resume,
    check_same_precision,
    has_other_budget,
    held_folder,
    recorded,
)
from ddistill.engine.schedule import Spent, evaluation_due
from ddistill.engine.summary import summarise
from ddistill.engine.teachers import softly_labelled
from ddistill.evaluation import Evaluation
from ddistill.methods import Method, OnInner
from ddistill.methods.turns import turns_in_words
from ddistill.network_sources import AheadSource, NetworkSource, load_into
from ddistill.observer import Observer, Phase
from ddistill.recipe import RECIPE, Recipe, in_yaml, read_execution, signed
from ddistill.report import PAGE, save_grid, save_snapshot, write_page
from ddistill.runtime.distributed import Ranks, current
from ddistill.runtime.errors import RunError, UserError, in_words
from ddistill.runtime.execution import EXECUTION, Execution
from ddistill.runtime.memory import is_out_of_memory
from ddistill.runtime.plugins import plugin_names, travelling
from ddistill.runtime.storage import write_checked_json, write_text
from ddistill.synthetic import SyntheticSet, initial_set, random_set, save_synthetic
from ddistill.training import EAGER, Trainer, Unfinished

EXPLODED = 100.0
"""Stored pixels belong in [0, 1]; beyond this they are past help."""
EXPLODED_WHITENED = 1e5
"""With whitening a unit on smooth parts is some 30 units of pixels, and nothing is clamped."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        recipe: complete.
        synthetic: the distilled set, on the CPU.
        summary: the contents of ``summary.json``.
        folder: where it was written, if anywhere.
    """

    recipe: Recipe
    synthetic: SyntheticSet
    summary: dict[str, Any]
    folder: Path | None


def distill_data(
    data: RealData,
    recipe: Recipe,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: Resume = False,
    device: torch.device | str = "cpu",
    observer: Observer | None = None,
    ranks: Ranks | None = None,
) -> Run:
    """Distil ``data`` by ``recipe``, judge the result beside its baselines, and write the run.

    Args:
        data: real images.
        recipe: complete settings.
        out: folder of the run; nothing is written if None.
        resume: go on with the run in ``out`` from its last checkpoint, or start one where there is none; "extend":
            under a larger budget.
        device: to compute on.
        observer: hears of progress.
        ranks: processes that make the run together; those of torch's process group, where there is one, if None.

    Raises:
        UserError: recipe and data do not fit, or ``out`` cannot be used or is being written by another process.
        RunError: a value that is not finite, or files that cannot be written any more; the last good images are kept
            in the checkpoint.
        KeyboardInterrupt: the observer asked to stop; the state is kept.
    """
    recipe = recipe.changed(recorded(data))
    recipe.check(data)
    for name in recipe.evaluation.baselines:
        if BASELINES[name].method:
            coreset_recipe(recipe, name).check(data)
    execution, observer = Execution(torch.device(device), recipe.run, ranks or current()), observer or Observer()
    if out is None:
        return Session(data, recipe, None, execution, observer).run()
    with held_folder(Path(out), recipe, data, resume, execution.ranks) as folder:
        return Session(data, recipe, folder, execution, observer).run()


class Session(Builder):
    """One run in progress; of several ranks the first one writes it."""

    def __init__(
        self, data: RealData, recipe: Recipe, folder: Path | None, execution: Execution, observer: Observer
    ) -> None:
        super().__init__(data, recipe, execution, observer)
        self.whole_folder, self.folder = folder, folder if self.ranks.first else None
        folder = self.folder
        self.began_with = read_execution(folder) if folder else {}
        self.extends = self.ranks.first_does(lambda: has_other_budget(folder, recipe))
        self._describe()
        self.log = RunLog(folder / "log.jsonl" if folder else None)
        self.accuracies = Accuracies(folder / "checkpoint" / "accuracies.jsonl" if folder else None)
        unfinished = Unfinished(folder / "checkpoint" / "evaluation.safetensors" if folder else None, self.safety)
        self.evaluate = Evaluator(self.data, execution, recipe.run.seed, self.accuracies, unfinished, observer)

    def _describe(self) -> None:
        """Write what the run is, before anything that belongs to it."""
        if self.folder is not None:
            # the recipe last: it makes the folder that of a run
            if not (self.began_with and self.hot_path is EAGER):
                write_text(self.folder / EXECUTION, signed(in_yaml(self.computed())))
            if not self.extends:
                write_text(self.folder / RECIPE, signed(in_yaml(self.recipe.identity())))
            about = {"name": self.data.name, "fingerprint": self.data.fingerprint}
            write_checked_json(self.folder / "checkpoint" / DATA, about)

    def _decide(self, network: nn.Module) -> None:
        """Decide how the run is computed, and keep it; one that began in another precision does not go on."""
        self.hot_path = self.choose_hot_path(network)
        self.ranks.first_does(lambda: check_same_precision(self.folder, self.began_with, self.hot_path.precision))
        now = self.computed()
        for name in ("device", "kernels", "cuda_graphs"):
            if self.began_with.get(name, now[name]) != now[name]:
                self.observer.note(f"the run began with {name} {self.began_with[name]} and goes on with {now[name]}")
        self._describe()

    def run(self) -> Run:
        """All of it: networks, outer steps, evaluation, files."""
        recipe, data = self.recipe, self.data
        about = {"versions": versions(), "machine": machine(self.device), "processes": self.ranks.count}
        self.log.event("start", recipe=recipe.name, data=data.name, **about)
        if self.ranks.count > 1 and not recipe.method.needs.sharded:
            self.observer.note(
                f"method {recipe.method.name} is not spread over processes: each does all of the matching; networks "
                "of a pool and of the evaluation are shared out"
            )
        steps = recipe.budget.steps
        told = f"recipe: {recipe.name}, {steps} outer step{'s' if steps > 1 else ''}"
        in_groups = turns_in_words(recipe.method, data.num_classes, steps)
        for line in [*data.account.lines, told, *in_groups]:
            self.observer.note(line)
        self.log.event("account", lines=data.account.lines)
        network = self.network()
        self._decide(network)
        with self.hot_path.on_its_threads():
            return self._finish(*self._distilled(network))

    def _distilled(self, network: nn.Module) -> tuple[Method, SyntheticSet, Checkpoint, Spent]:
        """The method, the set after the last outer step, the state then, and its costs."""
        recipe, data = self.recipe, self.data
        trainer = Trainer(
            network,
            self.real,
            recipe.training,
            compiled=self.hot_path.compiled,
            precision=self.hot_path.precision,
            captured="ahead",
        )
        synthetic = initial_set(recipe.synthetic, data, recipe.run.seed).to(self.device)
        source = self.network_source()
        method = self.method(trainer, synthetic)
        if method.chunking is not None:
            chunking = method.chunking
            self.log.event("classes per launch", most=chunking.classes, images_at_once=chunking.images)
        return method, synthetic, *self._distill(method, source, trainer, synthetic)

    def _distill(
        self, method: Method, source: NetworkSource, trainer: Trainer, synthetic: SyntheticSet
    ) -> tuple[Checkpoint, Spent]:
        """The state at the end, and its costs."""
        recipe, total = self.recipe, self.recipe.budget.steps
        state = self._restore(method, synthetic) or Checkpoint(0, tensors_of(method, synthetic))
        spent = self.costs.spend(state.step, state.seconds, method)
        if self.extends:
            self._check_larger(spent)
        if state.step == 0:
            self._picture(synthetic, 0)
        began, saved = time.perf_counter() - state.seconds, time.perf_counter()
        try:
            if state.due:
                began += self._judge_on_the_way(method, state, spent, synthetic)
            while self._ended_by(spent) is None:

                def on_inner(done: int, of: int, step: int = state.step + 1, loss: list[float] = state.loss) -> None:
                    figures = {"loss": loss[-1]} if loss else {}
                    self.observer.progress("distill", (step - 1) * of + done, total * of, step=step, **figures)

                loss = self._outer_step(method, source, trainer, synthetic, state, on_inner)
                step = state.step + 1
                self._check_sound(step, loss, synthetic)
                seconds, before = self.ranks.from_first(time.perf_counter() - began), spent
                tensors = tensors_of(method, synthetic, state)
                state.loss.append(loss)
                state = Checkpoint(step, tensors, seconds, state.loss, best=state.best)
                spent = self.costs.spend(state.step, state.seconds, method)
                ended = self._ended_by(spent)
                choosing = recipe.evaluation.select == "best"
                state.due = choosing if ended else evaluation_due(recipe, before, spent)
                self.log.event("outer step", step=step, loss=loss, distill_seconds=seconds, flops=spent.flops)
                if time.perf_counter() - saved >= self.safety.every or ended:
                    self._save(state)
                    saved = time.perf_counter()
                if state.due:
                    began += self._judge_on_the_way(method, state, spent, synthetic)
                if not ended and self.ranks.any(self.observer.stopping()):
                    raise KeyboardInterrupt
        except OSError as error:
            raise RunError(f"{in_words(error)}; {self._rescue(state)}; mend it and go on with --resume") from error
        except BaseException:
            self._save(state)
            raise
        if recipe.method.needs.fixed_length and spent.step < total:
            self.observer.note(
                f"the schedule of method {recipe.method.name} is laid over {total} outer steps, and the budget ended "
                f"the run after {spent.step}; set budget.outer_steps to what fits"
            )
        return state, spent

    def _ended_by(self, spent: Spent) -> str | None:
        """The bound that the run has reached."""
        return self.recipe.budget.reached(spent.step, spent.seconds, spent.flops) if spent.step else None

    def _judge_on_the_way(self, method: Method, state: Checkpoint, spent: Spent, synthetic: SyntheticSet) -> float:
        """Evaluate, and remember the images if they are the best of all that were judged; the seconds that it took."""
        began = time.perf_counter()
        self._picture(synthetic, state.step)
        choosing = self.recipe.evaluation.select == "best"
        what = "validation" if choosing else "distilled"
        taken = replace(synthetic.snapshot(), learned_rate=method.learned_rate)
        accuracy = self._judge(taken, what, state.step, spent, on_the_way=True).mean
        if choosing and (state.best is None or accuracy > state.best[1]):
            state.best = (state.step, accuracy)
            state.tensors[BEST] = synthetic.images.detach().to("cpu", copy=True)
            if taken.learned_rate is not None:
                state.tensors[BEST_RATE] = torch.tensor(taken.learned_rate, dtype=torch.float64)
        return time.perf_counter() - began

    def _outer_step(
        self,
        method: Method,
        source: NetworkSource,
        trainer: Trainer,
        synthetic: SyntheticSet,
        state: Checkpoint,
        on_inner: OnInner,
    ) -> float:
        """The loss of the step after ``state``; out of memory, it is made again with fewer classes at once."""
        step = state.step + 1
        while True:
            try:
                drawn = method.draw_networks(step, source)
                load_into(trainer.module, drawn.weights)
                trainer.restart(drawn.momenta)
                if self.reference is not None and drawn.reference is not None:
                    load_into(self.reference, drawn.reference)
                launched = method.outer_step(step, on_inner)
                if isinstance(source, AheadSource) and step < self.recipe.budget.steps:
                    source.prepare(step + 1)  # the loss is waited for
                loss = float(launched)
                if not self.recipe.method.needs.sharded:
                    self.ranks.broadcast_([synthetic.images, *method.state().values()])
                return loss
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                fields = [f"method.{f}" for f in ("real_batch", "max_decoded") if hasattr(self.recipe.method, f)]
                smaller = " or ".join([*fields, "network"])
                if self.ranks.count > 1:
                    parts = "a run.image_chunk" if getattr(method, "divided", False) else f"a smaller {smaller}"
                    raise RunError(
                        f"outer step {step}: out of memory on {self.device} of process {self.ranks.rank}; go on with "
                        f"run.class_chunk=1, or use {parts}; the images of step {state.step} are kept"
                    ) from error
                chunk = method.smaller_chunk()
                if chunk is None:
                    raise RunError(
                        f"outer step {step}: out of memory on {self.device}, and fewer classes at once do not help; "
                        f"use a smaller {smaller}; the images of step {state.step} are kept"
                    ) from error
            # outside of the handler: its traceback holds on to the tensors
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            state.put_back(method, synthetic)
            self.observer.note(f"out of memory: {chunk}")
            self.log.event("out of memory", step=step, change=chunk)

    def _rescue(self, state: Checkpoint) -> str:
        """Keep the state after a file could not be written; in words, what is kept."""
        if self.folder is None:
            return "the last checkpoint is kept"
        try:
            if not (self.folder / RECIPE).exists():
                self._describe()  # the folder was removed under us
            self._save(state)
        except OSError:
            return "the last checkpoint is kept"
        return f"the state after outer step {state.step} is kept"

    def _check_sound(self, step: int, loss: float, synthetic: SyntheticSet) -> None:
        """Stop at values that are not finite, and at pixels far outside of [0, 1]."""
        largest = float(synthetic.images.abs().amax())
        limit = EXPLODED if synthetic.normalisation.whitening is None else EXPLODED_WHITENED
        if math.isfinite(loss) and largest <= limit:
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"pixels have grown to {largest:.3g}"
        rate = getattr(self.recipe.method, "image_lr", None)
        raise RunError(
            f"outer step {step}: {what}; use a smaller method.image_lr (now {rate}); "
            f"the images of step {step - 1} are kept"
        )

    def _restore(self, method: Method, synthetic: SyntheticSet) -> Checkpoint | None:
        if self.whole_folder is None:
            return None
        places = self.whole_folder / "checkpoint"
        state, damaged = self.ranks.first_does(lambda: load_checkpoint(places))
        for path in damaged:
            self.observer.note(f"the checkpoint {path.name} is damaged and was passed over")
        if state is not None:
            state.put_back(method, synthetic)
            self.observer.note(f"resumed after outer step {state.step}")
            self.log.event("resumed", step=state.step)
        return state

    def _check_larger(self, spent: Spent) -> None:
        """Refuse a budget below what the run has spent; only then does its recipe become this one."""
        budget = self.recipe.budget
        bounds = {"outer_steps": (spent.step, budget.steps), "seconds": (spent.seconds, budget.seconds)}
        for name, (done, most) in {**bounds, "flops": (spent.flops, budget.flops)}.items():
            if most is not None and done > most:
                raise UserError(
                    f"the run has made {spent.step} outer steps, and spent {done:.9g} of budget.{name}, more than the "
                    f"{most:.9g} of this recipe; give a larger budget"
                )
        self.extends = False
        self._describe()

    def _save(self, state: Checkpoint) -> None:
        if self.folder is not None:
            save_checkpoint(self.folder / "checkpoint", state)

    def _picture(self, synthetic: SyntheticSet, step: int) -> None:
        if self.folder is not None:
            save_grid(synthetic, self.folder / "pictures" / f"step-{step:06d}.png")
            save_snapshot(synthetic, self.folder, step)

    def _judge(
        self, sets: Sets, what: str, step: int, spent: Spent | None = None, *, on_the_way: bool = False
    ) -> Evaluation:
        """Train networks on a set and test them: on the validation part if that is ``what``, else on the test part."""
        settings, key = self.recipe.evaluation, what
        if on_the_way and settings.epochs_on_the_way is not None:  # no figure of the protocol: known by another name
            settings = settings.model_copy(update={"epochs": settings.epochs_on_the_way, "steps": None})
            key = f"{what}, {settings.epochs} epochs"
        phase: Phase = "evaluate" if what in ("distilled", "distilled soft", "validation") else "baseline"
        validation = what == "validation"
        evaluation = self.evaluate(sets, settings, self.recipe.network, (key, step), phase=phase, validation=validation)
        if evaluation.fallback and not self.hot_path.fallback:
            self.observer.note(f"evaluation: {evaluation.protocol['precision_reason']}")
        self.observer.accuracy(key, evaluation.mean, evaluation.std, len(evaluation.runs))
        costs = {"seconds": spent.seconds, "flops": spent.flops} if spent else {}
        epochs = evaluation.protocol["epochs"]
        self.log.event("accuracy", what=what, step=step, epochs=epochs, **evaluation.as_dict(), **costs)
        return evaluation

    def _finish(self, method: Method, synthetic: SyntheticSet, state: Checkpoint, spent: Spent) -> Run:
        recipe, steps, learned_rate = self.recipe, state.step, method.learned_rate
        self._picture(synthetic, steps)
        selected = {}
        if state.best is not None:
            synthetic.images.copy_(state.tensors[BEST])
            learned_rate = float(state.tensors[BEST_RATE]) if BEST_RATE in state.tensors else learned_rate
            selected = {"selected": {"step": state.best[0], "validation_accuracy": round(state.best[1], 2)}}
        synthetic = replace(synthetic.snapshot(), learned_rate=learned_rate)
        given = state.best[0] if state.best else steps
        evaluation = self._judge(synthetic, "distilled", given, spent)
        real = {name: self.baseline(name)[0] for name in recipe.evaluation.baselines}
        baselines = {name: self._beside(sets, name) for name, sets in real.items()}
        soft: dict[str, Any] = {}
        if recipe.synthetic.labels == "teacher":
            factory = self.factory(self.hot_path)
            pool = self.networks(factory)
            synthetic = self.ranks.from_first(softly_labelled(synthetic, factory, pool))
            soft["accuracy_soft"] = self._judge(synthetic, "distilled soft", given).as_dict()
            soft["baselines_soft"] = {}
            for name, sets in real.items():
                labelled = [softly_labelled(one, factory, pool) for one in sets if isinstance(one, SyntheticSet)]
                if labelled:
                    soft["baselines_soft"][name] = self._beside(labelled, f"{name} soft")
        self.costs.seconds["evaluate"] = self.accuracies.seconds
        ended = {**soft, **selected, "outer_steps": steps, "ended_by": self._ended_by(spent)}
        summary = summarise(self, synthetic, evaluation, {"baselines": baselines, **ended})
        if self.folder is not None:
            about = {
                "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
                "evaluation": evaluation.protocol,
                "recipe": recipe.travelling().identity(),
                **{key: summary[key] for key in ("accuracy", "baselines", *soft, "seed", "versions", "machine")},
                "execution": {**summary["execution"], "plugins": travelling(plugin_names())},
            }
            save_synthetic(synthetic, self.folder / "distilled", about)
            if evaluation.confusion is not None:
                evaluation.confusion.save(self.folder)
            write_checked_json(self.folder / SUMMARY, summary)
            write_page([self.folder], self.folder / PAGE)
        self.log.event("end", **{key: summary[key] for key in ("accuracy", "seconds", "flops", "peak_memory_bytes")})
        return Run(recipe, synthetic, summary, self.folder)

    def _beside(self, real: list[SyntheticSet] | list[ImageSet], what: str) -> dict[str, Any]:
        """The accuracy on real images: a set of them per repeat, or one."""
        return {**self._judge(real, what, 0).as_dict(), "images": len(real[0].images)}

    def baseline(self, name: str) -> tuple[list[SyntheticSet] | list[ImageSet], float]:
        """Real images of a baseline, one set or one per trained network, and the seconds that choosing took."""
        baseline, recipe = BASELINES[name], self.recipe
        draws = range(recipe.evaluation.repeats if baseline.redrawn else 1)
        if name == ALL:
            return [self.real], 0.0
        if not baseline.method:
            decoded = name == "random_decoded"
            return [random_set(recipe.synthetic, self.data, recipe.run.seed, d, decoded=decoded) for d in draws], 0.0
        sets, seconds = [], 0.0
        for draw in draws:
            chosen = Session(self.data, coreset_recipe(recipe, name, draw), None, self.execution, self.observer)
            sets.append(chosen.choose())
            seconds += sum(chosen.costs.seconds.values())
        return sets, seconds

    def choose(self) -> SyntheticSet:
        """The set of a coreset, without evaluation."""
        network = self.network()
        self._decide(network)
        with self.hot_path.on_its_threads():
            return self._distilled(network)[1].snapshot()

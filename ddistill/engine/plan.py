"""What a recipe costs on this machine, from a few measured steps of each kind of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ddistill.config import Recipe
from ddistill.data import RealData
from ddistill.engine.environment import peak_memory_bytes
from ddistill.engine.run import Session
from ddistill.evaluation.protocol import evaluation_epochs
from ddistill.methods import GradientMatching, GradientMatchingSettings, Method
from ddistill.methods.turns import updates_per_round
from ddistill.model_augmentation import FreshSource, load_into
from ddistill.networks import build_network
from ddistill.observer import Observer
from ddistill.runtime.execution import Execution
from ddistill.synthetic import initial_set, random_set
from ddistill.training import EAGER, ImageSet, Trainer, choose_hot_path, predict_accuracy, training_work

TRAINING_STEPS = 8
FEW, MORE = 1, 3
"""Inner steps of the measured outer steps."""
TRIALS = 3
MEASURED_CLASSES = 4
"""Classes that gradient matching is measured on; one more costs the same."""
LONG_SECONDS = 30.0
"""Nothing is measured once more after this."""
STATE_COPIES = 4
"""Of the stored images in memory: the set, its momentum, and both in the state that is kept."""


@dataclass(frozen=True)
class Plan:
    """Predicted costs of a run.

    Attributes:
        seconds: by phase: pool (0 where none is trained), distill, evaluate.
        flops: by phase: pool, distill.
        peak_memory_bytes: that the measured steps have needed, data included.
        outer_steps: of the run.
        classes: of the data.
        inner: parts of an inner step of gradient matching with a network that is trained on real images.
        fresh_seconds: of an outer step, for training its fresh network.
    """

    seconds: dict[str, float]
    flops: dict[str, float]
    peak_memory_bytes: int
    outer_steps: int
    classes: int = 0
    inner: InnerStep | None = None
    fresh_seconds: float = 0.0


@dataclass(frozen=True)
class InnerStep:
    """An inner step of gradient matching in parts.

    Attributes:
        steps: inner steps of an outer step.
        class_seconds: of matching one class.
        batch_seconds: of training the network on one mini-batch.
        batches: mini-batches.
        network_bytes: of the weights, which travel with each mini-batch where processes share it.
        stored_bytes: of the stored images of one class.
    """

    steps: int
    class_seconds: float
    batch_seconds: float
    batches: int
    network_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class OnPaper:
    """What a run would cost with other numbers of classes and devices, from the parts that were measured on one.

    Attributes:
        classes: of the data, each with as many images as a class has now.
        devices: that share the run.
        seconds: by phase; exchanges between devices are not counted.
        memory_bytes: per device.
        exchanged_bytes: that each device sends and receives in an outer step, at least.
    """

    classes: int
    devices: int
    seconds: dict[str, float]
    memory_bytes: int
    exchanged_bytes: int


def on_paper(plan: Plan, recipe: Recipe, classes: int, devices: int) -> OnPaper:
    """The costs of the plan's run with ``classes`` of the same size, shared by ``devices``.

    Classes go to the devices in whole ones, and so do the networks of outer steps, of a pool and of the evaluation.
    Only for a plan with an ``inner`` step.
    """
    inner = plan.inner
    assert inner is not None
    growth = classes / plan.classes
    groups = updates_per_round(classes, getattr(recipe.method, "classes_per_step", None))
    matching = -(-classes // groups // devices) * inner.class_seconds
    training = inner.steps * inner.batches * inner.batch_seconds + plan.fresh_seconds * growth
    rounds = -(-plan.outer_steps // devices)
    networks, repeats = recipe.model_augmentation.pool_size, recipe.evaluation.repeats
    seconds = {
        "pool": plan.seconds["pool"] * growth * -(-networks // devices) / networks,
        "distill": plan.outer_steps * inner.steps * matching + rounds * training,
        "evaluate": plan.seconds["evaluate"] * growth * -(-repeats // devices) / repeats,
    }
    memory = plan.peak_memory_bytes + (classes - plan.classes) * inner.stored_bytes * STATE_COPIES
    # weights go from one to all; images and their momenta are summed, there and back
    travelling = inner.steps * inner.network_bytes + 4 * classes * inner.stored_bytes
    return OnPaper(classes, devices, seconds, memory, travelling * (devices - 1) // devices)


def plan_run(data: RealData, recipe: Recipe, device: torch.device | str = "cpu") -> Plan:
    """Predict time, FLOPs and memory of a run from a few steps of it; nothing is written.

    Steps that the run would compile are measured eager, and taken to be faster by what was measured elsewhere.
    A pool is counted whether or not it is in the cache. A method whose outer steps differ in length (CAFE) is measured
    on its third one, or on an earlier one where they are long.

    Args:
        data: real images.
        recipe: complete settings.
        device: to compute on.

    Raises:
        UserError: recipe and data do not fit.
    """
    recipe.check(data)
    device = torch.device(device)
    seconds, flops, inner = _distillation(data, recipe, device)
    settings = recipe.model_augmentation
    pooled = settings.networks != "fresh" or recipe.synthetic.labels == "teacher"
    pool_epochs = settings.pool_size * settings.pool_epochs if pooled else 0
    fresh_epochs = settings.fresh_epochs if settings.networks == "fresh" else 0
    epoch_s, epoch_f = training_costs(data, recipe, device) if pool_epochs or fresh_epochs else (0.0, 0.0)
    outer = recipe.budget.steps
    return Plan(
        {
            "pool": epoch_s * pool_epochs,
            "distill": (seconds + epoch_s * fresh_epochs) * outer,
            "evaluate": _evaluation_seconds(data, recipe, device),
        },
        {"pool": epoch_f * pool_epochs, "distill": (flops + epoch_f * fresh_epochs) * outer},
        peak_memory_bytes(device),
        outer,
        data.num_classes,
        inner,
        epoch_s * fresh_epochs,
    )


def training_costs(data: RealData, recipe: Recipe, device: torch.device | str = "cpu") -> tuple[float, float]:
    """Seconds and FLOPs of an epoch in which a network is trained on the real images, from a few measured steps."""
    session, gain = _session(data, recipe, torch.device(device))
    factory = session.factory(session.hot_path)
    steps, trainer = factory.steps_per_epoch(), factory.trainer()
    return _training_seconds(trainer, session.device) * steps / gain, trainer.flops_per_step() * steps


def _distillation(data: RealData, recipe: Recipe, device: torch.device) -> tuple[float, float, InnerStep | None]:
    """Seconds and FLOPs of an outer step; that of many inner steps follows from one of few and one of more."""
    session, gain = _session(data, recipe, device)
    inner = getattr(recipe.method, "inner_steps", 0)
    if isinstance(recipe.method, GradientMatchingSettings) and not recipe.method.network_epochs:
        return _inner_step(session, gain)
    if inner <= MORE:
        return *_outer_step(session, gain), None
    measured = []
    for steps in (FEW, MORE):
        session.recipe = recipe.changed({"method.inner_steps": steps})
        measured.append(_outer_step(session, gain))
    (few_s, few_f), (more_s, more_f) = measured
    further = (inner - MORE) / (MORE - FEW)
    return more_s + further * max(0.0, more_s - few_s), more_f + further * (more_f - few_f), None


def _session(data: RealData, recipe: Recipe, device: torch.device) -> tuple[Session, float]:
    """A run of the recipe that writes and compiles nothing, and how many times faster the compiled one is."""
    session = Session(data, recipe, None, Execution(device, recipe.run), Observer())
    chosen = session.choose_hot_path(session.network())
    session.hot_path = replace(chosen, precision=chosen.eager, compiled=False)
    return session, chosen.gain


def _method(session: Session) -> tuple[Method, Callable[[int], None]]:
    """The recipe's method, and what loads the weights of an outer step into its network."""
    data, recipe = session.data, session.recipe
    source = FreshSource(session.factory(EAGER), 0, recipe.run.seed)
    network = session.network()
    synthetic = initial_set(recipe.synthetic, data, recipe.run.seed).to(session.device)
    trainer = Trainer(network, session.real, recipe.training, precision=session.hot_path.precision)

    def load(step: int) -> None:
        load_into(network, source.draw(step).weights)
        trainer.restart()
        if session.reference is not None:  # any other network: the work is the same
            load_into(session.reference, source.draw(step + 1).weights)

    return session.method(trainer, synthetic), load


def _inner_step(session: Session, gain: float) -> tuple[float, float, InnerStep]:
    """An outer step of gradient matching from the matching of a few classes and a few mini-batches."""
    classes, device = session.data.num_classes, session.device
    method, load = _method(session)
    assert isinstance(method, GradientMatching)
    load(1)
    moving = method.context.synthetic.open_classes
    few = moving[: max(method.chunking.classes, MEASURED_CLASSES)]
    drawn = method.draw(1, [few])
    trainer, synthetic = method.context.trainer, method.context.synthetic
    batches = drawn.network.shape[1]
    one_class = _seconds(lambda _: method.image_step(0, drawn), TRIALS, device) / len(few) / gain
    one_batch = _training_seconds(trainer, device) / gain if batches else 0.0
    parts = InnerStep(
        session.recipe.method.inner_steps,
        one_class,
        one_batch,
        batches,
        sum(parameter.nbytes for parameter in trainer.parameters.values()),
        synthetic.images.nbytes // classes,
    )
    seconds = parts.steps * (len(moving) / method.updates_per_round * one_class + batches * one_batch)
    return seconds, method.flops_per_outer_step(), parts


def _outer_step(session: Session, gain: float) -> tuple[float, float]:
    method, load = _method(session)
    recipe, device = session.recipe, session.device

    def one(step: int) -> None:
        load(step)
        method.outer_step(step, lambda done, of: None)

    if method.flops_done() is not None:
        seconds, flops = _several(one, method, min(TRIALS, recipe.budget.steps), device)
    else:
        once = recipe.method.needs.one_step
        seconds = _seconds(one, 1 if once else TRIALS, device, warm=not once)
        flops = method.flops_per_outer_step()
    return seconds / gain, flops


def _several(one: Callable[[int], None], method: Method, most: int, device: torch.device) -> tuple[float, float]:
    """Seconds and FLOPs of the last of the first few outer steps, which differ in length."""
    began, seconds, flops = time.perf_counter(), 0.0, 0.0
    for step in range(1, most + 1):
        before = method.flops_done() or 0.0
        seconds = _seconds(lambda _, step=step: one(step), 1, device, warm=False)  # type: ignore[misc]
        flops = (method.flops_done() or 0.0) - before
        if time.perf_counter() - began > LONG_SECONDS:
            break
    return seconds, flops


def _training_seconds(trainer: Trainer, device: torch.device) -> float:
    """Seconds of one training step on a full batch."""
    count = len(trainer.source.labels)
    batch = min(trainer.settings.batch, count)

    def some(trial: int) -> None:
        draws = torch.Generator().manual_seed(trial)
        batches = [torch.randint(count, (batch,), generator=draws).to(device) for _ in range(TRAINING_STEPS)]
        trainer.run(batches, draws)

    return _seconds(some, TRIALS, device) / TRAINING_STEPS


def _evaluation_seconds(data: RealData, recipe: Recipe, device: torch.device) -> float:
    """Seconds of training and testing all networks, those of the baselines included."""
    settings, total = recipe.evaluation, 0.0
    synthetic = initial_set(recipe.synthetic, data, recipe.run.seed)
    sets = [(synthetic, 1 + (recipe.budget.steps - 1) // settings.every if settings.every else 1)]
    for name in settings.baselines:
        sets.append((random_set(recipe.synthetic, data, 0, decoded=name == "random_decoded"), 1))
    network = settings.network or recipe.network
    for one, times in sets:
        images, labels = one.decoded()
        source = ImageSet(images.to(device), labels.to(device), one.normalisation)
        module = build_network(network, data.num_classes, data.channels, data.size, "plan").to(device)
        epochs = evaluation_epochs(settings, len(labels) // data.num_classes, data.num_classes)
        trainer = Trainer(module, source, settings.training)
        steps = len(labels) / min(len(labels), settings.training.batch) * epochs * settings.repeats
        hot = choose_hot_path(module, training_work(trainer, steps), recipe.run.precision, recipe.run.compile)
        trainer = Trainer(module, source, settings.training, precision=hot.eager)
        draws = torch.Generator().manual_seed(0)

        def epoch(_: int, trainer: Trainer = trainer, draws: torch.Generator = draws) -> None:
            trainer.run_epoch(draws)

        test = ImageSet.of(data.test.images, data.test.labels, one, device)
        testing = _seconds(lambda _, m=module, t=test: predict_accuracy(m, t), 1, device)  # type: ignore[misc]
        times += recipe.synthetic.labels == "teacher"
        total += times * settings.repeats * (epochs * _seconds(epoch, TRIALS, device) / hot.gain + testing)
    return total


def _seconds(work: Callable[[int], object], trials: int, device: torch.device, *, warm: bool = True) -> float:
    """Median seconds of some work after one warm-up; no further trial once it has taken long."""
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < trials + warm and time.perf_counter() - began < LONG_SECONDS:
        started = time.perf_counter()
        work(len(taken) + 1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    counted = taken[1:] if warm and len(taken) > 1 else taken
    return sorted(counted)[len(counted) // 2]

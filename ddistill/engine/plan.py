"""What a recipe costs on this machine, from a few measured steps of each kind of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch

from ddistill.baselines import ALL
from ddistill.data import ImageSet, RealData, Split
from ddistill.engine.builder import Builder
from ddistill.engine.environment import peak_memory_bytes
from ddistill.engine.measure import Seconds, grown, timed
from ddistill.evaluation import EvaluationSettings
from ddistill.evaluation.protocol import training_images, training_steps
from ddistill.methods import Method
from ddistill.methods.base import synthetic_trainer
from ddistill.methods.class_matching import ClassMatching
from ddistill.methods.turns import updates_per_round
from ddistill.network_sources import FreshSource, load_into
from ddistill.networks import NetworkSettings, build_network
from ddistill.observer import Observer
from ddistill.recipe import Recipe
from ddistill.runtime.execution import Execution
from ddistill.synthetic import SyntheticSet, initial_set, random_set
from ddistill.training import EAGER, Trainer, choose_hot_path, predict_accuracy, training_work

MATCHING_SECONDS, TRAINING_SECONDS, TESTING_SECONDS = 8.0, 3.0, 2.0
"""For measuring each kind of work, about: a plan takes less than half a minute whatever the set."""
PARTS = (1 / 8, 1 / 2)
"""Of a class's images or of a mini-batch, that are tried first."""
CLASSES = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (1, 2, 4, 8)
TESTED = (16, 64, 256, 1024, 4096)
"""Images."""
FEW, MORE = 1, 3
"""Inner steps of the measured outer steps."""
STATE_COPIES = 4
"""Of the stored images in memory: the set, its momentum, and both in the state that is kept."""


@dataclass(frozen=True)
class Plan:
    """Predicted costs of a run.

    Attributes:
        seconds: by phase: pool (0 where none is trained), distill, evaluate.
        flops: by phase: pool, distill.
        peak_memory_bytes: that the measured steps have needed, data included.
        recipe: of the run.
        classes: of the data.
        inner: parts of an inner step of a method that matches classes, but for one whose network is trained on the
            synthetic set.
        fresh_seconds: of an outer step, for training its fresh network.
        ranges: by phase: the least and the most seconds that what was measured may mean, see `measure.Seconds`.
    """

    seconds: dict[str, float]
    flops: dict[str, float]
    peak_memory_bytes: int
    recipe: Recipe
    classes: int = 0
    inner: InnerStep | None = None
    fresh_seconds: float = 0.0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def outer_steps(self) -> int:
        """Of the run."""
        return self.recipe.budget.steps

    def of(self, recipe: Recipe) -> Plan:
        """That of a recipe that differs in the number of its outer steps only."""
        share = recipe.budget.steps / self.outer_steps
        seconds = {**self.seconds, "distill": self.seconds["distill"] * share}
        flops = {**self.flops, "distill": self.flops["distill"] * share}
        return replace(self, seconds=seconds, flops=flops, recipe=recipe)


@dataclass(frozen=True)
class InnerStep:
    """An inner step of a method that matches classes, in parts.

    Attributes:
        steps: inner steps of an outer step.
        class_seconds: of matching one class.
        batch_seconds: of training the network on one mini-batch.
        batches: mini-batches.
        network_bytes: of the weights, which travel with each mini-batch where processes share it.
        stored_bytes: of the stored images of one class.
        outer_seconds: of what an outer step begins with: weights are loaded, numbers drawn.
    """

    steps: int
    class_seconds: float
    batch_seconds: float
    batches: int
    network_bytes: int
    stored_bytes: int
    outer_seconds: float = 0.0


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


def on_paper(plan: Plan, classes: int, devices: int) -> OnPaper:
    """The costs of the plan's run with ``classes`` of the same size, shared by ``devices``.

    Classes go to the devices in whole ones, and so do the networks of outer steps, of a pool and of the evaluation.
    Only for a plan with an ``inner`` step.
    """
    inner, recipe, outer = plan.inner, plan.recipe, plan.outer_steps
    assert inner is not None
    growth = classes / plan.classes
    groups = updates_per_round(classes, getattr(recipe.method, "classes_per_step", None))
    matching = -(-classes // groups // devices) * inner.class_seconds
    training = inner.steps * inner.batches * inner.batch_seconds + plan.fresh_seconds * growth
    rounds = -(-outer // devices)
    networks, repeats = recipe.model_augmentation.pool_size, recipe.evaluation.repeats
    seconds = {
        "pool": plan.seconds["pool"] * growth * -(-networks // devices) / networks,
        "distill": outer * (inner.outer_seconds + inner.steps * matching) + rounds * training,
        "evaluate": plan.seconds["evaluate"] * growth * -(-repeats // devices) / repeats,
    }
    memory = plan.peak_memory_bytes + (classes - plan.classes) * inner.stored_bytes * STATE_COPIES
    # weights go from one to all; images and their momenta are summed, there and back
    travelling = inner.steps * inner.network_bytes + 4 * classes * inner.stored_bytes
    return OnPaper(classes, devices, seconds, memory, travelling * (devices - 1) // devices)


def plan_run(data: RealData, recipe: Recipe, device: torch.device | str = "cpu") -> Plan:
    """Predict time, FLOPs and memory of a run from a few pieces of it; nothing is written.

    Each kind of work is measured on few classes and images, on more for as long as its seconds allow, and taken to grow
    in proportion from there on; `Plan.ranges` says how far trials and extrapolations lie apart. Steps that the run
    would compile are measured eager, and taken to be faster by what was measured elsewhere. A pool is counted whether
    or not it is in the cache.

    Args:
        data: real images.
        recipe: complete settings.
        device: to compute on.

    Raises:
        UserError: recipe and data do not fit.
    """
    recipe.check(data)
    device = torch.device(device)
    builder, gain = _builder(data, recipe, device)
    matched, flops, inner = _distillation(builder, gain)
    settings = recipe.model_augmentation
    pooled = settings.networks != "fresh" or recipe.synthetic.labels == "teacher"
    pool_epochs = settings.pool_size * settings.pool_epochs if pooled else 0
    fresh_epochs = settings.fresh_epochs if settings.networks == "fresh" else 0
    epoch, epoch_f = _epoch(builder, gain) if pool_epochs or fresh_epochs else (Seconds(), 0.0)
    outer = recipe.budget.steps
    phases = {
        "pool": epoch * pool_epochs,
        "distill": (matched + epoch * fresh_epochs) * outer,
        "evaluate": _evaluation(data, recipe, device),
    }
    return Plan(
        {phase: seconds.typical for phase, seconds in phases.items()},
        {"pool": epoch_f * pool_epochs, "distill": (flops + epoch_f * fresh_epochs) * outer},
        peak_memory_bytes(device),
        recipe,
        data.num_classes,
        inner,
        epoch.typical * fresh_epochs,
        {phase: (seconds.low, seconds.high) for phase, seconds in phases.items()},
    )


def plan_training(data: RealData, recipe: Recipe, epochs: int, device: torch.device | str = "cpu") -> Plan:
    """Predict what training a network on the real images costs, from a few measured steps."""
    seconds, flops = _epoch(*_builder(data, recipe, torch.device(device)))
    return Plan({"train": seconds.typical * epochs}, {"train": flops * epochs}, 0, recipe)


def _builder(data: RealData, recipe: Recipe, device: torch.device) -> tuple[Builder, float]:
    """A run of the recipe that writes and compiles nothing, and how many times faster the compiled one is."""
    builder = Builder(data, recipe, Execution(device, recipe.run), Observer())
    chosen = builder.choose_hot_path(builder.network())
    builder.hot_path = replace(chosen, precision=chosen.eager, compiled=False)
    return builder, chosen.gain


def _epoch(builder: Builder, gain: float) -> tuple[Seconds, float]:
    """Of training a network on the real images."""
    factory = builder.factory(builder.hot_path)
    steps, trainer = factory.steps_per_epoch(), factory.trainer()
    return _training_step(trainer, builder.device) * (steps / gain), trainer.flops_per_step() * steps


def _distillation(builder: Builder, gain: float) -> tuple[Seconds, float, InnerStep | None]:
    """Seconds and FLOPs of an outer step."""
    method, load = _method(builder)
    if isinstance(method, ClassMatching) and method.flops_done() is None:
        seconds, inner = _matching(builder, method, load, gain)
        return seconds, builder.costs.flops_per_step, inner
    return *_outer_step(builder, gain), None


def _method(builder: Builder) -> tuple[Method, Callable[[int], None]]:
    """The recipe's method, and what loads the weights of an outer step into its network."""
    data, recipe = builder.data, builder.recipe
    source = FreshSource(builder.factory(EAGER), 0, recipe.run.seed)
    network = builder.network()
    synthetic = initial_set(recipe.synthetic, data, recipe.run.seed).to(builder.device)
    trainer = Trainer(network, builder.real, recipe.training, precision=builder.hot_path.precision, captured="plan")

    def load(step: int) -> None:
        load_into(network, source.draw(step).weights)
        trainer.restart()
        if builder.reference is not None:  # any other network: the work is the same
            load_into(builder.reference, source.draw(step + 1).weights)

    return builder.method(trainer, synthetic), load


def _matching(
    builder: Builder, method: ClassMatching, load: Callable[[int], None], gain: float
) -> tuple[Seconds, InnerStep | None]:
    """An outer step of a method that matches classes: from a few of them, and a few mini-batches of its network."""
    classes, device, settings = builder.data.num_classes, builder.device, method.settings

    def begin() -> None:
        load(1)
        method.begin(1)
        method.draw(1)

    begin()
    begins = Seconds(*[timed(begin, device)] * 3)
    moving = method.context.synthetic.open_classes
    an_update = ceil(len(moving) / method.updates_per_round)

    def work(size: float) -> Callable[[], object]:
        some = method if size >= 1 else _with_fewer_images(builder, method, size)
        some.begin(1)
        drawn = some.draw(1, [moving[: int(max(1, size))]])
        return lambda: some.image_step(0, drawn)

    matching = grown(work, (*PARTS, *CLASSES), an_update, MATCHING_SECONDS, device) * (1 / gain)
    trainer, batches = method.context.trainer, 0
    trained = Seconds()
    if getattr(settings, "network_samples", 0):
        batches = -(-settings.network_samples // min(trainer.settings.batch, len(trainer.image_set.labels)))
    elif getattr(settings, "network_epochs", 0):
        trainer = synthetic_trainer(method.context, settings.synthetic_training)
        count = len(trainer.image_set.labels)
        batches = settings.network_epochs * -(-count // min(count, trainer.settings.batch))
    if batches:
        trained = _training_step(trainer, device) * (1 / gain)
    parts = InnerStep(
        method.inner_steps,
        matching.typical / an_update,
        trained.typical,
        batches,
        sum(parameter.nbytes for parameter in method.context.trainer.parameters.values()),
        method.context.synthetic.images.nbytes // classes,
        begins.typical,
    )
    seconds = begins + (matching + trained * batches) * parts.steps
    return seconds, None if getattr(settings, "network_epochs", 0) else parts


def _with_fewer_images(builder: Builder, method: ClassMatching, share: float) -> ClassMatching:
    """The same method at work on a share of the real and of the decoded images of a class."""
    settings, changes = method.settings, {"real_batch": ceil(method.settings.real_batch * share)}
    if "max_decoded" in type(settings).model_fields:
        most = min(settings.max_decoded, max(map(method.context.synthetic.decoded_per_class, method.assigned)))
        changes["max_decoded"] = ceil(most * share)
    few: Any = type(method)(settings.model_copy(update=changes), method.context)
    return few


def _outer_step(builder: Builder, gain: float) -> tuple[Seconds, float]:
    """An outer step of another method: from few classes, and where it has many inner steps from few of these.

    Where a schedule ends it (CAFE), whole outer steps of few classes are measured, as long as that takes no longer than
    other work; else a few inner steps, and taken for the least that an outer step makes, or at worst the most.
    """
    recipe, device, classes = builder.recipe, builder.device, builder.data.num_classes
    inner, most = (getattr(recipe.method, name, 0) for name in ("inner_steps", "max_inner_steps"))
    counted: dict[int, float] = {}

    def measured(changes: dict[str, Any]) -> Seconds:
        def work(size: float) -> Callable[[], object]:
            some = int(size)
            method, load = _method(_of_few_classes(builder, some, changes))
            step = 0

            def one() -> None:
                nonlocal step
                step, before = step + 1, method.flops_done() or 0.0
                load(step)
                method.outer_step(step, lambda done, of: None)
                counted[some] = (method.flops_done() or 0.0) - before

            return one

        return grown(work, CLASSES[1:], classes, MATCHING_SECONDS, device) * (1 / gain)

    def of_all() -> float:  # where outer steps differ in length, what they do is counted
        return counted[max(counted)] * classes / max(counted)

    if most > MORE:
        short = measured({"method.max_inner_steps": MORE, "method.max_network_epochs": 1})
        least = short * (builder.costs.flops_per_step / of_all())
        if least.typical * CLASSES[1] / classes > MATCHING_SECONDS:
            longest, _ = _method(_of_few_classes(builder, classes, {"method.window": most}))
            longer = longest.flops_per_outer_step() / builder.costs.flops_per_step
            return replace(least, high=least.high * longer), builder.costs.flops_per_step
        counted.clear()
    if inner <= MORE:
        seconds = measured({})
    else:
        few, more = (measured({"method.inner_steps": steps}) for steps in (FEW, MORE))
        seconds = more + Seconds(*[max(0.0, more.typical - few.typical) * (inner - MORE) / (MORE - FEW)] * 3)
    return seconds, of_all() or builder.costs.flops_per_step


def _of_few_classes(builder: Builder, classes: int, changes: dict[str, Any]) -> Builder:
    """The same run on the first classes of its data alone."""
    data, recipe = builder.data, builder.recipe.changed(changes)
    if classes >= data.num_classes:
        few = data
    else:
        names = data.class_names[:classes]
        train, test = (
            Split(part.images[:end], part.labels[:end])
            for part, end in ((part, int((part.labels < classes).sum())) for part in (data.train, data.test))
        )
        few = replace(data, train=train, test=test, class_names=names)
        vars(few).update(whitening=data.whitening, normalisation=data.normalisation)  # those of all images
        own = {name: ipc for name, ipc in recipe.synthetic.ipc_by_class.items() if name in names}
        recipe = recipe.changed({"synthetic.ipc_by_class": own, "synthetic.grow": None})
    some = Builder(few, recipe, builder.execution, Observer())
    some.hot_path = builder.hot_path
    return some


def _training_step(trainer: Trainer, device: torch.device) -> Seconds:
    """One training step on a full batch."""
    count = len(trainer.image_set.labels)
    batch = min(trainer.settings.batch, count)

    def work(size: float) -> Callable[[], object]:
        draws = torch.Generator().manual_seed(0)
        images = max(1, round(batch * min(1.0, size)))
        batches = [torch.randint(count, (images,), generator=draws) for _ in range(max(1, int(size)))]
        on_device = [one.to(trainer.image_set.images.device) for one in batches]
        return lambda: trainer.run(on_device, torch.Generator().manual_seed(0))

    return grown(work, (*PARTS, *BATCHES), BATCHES[-1], TRAINING_SECONDS, device) * (1 / BATCHES[-1])


def evaluation_costs(
    one: SyntheticSet | ImageSet,
    data: RealData,
    settings: EvaluationSettings,
    network: NetworkSettings,
    execution: Execution,
) -> tuple[Seconds, Seconds]:
    """An optimiser step on a full mini-batch of a set, and the test of a network, from a few pieces of both.

    Args:
        one: what is trained on.
        data: gives the test images.
        settings: the protocol.
        network: architecture.
        execution: device, precision, compilation.
    """
    device = execution.device
    source = training_images(one, device)
    module = build_network(network, data.num_classes, data.channels, data.size, "plan").to(device)
    work = training_work(Trainer(module, source, settings.training), _steps(settings, source, data))
    work = replace(work, flops=work.flops * settings.repeats)
    hot = choose_hot_path(module, work, execution.settings.precision, execution.settings.compile)
    trainer = Trainer(module, source, settings.training, precision=hot.eager)
    test = ImageSet.of(data.test.images, data.test.labels, source, device)

    def tested(size: float) -> Callable[[], object]:
        some = replace(test, images=test.images[: int(size)], labels=test.labels[: int(size)])
        return lambda: predict_accuracy(module, some)

    with hot.on_its_threads():
        step = _training_step(trainer, device) * (1 / hot.gain)
        return step, grown(tested, TESTED, len(test.labels), TESTING_SECONDS, device)


def _steps(settings: EvaluationSettings, source: ImageSet, data: RealData) -> float:
    return training_steps(settings, len(source.labels), data.num_classes)


def _evaluation(data: RealData, recipe: Recipe, device: torch.device) -> Seconds:
    """Training and testing all networks, those of the baselines and of evaluations on the way included."""
    settings, total = recipe.evaluation, Seconds()
    synthetic = training_images(initial_set(recipe.synthetic, data, recipe.run.seed), device)
    on_the_way, fewer = (recipe.budget.steps - 1) // settings.every if settings.every else 0, settings
    if settings.epochs_on_the_way is not None:
        fewer = settings.model_copy(update={"epochs": settings.epochs_on_the_way, "steps": None})
    twice = 1 + (recipe.synthetic.labels == "teacher")
    sets = [(synthetic, settings, twice), (synthetic, fewer, on_the_way)]
    for name in settings.baselines:  # chosen images are trained on as random ones are
        if name == ALL:
            sets.append((ImageSet.of(data.train.images, data.train.labels, data, device), settings, 1))
        else:
            real = random_set(recipe.synthetic, data, 0, decoded=name == "random_decoded")
            sets.append((training_images(real, device), settings, twice))
    network, execution = settings.network or recipe.network, Execution(device, recipe.run)
    costs: dict[int, tuple[Seconds, Seconds]] = {}
    for source, protocol, times in sets:
        if not times:
            continue
        batch = min(len(source.labels), settings.training.batch)
        if batch not in costs:
            costs[batch] = evaluation_costs(source, data, protocol, network, execution)
        step, testing = costs[batch]
        total = total + (step * _steps(protocol, source, data) + testing) * (times * settings.repeats)
    return total

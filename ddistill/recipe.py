"""A recipe: a frozen, validated, serialisable composition of data, network, method, source, evaluation and budget."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ddistill.augment import NO_AUGMENTATION, check_registered
from ddistill.data import DataSettings, RealData
from ddistill.data.which import travels
from ddistill.evaluation import EvaluationSettings, protocol
from ddistill.methods import IDCSettings, method_settings, settings_class
from ddistill.methods.distances import DISTANCES, matched_names
from ddistill.network_sources import ModelAugmentationSettings
from ddistill.networks import NetworkSettings, build_network, check_known_network, check_network, network_gives
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.execution import EXECUTION, ExecutionSettings
from ddistill.runtime.plugins import missing_plugins
from ddistill.runtime.settings import Settings
from ddistill.runtime.words import read_values
from ddistill.synthetic import SyntheticSettings, check_grown
from ddistill.synthetic.hub import is_on_hub
from ddistill.training import TrainingSettings, trial_fault

Model = TypeVar("Model", bound=Settings)

OPTIONAL_PARTS = {"evaluation.network": "NetworkSettings | None", "synthetic.grow": "GrowSettings | None"}
"""Whole settings that a change may clear with None."""
TRUSTED = ("convnet", "resnet_ap")
"""Networks that every method can use; others are tried before a run."""
RECIPE = "recipe.yaml"
"""In the folder of a run."""
RETIRED = ("shards",)
"""Fields of ``run`` that earlier versions wrote and that nothing depends on any more."""
SIGNATURE = "# sha256"
SEE_FIELDS = "`ddistill recipes NAME` shows all fields"
MAX_RECIPE_BYTES = 1024 * 1024


class BudgetSettings(Settings):
    """How long a run is: whichever bound is reached first, and one outer step at least."""

    outer_steps: int = Field(default=2000, ge=1)
    """Outer steps at speed-up 1 (T_base)."""
    speedup: int = Field(default=1, ge=1)
    """The outer steps are divided by this (5, 10, 20 in the paper)."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall-clock seconds of the training of the pool (also of one from the cache) and of distillation together."""
    flops: float | None = Field(default=None, gt=0)
    """Floating-point operations of pool and distillation together."""

    @property
    def steps(self) -> int:
        """Outer steps of the run (T), at least 1; other bounds may end it before."""
        return max(1, self.outer_steps // self.speedup)

    def reached(self, step: int, seconds: float, flops: float) -> str | None:
        """The bound that ends a run after ``step`` outer steps; None if it goes on.

        Args:
            step: outer steps done.
            seconds: of pool and distillation so far.
            flops: of pool and distillation so far.
        """
        bounds = (("outer_steps", step, self.steps), ("seconds", seconds, self.seconds), ("flops", flops, self.flops))
        return next((name for name, spent, most in bounds if most is not None and spent >= most), None)


class RunSettings(ExecutionSettings):
    """What belongs to a run and not to its science."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random draw is a function of (seed, purpose, step)."""


class Recipe(Settings):
    """Everything that decides the result of a run, and under ``run``, besides the seed, how it is computed."""

    name: str = "custom"
    """Name in the table of recipes that this one started from."""
    data: DataSettings = DataSettings()
    """Where the real images come from."""
    network: NetworkSettings = NetworkSettings()
    """The network that is matched and, unless evaluation.network says otherwise, evaluated."""
    synthetic: SyntheticSettings = SyntheticSettings()
    """The set that is stored."""
    method: Any = IDCSettings()
    """What is matched and how; ``method.name`` decides which fields there are."""
    training: TrainingSettings = TrainingSettings()
    """Training of networks on real data: in the inner loop and for the pool."""
    model_augmentation: ModelAugmentationSettings = ModelAugmentationSettings()
    """Where the network of an outer step comes from."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """The protocol by which the set is judged."""
    budget: BudgetSettings = BudgetSettings()
    """Length of the run."""
    run: RunSettings = RunSettings()
    """Seed and execution."""

    @field_validator("method", mode="plain")
    @classmethod
    def _registered_method(cls, value: Any) -> Settings:
        return method_settings(value)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        check_known_network(self.network)
        self._check_method()
        if self.evaluation.network is not None:
            check_known_network(self.evaluation.network)
        if self.data.size is not None:
            check_network(self.network, self.data.size)
        if protocol(self.evaluation.protocol).learned_rate and not self.method.needs.learns_rate:
            raise ValueError(
                f"evaluation.protocol={self.evaluation.protocol} trains at the rate that is learned with the images, "
                f"and method {self.method.name} learns none; dsa is the same protocol at a rate of 0.01"
            )
        if self.evaluation.select == "best" and not self.data.validation_fraction:
            raise ValueError(
                "evaluation.select=best chooses on images held out of the training set: set data.validation_fraction, "
                "for example to 0.1"
            )
        return self

    def check(self, data: RealData) -> None:
        """Refuse what these data cannot support, before anything is written.

        Raises:
            UserError: network too deep for the images, one that does not give what the method asks for, a set that
                cannot be initialised, constants of images with other channels.
        """
        data.normalised_as(self.data)
        check_network(self.network, data.size)
        self.synthetic.check(data.class_names, data.class_counts.tolist(), data.size)
        check_grown(self.synthetic, data)
        for settings in (self.method, self.training, self.evaluation.training):
            check_registered(getattr(settings, "augment", NO_AUGMENTATION), data.channels, data.size)
        if self.method.needs.network and self.network.name not in TRUSTED:
            self._try_network(data)
        self._check_gives((data.num_classes, data.channels, data.size))

    def _try_network(self, data: RealData) -> None:
        """Refuse a network that the method cannot use, by building it and making a step with two images."""
        name, network = self.method.name, self.network.name
        images = torch.rand(2, data.channels, data.size, data.size, generator=torch.Generator().manual_seed(0))
        try:
            first, module = (
                build_network(self.network, data.num_classes, data.channels, data.size, "trial") for _ in range(2)
            )
            given = module.eval()(images)
            del first
        except UserError:
            raise
        except Exception as error:  # a user's own code raises what it likes
            raise UserError(
                f"network {network!r} does not work for {data.num_classes} classes of images of {data.channels} x "
                f"{data.size} x {data.size}: {type(error).__name__}: {error}"
            ) from error
        logits = tuple(given.shape) if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
        distance = getattr(self.method, "distance", None)
        if distance in DISTANCES and not matched_names(distance, dict(module.named_parameters())):
            raise UserError(
                f"method {name} compares gradients of convolutions by {distance} (weights of four dimensions), and "
                f"network {network!r} has none; use network.name=convnet, or method.distance=cosine, which takes "
                "matrices, too"
            )
        if logits != (2, data.num_classes):
            raise UserError(
                f"network {network!r} gives {logits} for 2 images of {data.num_classes} classes; it must give a tensor "
                f"of shape (2, {data.num_classes})"
            )
        fault = trial_fault(module, images, "fp32", second_order=self.method.needs.second_order)
        if fault:
            raise UserError(f"method {name} cannot use network {network!r}: {fault}; use network.name=convnet")

    def _check_method(self) -> None:
        """Refuse what the method cannot be composed with."""
        name, needs, source = self.method.name, self.method.needs, self.model_augmentation
        pooled = source.networks in ("pool", "snapshots", "line")
        if not needs.network and (pooled or source.perturb or source.fresh_epochs):
            raise ValueError(
                f"method {name} uses no network: model_augmentation.networks={source.networks if pooled else 'pool'}, "
                "perturb and fresh_epochs have no effect; leave them out or choose another method"
            )
        if needs.reference == "older" and source.networks not in ("snapshots", "line"):
            raise ValueError(
                f"method {name} looks at a second, older network, which model_augmentation.networks={source.networks} "
                "does not give; use snapshots or line"
            )
        if needs.reference == "older" and not source.pool_epochs:
            raise ValueError(
                f"method {name} looks at a second, trained network: set model_augmentation.pool_epochs to 1 or more"
            )
        if source.selection != "random" and source.networks != "pool":
            raise ValueError(
                f"model_augmentation.selection={source.selection} is of networks=pool, and has no effect on "
                f"networks={source.networks}"
            )
        if (needs.trajectories is not None) != (source.networks == "trajectories"):
            raise ValueError(
                f"method {name} starts from expert trajectories: set model_augmentation.networks=trajectories"
                if needs.trajectories
                else f"model_augmentation.networks=trajectories is for method tm; method {name} takes fresh, pool, "
                "snapshots or line"
            )
        last = needs.trajectories.max_start_epoch - 1 + needs.trajectories.ahead if needs.trajectories else 0
        if needs.trajectories and last > source.pool_epochs:
            raise ValueError(
                f"method {name} asks for the experts' epoch {last} (max_start_epoch - 1 + expert_epochs), but "
                f"model_augmentation.pool_epochs is {source.pool_epochs}; raise it, or lower method.max_start_epoch"
            )
        if needs.one_step and self.budget.steps > 1:
            raise ValueError(
                f"method {name} chooses images in one outer step, got {self.budget.steps}: set budget.outer_steps=1"
            )
        grow = self.synthetic.grow
        if grow and not grow.refine and not needs.sharded:
            raise ValueError(
                f"method {name} does not match class by class, so that it cannot leave the images of finished classes "
                "as they are: go on with all of them by --refine, or use a method such as idc, dm or along-training"
            )
        self._check_gives()

    def _check_gives(self, shape: tuple[int, int, int] | None = None) -> None:
        """Refuse a network that does not give what the method asks it for; ``shape`` as in `network_gives`."""
        needs = self.method.needs
        for asked, what in (
            ("features" if needs.features else "", "the input of its classifier"),
            ("layers" if needs.layers else "", "the maps of its layers"),
        ):
            if asked and not network_gives(self.network, asked, shape):
                raise UserError(
                    f"method {self.method.name} asks the network for {what}, but network {self.network.name!r} has no "
                    f"method `{asked}`; use convnet"
                )

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with other values for some fields, named by dotted paths: ``{"synthetic.ipc": 10}``.

        Another ``method.name`` or ``network.name`` takes its own defaults for the fields that are not named with it,
        another ``evaluation.protocol`` its own values.

        Raises:
            UserError: an unknown field (with the nearest legal ones) or an illegal value.
        """
        values = self.model_dump()
        method = str(changes.get("method.name", self.method.name))
        fields = settings_class(method)
        if method != self.method.name:
            values["method"] = fields().model_dump()
        judged_by = str(changes.get("evaluation.protocol", self.evaluation.protocol))
        values["evaluation"] = self.evaluation.under(judged_by).model_dump()
        for room, network in ((values, self.network), (values["evaluation"], self.evaluation.network)):
            path = "network.name" if room is values else "evaluation.network.name"
            if network and changes.get(path, network.name) != network.name:
                room["network"] = NetworkSettings().model_dump()  # a width of one network is none of another
        legal = dict(field_paths(type(self), method=fields)) | OPTIONAL_PARTS
        for path, value in changes.items():
            parent, _, _leaf = path.rpartition(".")
            if path not in legal and not (parent in legal and legal[parent].startswith("dict")):
                raise unknown_name("recipe field", path, legal, SEE_FIELDS)
            target = values
            *way, last = path.split(".")
            for part in way:
                if target[part] is None:
                    target[part] = {}
                target = target[part]
            target[last] = value
        return build(type(self), values)

    def travelling(self) -> Recipe:
        """As it is published: without the places of images and sets, where these are paths on this machine."""
        places = {} if travels(self.data.source) else {"data.source": None}
        grow = self.synthetic.grow
        here = grow is not None and grow.source is not None and not is_on_hub(grow.source)
        return self.changed(places | ({"synthetic.grow.source": None} if here else {}))

    def identity(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """What decides the result, JSON-able: all but how it is computed."""
        execution = {"run": set(ExecutionSettings.model_fields)}
        return self.model_dump(mode="json", exclude=execution, exclude_none=exclude_none)

    def to_yaml(self) -> str:
        """The complete recipe; `from_yaml` reads it back."""
        return in_yaml(self.model_dump(mode="json"))

    @staticmethod
    def from_yaml(path: str | Path) -> Recipe:
        """Read a recipe file; that of a run takes what it does not say of its execution from the file beside it.

        Raises:
            UserError: no such file, not YAML, unknown fields or illegal values, a plugin that is not loaded.
        """
        path = Path(path)
        return recipe_from(read_yaml(path), read_execution(path.parent) if path.name == RECIPE else {})


def recipe_from(values: dict[str, Any], execution: Mapping[str, Any]) -> Recipe:
    """The recipe of a run or an artifact, from its stored fields and what was stored of its execution.

    Raises:
        UserError: unknown fields or illegal values; names the plugins that it was made with and that are not loaded.
    """
    asked, run = execution.get("asked"), values.get("run", {})
    if isinstance(asked, dict) and isinstance(run, dict):
        run = {name: value for name, value in {**asked, **run}.items() if name not in RETIRED}
        values = {**values, "run": run}
    try:
        return build(Recipe, values)
    except UserError as error:
        plugins = execution.get("plugins")
        hint = missing_plugins(map(str, plugins)) if isinstance(plugins, list) else ""
        raise UserError(f"{error}{hint}") from error


def read_execution(folder: Path) -> dict[str, Any]:
    """What a run has written of its execution; nothing where there is no such file.

    Raises:
        UserError: it was changed or damaged.
    """
    path = folder / EXECUTION
    return read_yaml(path) if path.is_file() else {}


def in_yaml(values: Mapping[str, Any]) -> str:
    """Fields and values as the text of a file."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Fields and values of a file of `in_yaml`.

    Raises:
        UserError: no such file, not YAML, or changed since it was signed.
    """
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise UserError(f"{path} is larger than 1 MiB; not a recipe")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {str(path)!r}: {' '.join(str(error).split())}") from error
    try:
        values = read_values(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"cannot read the recipe {str(path)!r}: {' '.join(str(error).split())}") from error
    check_signature(path, text)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected fields and values, got {type(values).__name__}")
    return values


def signed(text: str) -> str:
    """A recipe file's text with a first line that tells whether it was changed since."""
    return f"{SIGNATURE} {hashlib.sha256(text.encode()).hexdigest()}; delete this line after an edit\n{text}"


def check_signature(path: Path, text: str) -> None:
    """Refuse a recipe whose first line carries the checksum of another text; one without such a line is fine.

    Raises:
        UserError: it was changed or damaged.
    """
    first, _, rest = text.partition("\n")
    if first.startswith(SIGNATURE) and text != signed(rest):
        raise UserError(
            f"{path} was changed since it was written (its checksum differs); after an edit of yours delete its first "
            "line, else take the recipe from another copy"
        )


def build(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Construct settings from plain values, with errors in the user's terms.

    Raises:
        UserError: one line that names the first field at fault, the reason, and the legal choices.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(model, error, values)) from error


def field_paths(
    model: type[Settings], prefix: str = "", method: type[Settings] = IDCSettings
) -> Iterator[tuple[str, str]]:
    """Dotted path and type of every field that a recipe can hold, in order; ``method`` gives those of its method."""
    for name, field in model.model_fields.items():
        inner = method if prefix + name == "method" else _settings_of(field.annotation)
        if inner is None:
            yield prefix + name, str(field.annotation)
        else:
            yield from field_paths(inner, f"{prefix}{name}.", method)


def _settings_of(annotation: Any) -> type[Settings] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def _explain(model: type[Settings], error: ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    fault = first.get("ctx", {}).get("error")
    if isinstance(fault, UserError):  # it names the value itself
        return str(fault) if path in ("", "method") else f"{path}: {fault}"
    if first["type"] == "extra_forbidden":
        given = values.get("method")
        name = given.get("name") if isinstance(given, dict) else getattr(given, "name", None)
        legal = [field for field, _ in field_paths(model, method=settings_class(name or IDCSettings().name))]
        return str(unknown_name("recipe field", path, legal, SEE_FIELDS))
    reason = first["msg"].removeprefix("Value error, ").split(", unable to ")[0]
    reason = reason[:1].lower() + reason[1:]
    if not path:
        return reason
    if first["type"] in ("tuple_type", "list_type"):
        reason = f"must be a list, such as [{first['input']}]"
    short = "ipc" if path == "synthetic.ipc" else path
    reason = reason.replace("input should be greater than or equal to", "must be at least")
    reason = reason.replace("input should be", "must be")
    got = "" if isinstance(first["input"], (dict, Settings)) else f", got {first['input']!r}"
    return f"{short}: {reason}{got}"

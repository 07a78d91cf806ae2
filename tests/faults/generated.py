"""Command lines and recipes as a careless or hostile hand might write them; runs that are legal are tiny."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import strategies as st

TINY = {
    "network.width": 8,
    "network.depth": 2,
    "synthetic.factor": 1,
    "budget.outer_steps": 1,
    "budget.speedup": 1,
    "method.inner_steps": 1,
    "method.network_samples": 16,
    "method.real_batch": 4,
    "model_augmentation.pool_size": 1,
    "model_augmentation.pool_epochs": 0,
    "evaluation.epochs": 1,
    "evaluation.repeats": 1,
    "evaluation.baselines": [],
}
NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, -(2**63), 2**64, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.lists(st.integers(-2, 2), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(-2, 2), max_size=2),
    st.sampled_from(
        ["!!python/object/apply:os.system [id]", "&a [*a]", "{", "../../etc", "<b>x</b>", "$(id)", "\x1b[31m"]
    ),
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "method.image_lr": st.sampled_from([1e-4, 0.005, 0.1]),
    "method.distance": st.sampled_from(["l1", "mse", "cosine", "l2"]),
    "method.name": st.sampled_from(["idc", "dc", "dsa", "dm", "tm", "along-training", "random", "idx"]),
    "model_augmentation.networks": st.sampled_from(["fresh", "pool", "snapshots", "line", "trajectories", "pond"]),
    "model_augmentation.selection": st.sampled_from(["random", "average"]),
    "model_augmentation.perturb": st.booleans(),
    "model_augmentation.perturb_range": st.sampled_from([[0.0, 0.1], [0.2, 0.1], [-1, 1]]),
    "network.name": st.sampled_from(["convnet", "resnet_ap", "mlp", ""]),
    "network.norm": st.sampled_from(["instance", "batch", "none", "layer"]),
    "network.depth": st.integers(0, 5),
    "synthetic.ipc": st.integers(0, 3),
    "synthetic.factor": st.integers(0, 6),
    "synthetic.decode": st.sampled_from(["single", "multi", "bound", "double"]),
    "synthetic.init": st.sampled_from(["mix", "random", "noise", None]),
    "data.size": st.sampled_from([4, 8, 9, 0]),
    "data.validation_fraction": st.sampled_from([0.0, 0.2, 1.0, -0.1]),
    "training.cutmix": st.sampled_from([0.0, 1.0, 1.5]),
    "evaluation.every": st.integers(-1, 2),
    "run.seed": st.sampled_from([0, 7, 2**63 - 1, 2**63, -1]),
    "run.class_chunk": st.sampled_from([None, 1, 3, 0]),
    "run.precision": st.sampled_from(["auto", "fp32", "fp64"]),
    "budget.outer_steps": st.integers(0, 2),
}
UNKNOWN = st.sampled_from(["synthetic.ipcc", "method", "run", "", ".", "a.b.c", "method.inner_steps.x", "name.first"])


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields with plausible values, at times a field or a value that makes no sense."""
    chosen = dict(TINY)
    for name in draw(st.lists(st.sampled_from(list(PLAUSIBLE)), max_size=3, unique=True)):
        chosen[name] = draw(PLAUSIBLE[name])
    if draw(st.integers(0, 3)) == 0:
        name, value = draw(st.one_of(st.sampled_from([*PLAUSIBLE, *TINY]), UNKNOWN)), draw(NONSENSE)
        if name.endswith("_lr") and isinstance(value, (int, float)) and value > 1:
            value = -value  # images that explode are a failure at run time, with an exit code of its own
        chosen[name] = value
    return chosen


@st.composite
def words(draw: st.DrawFn) -> tuple[list[str], str | None]:
    """A command line, and the text of the recipe.yaml that it may name."""
    fields, recipe = draw(changes()), None
    line = ["distill", draw(st.sampled_from([*["digits"] * 9, "digitz", "./nowhere", ""]))]
    way = draw(st.sampled_from(["set", "set", "yaml", "text"]))
    if way == "set":
        for name, value in fields.items():
            shown = (
                value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0]
            )
            line += ["--set", f"{name}={shown.strip()}"]
        line += ["--recipe", draw(st.sampled_from(["idc", "idc", "idc-ma", "idc-digits", "dsa", "dm", "idx"]))]
    else:
        recipe = _nested(fields) if way == "yaml" else draw(st.text(max_size=60))
        line += ["--recipe", "recipe.yaml"]
    for option, values in (
        ("--ipc", ["1", "2", "0", "-1", "x", "10000"]),
        ("--seed", ["0", "5", "-1", "1.5"]),
        ("--networks", ["fresh", "pool", "puddle"]),
        ("--speedup", ["1", "5", "0"]),
        ("--checkpoint-every", ["0", "60", "-1", "soon"]),
    ):
        if draw(st.integers(0, 7)) == 0:
            line += [option, draw(st.sampled_from(values))]
    if draw(st.integers(0, 9)) == 0:
        line.append(draw(st.sampled_from(["--perturb", "--resume", "--extend", "--nonsense", "-x", "more"])))
    return [*line, "--device", "cpu", "--out", "run"], recipe


def _nested(fields: dict[str, Any]) -> str:
    values: dict[str, Any] = {}
    for path, value in fields.items():
        *way, last = path.split(".")
        target = values
        for part in way:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                target = {}
        target[last] = value
    return yaml.safe_dump(values, allow_unicode=True)

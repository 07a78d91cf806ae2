"""What ``summary.json`` says of a finished run."""

from __future__ import annotations

from typing import Any

from ddistill.data import RealData
from ddistill.engine.builder import Builder
from ddistill.engine.environment import machine, peak_memory_bytes, versions
from ddistill.evaluation import Evaluation
from ddistill.synthetic import SyntheticSet

CONFUSED_KEPT = 20
"""Pairs of classes."""


def summarise(run: Builder, synthetic: SyntheticSet, evaluation: Evaluation, ended: dict[str, Any]) -> dict[str, Any]:
    """JSON-able; ``ended``: what else was measured, and how the run ended."""
    recipe = run.recipe
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "data": run.data.name,
        "account": list(run.data.account.lines),
        "ipc": recipe.synthetic.ipc,
        "stored_images": len(synthetic.images),
        "decoded_images": len(synthetic.decoded()[0]),
        "stored_bytes": synthetic.stored_bytes,
        "protocol": recipe.evaluation.protocol,
        "accuracy": evaluation.as_dict(),
        **_by_class(run.data, evaluation),
        "epochs": {"judged": evaluation.protocol["epochs"], "on_the_way": recipe.evaluation.epochs_on_the_way},
        **ended,
        "seconds": {phase: round(seconds, 2) for phase, seconds in run.costs.seconds.items()},
        "flops": run.costs.flops,
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "seed": recipe.run.seed,
        "versions": versions(),
        "machine": machine(run.device),
        "processes": run.ranks.count,
        "execution": run.computed(),
    }


def _by_class(data: RealData, evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy and group of each class, and the pairs most confused; what is not known is not."""
    names, classes = data.class_names, dict[str, Any]()
    if evaluation.confusion is not None:
        percent = [None if one is None else round(one, 2) for one in evaluation.confusion.accuracies()]
        classes["accuracy"] = dict(zip(names, percent, strict=True))
        classes["confused"] = [
            {"class": names[true], "taken_for": names[other], "percent": round(share, 2)}
            for true, other, share in evaluation.confusion.most_confused(CONFUSED_KEPT)
        ]
    if data.origin.taken.groups:
        classes["group"] = dict(zip(names, data.origin.taken.groups, strict=True))
    return {"classes": classes} if classes else {}

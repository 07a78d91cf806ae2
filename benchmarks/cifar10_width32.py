"""Accuracy of IDC with and without model augmentation on CIFAR-10 at a size that a CPU can run.

ConvNet-3 of width 32, ipc 10, F = 2, image lr 0.01, 64 real images, 2000 network samples, evaluation as published
(1000 epochs, last epoch, all test images). Five rows: the start (mix of real images), and IDC with 4 x 50 and 20 x 50
(outer x inner) steps, each without and with a pool (5 networks of 2 epochs) and perturbation.

    python benchmarks/cifar10_width32.py DATA OUT [--rows start idc-20x50 ...] [--seeds 0 1]

Each finished (row, seed) is one JSON line in OUT/results.jsonl and is not run again; the table of all of them is
printed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from ddistill.data import DataSettings, RealData, load_data
from ddistill.engine import Observer, distill_data
from ddistill.evaluation import evaluate_set
from ddistill.recipe import Recipe
from ddistill.runtime.execution import Execution
from ddistill.synthetic import initial_set

BASE = {
    "name": "cifar10-width32",
    "network.width": 32,
    "synthetic.ipc": 10,
    "method.image_lr": 0.01,
    "method.inner_steps": 50,
    "data.constants": "cifar10",
    "evaluation.baselines": (),
}
AUGMENTED = {"model_augmentation.networks": "pool", "model_augmentation.perturb": True}
ROWS: dict[str, dict[str, Any]] = {
    "start": {},
    "idc-4x50": {"budget.outer_steps": 4},
    "idc-ma-4x50": {"budget.outer_steps": 4, **AUGMENTED},
    "idc-20x50": {"budget.outer_steps": 20},
    "idc-ma-20x50": {"budget.outer_steps": 20, **AUGMENTED},
}


CONTINUED = {"idc-20x50": "idc-4x50", "idc-ma-20x50": "idc-ma-4x50"}
"""A row goes on from the last state of the other: draws depend on the step alone, so the bits are the same."""


def _continue_from(shorter: Path, longer: Path, recipe: Recipe, data: RealData) -> None:
    if longer.exists() or not (shorter / "checkpoint").is_dir():
        return
    shutil.copytree(shorter / "checkpoint", longer / "checkpoint")
    (longer / "recipe.yaml").write_text(recipe.changed({"data.source": data.source}).to_yaml(), encoding="utf-8")


class Printer(Observer):
    """Prints a line every half minute."""

    def __init__(self) -> None:
        self.last = 0.0

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            print(f"  {time.strftime('%H:%M:%S')} {phase} {done}/{total} {figures}", flush=True)


def run_row(row: str, seed: int, data: RealData, out: Path, compile_mode: str, repeats: int) -> dict[str, Any]:
    """Accuracy and seconds of one row at one seed."""
    fixed = {"run.seed": seed, "run.compile": compile_mode, "evaluation.repeats": repeats}
    recipe = Recipe().changed({**BASE, **ROWS[row], **fixed})
    if row == "start":
        recipe = recipe.changed({"data.source": data.source})
        initial = initial_set(recipe.synthetic, data, seed)
        how = Execution(settings=recipe.run)
        evaluation = evaluate_set(initial, data, recipe.evaluation, recipe.network, execution=how, seed=seed)
        return {"accuracy": evaluation.as_dict(), "seconds": {}}
    if row in CONTINUED:
        _continue_from(out / f"{CONTINUED[row]}-seed{seed}", out / f"{row}-seed{seed}", recipe, data)
    run = distill_data(data, recipe, out=out / f"{row}-seed{seed}", resume=True, observer=Printer())
    return {key: run.summary[key] for key in ("accuracy", "seconds", "flops", "versions", "machine")}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10: a short name or a path")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--repeats", type=int, default=3, help="networks per evaluation")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    data = load_data(options.data, DataSettings(constants=BASE["data.constants"]))
    for row in options.rows:
        for seed in options.seeds:
            if any(result["row"] == row and result["seed"] == seed for result in done):
                continue
            print(f"{row}, seed {seed}", flush=True)
            result = {
                "row": row,
                "seed": seed,
                **run_row(row, seed, data, options.out, options.compile, options.repeats),
            }
            with results.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            done.append(result)
            print(f"  {result['accuracy']} {result['seconds']}", flush=True)
    print(f"{'row':<14}{'accuracy (std over all networks)':<36}{'distil s':>10}")
    for row in ROWS:
        mine = [result for result in done if result["row"] == row]
        if mine:
            runs = [accuracy for result in mine for accuracy in result["accuracy"]["runs"]]
            seconds = [result["seconds"].get("distill", 0.0) for result in mine]
            spread = f"{statistics.fmean(runs):.1f} ({statistics.pstdev(runs):.1f}), {len(mine)} seeds"
            print(f"{row:<14}{spread:<36}{statistics.fmean(seconds):>10.0f}")


if __name__ == "__main__":
    main()

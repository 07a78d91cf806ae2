"""Accuracy at equal minutes of one core: CIFAR-10, ipc 10, ConvNet-3 of width 32, pool and distillation together.

    python benchmarks/equal_minutes.py DATA OUT [--rows tgdd early idc-ma] [--seeds 0 1] [--minutes 5 15 45] [--judge]

A run goes on from one time to the next, so that the longest one gives the whole curve; its images are kept at each
time, in OUT/at. With ``--judge`` what is kept there is judged instead, as published (1000 epochs, last epoch, all test
images, 3 networks). Several processes may judge at once, and run at once what differs in row or seed. Each result is a
line of OUT/results.jsonl; the table of all comes last. The clock is that of the wall: a process needs a core of its
own, and OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import ddistill
from ddistill import recipes
from ddistill.evaluation import EvaluationSettings
from ddistill.runtime.memory import keep_freed_memory
from ddistill.terminal import Screen

TITLES = {
    "tgdd": "TGDD, a network of 10 epochs",
    "early": "TGDD, 5 perturbed networks of 2 epochs",
    "idc-ma": "IDC with model augmentation",
}
KEPT = ("distilled", "recipe.yaml", "summary.json", "execution.yaml")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "tgdd": ("tgdd", {"model_augmentation.pool_size": 1, "model_augmentation.pool_epochs": 10}),
    "early": (
        "tgdd",
        {
            "model_augmentation.pool_size": 5,
            "model_augmentation.pool_epochs": 2,
            "model_augmentation.perturb": True,
        },
    ),
    "idc-ma": (
        "idc-ma",
        {
            "model_augmentation.pool_size": 5,
            "model_augmentation.pool_epochs": 2,
            "method.image_lr": 0.01,
            "method.inner_steps": 50,
        },
    ),
}
"""Each pool is ten epochs of training."""


def recipe_of(row: str, seed: int, seconds: float) -> ddistill.Recipe:
    """A row, ended by the clock. Its own evaluation is one epoch of one network: the images are judged later."""
    family, own = ROWS[row]
    usual = {
        "network.width": 32,
        "budget.speedup": 1,
        "budget.outer_steps": 1_000_000,
        "budget.seconds": seconds,
        "run.seed": seed,
        "model_augmentation.pool_seed": seed,
        "evaluation.epochs": 1,
        "evaluation.repeats": 1,
        "evaluation.baselines": (),
    }
    return recipes.find(family, 10, "cifar10").changed({**own, **usual})


def distil(data: str, out: Path, row: str, seed: int, minutes: list[float]) -> None:
    """Run a row to each time, and keep its images there."""
    for seconds in (60.0 * one for one in minutes):
        at = out / "at" / f"{row}-{seed}-{seconds:g}"
        if at.exists():
            continue
        folder = out / f"{row}-{seed}"
        ddistill.distill(data, recipe_of(row, seed, seconds), out=folder, resume="extend", observer=Screen())
        unfinished = at.with_name(f"{at.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in KEPT:
            copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
            unfinished.mkdir(parents=True, exist_ok=True)
            copy(folder / name, unfinished / name)
        unfinished.rename(at)


def judge(data: str, at: Path) -> dict[str, Any]:
    """What is kept of one time."""
    row, seed, seconds = at.name.rsplit("-", 2)
    found = ddistill.evaluate(at, data, EvaluationSettings(epochs=1000, repeats=3), seed=int(seed))
    summary = json.loads((at / "summary.json").read_text(encoding="utf-8"))
    about = {name: summary[name] for name in ("outer_steps", "seconds", "flops", "versions", "machine")}
    about["seconds"] = {name: summary["seconds"][name] for name in ("pool", "distill")}
    return {"row": row, "seed": int(seed), "minutes": float(seconds) / 60, "accuracy": found.as_dict(), **about}


def judged(results: Path) -> list[dict[str, Any]]:
    """What has been judged so far."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def main() -> None:
    """Run or judge what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10: a short name or a path")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--minutes", nargs="*", type=float, default=[5.0, 15.0, 45.0])
    parser.add_argument("--judge", action="store_true", help="judge what is kept")
    parser.add_argument("--plot", type=Path, help="with --judge: a picture of the curves")
    options = parser.parse_args()
    keep_freed_memory()
    results = options.out / "results.jsonl"
    if not options.judge:
        for row, seed in product(options.rows, options.seeds):
            distil(options.data, options.out, row, seed, sorted(options.minutes))
        return
    for row, seed, minutes in product(options.rows, options.seeds, options.minutes):
        at = options.out / "at" / f"{row}-{seed}-{60 * minutes:g}"
        if not at.exists():
            print(f"{at.name} has not been run")
            continue
        with suppress(Timeout), FileLock(at / "judging.lock", blocking=False):  # of several processes one judges it
            if (row, seed, minutes) not in {(one["row"], one["seed"], one["minutes"]) for one in judged(results)}:
                line = json.dumps(judge(options.data, at))
                with results.open("a", encoding="utf-8") as lines:
                    lines.write(line + "\n")
    done = judged(results)
    show(done)
    if options.plot:
        plot(done, options.plot)


def show(done: list[dict[str, Any]]) -> None:
    """The table: the mean over seeds, and each seed with the standard deviation of its networks."""
    print(f"{'row':<10}{'minutes':>9}{'outer steps':>14}{'accuracy of each seed (networks)':>40}")
    for row, minutes in sorted({(one["row"], one["minutes"]) for one in done}):
        mine = sorted((one for one in done if (one["row"], one["minutes"]) == (row, minutes)), key=lambda o: o["seed"])
        steps = "/".join(str(one["outer_steps"]) for one in mine)
        each = " ".join(f"{one['accuracy']['mean']:.1f} ({one['accuracy']['std']:.1f})" for one in mine)
        mean = statistics.fmean(one["accuracy"]["mean"] for one in mine)
        print(f"{row:<10}{minutes:>9g}{steps:>14}{f'{mean:.1f}: {each}':>40}")


def plot(done: list[dict[str, Any]], path: Path) -> None:
    """A line for each seed of a row, in the colour of the row."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    for number, row in enumerate(ROWS):
        mine = [one for one in done if one["row"] == row]
        by_seed = [[one for one in mine if one["seed"] == seed] for seed in sorted({one["seed"] for one in mine})]
        for each in by_seed:
            each.sort(key=lambda one: one["minutes"])
            points = [one["minutes"] for one in each], [one["accuracy"]["mean"] for one in each]
            axes.plot(*points, marker="o", color=f"C{number}", label=TITLES[row] if each is by_seed[0] else None)
    axes.set_xscale("log")
    ticks = sorted({one["minutes"] for one in done})
    axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
    axes.minorticks_off()
    axes.set(xlabel="minutes of one core, pool included", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()

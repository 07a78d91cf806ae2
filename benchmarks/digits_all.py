"""Every family of recipes on digits: accuracy beside random real images of equal storage, seconds, FLOPs.

    python benchmarks/digits_all.py OUT [--ipc 1 10] [--families idc-ma dm ...] [--seed 0] [--jobs CORES]

Runs go side by side, one thread each. Each finished (family, ipc) is one JSON line in OUT/results.jsonl and is not run
again; a run that was cut off goes on. The table of all of them is printed at the end. 3 networks judge a set, for 300
epochs (of one batch) at ipc below 10, for 100 (of two batches and more) from there on. The random column is the mean
over three draws; the family "random" is the first of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import ddistill
from ddistill import recipes
from ddistill.runtime.memory import keep_freed_memory

LONGEST_FIRST = ("idc", "tm", "cafe", "idc-ma", "dsa", "dc", "dm")
JUDGES_RANDOM = "random"


def run_one(family: str, ipc: int, seed: int, folder: Path) -> dict[str, Any]:
    """One run; its summary."""
    torch.set_num_threads(1)
    keep_freed_memory()
    changes: dict[str, Any] = {"run.seed": seed, "evaluation.epochs": 300 if ipc < 10 else 100}
    changes["evaluation.baselines"] = ("random",) if family == JUDGES_RANDOM else ()
    run = ddistill.distill("digits", family, ipc=ipc, out=folder, resume=True, changes=changes)
    return {"family": family, "ipc": ipc, "seed": seed, **run.summary}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ipc", nargs="*", type=int, default=[1, 10])
    parser.add_argument("--families", nargs="*", choices=list(recipes.FAMILIES), default=list(recipes.FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["family"], row["ipc"], row["seed"]) for row in rows}
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    families = sorted({*options.families, JUDGES_RANDOM}, key=lambda name: place.get(name, len(place)))
    wanted = [(family, ipc, options.seed) for family in families for ipc in options.ipc]
    began = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [
            pool.submit(run_one, family, ipc, seed, options.out / f"{family}-ipc{ipc}-seed{seed}")
            for family, ipc, seed in wanted
            if (family, ipc, seed) not in done
        ]
        for finished in as_completed(running):
            row = finished.result()
            rows.append(row)
            with results.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(row["family"], row["ipc"], row["accuracy"], row["seconds"], flush=True)
    print(f"{len(running)} runs in {(time.perf_counter() - began) / 60:.1f} minutes, {options.jobs} at a time\n")
    print("| family | ipc | distilled | random | pool, s | distillation, s | evaluation, s | TFLOP |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for ipc in options.ipc:
        of_ipc = {row["family"]: row for row in rows if (row["ipc"], row["seed"]) == (ipc, options.seed)}
        random = shown(of_ipc[JUDGES_RANDOM]["baselines"]["random"])
        for family in recipes.FAMILIES:
            if family not in of_ipc:
                continue
            row = of_ipc[family]
            seconds = [f"{row['seconds'][part]:.0f}" for part in ("pool", "distill", "evaluate")]
            flops = f"{(row['flops']['pool'] + row['flops']['distill']) / 1e12:.2f}"
            print(f"| {' | '.join([family, str(ipc), shown(row['accuracy']), random, *seconds, flops])} |")


def shown(accuracy: dict[str, Any]) -> str:
    """Mean and standard deviation."""
    return f"{accuracy['mean']:.1f} ({accuracy['std']:.1f})"


if __name__ == "__main__":
    main()

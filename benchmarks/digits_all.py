"""Every family of recipes on digits: accuracy beside random real images of equal storage, seconds, FLOPs.

    python benchmarks/digits_all.py OUT [--ipc 1 10] [--families idc-ma dm ...] [--seed 0]

Each finished (family, ipc) is one JSON line in OUT/results.jsonl and is not run again; a run that was cut off goes on.
The table of all of them is printed at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ddistill
from ddistill import recipes
from ddistill.training import keep_freed_memory


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ipc", nargs="*", type=int, default=[1, 10])
    parser.add_argument("--families", nargs="*", choices=list(recipes.FAMILIES), default=list(recipes.FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for ipc in options.ipc:
        for family in options.families:
            if any((row["family"], row["ipc"], row["seed"]) == (family, ipc, options.seed) for row in done):
                continue
            changes = {"run.seed": options.seed}
            folder = options.out / f"{family}-ipc{ipc}-seed{options.seed}"
            run = ddistill.distill("digits", family, ipc=ipc, out=folder, resume=True, changes=changes)
            row = {"family": family, "ipc": ipc, "seed": options.seed, **run.summary}
            done.append(row)
            with results.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(family, ipc, run.summary["accuracy"], run.summary["seconds"], flush=True)
    print(f"{'family':<12}{'ipc':>4}{'distilled':>14}{'random':>14}{'pool s':>8}{'distil s':>10}{'TFLOP':>8}")
    for row in done:
        shown = [f"{part['mean']:.1f} ({part['std']:.1f})" for part in (row["accuracy"], row["baselines"]["random"])]
        flops = (row["flops"]["pool"] + row["flops"]["distill"]) / 1e12
        print(
            f"{row['family']:<12}{row['ipc']:>4}{shown[0]:>14}{shown[1]:>14}{row['seconds']['pool']:>8.0f}"
            f"{row['seconds']['distill']:>10.0f}{flops:>8.2f}"
        )


if __name__ == "__main__":
    main()

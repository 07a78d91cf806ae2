"""What a GPU does with this program, in under 9 minutes: for whoever has one.

    PYTHONPATH=. python benchmarks/gpu_check.py OUT [--data PATH] [--minutes 8.5] [--toy]

Nothing is installed and nothing is asked of a network. In turn, each in a process of its own that is stopped when its
time is up: the tests that need a GPU; two outer steps of every method on digits; seconds of an inner step by phase
beside the slow reference, in float32, TF32 and bfloat16 (CIFAR-10 shapes, width 128); the Triton kernels: their errors,
the time of each operator against torch's own, and the inner step with them; and, where ``--data`` names CIFAR-10, a
real piece of a run. OUT keeps everything that was printed, the run and ``check.json``; a short table and
one JSON line come last. ``--toy`` does all of it at toy size, on a CPU, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import ddistill
from ddistill.engine.environment import machine, versions
from ddistill.methods import METHODS
from ddistill.recipe import Recipe

ROOT = Path(__file__).parents[1]
FAMILIES = ("idc-ma", "dc", "dsa-ma", "dm-ma", "tgdd", "cafe", "tm", "el2n", "random", "herding", "k-center", "rded")
"""One recipe for each method."""
GOALS = {"milliseconds_per_inner_step": 10.0, "minutes_of_400_outer_steps": 8.0, "pool_seconds": 15.0}
"""Of a full-scale run on an H200, in bfloat16: networks computed ahead beside the matching, all included."""
TF32_GOAL = 20.0
"""Milliseconds of an inner step in TF32, matching and network one after the other."""
SHARES = {"tests": 0.3, "methods": 0.25, "steps": 0.3, "kernels": 0.3, "run": 1.0}
"""Of the time that is left, that a part may take; of the kernels each of its three."""


def main() -> int:
    """All parts; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="CIFAR-10: a path")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="toy size, for a CPU")
    parser.add_argument("--only-methods", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_methods:
        run_methods(options.device, options.toy)
        return 0
    if options.device == "cpu" and not options.toy:
        parser.error("no GPU is here; --toy goes through the same parts at toy size on a CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    check = Check(options)
    parts = {name: getattr(check, name) for name in SHARES}
    rows, result = [], {"device": options.device, "toy": options.toy, "versions": versions()}
    result["machine"] = machine(torch.device(options.device))
    for name, part in parts.items():
        began = time.monotonic()
        result[name] = {**part(SHARES[name]), "part_seconds": round(time.monotonic() - began, 1)}
        rows.append((name, result[name]))
    failed = [name for name, found in rows if not found["ok"]]
    for name, found in rows:
        print(f"{name:<10}{'ok' if found['ok'] else 'FAILED':<8}{found['part_seconds']:>7.0f} s  {found['shown']}")
    result["seconds"] = round(check.spent(), 1)
    (options.out / "check.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if failed else 0


def run_methods(device: str, toy: bool) -> None:
    """Two outer steps of every method on digits, a JSON line each; one that fails does not stop the others."""
    settings = {"budget.outer_steps": 2, "evaluation.epochs": 20, "evaluation.repeats": 1}
    if toy:
        settings |= {"evaluation.epochs": 1, "network.width": 8}
    for family in FAMILIES:
        chooses = family in ("el2n", "random", "herding", "k-center", "rded")  # real images, in one step
        changes = {**settings, **({"budget.outer_steps": 1} if chooses else {})}
        row: dict[str, Any] = {"family": family}
        try:
            summary = ddistill.distill("digits", family, changes=changes, device=device).summary
            row |= {name: summary[name] for name in ("seconds", "accuracy", "execution")}
        except Exception as error:  # whatever a device does
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(row), flush=True)


class Check:
    """The parts; each gives what it found, with ``ok`` and a line ``shown``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def tests(self, share: float) -> dict[str, Any]:
        """The tests that are marked gpu; without a GPU they are skipped, each with the reason."""
        code, text = self._call("tests", share, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests")
        last = [line for line in text.splitlines() if re.search(r"\d+ (passed|failed|skipped|error)", line)]
        return {"ok": code == 0, "shown": last[-1].strip("= ") if last else f"exit code {code}"}

    def methods(self, share: float) -> dict[str, Any]:
        """Every method, two outer steps on digits."""
        size = ("--toy",) if self.options.toy else ()
        words = ("benchmarks/gpu_check.py", str(self.options.out), "--device", self.options.device, "--only-methods")
        _, text = self._call("methods", share, *words, *size)
        rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"family"')]
        failed = [f"{row['family']} ({row['error']})" for row in rows if "error" in row]
        failed += [f"{family} (not reached)" for family in FAMILIES[len(rows) :]]
        done = f"{len(FAMILIES) - len(failed)} of {len(FAMILIES)} methods"
        return {"ok": not failed, "shown": "; ".join([done, *failed]), "rows": rows}

    def steps(self, share: float) -> dict[str, Any]:
        """Seconds of an inner step by phase, beside the reference."""
        return self._inner_step("steps", share)

    def kernels(self, share: float) -> dict[str, Any]:
        """The Triton kernels, which serve only where they are asked for; without a GPU, in Triton's interpreter."""
        if importlib.util.find_spec("triton") is None:
            return {"ok": True, "shown": "triton is not installed, so its kernels were left out"}
        options = self.options
        asked = {"DDISTILL_KERNELS": "triton"}
        interpreted = asked if options.device == "cuda" else {**asked, "TRITON_INTERPRET": "1"}
        code, text = self._call("kernels-errors", share, "tests/kernels_program.py", options.device, **interpreted)
        cases = [json.loads(line) for line in text.splitlines() if line.startswith('{"kind"')]
        wrong = [case for case in cases if not all(error < case["most"] for error in case["errors"].values())]
        largest = {
            kind: max(max(case["errors"].values()) for case in cases if case["kind"] == kind)
            for kind in dict.fromkeys(case["kind"] for case in cases)
        }
        found: dict[str, Any] = {"errors": largest, "wrong": wrong}
        if code or wrong:
            shown = f"{len(wrong)} of {len(cases)} cases wrong, exit code {code}; see kernels-errors.txt"
            return {"ok": False, "shown": shown, **found}
        size = ("--toy", "--trials", "1") if options.toy else ()
        words = ("benchmarks/gpu_kernels.py", "--device", options.device, *size)
        code, text = self._call("kernels-times", share, *words, **interpreted)
        if code:
            return {"ok": False, "shown": f"exit code {code}; see kernels-times.txt", **found}
        found["milliseconds"] = json.loads(text.splitlines()[-1])
        # not interpreted: without a GPU this is the inner step of the CPU's kernels, once more
        step = self._inner_step("kernels-steps", share, **asked)
        return {**found, **step, "shown": f"{len(cases)} cases agree with torch; with them, {step['shown']}"}

    def _inner_step(self, name: str, share: float, **environment: str) -> dict[str, Any]:
        options = self.options
        size = ("--width", "8", "--trials", "1", "--samples", "64") if options.toy else ("--width", "128")
        bf16 = "off" if options.toy else "on"  # it is compiled, which takes a minute on a CPU
        words = ("benchmarks/hot_path.py", "--device", options.device, "--bf16", bf16, *size)
        code, text = self._call(name, share, *words, **environment)
        if code:
            return {"ok": False, "shown": f"exit code {code}; see {name}.txt"}
        measured = json.loads(text.splitlines()[-1])
        inner = {kind: times["inner step"] for kind, times in measured["seconds"].items()}
        goals = {"tf32": f" (goal {TF32_GOAL:g})"}
        shown = ", ".join(f"{kind} {1e3 * seconds:.0f} ms{goals.get(kind, '')}" for kind, seconds in inner.items())
        return {"ok": True, "shown": f"inner step: {shown}", "measured": measured}

    def run(self, share: float) -> dict[str, Any]:
        """A piece of a run of CIFAR-10, or of digits at toy size."""
        options = self.options
        if not (options.data or options.toy):
            return {"ok": True, "shown": "no --data, so no piece of a run"}
        minutes = max(0.2, self._left() * share / 60.0 - 0.7)  # some seconds for the start and the state
        data, scale = ("digits", "tiny") if options.toy else (options.data, "full")
        folder = options.out / "run"
        words = ("benchmarks/end_to_end.py", data, "--out", str(folder), "--minutes", f"{minutes:.2f}")
        code, text = self._call("run", 1.0, *words, "--scale", scale, "--device", options.device)
        log = folder / "log.jsonl"
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        steps = [event for event in events if event.get("event") == "outer step"]
        pool = next((event["seconds"] for event in events if event.get("event") == "pool"), None)
        found: dict[str, Any] = {"ok": code in (0, 3), "outer_steps": len(steps), "pool_seconds": pool}
        clock = [event["distill_seconds"] for event in steps]
        if len(clock) > 1:  # the first one captures and compiles
            # the mean: networks of several outer steps are waited for together
            each = (clock[-1] - clock[0]) / (len(clock) - 1)
            inner = Recipe.from_yaml(folder / "recipe.yaml").method.inner_steps
            found["seconds_per_outer_step"] = round(each, 4)
            found["minutes_of_400_outer_steps"] = round(400 * each / 60, 2)
            found["milliseconds_per_inner_step"] = round(1e3 * each / inner, 2)
        last = text.strip().splitlines()
        goals = {name: (found[name], most) for name, most in GOALS.items() if found.get(name) is not None}
        told = (f"{name.replace('_', ' ')} {value:.1f} (goal {most:g})" for name, (value, most) in goals.items())
        found["shown"] = f"{len(steps)} outer steps; {', '.join(told)}"
        if not found["ok"]:
            found["shown"] = last[-1][:200] if last else f"exit code {code}"
        return found

    def _left(self) -> float:
        """Seconds, one at least."""
        return max(1.0, 60.0 * self.options.minutes - self.spent())

    def _call(self, name: str, share: float, *words: str, **more: str) -> tuple[int, str]:
        """Exit code and output of a Python process with more in its environment; 124 where its share of the time ran
        out."""
        environment = {
            **os.environ,
            **more,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        environment["DDISTILL_CACHE"] = str((self.options.out / "cache").resolve())
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=ROOT,
                env=environment,
                timeout=max(5.0, self._left() * min(share, 1.0)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            code, text = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            code, text = 124, (error.stdout or b"").decode(errors="replace")
        (self.options.out / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}: exit code {code}, {self.spent():.0f} s so far", flush=True)
        return code, text


if __name__ == "__main__":
    assert len(FAMILIES) == len(METHODS), "a method without a recipe here"
    sys.exit(main())

"""Each campaign makes faults at random (from a seed) and counts what became of them.

The tests run a few of each; `make reliability` runs all and prints the figures of docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

RECIPE = [
    *("--set", "network.width=8", "--set", "network.depth=2", "--set", "budget.outer_steps=4"),
    *("--set", "budget.speedup=1", "--set", "method.inner_steps=2", "--set", "method.network_samples=32"),
    *("--set", "method.real_batch=8", "--set", "model_augmentation.pool_size=2"),
    *("--set", "model_augmentation.pool_epochs=2", "--set", "evaluation.epochs=4", "--set", "evaluation.repeats=2"),
    *("--device", "cpu"),
]
DISTILL = ["distill", "digits", "--out", "run", "--checkpoint-every", "0", *RECIPE]
RESUME = [*DISTILL, "--resume"]
ONE_LINE = re.compile(r"ddistill: [^\n]+\n")


def context() -> multiprocessing.context.BaseContext:
    """Processes that start with everything imported: forked from a clean server that has never computed."""
    server = multiprocessing.get_context("forkserver")
    imported = ("ddistill.api", "ddistill.cli", "sklearn.datasets", "datasets", "jinja2", "torch._dynamo")
    server.set_forkserver_preload([*imported, "PIL.PngImagePlugin", "pyarrow.parquet"])
    return server


def command(words: list[str], folder: str, kill_at_write: int | None = None) -> None:
    """What a child runs: the command line, as `ddistill` would; it may kill itself at its n-th write."""
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["DDISTILL_CACHE"] = str(Path(folder) / "cache")
    os.environ["DDISTILL_KERNELS"] = "off"  # each trial has a cache of its own, and would compile them anew
    for name, descriptor in (("out.txt", 1), ("err.txt", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    if kill_at_write is not None:
        _kill_at_write(kill_at_write)
    sys.argv = ["ddistill", *words]
    from ddistill import cli

    try:
        cli.main()
    except SystemExit as done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(done.code if isinstance(done.code, int) else 1)


def _kill_at_write(n: int) -> None:
    """SIGKILL before or after the n-th of: data reach the disk, a file takes its name, a file is removed."""
    left = n

    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper

    os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)


@dataclass
class Child:
    """A process and the folder it works in."""

    process: multiprocessing.process.BaseProcess
    folder: Path

    def wait(self, seconds: float = 300.0) -> int:
        """Its exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "still running"
        return self.process.exitcode

    def errors(self) -> str:
        """What it printed to stderr."""
        return (self.folder / "err.txt").read_text(errors="replace")


def start(words: list[str], folder: Path, kill_at_write: int | None = None) -> Child:
    """Start `ddistill WORDS` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    process = context().Process(target=command, args=(words, str(folder), kill_at_write))
    process.start()
    return Child(process, folder)


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on interruptions: the bits of the artifact, and the accuracies."""
    summary = json.loads((run / "summary.json").read_text())
    return {
        "images": hashlib.sha256((run / "distilled" / "stored.safetensors").read_bytes()).hexdigest(),
        "accuracy": summary["accuracy"],
        "baselines": summary["baselines"],
    }


@dataclass
class Count:
    """Results of a campaign: how often each kind of outcome was seen, and the faults that must not be."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def reached(run: Path) -> str:
    """The phase that a killed run was in, from what it left."""
    if (run / "distilled" / "synthetic.json").exists():
        return "after the artifact"
    if (run / "distilled").exists():
        return "artifact"
    kept = run / "checkpoint" / "accuracies.jsonl"
    if kept.exists() or (run / "checkpoint" / "evaluation.safetensors").exists():
        return "evaluation"
    if any((run / "checkpoint").glob("step-*")) or any((run / "pictures").glob("*")):
        return "distillation"
    return "pool" if (run / "recipe.yaml").exists() else "start"


def kills(trials: int, folder: Path, seed: int = 0) -> Count:
    """SIGKILL at a random time or at a random write, then --resume: the bits must be those of the undisturbed run."""
    draws, count = random.Random(seed), Count()
    for name in ("first", "whole"):  # the first one waits for the server's imports
        began = time.monotonic()
        whole = start(DISTILL, folder / name)
        assert whole.wait() == 0, whole.errors()
        seconds = time.monotonic() - began
    expected = outcome(folder / "whole" / "run")
    for trial in range(trials):
        place = folder / f"trial-{trial}"
        by_time = trial % 5 < 3
        if by_time:
            child = start(DISTILL, place)
            time.sleep(draws.uniform(0.05, 1.02 * seconds))
            child.process.kill()
        else:
            child = start(DISTILL, place, kill_at_write=draws.randrange(1, 140))
        code = child.wait()
        phase = "finished before" if code == 0 else reached(place / "run")
        again = start(RESUME, place)
        if again.wait() != 0 or "Traceback" in again.errors():
            count.wrong.append(f"trial {trial}, killed in {phase}: {again.errors()}")
        elif outcome(place / "run") != expected:
            count.wrong.append(f"trial {trial}, killed in {phase}: other bits")
        elif any(path.name.startswith(".") for path in (place / "run").rglob("*")):
            count.wrong.append(f"trial {trial}, killed in {phase}: a temporary file is left")
        count.kinds[phase] += 1
        shutil.rmtree(place)
    return count


def in_process(words: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    from typer.testing import CliRunner

    from ddistill.cli import app

    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["ddistill", *words]
    try:
        result = CliRunner(env={"DDISTILL_CACHE": str(folder / "cache"), "DDISTILL_KERNELS": "off"}).invoke(app, words)
    finally:
        os.chdir(before)
        sys.argv = argv
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, result.stdout, f"Traceback: {result.exception!r}"
    return result.exit_code, result.stdout, result.stderr


def without_notes(text: str) -> str:
    """Stderr without remarks and progress."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(("note: ", "distilled: "))]
    return "".join(line for line in lines if not re.match(r"random(_decoded)?: ", line))


DAMAGES: dict[str, list[str]] = {
    "run/checkpoint/step-00000004.safetensors": RESUME,
    "run/checkpoint/step-00000003.safetensors": RESUME,
    "run/checkpoint/step-00000004.sha256": RESUME,
    "run/checkpoint/accuracies.jsonl": RESUME,
    "run/checkpoint/data.json": RESUME,
    "run/recipe.yaml": ["distill", "--recipe", "run/recipe.yaml", "--out", "again", "--device", "cpu"],
    "run/recipe.yaml (resumed)": RESUME,
    "run/summary.json": ["report", "run", "--out", "page.html"],
    "run/distilled/stored.safetensors": ["evaluate", "run", "--device", "cpu"],
    "run/distilled/synthetic.json": ["evaluate", "run", "--device", "cpu"],
    "POOL/pool.json": ["distill", "digits", "--out", "again", *RECIPE],
    "POOL/member-000.safetensors": ["distill", "digits", "--out", "again", *RECIPE],
}


def damages(trials: int, folder: Path, seed: int = 0) -> Count:
    """Truncate a file or flip one of its bits, then read it: same result as before, or one clear line."""
    draws, count = random.Random(seed), Count()
    whole = folder / "whole"
    whole.mkdir(parents=True)
    code, _, errors = in_process(DISTILL, whole)
    assert code == 0, errors
    in_process(["report", "run", "--out", "page.html"], whole)
    expected, page = outcome(whole / "run"), (whole / "page.html").read_bytes()
    evaluated = in_process(["evaluate", "run", "--device", "cpu"], whole)[1]
    pool = next((whole / "cache" / "pools").glob("*/pool.json")).parent.relative_to(whole)
    for trial in range(trials):
        name, words = list(DAMAGES.items())[trial % len(DAMAGES)]
        file = name.split(" ")[0].replace("POOL", str(pool))
        place = folder / "trial"
        shutil.copytree(whole, place)
        (place / "page.html").unlink()
        if words is RESUME:  # as if it had been cut off before the end
            (place / "run" / "summary.json").unlink()
        content = bytearray((place / file).read_bytes())
        if draws.random() < 0.3:
            what, content = "truncated", content[: draws.randrange(len(content))]
        else:
            what, position = "flipped", draws.randrange(len(content))
            content[position] ^= 1 << draws.randrange(8)
        (place / file).write_bytes(content)
        code, printed, errors = in_process(words, place)
        where = f"trial {trial}: {name} {what}: {' '.join(words[:2])}"
        if code in (1, 2) and ONE_LINE.fullmatch(without_notes(errors)):
            count.kinds[f"{name}: refused"] += 1
        elif code != 0:
            count.wrong.append(f"{where}: exit {code}: {errors}")
        elif words[0] == "distill" and outcome(place / words[words.index("--out") + 1]) != expected:
            count.wrong.append(f"{where}: accepted, other bits")
        elif words[0] == "evaluate" and printed != evaluated:
            count.wrong.append(f"{where}: accepted, another accuracy")
        elif words[0] == "report" and (place / "page.html").read_bytes() != page:
            count.wrong.append(f"{where}: accepted, another page")
        else:
            count.kinds[f"{name}: harmless"] += 1
        shutil.rmtree(place)
    return count


def arguments(trials: int, folder: Path, seed: int = 0) -> Count:
    """Generated recipes and argument lists: exit code 0 or 2; after 2 one line and no folder."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as hypothesis_seed

    from faults.generated import words

    count = Count()

    @hypothesis_seed(seed)
    @settings(
        max_examples=trials,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(words())
    def try_one(case: tuple[list[str], str | None]) -> None:
        line, recipe = case
        place = folder / "trial"
        place.mkdir(parents=True)
        if recipe is not None:
            (place / "recipe.yaml").write_text(recipe, encoding="utf-8")
        code, _, errors = in_process(line, place)
        left = sorted(path.name for path in place.iterdir() if path.name not in ("recipe.yaml", "cache"))
        if code == 2 and (left or not errors or "Traceback" in errors):
            count.wrong.append(f"{line} {recipe!r}: exit 2, left {left}: {errors}")
        elif code not in (0, 2):
            count.wrong.append(f"{line} {recipe!r}: exit {code}: {errors}")
        else:
            count.kinds[f"exit {code}"] += 1
        shutil.rmtree(place)

    try_one()
    return count


def races(trials: int, folder: Path) -> Count:
    """Two processes at once: on one run folder (one wins), then on one pool and one data cache (both finish)."""
    count = Count()
    images = _digit_images(folder / "images")
    data = ["distill", str(images), "--recipe", "idc-ma", *RECIPE]
    alone = folder / "alone"
    whole = start([*data, "--out", "run"], alone)
    assert whole.wait() == 0, whole.errors()
    expected = outcome(alone / "run")
    for trial in range(trials):
        place = folder / "trial"
        for kind, outs in (("same run folder", ("run", "run")), ("same pool and data cache", ("one", "two"))):
            shutil.rmtree(place, ignore_errors=True)
            children = [start([*data, "--out", out], place) for out in outs]
            codes = sorted(child.wait() for child in children)
            fine = codes == ([0, 2] if outs[0] == outs[1] else [0, 0])
            if not fine or any(outcome(place / out) != expected for out in outs):
                count.wrong.append(f"trial {trial}, {kind}: exits {codes}: {children[0].errors()}")
            elif len(list((place / "cache" / "pools").glob("*/pool.json"))) != 1:
                count.wrong.append(f"trial {trial}, {kind}: not one pool")
            else:
                count.kinds[kind] += 1
    shutil.rmtree(place, ignore_errors=True)
    return count


def _digit_images(folder: Path, per_class: int = 20) -> Path:
    """A folder of class folders, train and test, from scikit-learn's digits."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        chosen = digits.images[digits.target == label][: 2 * per_class]
        for index, image in enumerate(chosen):
            part = folder / ("train" if index < per_class else "test") / str(label)
            part.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).save(part / f"{index:03d}.png")
    return folder


def full_disk(trials: int, folder: Path) -> Count:
    """A tmpfs that fills up during the run: one clear line, exit 1; with room made, --resume gives the same bits.

    Raises:
        PermissionError: this user may not mount a tmpfs.
    """
    count = Count()
    whole = start(DISTILL, folder / "whole")
    assert whole.wait() == 0, whole.errors()
    expected = outcome(folder / "whole" / "run")
    draws = random.Random(0)
    for trial in range(trials):
        place = folder / f"disk-{trial}"
        place.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise PermissionError("a tmpfs cannot be mounted here")
        try:
            (place / "cache").symlink_to(folder / "whole" / "cache")
            (place / "ballast").write_bytes(b"x" * (4 * 2**20 - draws.randrange(8, 140) * 1024))
            first = start(DISTILL, place)
            code, errors = first.wait(), first.errors()
            (place / "ballast").unlink()
            again = start(RESUME, place)
            resumed = again.wait()
            clear = ONE_LINE.fullmatch(without_notes(errors)) and "no space left on device" in errors
            if (code == 1 and not clear) or code not in (0, 1):
                count.wrong.append(f"trial {trial}: exit {code}: {errors}")
            elif resumed != 0 or outcome(place / "run") != expected:
                count.wrong.append(f"trial {trial}: resumed: exit {resumed}: {again.errors()}")
            else:
                count.kinds["stopped with a clear line, resumed" if code else "enough room"] += 1
        finally:
            subprocess.run(["umount", str(place)], check=False)
            place.rmdir()
    return count


CAMPAIGNS: dict[str, tuple[Callable[[int, Path], Count], int]] = {
    "kills": (kills, 100),
    "damages": (damages, 1000),
    "arguments": (arguments, 1000),
    "races": (races, 50),
    "full_disk": (full_disk, 20),
}
"""Name, function, trials of the whole campaign."""

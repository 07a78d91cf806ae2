"""What grows with the classes, and how fast: 10, 100 and 1000 of them, as many images in each.

CIFAR-10, CIFAR-100, and 1000 classes made of CIFAR-100: each of its classes as it is, turned, mirrored, and with its
colours exchanged is a class of its own. A process for each set measures, for all classes together,

  start          decoding from a parquet file into an empty cache, and the first stored images;
  pool           an epoch of an early-stage network;
  distillation   a round of image updates in groups of 10 classes (DM), each class once; memory is that of an update;
  evaluation     an epoch of a network on the decoded images;
  artifact       written, loaded, decoded;
  page           the page of a run of one outer step;

seconds, peak resident memory (on Linux reset before each), and the exponent of their growth from 10 to 100 and from 100
to 1000 classes: 1 is in proportion to the classes, 0 is flat.

    python benchmarks/classes.py OUT [--cifar10 PATH] [--cifar100 PATH] [--images 20] [--ipc 2] [--width 16] [--save]

A set whose PATH is not given is generated: noise around a colour of the class, which costs the same.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddistill.data import DataSettings, ImageSet, load_data
from ddistill.engine import Observer, distill_data
from ddistill.engine.environment import machine, peak_memory_bytes, versions
from ddistill.engine.run import Session
from ddistill.recipe import Recipe
from ddistill.report import PAGE, write_page
from ddistill.runtime.execution import Execution
from ddistill.synthetic import initial_set, load_synthetic, save_synthetic
from ddistill.training import Trainer

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
GROUP, TEST_IMAGES, UPDATES = 10, 2, 10
SETS = ("cifar10", "cifar100", "cifar100 x 10")
MADE: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x,
    lambda x: np.rot90(x, 1, (1, 2)),
    lambda x: np.rot90(x, 2, (1, 2)),
    lambda x: np.rot90(x, 3, (1, 2)),
    lambda x: x[:, :, ::-1],
    lambda x: np.rot90(x[:, :, ::-1], 1, (1, 2)),
    lambda x: x[..., [1, 2, 0]],
    lambda x: x[..., [2, 0, 1]],
    lambda x: np.rot90(x[..., [1, 2, 0]], 2, (1, 2)),
    lambda x: np.rot90(x[..., [2, 0, 1]], 2, (1, 2)),
)
"""From uint8 (n, side, side, channels) to as many other images, a class of its own."""


def real_images(source: str | None, classes: int, images: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The first images of each class by part: uint8 (n, 32, 32, 3), and labels; generated where there is no source."""
    parts = {"train": images, "test": TEST_IMAGES}
    if source is None:
        draws, found = np.random.default_rng(0), {}
        for part, count in parts.items():
            colours = draws.integers(0, 160, (classes, 1, 1, 1, 3))
            pixels = (colours + draws.integers(0, 96, (classes, count, 32, 32, 3))).astype(np.uint8)
            found[part] = (pixels.reshape(-1, 32, 32, 3), np.arange(classes).repeat(count))
        return found
    data = load_data(source, DataSettings(label_column="fine_label" if classes == 100 else None))
    found = {}
    for part, split in (("train", data.train), ("test", data.test)):
        rows = [torch.nonzero(split.labels == c)[: parts[part], 0] for c in range(classes)]
        found[part] = (split.images[torch.cat(rows)].permute(0, 2, 3, 1).numpy(), split.labels[torch.cat(rows)].numpy())
    return found


def write_set(folder: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], times: int) -> None:
    """FOLDER/train.parquet and test.parquet, images as PNG, rows shuffled; each class ``times`` over, in new guises."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pictures

    for part, (pixels, labels) in parts.items():
        classes = int(labels.max()) + 1
        pixels = np.concatenate([made(pixels) for made in MADE[:times]])
        labels = np.concatenate([labels + classes * number for number in range(times)])
        names = [f"class {number}" for number in range(classes * times)]
        order, encoded = np.random.default_rng(0).permutation(len(labels)), []
        for image in pixels[order]:
            buffer = io.BytesIO()
            Pictures.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        columns = {"image": encoded, "label": labels[order].tolist()}
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{part}.parquet")


def forget_peak() -> None:
    """Let the peak of resident memory begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak() -> int:
    """Peak resident bytes since then."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return peak_memory_bytes(CPU)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measured(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds of this thread of work, seconds on the clock, and peak memory; and what came of it."""
    forget_peak()
    clock, busy = time.perf_counter(), time.process_time()
    value = work()
    about = {"seconds": time.process_time() - busy, "clock": time.perf_counter() - clock, "peak_memory_bytes": peak()}
    return about, value


def measure(folder: Path, ipc: int, width: int) -> dict[str, Any]:
    """All pieces of one set."""
    changes = {
        "method.name": "dm",
        "method.real_batch": 16,
        "method.classes_per_step": GROUP,
        "network.width": width,
        "network.depth": 3,
        "synthetic.ipc": ipc,
        "evaluation.epochs": 1,
        "evaluation.repeats": 1,
        "evaluation.baselines": (),
        "budget.outer_steps": 1,
    }
    found: dict[str, Any] = {}

    def start() -> Any:
        data = load_data(folder / "set")
        recipe = Recipe().changed(changes)
        return data, recipe, initial_set(recipe.synthetic, data, 0)

    found["start"], (data, recipe, synthetic) = measured(start)
    session = Session(data, recipe, None, Execution(CPU, recipe.run), Observer())
    trainer = session.factory(session.hot_path).trainer()
    found["pool"], _ = measured(lambda: trainer.run_epoch(torch.Generator().manual_seed(0)))
    method: Any = session.method(Trainer(session.network(), session.real, recipe.training), synthetic)
    updates = min(UPDATES, method.updates_per_round)
    some, _ = measured(lambda: [method.outer_step(step, lambda done, of: None) for step in range(1, updates + 1)])
    round_of = method.updates_per_round / updates
    found["distillation"] = {**some, **{key: some[key] * round_of for key in ("seconds", "clock")}}
    images, labels = synthetic.decoded()
    judged = Trainer(session.network(), ImageSet(images, labels, synthetic.normalisation), recipe.evaluation.training)
    found["evaluation"], _ = measured(lambda: judged.run_epoch(torch.Generator().manual_seed(0)))
    about = {"data": {"name": "bench", "fingerprint": ""}}

    def artifact() -> None:
        save_synthetic(synthetic, folder / "artifact", about)
        load_synthetic(folder / "artifact").to_dataset()

    found["artifact"], _ = measured(artifact)
    run = distill_data(data, recipe, out=folder / "run")
    found["page"], _ = measured(lambda: write_page([folder / "run"], folder / PAGE))
    found["page"]["bytes"] = (folder / PAGE).stat().st_size
    return {
        "classes": data.num_classes,
        "images": len(data.train),
        "stored": len(run.synthetic.images),
        "pieces": found,
    }


def exponents(rows: list[dict[str, Any]], piece: str, what: str) -> list[float]:
    """Of growth between neighbouring numbers of classes."""
    values = [(row["classes"], row["pieces"][piece][what]) for row in rows]
    return [
        round(math.log(max(b, 1e-9) / max(a, 1e-9)) / math.log(more / few), 2)
        for (few, a), (more, b) in pairwise(values)
    ]


def main() -> None:
    """Measure each set in a process of its own; print a table and, last, a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cifar10", help="as `ddistill distill` takes it")
    parser.add_argument("--cifar100", help="with the label column fine_label")
    parser.add_argument("--images", type=int, default=20, help="real images of a class")
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.out, options.ipc, options.width)))
        return
    sources = {10: options.cifar10, 100: options.cifar100}
    for classes, source in sources.items():
        if source is None:
            print(f"no CIFAR-{classes} was given (--cifar{classes} PATH): generated images stand for it", flush=True)
    rows = []
    for name, base, times in zip(SETS, (10, 100, 100), (1, 1, len(MADE)), strict=True):
        folder = options.out / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        write_set(folder / "set", real_images(sources[base], base, options.images), times)
        words = [sys.executable, __file__, str(folder), "--child", "--ipc", str(options.ipc)]
        environment = {**os.environ, "DDISTILL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        words += ["--width", str(options.width)]
        said = subprocess.run(words, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"set": name, "generated": sources[base] is None, **json.loads(said.splitlines()[-1])})
        print(json.dumps(rows[-1]), flush=True)
    growth = {
        piece: {what: exponents(rows, piece, what) for what in ("seconds", "peak_memory_bytes")}
        for piece in rows[0]["pieces"]
    }
    print(
        f"{'':<14}" + "".join(f"{row['classes']:>20}" for row in rows) + f"{'growth of seconds':>22}{'of memory':>16}"
    )
    for piece, found in growth.items():
        cells = "".join(
            f"{row['pieces'][piece]['seconds']:>9.2f} s {row['pieces'][piece]['peak_memory_bytes'] / 2**20:>5.0f} MiB"
            for row in rows
        )
        ends = (", ".join(map(str, found[what])) for what in ("seconds", "peak_memory_bytes"))
        print(f"{piece:<14}{cells}{next(ends):>22}{next(ends):>16}")
    result: dict[str, Any] = {
        "sets": rows,
        "growth": growth,
        "group": GROUP,
        "ipc": options.ipc,
        "width": options.width,
    }
    result |= {"versions": versions(), "machine": machine(CPU), "date": datetime.date.today().isoformat()}
    if options.save:
        name = f"{result['date']}-classes.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

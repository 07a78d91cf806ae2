"""Data larger than memory: decoding, a decoding that is killed again and again, reading ahead, memory of a run.

Makes a folder of small images in many classes (200,000 in 1000 by default), then measures in processes of their own:

  decoding   images per second, size of the cache, peak resident memory;
  kills      decoding into another cache, killed at random moments, ends with the same bytes;
  reading    batches from a file that is not in memory, with and without reading ahead while computing;
  run        a short DM run over all classes: peak resident memory, files that are mapped counted.

    python benchmarks/large_data.py OUT [--images 200000] [--classes 1000] [--size 32] [--kills 20] [--save]
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddistill.data import load_data
from ddistill.data.rows import expect, open_rows
from ddistill.engine.environment import machine, peak_memory_bytes, versions

RESULTS = Path(__file__).parent / "results"
TEST_SHARE = 0.02
BATCH, BATCHES = 64, 300


def make_images(folder: Path, images: int, classes: int, size: int) -> None:
    """ROOT/PART/CLASS/NUMBER.png: coarse noise around a colour of the class."""
    draws = np.random.default_rng(0)
    for c in range(classes):
        colour = draws.integers(0, 160, 3)
        for number in range(images // classes):
            part = "test" if number < TEST_SHARE * images / classes else "train"
            home = folder / part / f"class-{c:04d}"
            home.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray((colour + draws.integers(0, 96, (8, 8, 3))).astype(np.uint8))
            coarse.resize((size, size)).save(home / f"{number:04d}.png", compress_level=1)


def child(task: str, images: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    """This file in another process, with a cache folder of its own."""
    words = [sys.executable, __file__, str(images), "--task", task, *more]
    return subprocess.Popen(words, env={**os.environ, "DDISTILL_CACHE": str(cache)}, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON line that a finished child printed last."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a child failed with exit code {process.returncode}")
    return json.loads(said.splitlines()[-1])


def decode(images: Path) -> dict[str, Any]:
    """Load, and say what it took."""
    began = time.perf_counter()
    data = load_data(images)
    seconds = time.perf_counter() - began
    count = len(data.train) + len(data.test)
    return {
        "images": count,
        "seconds": round(seconds, 1),
        "images_per_second": round(count / seconds),
        "peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
        "fingerprint": data.fingerprint,
    }


def read(images: Path, path: Path) -> dict[str, Any]:
    """Seconds of random batches from a file that the system has dropped, each followed by some computing."""
    rows, a = open_rows(path), torch.randn(256, 256)
    draws = torch.Generator().manual_seed(0)

    def all_batches(ahead: bool) -> float:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        order = torch.randint(len(rows), (BATCHES, BATCH), generator=draws)
        began = time.perf_counter()
        for number, batch in enumerate(order):
            if ahead and number + 1 < len(order):
                expect(rows, order[number + 1])
            rows[batch].sum()
            for _ in range(20):
                a @ a
        return time.perf_counter() - began

    times: dict[str, list[float]] = {"plain": [], "ahead": []}
    for _ in range(3):
        times["plain"].append(round(all_batches(False), 2))
        times["ahead"].append(round(all_batches(True), 2))
    return times


def files_digest(cache: Path) -> str:
    """Of names and contents of all decoded images in a cache."""
    digest = hashlib.sha256()
    for path in sorted(cache.glob("data/*/*.npy")):
        digest.update(path.name.encode())
        with path.open("rb") as content:
            while block := content.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def decode_killed(images: Path, cache: Path, kills: int, longest: float) -> dict[str, Any]:
    """Decode, killed ``kills`` times at random seconds after the first images of a process, then let it end."""
    draws = random.Random(0)
    done: list[float] = []
    while len(done) < kills:
        process = child("decode", images, cache)
        before = sum(map(_done, cache.glob("data/*/*-decoded.json")))
        while process.poll() is None and sum(map(_done, cache.glob("data/*/*-decoded.json"))) == before:
            time.sleep(0.1)
        try:
            process.wait(draws.uniform(0.0, longest))
            return {"kills": len(done), "images_done_at_each": done, **answer(process)}
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        done.append(sum(map(_done, cache.glob("data/*/*-decoded.json"))))
    return {"kills": kills, "images_done_at_each": done, **answer(child("decode", images, cache))}


def _done(path: Path) -> int:
    return json.loads(path.read_text(encoding="utf-8"))["done"]


def run(images: Path, cache: Path, out: Path) -> dict[str, Any]:
    """A short DM run on all classes; what its summary says."""
    settings = ["network.width=8", "network.depth=2", "budget.outer_steps=3", "budget.speedup=1", "evaluation.epochs=2"]
    settings += ["model_augmentation.pool_size=1", "model_augmentation.pool_epochs=1", "method.real_batch=64"]
    settings += ["evaluation.repeats=1", "evaluation.baselines=[]"]
    words = [sys.executable, "-m", "ddistill", "distill", str(images), "--recipe", "dm-ma", "--ipc", "1"]
    words += [part for setting in settings for part in ("--set", setting)]
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([*words, "--out", str(out)], check=True, env={**os.environ, "DDISTILL_CACHE": str(cache)})
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {name: summary[name] for name in ("peak_memory_bytes", "seconds", "stored_images")}


def main() -> None:
    """Measure, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds that a process decodes, at most")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--task", choices=["decode", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(decode(options.out) if options.task == "decode" else read(options.out, options.path)))
        return
    images, cache, killed = (options.out / name for name in ("images", "cache", "cache-killed"))
    if not images.exists():
        make_images(images, options.images, options.classes, options.size)
    for folder in (cache, killed):
        shutil.rmtree(folder, ignore_errors=True)
    result: dict[str, Any] = {"classes": options.classes, "size": options.size}
    result["decoding"] = answer(child("decode", images, cache))
    result["loading again"] = answer(child("decode", images, cache))
    result["cache_bytes"] = sum(path.stat().st_size for path in cache.glob("data/*/*"))
    print(json.dumps(result), flush=True)
    result["killed"] = decode_killed(images, killed, options.kills, options.longest)
    same = files_digest(cache) == files_digest(killed)
    result["killed"]["same_cache"] = same and result["killed"]["fingerprint"] == result["decoding"]["fingerprint"]
    print(json.dumps(result["killed"]), flush=True)
    (decoded,) = cache.glob("data/*/train-decoded.npy")
    result["reading"] = answer(child("read", images, cache, "--path", str(decoded)))
    result["run"] = run(images, cache, options.out / "run")
    result |= {"versions": versions(), "machine": machine(torch.device("cpu"))}
    if options.save:
        name = f"{datetime.date.today().isoformat()}-large-data.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

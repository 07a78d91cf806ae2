"""Seconds of one inner step of IDC by phase: the slow reference, and the fast code in fp32, TF32 (on a GPU) and bf16.

CIFAR-10 shapes (10 classes, 64 real and 40 decoded images each, 2000 network samples), random pixels. The kinds take
turns in one process, so that a drift of the machine hits all of them; warm-up and compilation are not counted.
"evaluation" is a number of training steps on a decoded set. Ratios are medians of the ratios of neighbouring trials;
the achieved rate (FLOPs by torch's counter) stands over the rate of a large product measured in the same run.

    python benchmarks/hot_path.py [--width 128] [--trials 5] [--device cpu] [--bf16 auto] [--growth] [--save]

Prints tables and, last, one JSON line. ``--growth`` measures, each in a process of its own and eager, how time and
peak memory grow with classes, ipc, size and width. ``--save`` also writes the JSON and a plot to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ddistill.augment import Normalisation
from ddistill.data import ImageSet
from ddistill.engine.environment import machine, peak_memory_bytes, versions
from ddistill.evaluation import EvaluationSettings
from ddistill.methods import Context, GradientMatching, IDCSettings
from ddistill.networks import NetworkSettings, build_network, runs_on_kernels
from ddistill.runtime.distributed import ALONE, Ranks
from ddistill.runtime.execution import Execution
from ddistill.runtime.memory import keep_freed_memory
from ddistill.runtime.randomness import generator
from ddistill.synthetic import SyntheticSet
from ddistill.training import EAGER, Resolved, Trainer, TrainingSettings
from ddistill.training.precision import has_fast_bf16

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference import convnet, matching

PER_CLASS, FACTOR = 200, 2
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
EVALUATION_STEPS = 10
PRODUCT_SIDE = {"cpu": 3072, "cuda": 16384}
RESULTS = Path(__file__).parent / "results"
GROWTH = [
    {"classes": 10},
    {"classes": 100},
    {"ipc": 1},
    {"ipc": 50},
    {"size": 64, "depth": 4},
    {"size": 128, "depth": 5},
    {"width": 128},
]

Phases = dict[str, Callable[[], object]]
Shape = dict[str, int]
SHAPE: Shape = {"classes": 10, "ipc": 10, "size": 32, "width": 32, "depth": 3, "samples": 2000}


def fast_phases(
    shape: Shape,
    compiled: bool | None,
    precision: Resolved,
    device: torch.device,
    ranks: Ranks = ALONE,
    inner_steps: int = 1,
) -> tuple[Phases, GradientMatching]:
    """Class loop, network training and training on the decoded set, by the package.

    ``compiled`` None: as a long run would have it, which on a CPU is the kernels and no compiler.
    """
    draws = torch.Generator().manual_seed(0)
    classes, ipc, size = shape["classes"], shape["ipc"], shape["size"]
    real = torch.randint(0, 256, (classes * PER_CLASS, 3, size, size), dtype=torch.uint8, generator=draws)
    labels = torch.arange(classes).repeat_interleave(PER_CLASS)
    stored = torch.rand(classes * ipc, 3, size, size, generator=draws).to(device)
    own = torch.arange(classes).repeat_interleave(ipc).to(device)
    names = tuple(f"class {c}" for c in range(classes))
    synthetic = SyntheticSet(stored, own, names, FACTOR, "single", Normalisation(MEAN, STD))
    settings = NetworkSettings(width=shape["width"], depth=shape["depth"])
    network = build_network(settings, classes, 3, size, "bench").to(device)
    if compiled is None:
        compiled = not runs_on_kernels(network, device)
    source = ImageSet(real.to(device), labels.to(device), Normalisation(MEAN, STD))
    trainer = Trainer(
        network,
        source,
        TrainingSettings(),
        compiled=compiled,
        precision=precision,
        captured="network",
    )
    offsets = [PER_CLASS * c for c in range(classes + 1)]
    hot_path = replace(EAGER, precision=precision, compiled=compiled)
    method = GradientMatching(
        IDCSettings(inner_steps=inner_steps, network_samples=shape["samples"]),
        Context(trainer, offsets, synthetic, 0, hot_path, Execution(device, ranks=ranks)),
    )
    plan, (positions, training) = method.draw(1), method.network_draws(1)
    batches = list(positions[0])
    decoded, decoded_labels = synthetic.decoded()
    judge = Trainer(
        build_network(settings, classes, 3, size, "judge").to(device),
        ImageSet(decoded, decoded_labels, Normalisation(MEAN, STD)),
        EvaluationSettings().training,
        compiled=compiled,
        precision=precision,
        captured="evaluation",
    )
    order = [
        torch.randint(len(decoded), (64,), generator=generator(0, "order", i)).to(device)
        for i in range(EVALUATION_STEPS)
    ]
    # copies, as runs train them
    ahead, judged = trainer.alike(source), judge.alike(judge.image_set)
    return {
        "matching": lambda: method.image_step(0, plan),
        "network": lambda: ahead.run(batches, training),
        "evaluation": lambda: judged.run(order, generator(0, "judge")),
    }, method


def reference_phases(shape: Shape, device: torch.device) -> Phases:
    """The same work, written from the formulas; without augmentation, which is a few percent."""
    _, method = fast_phases(shape, False, "fp32", device)
    context, plan = method.context, method.draw(1)
    stored = context.synthetic.images.view(shape["classes"], shape["ipc"], 3, shape["size"], shape["size"])
    real = [context.real.fetch(plan.real[c, 0]) for c in range(shape["classes"])]
    batches = list(method.network_draws(1)[0][0])
    fixed = {name: p.detach() for name, p in context.network.named_parameters()}
    trained = {name: p.detach().clone().requires_grad_() for name, p in fixed.items()}
    optimiser = torch.optim.SGD(trained.values(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def match() -> None:
        matching.class_loop(
            lambda parameters, images: convnet.convnet_forward(parameters, images, shape["depth"]),
            fixed,
            stored,
            None,
            real,
            MEAN,
            STD,
            FACTOR,
            matching.decode_single,
            matching.distance_mse,
            0.01,
        )

    def train(count: int) -> None:
        for batch in batches[:count]:
            images = matching.normalise(context.real.fetch(batch), MEAN, STD)
            logits = convnet.convnet_forward(trained, images, shape["depth"])
            loss = F.cross_entropy(logits, context.real.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return {"matching": match, "network": lambda: train(len(batches)), "evaluation": lambda: train(EVALUATION_STEPS)}


def timed(phase: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    phase()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def set_tf32(kind: str) -> None:
    """Let a GPU's float32 products be TF32 where that is the kind, and nowhere else."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"


def product_rate(precision: str, device: torch.device, trials: int) -> float:
    """FLOP/s of a large square product, the best of some trials."""
    side = PRODUCT_SIDE[device.type]
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2.0 * side**3 / min(timed(lambda: a @ a, device) for _ in range(trials + 1))


def measure(shape: Shape, trials: int, precisions: list[str], device: torch.device) -> dict[str, Any]:
    """Times of all kinds, interleaved."""
    kinds: dict[str, Phases] = {"reference": reference_phases(shape, device)}
    flops = 0.0
    for precision in precisions:
        rounded: Resolved = "bf16" if precision == "bf16" else "fp32"
        kinds[precision], method = fast_phases(shape, None, rounded, device)
        flops = flops or method.flops_per_outer_step()
    warm_up: dict[str, float] = {}
    for kind, phases in kinds.items():
        set_tf32(kind)  # what is captured now keeps it
        warm_up[kind] = sum(timed(phase, device) for phase in phases.values())
    seconds: dict[str, dict[str, list[float]]] = {kind: {phase: [] for phase in kinds[kind]} for kind in kinds}
    for _ in range(trials):
        for kind, phases in kinds.items():
            set_tf32(kind)
            for name, phase in phases.items():
                seconds[kind][name].append(timed(phase, device))
    for times in seconds.values():
        times["inner step"] = [a + b for a, b in zip(times["matching"], times["network"], strict=True)]
    rates = {}
    for precision in precisions:
        set_tf32(precision)
        rates[precision] = product_rate(precision, device, trials)
    median = {kind: {name: statistics.median(t) for name, t in times.items()} for kind, times in seconds.items()}

    def ratio(kind: str, phase: str) -> float:
        pairs = zip(seconds["reference"][phase], seconds[kind][phase], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    print(f"{'':<12}{'matching s':>12}{'network s':>12}{'inner step s':>14}{'(min - max)':>18}{'warm-up s':>12}")
    for kind in kinds:
        whole = seconds[kind]["inner step"]
        print(
            f"{kind:<12}{median[kind]['matching']:>12.3f}{median[kind]['network']:>12.3f}"
            f"{median[kind]['inner step']:>14.3f}{f'({min(whole):.2f} - {max(whole):.2f})':>18}{warm_up[kind]:>12.1f}"
        )
    return {
        "ratio": {
            phase.replace(" ", "_"): {kind: ratio(kind, phase) for kind in precisions}
            for phase in ("inner step", "matching", "network", "evaluation")
        },
        "rate_fraction": {kind: round(flops / median[kind]["inner step"] / rates[kind], 3) for kind in precisions},
        "product_flops_per_second": rates,
        "flops": flops,
        "seconds": {kind: {name: round(value, 5) for name, value in times.items()} for kind, times in median.items()},
        "spread_seconds": {
            kind: [round(min(times["inner step"]), 4), round(max(times["inner step"]), 4)]
            for kind, times in seconds.items()
        },
        "warm_up_seconds": {kind: round(value, 2) for kind, value in warm_up.items()},
    }


def growth(device: str) -> list[dict[str, Any]]:
    """Seconds and peak memory of one eager inner step at other shapes, each in a fresh process."""
    rows = []
    print(f"{'shape':<34}{'seconds':>10}{'memory of the step, MiB':>26}")
    for change in GROWTH:
        shape = {**SHAPE, "samples": 256, **change}
        words = [sys.executable, __file__, "--device", device, "--one", json.dumps(shape)]
        row = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append({"shape": shape, **row})
        print(f"{json.dumps(change):<34}{row['seconds']:>10.2f}{row['bytes'] / 2**20:>26.0f}", flush=True)
    return rows


def one(shape: Shape, device: torch.device) -> dict[str, float]:
    """One eager inner step: seconds of the second call, and what the peak grows by over what there was before."""
    phases, _ = fast_phases(shape, False, "fp32", device)
    before = from_here(device)
    for name in ("matching", "network"):
        phases[name]()
    grown = highest(device) - before
    seconds = sum(timed(phases[name], device) for name in ("matching", "network"))
    return {"seconds": seconds, "bytes": grown}


def from_here(device: torch.device) -> int:
    """Memory in use now; `highest` gives the peak from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what a step takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak
    return resident("VmRSS")


def highest(device: torch.device) -> int:
    """The peak since `from_here`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def save(result: dict[str, Any], device: str) -> None:
    """JSON and a plot by date and device."""
    import matplotlib.pyplot as plt

    RESULTS.mkdir(exist_ok=True)
    name = f"{datetime.date.today().isoformat()}-hot-path-{device}-width{result['width']}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure, axes = plt.subplots(figsize=(6, 3))
    kinds = list(result["seconds"])
    left = [0.0] * len(kinds)
    for phase in ("matching", "network"):
        widths = [result["seconds"][kind][phase] for kind in kinds]
        axes.barh(kinds, widths, left=left, label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("seconds of one inner step")
    axes.invert_yaxis()
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=100)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="filters of the ConvNet (the paper's is 128)")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", choices=["auto", "on", "off"], default="auto", help="auto: where the hardware has it")
    parser.add_argument("--samples", type=int, default=SHAPE["samples"], help="real images of the network training")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.one:
        print(json.dumps(one(options.one, device)))
        return
    with_bf16 = options.bf16 == "on" or (options.bf16 == "auto" and has_fast_bf16(device))
    precisions = ["fp32", *(["tf32"] if device.type == "cuda" else []), *(["bf16"] if with_bf16 else [])]
    result = measure({**SHAPE, "width": options.width, "samples": options.samples}, options.trials, precisions, device)
    if options.growth:
        result["growth"] = growth(options.device)
    result |= {
        "width": options.width,
        "trials": options.trials,
        "peak_memory_bytes": peak_memory_bytes(device),
        "versions": versions(),
        "machine": machine(device),
    }
    if options.save:
        save(result, device.type)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

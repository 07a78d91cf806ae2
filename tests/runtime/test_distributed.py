"""Several processes that make one run: what they exchange, and that results do not depend on their number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks_program import RUNS
from safetensors.torch import load_file

from ddistill.runtime.distributed import ALONE, Ranks, current, is_launched
from ddistill.runtime.errors import UserError

TESTS = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
GROUPS = ["dm in groups", "idc in groups"]
FEW = ["idc", "idc pool", "dc", *GROUPS]
MANY = [name for name in RUNS if name not in FEW]
TINY_RUN = ["distill", "digits", "--ipc", "1", "--set", "evaluation.epochs=5", "--set", "evaluation.repeats=1"]
TINY_RUN += ["--set", "method.inner_steps=2", "--set", "method.distance=mse", "--set", "network.width=16"]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DDISTILL_CACHE": str(tmp_path / "cache"), **more}


def launched(tmp_path: Path, processes: int, *runs: str) -> Path:
    """The folder that processes wrote some of `RUNS` into, or tried every exchange in."""
    out = tmp_path / str(processes)
    out.mkdir()
    start = [*LAUNCH[:-1], f"--nproc-per-node={processes}"] if processes > 1 else [sys.executable]
    words = [*start, str(TESTS / "ranks_program.py"), str(out), *runs]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])  # this package, also where another copy is installed
    place = environment(tmp_path, DDISTILL_CACHE=str(out / "cache"), PYTHONPATH=path)
    done = subprocess.run(words, env=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 5, 10])
def test_shares_are_all_there_is_and_even(count, total):
    shares = [Ranks(rank, count).share(total) for rank in range(count)]
    assert [thing for share in shares for thing in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rounds_give_each_rank_one_thing():
    ranks = [Ranks(rank, 3) for rank in range(3)]
    groups = list(ranks[0].rounds("abcde"))
    assert groups == [["a", "b", "c"], ["d", "e"]]
    assert [rank.assigned(groups[1]) for rank in ranks] == ["d", "e", None]


def test_alone_nothing_is_exchanged():
    tensor = torch.ones(3)
    ALONE.add_([tensor])
    ALONE.join_rows_([tensor], slice(1, 2))
    ALONE.broadcast_([tensor])
    assert tensor.tolist() == [1.0] * 3
    assert (ALONE.from_first(4), ALONE.gather(4), ALONE.any(True), ALONE.first_does(lambda: 4)) == (4, [4], True, 4)
    assert current() == ALONE
    assert not is_launched()
    with pytest.raises(UserError, match="mine") as caught:
        ALONE.first_does(lambda: (_ for _ in ()).throw(UserError("mine")))
    assert not caught.value.told


def test_exchanges(tmp_path):
    out = launched(tmp_path, 2)
    assert sorted(path.name for path in out.glob("primitives-*")) == ["primitives-0", "primitives-1"]


@pytest.mark.parametrize(
    ("processes", "names"),
    [(2, FEW), pytest.param(3, FEW, marks=pytest.mark.slow), pytest.param(2, MANY, marks=pytest.mark.slow)],
)
def test_results_do_not_depend_on_the_number_of_processes(tmp_path, processes, names):
    alone, several = launched(tmp_path, 1, *names), launched(tmp_path, processes, *names)
    for name in names:
        expected = load_file(alone / f"{name}-0.safetensors")["images"]
        about = json.loads((alone / f"{name}-0.json").read_text())
        for rank in range(processes):
            images = load_file(several / f"{name}-{rank}.safetensors")["images"]
            found = json.loads((several / f"{name}-{rank}.json").read_text())
            assert found["processes"] == processes
            if name == "idc chunks":  # other classes share a launch
                assert (images - expected).abs().max() < 1e-4
                continue
            assert torch.equal(images, expected), name
            assert found["accuracy"] == about["accuracy"], name
        files = {path.relative_to(alone) for path in alone.glob(f"{name}/**/*") if "pictures" not in path.parts}
        assert {path.relative_to(several) for path in several.glob(f"{name}/**/*") if "pictures" not in path.parts} == (
            files
        )
    judged = [json.loads((several / f"judged-{rank}.json").read_text()) for rank in range(processes)]
    assert all(one == json.loads((alone / "judged-0.json").read_text()) for one in judged)


def test_three_processes_that_share_a_group_unevenly_give_the_same_bits(tmp_path):
    alone, three = launched(tmp_path, 1, *GROUPS), launched(tmp_path, 3, *GROUPS)
    for name in GROUPS:
        expected = load_file(alone / f"{name}-0.safetensors")["images"]
        for rank in range(3):
            assert torch.equal(load_file(three / f"{name}-{rank}.safetensors")["images"], expected), name


def steps_done(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_text().count('"outer step"') if log.exists() else 0


def process_of_rank(rank: int, run: Path) -> int:
    """The process number of a rank that works on a run."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(run).encode() in words and f"\0RANK={rank}\0".encode() in (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the process in /proc")
@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_lost_process_ends_the_run_and_one_process_goes_on(tmp_path, lost):
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = [*TINY_RUN, "--set", "budget.outer_steps=20", "--set", "budget.speedup=1"]
    words += ["--checkpoint-every", "0"]
    place = environment(tmp_path)
    started = subprocess.Popen(
        [*LAUNCH, "-m", "ddistill", *words, "--out", str(run)], env=place, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while steps_done(run) < 3 and started.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process_of_rank(lost, run), signal.SIGKILL)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 1
    assert f"process {1 - lost} of 2: another process of this run was lost" in said
    assert "--resume" in said
    assert (run / "checkpoint").is_dir()
    done = steps_done(run)
    assert 3 <= done < 20
    for folder, more in ((run, ["--resume"]), (whole, [])):
        command = [sys.executable, "-m", "ddistill", *words, "--out", str(folder), *more]
        subprocess.run(command, env=place, check=True, capture_output=True)
    images = [load_file(folder / "distilled" / "stored.safetensors")["images"] for folder in (run, whole)]
    assert torch.equal(*images)
    assert steps_done(run) in range(20, 22)


def test_a_mistake_is_told_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    done = subprocess.run(
        [*LAUNCH, "-m", "ddistill", *TINY_RUN, "--out", str(tmp_path / "run")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stderr.count("is not empty") == 1
    assert "ddistill: process 0 of 2" in done.stderr


def test_a_world_that_torchrun_did_not_make_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ddistill", *TINY_RUN, "--out", str(tmp_path / "run")],
        env=environment(tmp_path, WORLD_SIZE="2"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "start them with `torchrun" in done.stderr

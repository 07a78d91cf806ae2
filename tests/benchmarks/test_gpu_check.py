"""What `make gpu-check` does, at toy size on a CPU."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from ddistill.methods import METHODS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_check


def test_every_method_makes_two_outer_steps_and_one_that_fails_stops_no_other(capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "FAMILIES", ("nothing", *gpu_check.FAMILIES))
    gpu_check.run_methods("cpu", toy=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["family"] for row in rows] == list(gpu_check.FAMILIES)
    assert "unknown recipe" in rows[0]["error"]
    assert len(rows) == len(METHODS) + 1
    assert all(row["accuracy"]["mean"] > 0 and row["execution"]["precision"] == "fp32" for row in rows[1:])


@pytest.mark.parametrize(("error", "agrees"), [(1e-7, True), (1e-3, False), (float("nan"), False)])
def test_a_kernel_that_does_not_agree_with_torch_fails_its_part(error, agrees, monkeypatch, tmp_path):
    step = {"seconds": {"fp32": {"inner step": 0.02}}}
    printed = {
        "kernels-errors": {"kind": "network", "case": [3, 9], "errors": {"images": error}, "most": 1e-5},
        "kernels-times": [{"operator": "first convolution: weights", "milliseconds": {"triton": 0.01}}],
        "kernels-steps": step,
    }
    asked = {}

    def call(self, name: str, share: float, *words: str, **more: str) -> tuple[int, str]:
        asked[name] = more
        return 0, "some words\n" + json.dumps(printed[name])

    monkeypatch.setattr(gpu_check.Check, "_call", call)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    options = argparse.Namespace(out=tmp_path, device="cuda", toy=False, minutes=1.0)
    found = gpu_check.Check(options).kernels(0.4)
    assert found["ok"] == agrees
    assert set(asked) == (set(printed) if agrees else {"kernels-errors"})
    assert all(more == {"DDISTILL_KERNELS": "triton"} for more in asked.values())
    assert not agrees or (found["measured"] == step and found["shown"].endswith("fp32 20 ms"))

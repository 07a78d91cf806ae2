"""What `make gpu-check` does, at toy size on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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

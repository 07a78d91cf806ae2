"""The queue of full-scale results: one long run gives the shorter ones, to the bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddistill.data import load_data
from ddistill.reproduce import Sources, Store
from ddistill.reproduce.runs import run_cell

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_results

QUICK = {"evaluation.epochs": 2, "evaluation.repeats": 2, "method.inner_steps": 1, "method.network_samples": 16}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def quick(job):
    return replace(job, cells=tuple(replace(cell, recipe=cell.recipe.changed(QUICK)) for cell in job.cells))


def test_what_is_cut_from_a_long_run_is_what_a_short_run_gives(digits, tmp_path):
    job = quick(next(job for job in gpu_results.queue("tiny", range(1)) if len(job.cells) > 1))
    assert [cell.recipe.budget.steps for cell in job.cells] == [4, 2, 1]
    results = gpu_results.run(job, digits, tmp_path / "long")
    for cell, result in zip(job.cells, results, strict=True):
        alone = run_cell(cell, digits, tmp_path / f"{cell.labels['speedup']}")
        assert (result.key, result.accuracy) == (alone.key, alone.accuracy)
        assert result.flops == alone.flops
        assert result.about["outer_steps"] == alone.about["outer_steps"] == cell.recipe.budget.steps
        assert result.about["cut_from"]["outer_steps"] == 4


def test_every_run_of_the_tables_comes_once_and_what_is_known_is_left_out(digits, tmp_path):
    jobs = gpu_results.queue("full", range(1))
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert [job.table for job in jobs[:18]] == ["along training"] * 12 + ["table3a"] * 6
    assert {job.cells[0].recipe.name for job in jobs[:12]} == {
        f"tgdd{kind}-{data}" for kind in ("", "-ma") for data in ("cifar10", "cifar100")
    }
    assert {job.cells[0].recipe.budget.steps for job in jobs[12:18]} == {400}
    assert "model augmentation" in names[12]
    tiny = [quick(job) for job in gpu_results.queue("tiny", range(1)) if job.table == "table3a"][:2]
    sources, store = Sources({"digits": "digits"}), Store(tmp_path / "results.jsonl")
    assert gpu_results.pending(tiny, store, sources) == tiny
    for result in gpu_results.run(tiny[0], digits, tmp_path):
        store.add(result)
    assert gpu_results.pending(tiny, store, sources) == tiny[1:]

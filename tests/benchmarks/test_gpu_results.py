"""The queue of full-scale results: one long run gives the shorter ones, to the bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddistill.data import load_data
from ddistill.reproduce import DataSources, Store, cells_of
from ddistill.reproduce.runs import cell_key, folder_of, run_cell

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_results

QUICK = {"evaluation.epochs": 2, "evaluation.repeats": 2, "method.inner_steps": 1, "method.network_samples": 16}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def quick(job):
    return replace(job, cells=tuple(replace(cell, recipe=cell.recipe.changed(QUICK)) for cell in job.cells))


def test_single_factors_come_last_and_have_results_of_their_own(digits, tmp_path):
    jobs = gpu_results.queue("full", range(1))
    last = [job for job in jobs if job.table == "factors"]
    assert jobs[-len(last) :] == last
    cells = [job.cells[0] for job in last]
    assert [(cell.labels["factor"], cell.labels["seed"]) for cell in cells] == [
        ("as the recipe", 0),
        ("as the recipe", 1),
        ("as the recipe", 2),
        ("image rate 0.02", 0),
        ("normalised by measured constants", 0),
        ("tf32", 0),
        ("fp32", 0),
        ("10 networks in the pool", 0),
    ]
    assert {(cell.recipe.budget.steps, cell.recipe.synthetic.ipc) for cell in cells} == {(100, 10)}
    usual, *others = (cell.recipe for cell in cells if cell.labels["seed"] == 0)
    assert (usual.method.image_lr, usual.data.constants, usual.model_augmentation.pool_size) == (0.01, "cifar10", 5)
    assert (others[0].method.image_lr, others[1].data.constants) == (0.02, "measured")
    assert (others[2].run.precision, others[3].run.precision) == ("fp32", "fp32")
    assert others[4].model_augmentation.pool_size == 10
    # of the ladder of Table 3a at speed-up 20, which is not run again
    ladder = next(job for job in jobs if job.name.startswith("table3a cifar10 idc 10 model augmentation"))
    assert cell_key(ladder.cells[-1], digits) == cell_key(cells[0], digits)
    assert len({cell_key(cell, digits) for cell in cells}) == len(cells)
    assert len({folder_of(cell, digits, tmp_path) for cell in cells}) == len(cells)


def test_how_floats_are_multiplied_is_set_for_a_run_and_set_back(digits, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("ddistill.reproduce.runs._distilled", lambda *_: seen.append(rounded()))

    def rounded():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = rounded()
    for cell in cells_of("factors", "tiny", range(1)):
        if cell.labels["seed"] == 0:
            run_cell(cell, digits, tmp_path)
    assert seen == [before] * 3 + [(True, True), (False, False), before]
    assert rounded() == before


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
    sources, store = DataSources({"digits": "digits"}), Store(tmp_path / "results.jsonl")
    assert gpu_results.pending(tiny, store, sources) == tiny
    for result in gpu_results.run(tiny[0], digits, tmp_path):
        store.add(result)
    assert gpu_results.pending(tiny, store, sources) == tiny[1:]

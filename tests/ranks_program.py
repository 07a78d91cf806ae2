"""What the processes of `runtime/test_distributed.py` run; started by torchrun, or alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from contract.test_methods import METHODS, make_recipe
from safetensors.torch import save_file

from ddistill.data import load_data
from ddistill.engine import distill_data
from ddistill.evaluation import evaluate_set
from ddistill.runtime.distributed import Ranks, joined
from ddistill.runtime.errors import UserError
from ddistill.runtime.execution import Execution

POOL = {"model_augmentation.networks": "pool", "model_augmentation.pool_size": 3, "model_augmentation.pool_epochs": 1}
EXPERTS = {**POOL, "model_augmentation.networks": "trajectories", "model_augmentation.pool_epochs": 2}
FRESH = {"model_augmentation.fresh_epochs": 1}
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "idc": ("idc", {}),
    "idc pool": ("idc mse F=1", {**POOL, "model_augmentation.perturb": True, "evaluation.repeats": 3}),
    "idc fresh epochs": ("idc mse F=1", {**FRESH, "synthetic.ipc_by_class": {"3": 1}}),
    "idc chunks": ("idc mse F=1", {"run.class_chunk": 3}),
    "idc batch norm": ("idc mse F=1", {"network.norm": "batch"}),
    "idc trained on the set": ("idc mse F=1", {"method.network_samples": 0, "method.network_epochs": 1}),
    "dc": ("dc", {}),
    "dm": ("dm", POOL),
    "dm in groups": ("dm in groups", {**POOL, "method.classes_per_step": 4}),
    "idc in groups": ("idc in groups", {"method.network_samples": 0, "synthetic.ipc_by_class": {"3": 1}}),
    "cafe": ("cafe", {}),
    "tm": ("tm", EXPERTS),
    "random": ("random", {}),
}
"""Name to (row of the contract suite, changes)."""


def primitives(ranks: Ranks, out: Path) -> None:
    """Every exchange once, with what must come out."""
    mine = torch.tensor([1.0, 2.0]) * (ranks.rank + 1)
    other = torch.full((2, 2), float(ranks.rank))
    ranks.add_([mine, other])
    assert mine.tolist() == [3.0, 6.0]
    assert other.tolist() == [[1.0, 1.0]] * 2
    rows = torch.full((5, 2), float(ranks.rank + 1))
    own = ranks.share(5)
    ranks.join_rows_([rows], slice(own.start, own.stop))
    assert rows[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]
    first, whole = torch.tensor([float(ranks.rank + 4)]), torch.tensor(ranks.rank + 7)
    ranks.broadcast_([first, whole], 1)
    assert (first.item(), whole.item()) == (5.0, 8)
    assert ranks.from_first({"rank": ranks.rank}) == {"rank": 0}
    assert ranks.gather(ranks.rank) == [0, 1]
    assert ranks.any(ranks.rank == 1)
    assert not ranks.any(False)
    assert ranks.first_does(lambda: ranks.rank + 7) == 7

    def refuse() -> None:
        raise UserError(f"refused by {ranks.rank}")

    with pytest.raises(UserError, match="refused by 0") as caught:
        ranks.first_does(refuse)
    assert caught.value.told == (ranks.rank == 1)
    (out / f"primitives-{ranks.rank}").touch()


def runs(ranks: Ranks, out: Path, names: list[str]) -> None:
    """Some of `RUNS`: images and accuracies, written by each process."""
    digits = load_data("digits")
    for name in names:
        row, changes = RUNS[name]
        recipe = make_recipe(METHODS[row], **changes)
        run = distill_data(digits, recipe, out=out / name, ranks=ranks)
        save_file({"images": run.synthetic.images}, out / f"{name}-{ranks.rank}.safetensors")
        about = {"accuracy": run.summary["accuracy"]["runs"], "processes": run.summary["processes"]}
        (out / f"{name}-{ranks.rank}.json").write_text(json.dumps(about))
    settings = make_recipe(METHODS["idc"], **{"evaluation.repeats": 3, "evaluation.epochs": 1})
    judged = evaluate_set(
        run.synthetic, digits, settings.evaluation, settings.network, execution=Execution(ranks=ranks)
    )
    (out / f"judged-{ranks.rank}.json").write_text(json.dumps(judged.runs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    with joined(torch.device("cpu")) as who:
        if wanted:
            runs(who, folder, wanted)
        else:
            primitives(who, folder)

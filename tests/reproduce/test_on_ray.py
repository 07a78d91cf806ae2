"""Runs as Ray tasks; those with a cluster are slow and need the package."""

import threading
import time

import pytest
import torch

from ddistill import reproduce
from ddistill.engine import Plan
from ddistill.recipe import Recipe
from ddistill.reproduce import on_ray
from ddistill.reproduce.targets import Scale, cell
from ddistill.runtime.errors import UserError

FEW = {"budget.outer_steps": 40, "method.inner_steps": 1, "method.network_samples": 16, "method.real_batch": 8}
IN_NO_TIME = Scale(
    "in no time", "digits", {"network.width": 8, "evaluation.epochs": 3, "evaluation.repeats": 1}, {"idc": FEW}
)


def cells(count: int) -> list[reproduce.Cell]:
    return [cell("idc", "cifar10", 1, IN_NO_TIME, seed=seed) for seed in range(count)]


@pytest.mark.parametrize(
    ("text", "address"), [("ray", None), ("ray://auto", "auto"), ("ray://10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_where_runs_go(text, address):
    assert reproduce.place_of(text) == address


@pytest.mark.parametrize("text", ["", "dask", "ray://", "rayy"])
def test_another_place_is_refused(text):
    with pytest.raises(UserError, match="takes ray"):
        reproduce.place_of(text)


def test_without_ray_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"ddistill\[ray\]"):
        reproduce.run_cells_on_ray(cells(1), tmp_path, reproduce.DataSources({}))


def test_what_runs_need_follows_from_their_plan(monkeypatch):
    plans = [Plan({}, {}, 8 << 30, Recipe()), None]
    monkeypatch.setattr(on_ray, "estimate", lambda *_words, **_named: plans)
    needs = on_ray._needs(cells(2), reproduce.DataSources({}), "cpu", 2)
    assert needs == [on_ray.Needs(2, 0.0, 10 << 30), on_ray.Needs(2, 0.0, 1 << 30)]
    assert on_ray._needs(cells(2), reproduce.DataSources({}), "cuda", 1)[0].gpus == 1.0


def test_a_run_that_no_machine_can_take_is_refused_at_once():
    ray = type("Ray", (), {"nodes": lambda self: [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 4.0 * 2**30}}]})()
    on_ray._check_room(ray, [on_ray.Needs(2, 0.0, 2**30)])
    for too_much in (on_ray.Needs(3, 0.0, 1), on_ray.Needs(1, 1.0, 1), on_ray.Needs(1, 0.0, 2**33)):
        with pytest.raises(UserError, match="no machine of the cluster"):
            on_ray._check_room(ray, [too_much])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_six_runs_on_two_nodes_one_of_which_dies_give_six_results(tmp_path, monkeypatch):
    """The runs are those that go one after the other, to the bit; nothing is left out or done twice in the store."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("DDISTILL_KERNELS", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = Plan({}, {}, 1 << 28, Recipe())
    monkeypatch.setattr(on_ray, "estimate", lambda wanted, *_words, **_named: [plan] * len(wanted))
    wanted, sources = cells(6), reproduce.DataSources({})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have; more of them add up in another order
    expected = reproduce.run_cells(wanted, tmp_path / "plain", sources)
    torch.set_num_threads(threads)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, memory=4 << 30) for _ in range(2)]
    ended: list[int] = []

    def kill_a_node() -> None:
        while not ended:  # the others are in the middle of their runs
            time.sleep(0.05)
        cluster.remove_node(nodes[1], allow_graceful=False)
        cluster.add_node(num_cpus=1, memory=4 << 30)

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    try:
        found = reproduce.run_cells_on_ray(
            wanted,
            tmp_path / "ray",
            sources,
            address=cluster.address,
            on_cell=lambda number, *_rest: ended.append(number),
        )
        again = reproduce.run_cells_on_ray(wanted, tmp_path / "ray", sources, address=cluster.address)
    finally:
        killer.join(timeout=60)
        ray.shutdown()
        cluster.shutdown()
    assert sorted(ended) == [1, 2, 3, 4, 5, 6]
    assert [one.accuracy for one in found] == [one.accuracy for one in expected]
    assert [one.key for one in found] == [one.key for one in expected]
    assert again == found
    assert len((tmp_path / "ray" / "results.jsonl").read_text().splitlines()) == 6

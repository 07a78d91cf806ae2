"""How the time of a comparison is divided."""

import pytest

from ddistill.comparison import Measured, divide
from ddistill.comparison.budget import SPARED_FIRST, choosing
from ddistill.engine import Plan
from ddistill.recipe import Recipe
from ddistill.runtime.errors import UserError

SELECTIONS = ("random", "k-center", "herding", "el2n", "mosaic", "el2n-mosaic")


def plan(pool: float, distill: float) -> Plan:
    return Plan({"pool": pool, "distill": distill, "evaluate": 1.0}, {}, 0, Recipe())


MEASURED = Measured(0.01, 1.0, 10.0, 5.0, {"idc-ma": plan(100.0, 4000.0), "tgdd-ma": plan(500.0, 600.0)})
POOLS = {"idc-ma": 5, "tgdd-ma": 5}
EVALUATION = 5 * 9 * (1000 * 0.01 + 1.0)


def divided(minutes: float, **changes):
    asked = {"selections": SELECTIONS, "pools": POOLS, "measured": MEASURED, "steps": 1000, "repeats": 5, **changes}
    return divide(asked.pop("selections"), asked.pop("pools"), asked.pop("measured"), seconds=minutes * 60, **asked)


def test_a_pool_that_rows_share_is_counted_once():
    # ten epochs of one network, ten of five; one look each for k-center and herding, five each for the el2n rows
    assert choosing(SELECTIONS, MEASURED) == 20 * 10.0 + 12 * 5.0
    assert choosing(("random", "mosaic"), MEASURED) == 0.0


def test_with_time_enough_nothing_is_cut():
    found = divided(300)
    assert (found.steps, found.selections, found.pools, found.left_out) == (1000, SELECTIONS, {}, {})
    assert all(
        share >= sum(MEASURED.plans[name].seconds[p] for p in ("pool", "distill"))
        for name, share in found.seconds.items()
    )


@pytest.mark.parametrize("minutes", [22, 30, 60, 100])
def test_what_is_planned_fits(minutes):
    found = divided(minutes)
    rows = len(found.selections) + len(found.seconds) + 1
    evaluation = 5 * rows * (found.steps * 0.01 + 1.0)
    assert choosing(found.selections, MEASURED) + evaluation + sum(found.seconds.values()) <= minutes * 60 * 0.9 + 1
    assert 50 <= found.steps <= 1000
    for name, share in found.seconds.items():
        networks = found.pools.get(name, 5)
        assert networks >= 1
        assert networks * MEASURED.plans[name].seconds["pool"] / 5 <= share / 2


def test_rows_are_left_out_in_order_and_with_a_reason():
    few = [divided(minutes) for minutes in (30, 12, 8, 6)]
    assert [set(one.selections) >= {"random", "mosaic"} for one in few] == [True] * 4
    assert [len(one.left_out) for one in few] == sorted(len(one.left_out) for one in few)
    assert few[-1].left_out
    for one in few:
        spared = [name for name in SPARED_FIRST if name in one.left_out]
        assert spared == [name for name in SPARED_FIRST if name in SELECTIONS][: len(spared)]
        assert all(one.left_out.values())


def test_a_recipe_whose_networks_take_all_its_time_gives_it_to_the_other():
    slow = Measured(0.01, 1.0, 10.0, 5.0, {"idc-ma": plan(100.0, 4000.0), "tgdd": plan(50_000.0, 600.0)})
    found = divided(60, measured=slow, pools={"idc-ma": 5, "tgdd": 5})
    assert list(found.seconds) == ["idc-ma"]
    assert "one network of its pool" in found.left_out["tgdd"]


def test_too_little_time_is_refused_with_what_would_do():
    with pytest.raises(UserError, match=r"0.5 of --minutes .* too short .*; leave at least (\d|\.)+, or") as refusal:
        divided(0.5)
    enough = float(str(refusal.value).split("at least ")[1].split(",")[0])
    assert divided(enough).seconds

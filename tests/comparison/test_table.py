"""What follows from the rows of a comparison: verdict, scores, the table."""

import pytest

from ddistill.comparison import Comparison, Row, verdict


def row(name: str, kind: str, *runs: float, seconds: float = 0.0, **others: tuple[float, ...]) -> Row:
    return Row(name, f"the {name}", kind, 10, 640, seconds, {"convnet": runs, **others})


RANDOM, HERDING = row("random", "selection", 40.0, 42.0), row("herding", "selection", 49.0, 51.0)
ALL = row("all", "all", 84.0, 86.0)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (
            (56.0, 58.0),
            "Distilling gains 7.0 points over the best selection (the herding, 50.0) (spread 1.4) with the ",
        ),
        ((50.5, 52.0), "Distilling does not pay measurably: the idc is +1.2 points beside the best selection (the he"),
        ((40.0, 41.0), "Distilling does not pay: the idc is 9.5 points below the best selection (the herding, 50.0) "),
        ((70.0,), "Not known whether distilling pays: the idc is +20.0 points beside the best selection (the herding"),
    ],
)
def test_the_verdict_weighs_the_difference_by_the_spread(runs, expected):
    said = verdict([RANDOM, HERDING, row("idc", "distilled", *runs, seconds=2400), ALL], "1 CPU thread")
    assert said.startswith(expected)
    assert said.endswith("; all images, in as many steps: 85.0.")
    assert len(runs) == 1 or "for 40 min (1 CPU thread)" in said


def test_the_verdict_takes_the_best_of_each_kind_and_says_what_is_missing():
    worse, better = row("idc", "distilled", 10.0, 11.0), row("tgdd", "distilled", 60.0, 61.0)
    assert "with the tgdd" in verdict([RANDOM, worse, better, HERDING])
    nothing = verdict([RANDOM, HERDING, ALL])
    assert nothing.startswith("Nothing to tell whether distilling pays: the best selection is the herding with 50.0 %")
    assert verdict([]) == "Nothing to tell whether distilling pays: nothing was measured."


def test_scores_are_in_points_and_per_architecture():
    random = row("random", "selection", 40.0, vgg11=(30.0, 32.0))
    idc = row("idc", "distilled", 55.0, vgg11=(28.0, 30.0))
    compared = Comparison("digits", 1, (random, HERDING, idc, ALL), ("convnet",), {})
    assert compared.scores(idc) == {"hlr": 30.0, "ior": 15.0, "ior_best": 5.0}
    both = Comparison("digits", 1, (random, idc), ("convnet", "vgg11"), {})
    assert both.scores(idc, "vgg11") == {"hlr": None, "ior": -2.0, "ior_best": -2.0}
    headers, lines = both.table()
    assert headers[4:6] == ["convnet %", "vgg11 %"]
    assert lines[1][4:] == ["55.0 (0.0)", "29.0 (1.0)", "", "+15.0", "+15.0"]
    assert compared.as_dict()["rows"][2]["scores"]["convnet"] == {"hlr": 30.0, "ior": 15.0, "ior_best": 5.0}

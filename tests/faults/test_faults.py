"""A few faults of each campaign; the whole campaigns are slow tests."""

import pytest

from faults.campaigns import CAMPAIGNS

FEW = {"kills": 5, "damages": 24, "arguments": 40, "races": 1, "full_disk": 2}


def run(name: str, trials: int, folder) -> None:
    try:
        count = CAMPAIGNS[name][0](trials, folder)
    except PermissionError as reason:
        pytest.skip(str(reason))
    assert not count.wrong, "\n".join(count.wrong[:10])
    assert sum(count.kinds.values()) >= trials
    if name == "damages":
        assert {kind.split(": ")[1] for kind in count.kinds} == {"refused", "harmless"}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_few_faults(name, tmp_path):
    run(name, FEW[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_the_whole_campaign(name, tmp_path):
    run(name, CAMPAIGNS[name][1], tmp_path)

"""Which classes are taken for which: counts, shares, groups, and the file of a run."""

import pytest
import torch

from ddistill.evaluation import CONFUSION, Confusion

LABELS = torch.tensor([0, 0, 0, 1, 1, 3])
FIRST = torch.tensor([0, 1, 1, 1, 0, 3])
SECOND = torch.tensor([0, 0, 1, 1, 1, 0])


@pytest.fixture
def confusion() -> Confusion:
    found = Confusion.of(LABELS, [FIRST, SECOND], 4)
    assert found is not None
    return found


def test_counts_are_of_all_networks_together(confusion):
    dense = torch.zeros(4, 4, dtype=torch.int64)
    for predicted in (FIRST, SECOND):
        for true, other in zip(LABELS.tolist(), predicted.tolist(), strict=True):
            dense[true, other] += 1
    again = torch.zeros_like(dense)
    again[confusion.true, confusion.predicted] = confusion.images
    assert torch.equal(again, dense)
    assert (confusion.images > 0).all()


def test_accuracy_of_a_class_without_a_test_image_is_not_known(confusion):
    assert confusion.accuracies() == [50.0, 75.0, None, 50.0]


def test_pairs_come_by_their_share_of_the_class(confusion):
    assert confusion.most_confused(2) == [(0, 1, 50.0), (3, 0, 50.0)]
    assert confusion.most_confused(99)[2:] == [(1, 0, 25.0)]


def test_groups_hold_the_sums_of_their_classes(confusion):
    grouped = confusion.grouped([0, 0, 1, 1])
    assert grouped.num_classes == 2
    assert grouped.accuracies() == [100.0, 50.0]
    assert int(grouped.images.sum()) == int(confusion.images.sum())


def test_nothing_is_known_where_one_network_is_not():
    assert Confusion.of(LABELS, [FIRST, None], 4) is None
    assert Confusion.of(LABELS, [], 4) is None


def test_the_file_of_a_run_is_read_back_and_a_damaged_one_is_none(confusion, tmp_path):
    assert Confusion.load(tmp_path, 4) is None
    confusion.save(tmp_path)
    again = Confusion.load(tmp_path, 4)
    assert again is not None
    assert torch.equal(again.images, confusion.images)
    assert again.most_confused(9) == confusion.most_confused(9)
    assert Confusion.load(tmp_path, 3) is None
    (tmp_path / CONFUSION).write_bytes((tmp_path / CONFUSION).read_bytes()[:40])
    assert Confusion.load(tmp_path, 4) is None


def test_a_thousand_classes_take_no_square_of_memory():
    labels = torch.arange(100_000).repeat_interleave(2)
    found = Confusion.of(labels, [labels.flip(0)], 100_000)
    assert found is not None
    assert len(found.images) == 100_000
    assert found.accuracies()[:1] == [0.0]

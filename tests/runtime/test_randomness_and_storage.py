"""Random draws as functions of their key, and files that are never half written.

python -m pytest tests/runtime/test_randomness_and_storage.py
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from ddistill.runtime.randomness import generator, key_hash
from ddistill.runtime.storage import cache_folder, fingerprint, write_atomically, write_json, write_text


@pytest.mark.parametrize(
    ("key", "value"),
    [((0, "real batch", 1, 2), 3060034728671765193), ((12345, "initial images", "cat"), 2537150533865064710)],
)
def test_the_hash_of_a_key_never_changes(key, value):
    assert key_hash(*key) == value


def test_keys_that_differ_in_value_type_order_or_division_have_different_hashes():
    keys = [(1,), ("1",), (1, 2), (2, 1), (12,), ("1", 2), (1, "2"), ("1", "2"), ("12",), (), ("",), (True,), (-1,)]
    hashes = [key_hash(*key) for key in keys]
    assert len(set(hashes)) == len(keys)
    assert all(0 <= value < 2**63 for value in hashes)


def test_a_generator_is_a_function_of_seed_purpose_and_step():
    def numbers(*key: int | str) -> list[float]:
        return torch.rand(4, generator=generator(*key)).tolist()

    keys = [(0, "pool", 1), (1, "pool", 1), (0, "fresh", 1), (0, "pool", 2), (0, "pool", "1"), (0, "pool", 1, 0)]
    draws = [numbers(*key) for key in keys]
    assert [numbers(*key) for key in reversed(keys)] == draws[::-1]
    assert len({tuple(draw) for draw in draws}) == len(keys)


def test_making_and_using_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_is_the_sha_256_of_sorted_compact_json():
    value = {"b": [1, 2.5, None], "a": {"d": "x", "c": True}}
    text = '{"a":{"c":true,"d":"x"},"b":[1,2.5,null]}'
    assert fingerprint(value) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)
    assert fingerprint({**value, "b": [1, 2.5, 0]}) != fingerprint(value)


def test_writing_replaces_the_file_makes_its_folder_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "first")
    write_text(path, "zweite Fassung: ü")
    assert path.read_bytes() == "zweite Fassung: ü".encode()
    assert [p.name for p in path.parent.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("when", ["before", "during", "without"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_temporary(tmp_path, when):
    path = tmp_path / "kept.bin"
    path.write_bytes(b"old")

    def write(temporary):
        if when == "during":
            temporary.write_bytes(b"half of the n")
        if when != "without":
            raise KeyboardInterrupt  # also what is no Exception

    with pytest.raises((KeyboardInterrupt, FileNotFoundError)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.bin"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent == path.parent, temporary.suffix))

    write_atomically(path, write)
    assert seen == [("old", True, ".txt")]
    assert path.read_text() == "new"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [1.0, float("nan")]}])
def test_json_refuses_what_json_cannot_hold_and_keeps_the_old_file(tmp_path, value):
    path = tmp_path / "summary.json"
    write_json(path, {"accuracy": 12.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"accuracy": 12.5}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_json_gives_back_what_was_written(tmp_path):
    value = {"mean": [0.1, 1e-30], "names": ["ü", "b"], "none": None, "n": 3}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_the_cache_is_where_the_environment_says_and_else_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for unset in (lambda: monkeypatch.setenv("DDISTILL_CACHE", ""), lambda: monkeypatch.delenv("DDISTILL_CACHE")):
        unset()
        assert cache_folder().name == "ddistill"
        assert cache_folder() != tmp_path


def test_draws_of_neighbouring_steps_are_not_correlated():
    draws = np.stack([torch.randn(2000, generator=generator(0, "x", step)).numpy() for step in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)  # five standard errors

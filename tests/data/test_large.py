"""Data larger than memory: decoded into files, cut off and continued, read without staying resident."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddistill.augment import Normalisation
from ddistill.data import DataSettings, ImageSet, cache, images, load, load_data, rows
from ddistill.data.rows import RowFile, RowMemory, blocks, chosen_rows, expect, is_mapped, open_rows, touched
from ddistill.runtime.errors import UserError
from ddistill.runtime.memory import free_memory_bytes
from ddistill.runtime.storage import cache_folder

# Files of rows


def written(path: Path, pixels: np.ndarray, channels: int | None = None) -> torch.Tensor:
    file = RowFile(path, len(pixels))
    file.start(pixels.shape[1:])
    for row in np.random.default_rng(0).permutation(len(pixels)).tolist():
        file.put(row, pixels[row])
    if channels:
        file.widen(channels)
    file.close()
    return open_rows(path)


def some_pixels(count: int = 50, channels: int = 3, side: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, channels, side, side)).astype(np.uint8)


def test_rows_are_read_as_they_were_written_in_any_order(tmp_path):
    pixels = some_pixels()
    assert torch.equal(written(tmp_path / "rows.npy", pixels), torch.from_numpy(pixels))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), pixels)  # numpy reads it alone


@pytest.mark.parametrize("count", [1, 50, 3000])
def test_grey_rows_become_wide(tmp_path, count, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 4096)
    pixels = some_pixels(count, 1)
    wide = written(tmp_path / "rows.npy", pixels, channels=3)
    assert torch.equal(wide, torch.from_numpy(np.repeat(pixels, 3, axis=1)))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize("channels", [1, 3])
def test_chosen_rows_are_the_same_in_a_file_and_in_memory(tmp_path, channels, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 100)
    source = written(tmp_path / "rows.npy", some_pixels(40, 1))
    index = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:17]
    in_file = chosen_rows(source, index, channels, tmp_path / "chosen.npy")
    in_memory = chosen_rows(source, index, channels, None)
    assert is_mapped(in_file)
    assert not is_mapped(in_memory)
    assert torch.equal(in_file, in_memory)
    assert torch.equal(in_memory[:, :1], source[index])


def test_blocks_are_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1000)
    source = written(tmp_path / "rows.npy", some_pixels())
    parts = list(blocks(source))
    assert len(parts) > 5
    assert torch.equal(torch.cat(parts), source)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of resident pages")
def test_reading_everything_leaves_little_resident(tmp_path, monkeypatch):
    def resident() -> int:
        (kilobytes,) = re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(kilobytes) * 1024

    source = written(tmp_path / "rows.npy", some_pixels(20_000, 3, 32))  # 61 MB
    monkeypatch.setattr(rows, "RESIDENT_BYTES", 8 * 2**20)
    before = resident()
    most, total = 0, 0
    for batch in torch.arange(len(source)).split(64):
        total += int(source[batch].sum())
        touched(source, len(batch))
        most = max(most, resident() - before)
    assert most < 24 * 2**20
    assert total == int(some_pixels(20_000, 3, 32).sum(dtype=np.int64))


def test_what_is_in_memory_is_left_alone():
    tensor = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    touched(tensor, 10**9)
    expect(tensor, torch.arange(4))
    assert not is_mapped(tensor)


def test_expecting_rows_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESIDENT_BYTES", 0)
    pixels = some_pixels()
    source = written(tmp_path / "rows.npy", pixels)
    expect(source, torch.tensor([[0, 49], [7, 7]]))
    assert torch.equal(source, torch.from_numpy(pixels))


@pytest.mark.parametrize("content", [b"", b"no numpy", b"\x93NUMPY\x01\x00"])
def test_other_files_are_no_rows(tmp_path, content):
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        open_rows(tmp_path / "rows.npy")


def test_a_file_that_was_cut_short_is_no_rows(tmp_path):
    written(tmp_path / "rows.npy", some_pixels())
    os.truncate(tmp_path / "rows.npy", 1000)
    with pytest.raises(ValueError):
        open_rows(tmp_path / "rows.npy")


def test_training_reads_a_mapped_set_as_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESIDENT_BYTES", 0)
    pixels = some_pixels()
    mapped, labels = written(tmp_path / "rows.npy", pixels), torch.arange(50)
    source = ImageSet(mapped, labels, Normalisation((0.5,) * 3, (0.25,) * 3))
    plain = ImageSet(torch.from_numpy(pixels), labels, Normalisation((0.5,) * 3, (0.25,) * 3))
    index = torch.tensor([3, 3, 49, 0])
    source.expect(index)
    assert torch.equal(source.fetch(index), plain.fetch(index))
    assert torch.equal(source.fetch_labels(index), labels[index])


# Decoding into the cache


def image_folder(root: Path, count: int = 30, grey: int = 0, side: int = 8) -> Path:
    """Three classes of ``count`` images; the first ``grey`` of each class are grey."""
    for c, name in enumerate(("ant", "bee", "cow")):
        for part, number in [*(("train", n) for n in range(count)), *(("test", n) for n in range(4))]:
            home = root / part / name
            home.mkdir(parents=True, exist_ok=True)
            pixels = np.full((side, side, 3), (c * 50, number, 40 if part == "train" else 0), np.uint8)
            image = Image.fromarray(pixels)
            (image.convert("L") if number < grey else image).save(home / f"{number:03d}.png")
    return root


@pytest.fixture
def slow_hands(monkeypatch):
    """Small chunks, whose state is kept after each; how many images were decoded."""
    counts = {"decoded": 0}
    plain = images._decode_or_reason

    def counting(*arguments):
        counts["decoded"] += 1
        return plain(*arguments)

    monkeypatch.setattr(images, "CHUNK", 4)
    monkeypatch.setattr(images, "cores", lambda: 1)
    monkeypatch.setattr(cache, "KEPT_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(images, "_decode_or_reason", counting)
    return counts


def interrupted_load(root: Path, at: int, settings: DataSettings | None = None) -> None:
    seen = 0

    def stop(_stage: str, _done: int, _total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(root, settings, on_progress=stop)


@pytest.mark.parametrize("grey", [0, 5])
def test_a_decoding_that_was_cut_off_goes_on(tmp_path, slow_hands, monkeypatch, grey):
    root = image_folder(tmp_path / "zoo", grey=grey)
    whole = load_data(root)
    assert slow_hands["decoded"] == 102
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "other"))
    slow_hands["decoded"] = 0
    for at in (3, 5, 9):
        interrupted_load(root, at)
    again = load_data(root)
    assert again.fingerprint == whole.fingerprint
    assert again.origin.notes == whole.origin.notes
    assert torch.equal(again.train.images, whole.train.images)
    assert 102 <= slow_hands["decoded"] < 102 + 4 * 20  # each time what was under way, and no more
    kept = sorted(path.name for path in (tmp_path / "other" / "data").glob("*/*"))
    test = "test.npy" if grey else "test-decoded.npy"  # all of them grey: made wide as the training images are
    assert kept == ["facts.json", "labels.safetensors", test, "train-decoded.npy"]


@pytest.mark.parametrize("damage", ["journal", "journal of another size", "images", "images of another shape"])
def test_a_damaged_beginning_is_decoded_anew(tmp_path, slow_hands, damage):
    root = image_folder(tmp_path / "zoo")
    interrupted_load(root, 6)
    (journal,) = cache_folder().glob("data/*/train-decoded.json")
    pixels = journal.with_suffix(".npy")
    if damage == "journal":
        journal.write_bytes(journal.read_bytes().replace(b'"done"', b'"dome"'))
    elif damage == "journal of another size":
        about = cache.read_checked_json(journal)
        cache.write_checked_json(journal, {**about, "rows": 91})
    elif damage == "images":
        pixels.unlink()
    else:
        np.save(pixels, np.zeros((90, 1, 8, 8), np.uint8))
    slow_hands["decoded"] = 0
    data = load_data(root)
    assert slow_hands["decoded"] == 102
    assert data.class_images(1)[3, :, 0, 0].tolist() == [50, 3, 40]


def test_a_changed_source_is_decoded_anew(tmp_path, slow_hands):
    root = image_folder(tmp_path / "zoo")
    first = load_data(root)
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(root / "train" / "ant" / "000.png")
    second = load_data(root)
    assert slow_hands["decoded"] == 204
    assert first.fingerprint != second.fingerprint
    assert second.class_images(0)[0].min() == 255
    load_data(root)
    assert slow_hands["decoded"] == 204


def test_a_damaged_cache_is_decoded_anew_under_those_who_read_it(tmp_path):
    root = image_folder(tmp_path / "zoo")
    reading = load_data(root)
    before = reading.train.images.clone()
    (pixels,) = cache_folder().glob("data/*/train-decoded.npy")
    (facts,) = cache_folder().glob("data/*/facts.json")
    facts.write_text(facts.read_text().replace("ant", "cat"))
    assert load_data(root).fingerprint == reading.fingerprint
    assert torch.equal(reading.train.images, before)  # the file that it has mapped was replaced, not overwritten
    assert pixels.is_file()


def test_what_cannot_be_decoded_leaves_nothing_behind(tmp_path):
    root = image_folder(tmp_path / "zoo")
    (root / "train" / "bee" / "007.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="1 of 90 train images cannot be read"):
        load_data(root)
    assert not list(cache_folder().glob("data/*/*"))


def test_unreadable_images_are_left_out_of_the_file(tmp_path):
    root = image_folder(tmp_path / "zoo")
    (root / "train" / "bee" / "007.png").write_bytes(b"damaged")
    settings = DataSettings(skip_unreadable=True)
    for _ in range(2):
        data = load_data(root, settings)
        assert data.class_counts.tolist() == [30, 29, 30]
        assert data.class_images(1)[7, 1, 0, 0] == 8
    kept = sorted(path.name for path in cache_folder().glob("data/*/*"))
    assert kept == ["facts.json", "labels.safetensors", "test-decoded.npy", "train.npy"]


def test_a_full_disk_lets_the_images_stay_in_memory(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "zoo")
    whole = load_data(root)
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "other"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rows.os, "posix_fallocate", full, raising=False)
    data = load_data(root)
    assert data.fingerprint == whole.fingerprint
    assert "could not be kept" in data.origin.notes[-1]
    assert not list((tmp_path / "other").glob("data/*/*"))


def test_what_fits_nowhere_is_said(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "zoo")
    monkeypatch.setattr(rows.os, "posix_fallocate", lambda *_: os.open(tmp_path / "none" / "none", 0), raising=False)
    monkeypatch.setattr(rows, "free_memory_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"fit neither in memory nor in .*DDISTILL_CACHE"):
        load_data(root)


def test_a_validation_part_may_lie_in_a_file(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "zoo")
    settings = DataSettings(validation_fraction=0.2)
    plain = load_data(root, settings, seed=4)
    monkeypatch.setattr(load, "MEMORY_SHARE", 0.0)
    for _ in range(2):
        filed = load_data(root, settings, seed=4)
        assert is_mapped(filed.train.images)
        assert filed.validation is not None
        assert is_mapped(filed.validation.images)
        assert torch.equal(filed.train.images, plain.train.images)
        assert torch.equal(filed.validation.images, plain.validation.images)
    assert filed.statistics == plain.statistics


def test_memory_that_rows_would_not_fit_in_is_not_taken(monkeypatch):
    monkeypatch.setattr(rows, "free_memory_bytes", lambda _: 1000)
    with pytest.raises(MemoryError):
        RowMemory(10).start((3, 32, 32))


# How much is free


def test_free_memory_counts_the_container(tmp_path, monkeypatch):
    from ddistill.runtime import memory

    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    assert free_memory_bytes(cpu) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7\n")
    assert free_memory_bytes(cpu) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert free_memory_bytes(cpu) == 2_200_000
    (tmp_path / "meminfo").unlink()
    assert free_memory_bytes(cpu) > 0


def test_the_journal_is_json(tmp_path, slow_hands):
    interrupted_load(image_folder(tmp_path / "zoo"), 6)
    (journal,) = cache_folder().glob("data/*/train-decoded.json")
    assert json.loads(journal.read_text())["done"] in range(4, 90)

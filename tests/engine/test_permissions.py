"""What a run, an import, a report and the cache write may be read by whom the umask says, not by its writer alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

WORK = """
from pathlib import Path

import torch
from PIL import Image

import ddistill
from ddistill import api
from ddistill.data import load_data
from ddistill.report import write_page

small = {"budget.outer_steps": 1, "method.network_samples": 16, "network.width": 8, "evaluation.epochs": 1,
         "evaluation.repeats": 1, "method.inner_steps": 1, "model_augmentation.pool_size": 1,
         "model_augmentation.pool_epochs": 1}
run = ddistill.distill("digits", out="run", changes=small)
tm = {name: value for name, value in small.items() if not name.startswith("method.")}
api.pretrain("digits", "tm-digits", changes={**tm, "method.max_start_epoch": 1, "method.expert_epochs": 1})
torch.save((run.synthetic.images, run.synthetic.labels), "set.pt")
api.import_set("set.pt", "digits", "imported")
for part in ("train", "test"):
    for name in ("dark", "light"):
        Path("images", part, name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8), number + 100 * (name == "light")).save(f"images/{part}/{name}/{number}.png")
load_data("images")
write_page([Path("run")], Path("pages/page.html"))
"""


@pytest.mark.skipif(os.name != "posix", reason="another system's permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_file_and_folder_has_the_permissions_that_the_umask_gives(tmp_path, umask):
    place = tmp_path / "place"
    place.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", WORK],
        cwd=place,
        env={**os.environ, "DDISTILL_CACHE": str(place / "cache")},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    written = {path: stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*")}
    wrong = {
        str(path.relative_to(place)): oct(mode)
        for path, mode in written.items()
        if mode != (0o777 if path.is_dir() or path.suffix == ".so" else 0o666) & ~umask
    }
    assert wrong == {}
    kinds = {path.suffix for path in written if path.is_file()}
    assert {".safetensors", ".json", ".yaml", ".png", ".parquet", ".html", ".jsonl", ".md", ".sha256"} <= kinds
    assert {"pools", "trajectories", "data"} <= {path.name for path in written if path.parent.name == "cache"}

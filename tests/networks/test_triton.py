"""The Triton kernels against torch's operators in Triton's interpreter, or on a GPU; and that they compile for one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddistill.networks import ConvNet, kernels, runs_on_kernels
from ddistill.networks.kernels import instance_block

TESTS = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ddistill.networks.kernels import gpu_block, gpu_patches

MAPS = ("x", "pooled", "g", "dx", "v", "gx", "gg")
POINTERS = (*MAPS, "weight", "bias", "mean", "rstd", "dweight", "dbias", "vweight", "vbias", "gweight", "parts")

def kind(name, maps):
    if name in POINTERS:
        return f"*{maps if name in MAPS else 'fp32'}"
    return {"eps": "fp32", "WIDTH": "constexpr"}.get(name, "i32")

def build(kernel, maps, **constants):
    types = {name: kind(name, maps) for name in kernel.arg_names}
    source = ASTSource(kernel, types, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

for kernel in (gpu_block.forward, gpu_block.backward, gpu_block.double_backward):
    build(kernel, "bf16")
for maps in ("fp32", "bf16"):
    build(gpu_patches._slab_sums, maps, WIDTH=32)
"""


def run(words: list[str], **environment: str) -> str:
    place = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, *words], env=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_triton
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_values_and_gradients_of_both_orders_agree_with_torch(device):
    interpret = "1" if device == "cpu" else "0"
    printed = run([str(TESTS / "kernels_program.py"), device], DDISTILL_KERNELS="triton", TRITON_INTERPRET=interpret)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert len(rows) == 20
    assert [row for row in rows if not all(e < row["most"] for e in row["errors"].values())] == []


@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path):
    run(["-c", COMPILE], TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
def test_a_gpu_has_kernels_only_where_they_are_asked_for(monkeypatch):
    gpu, network = torch.device("cuda"), ConvNet(10, width=4)
    monkeypatch.setattr(instance_block, "_has_triton", lambda: True)
    for value, served in (("", False), ("off", False), ("triton", True)):
        monkeypatch.setenv("DDISTILL_KERNELS", value)
        assert instance_block.uses_triton(gpu) == runs_on_kernels(network, gpu) == kernels.available(gpu) == served
    assert not runs_on_kernels(ConvNet(10, width=4, norm="batch"), gpu)
    monkeypatch.setattr(instance_block, "_has_triton", lambda: False)
    assert not kernels.available(gpu)


def test_a_cpu_keeps_its_own_kernels_where_triton_is_asked_for_and_not_interpreted(monkeypatch):
    monkeypatch.setenv("DDISTILL_KERNELS", "triton")
    monkeypatch.setattr(instance_block, "_is_interpreted", lambda: False)
    assert not instance_block.uses_triton(torch.device("cpu"))

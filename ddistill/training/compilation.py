"""When a hot function is compiled, and how."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch

from ddistill.runtime.storage import cache_folder

CompileMode = Literal["auto", "on", "off"]
Function = TypeVar("Function", bound=Callable[..., Any])

COMPILE_SECONDS = 70.0
"""What one compilation of a step took on 2 cores (50 to 90 s)."""
COMPILED_OVER_EAGER = {"fp32": 1.8, "bf16": 2.5}
"""How much faster a compiled step was there than an eager one in float32: on AVX2, and on AVX-512 BF16 (1.7 to 3.0)."""
REPAYING_FLOPS = 2e13
"""Work that takes 2 to 3 times as long as its compilations, at 5e10 FLOP/s eager."""


def compiler_available() -> bool:
    """Whether torch.compile can build code for the CPU on this machine."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def repays_compilation(mode: CompileMode, flops: float) -> bool:
    """Whether to compile ``flops`` of work; never decided by a clock, so that a recipe runs the same code each time."""
    return mode == "on" or (mode == "auto" and flops >= REPAYING_FLOPS and compiler_available())


def maybe_compile(function: Function, compiled: bool) -> Function:
    """``function`` or its compiled form; shapes are static, one compilation per shape.

    What the compiler makes is kept in the cache folder, so that a later run of the same shapes starts warm; torch's own
    place for it is a temporary folder. A place that the user has set stands.
    """
    if not compiled:
        return function
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    return cast(Function, torch.compile(function, dynamic=False))

"""How a run computes: device, precision, compilation, memory, processes. None of it is part of what is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field, field_validator

from ddistill.runtime.capture import wants_capture
from ddistill.runtime.distributed import ALONE, Ranks
from ddistill.runtime.plugins import plugin_names
from ddistill.runtime.settings import Settings
from ddistill.training.compilation import CompileMode
from ddistill.training.precision import Precision
from ddistill.training.unfinished import KEPT_EVERY_SECONDS

EXECUTION = "execution.yaml"
"""In the folder of a run, beside the recipe."""


class ExecutionSettings(Settings):
    """What a user may ask for; a recipe has these fields under ``run``, and its identity leaves them out."""

    compile: CompileMode = "auto"
    """auto: compile the hot functions where the work ahead repays it; on; off."""
    precision: Precision = "auto"
    """Of convolutions and products: fp32, bf16, or auto: bf16 where the device multiplies it in hardware and that is
    faster for the work ahead (docs/machines.md)."""
    class_chunk: int | None = Field(default=None, ge=1)
    """Classes matched in one launch; not set: one after the other on a CPU, on a GPU as many as fit, ten at most."""
    image_chunk: int | None = Field(default=None, ge=1)
    """Images of a class whose activations are kept at once, the others' being computed again (a quarter more work); not
    set: all, unless one class does not fit in the free memory. Methods dc, dsa, idc."""
    checkpoint_every: float = Field(default=KEPT_EVERY_SECONDS, ge=0)
    """Seconds between two checkpoints; 0: one at each outer step and epoch."""

    @field_validator("compile", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """YAML reads a bare on or off as a truth value."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


@dataclass(frozen=True)
class Execution:
    """How something is computed, built once and handed down.

    Attributes:
        device: to compute on.
        settings: what was asked for.
        ranks: the processes that work together.
        side_by_side: train networks of an evaluation at once, one launch for all; None: on a GPU.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    settings: ExecutionSettings = field(default_factory=ExecutionSettings)
    ranks: Ranks = ALONE
    side_by_side: bool | None = None

    def about(self, **decided: Any) -> dict[str, Any]:
        """What a run writes of it, JSON-able; ``decided``: what was chosen for its work (precision, compiled, ...)."""
        return {
            "asked": self.settings.model_dump(mode="json", include=set(ExecutionSettings.model_fields)),
            "device": str(self.device),
            "cuda_graphs": wants_capture(self.device),
            "processes": self.ranks.count,
            "plugins": plugin_names(),
            **decided,
        }

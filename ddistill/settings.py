"""The base of every settings model: frozen, strict about names, a sentence and a unit per field.

Each room owns the settings of what it does; `config.py` composes them into a recipe.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable and validated on construction; an unknown field is an error, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

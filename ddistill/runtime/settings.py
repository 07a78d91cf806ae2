"""The base of every settings model: frozen, strict about names, a sentence and a unit per field.

Each room owns the settings of what it does; `recipe.py` composes them into a recipe.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable and validated on construction; an unknown field is an error, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """A field that only changes the default keeps the sentence of the field it overrides."""
        for name, field in cls.model_fields.items():
            bases = (base for base in cls.__mro__[1:] if issubclass(base, BaseModel))
            above = (base.model_fields[name] for base in bases if name in base.model_fields)
            field.description = field.description or next((one.description for one in above if one.description), None)

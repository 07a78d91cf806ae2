"""The base of every settings model: frozen, strict about names, a sentence and a unit per field.

Each room owns the settings of what it does; `recipe.py` composes them into a recipe.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """Immutable and validated on construction; an unknown field is an error, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and not _may_be_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must not be true or false")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """A field that only changes the default keeps the sentence of the field it overrides."""
        for name, field in cls.model_fields.items():
            bases = (base for base in cls.__mro__[1:] if issubclass(base, BaseModel))
            above = (base.model_fields[name] for base in bases if name in base.model_fields)
            field.description = field.description or next((one.description for one in above if one.description), None)


def _may_be_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_may_be_bool, get_args(annotation)))

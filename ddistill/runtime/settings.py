"""The base of every settings model: frozen, strict about names, a sentence and a unit per field.

Each room owns the settings of what it does; `recipe.py` composes them into a recipe.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """Immutable and validated on construction; an unknown field is an error, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where pydantic would take them for 1 and 0."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float} and bool not in kinds and _holds_truth(value):
            raise ValueError("must not be true or false")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """A field that only changes the default keeps the sentence of the field it overrides."""
        for name, field in cls.model_fields.items():
            bases = (base for base in cls.__mro__[1:] if issubclass(base, BaseModel))
            above = (base.model_fields[name] for base in bases if name in base.model_fields)
            field.description = field.description or next((one.description for one in above if one.description), None)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of; of words and values that it lists, theirs."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return set(map(type, inner))
    return set().union(*map(_kinds, inner)) if inner else {annotation}


def _holds_truth(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(_holds_truth, value)))

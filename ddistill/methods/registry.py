"""Methods by name: what registers one, and the settings that a recipe gives it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ddistill.methods.base import Context, Method
from ddistill.runtime import plugins
from ddistill.runtime.errors import UserError, unknown_name
from ddistill.runtime.settings import Settings

Class = TypeVar("Class", bound=type[Any])

METHODS: dict[str, tuple[type[Any], type[Any]]] = {}
"""From the name of a method to its settings and the class that does it."""
USUAL = "idc"
"""The method of a recipe that names none."""


def register_method(name: str, settings: type[Settings] | None = None) -> Callable[[Class], Class]:
    """Make a method known by name, as a decorator of its class.

    Args:
        name: that ``method.name`` of a recipe may have.
        settings: its fields, with ``name: Literal[name] = name`` and a property ``needs``; by default what the class
            says with an annotation ``settings: MySettings``.

    Raises:
        UserError: a name that is taken by another class, or settings that are not those of a method.
    """

    def register(made: Class) -> Class:
        model = settings or _annotated_settings(made)
        if not (isinstance(model, type) and issubclass(model, Settings) and hasattr(model, "needs")):
            raise UserError(
                f"method {name!r}: {made.__name__} needs an annotation `settings: MySettings`, a subclass of "
                "ddistill.Settings with a property `needs`"
            )
        usual = model.model_fields["name"].default if "name" in model.model_fields else None
        if usual != name:
            raise UserError(f"method {name!r}: the field `name` of {model.__name__} must be {name!r}, got {usual!r}")
        if not all(map(plugins.is_again, METHODS.get(name, (model, made)), (model, made))):
            raise UserError(f"method name {name!r} is taken; choose another")
        METHODS[name] = (model, made)
        plugins.note_registered(made)
        return made

    return register


def _annotated_settings(made: type[Any]) -> Any:
    """What ``settings`` is annotated with in a class or the nearest base; other annotations are not looked at."""
    for base in made.__mro__:
        annotation = inspect.get_annotations(base).get("settings")
        if annotation is not None:
            return eval(annotation, vars(sys.modules[base.__module__])) if isinstance(annotation, str) else annotation
    return None


def settings_class(name: str) -> type[Any]:
    """The settings of a method.

    Raises:
        UserError: no such method, with near names.
    """
    if name not in METHODS:
        plugins.load_installed()
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name][0]


def method_settings(value: Any) -> Settings:
    """Settings of a registered method from plain fields and values; those of the usual one where none is named.

    Raises:
        UserError: no such method.
        ValueError: neither fields nor settings, or illegal values.
    """
    if isinstance(value, Settings) and isinstance(value, settings_class(str(getattr(value, "name", "")))):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be fields and values of a method")
    values = {"name": USUAL, **value}
    made: Settings = settings_class(str(values["name"])).model_validate(values)
    return made


def build_method(settings: Any, context: Context) -> Method:
    """The method that the settings describe."""
    method: Method = METHODS[settings.name][1](settings, context)
    return method

"""Values as a user writes them, in YAML where a word is a word: yes, no, 007, 1:30 and 2020-01-01 stay text."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Words(yaml.SafeLoader):
    """YAML 1.2's notion of truth values and numbers; that of 1.1, which PyYAML has, takes the class 'no' for False."""


_Words.yaml_implicit_resolvers = {}
for _tag, _text, _first in (  # all of them are quoted by `yaml.safe_dump` where they are text
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Words.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_text})$"), _first)


def read_values(text: str) -> Any:
    """A value, a list or a mapping from text.

    >>> read_values("{no: [yes, 007, 1.5, 12, true, null]}")
    {'no': ['yes', '007', 1.5, 12, True, None]}

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_Words)  # noqa: S506 - a SafeLoader

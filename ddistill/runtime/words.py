"""Values as a user writes them, in YAML where a word is a word: yes, no, 007, 1:30 and 2020-01-01 stay text.

Names in the data stay as they are written: the class 1.10 is not 1.1, and folders may be called null and true.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

CLASSES = "data.classes"
NAMES = {CLASSES, "data.source", "data.train_split", "data.test_split"} | {
    f"data.{kind}_column" for kind in ("image", "label", "group", "split")
}
"""Fields whose values are names in the data."""


class _Words(yaml.SafeLoader):
    """YAML 1.2's notion of truth values and numbers; that of 1.1, which PyYAML has, takes the class 'no' for False.

    Keys and names in the data are text; null in place of one, not in a list, still unsets a field.
    """

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.path = [field] if field else []

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A value, whose key or place is ``index``, or a key, which has none."""
        depth = len(self.path)
        if isinstance(index, yaml.ScalarNode):
            self.path.append(index.value)
        node: Any = super().compose_node(parent, index)
        path = ".".join(self.path)
        del self.path[depth:]
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        among = isinstance(parent, yaml.SequenceNode) or path.startswith(f"{CLASSES}.")
        is_name = path in NAMES or path.startswith(f"{CLASSES}.")
        unset = node.tag.endswith(":null") and not among
        if isinstance(node, yaml.ScalarNode) and not node.style and (is_key or (is_name and not unset)):
            node.tag = "tag:yaml.org,2002:str"
        return node


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


def read_values(text: str, field: str = "") -> Any:
    """A value, a list or a mapping from text; ``field`` is the recipe's that it is of, '' for a whole recipe.

    >>> read_values("{no: [yes, 007, 1.5, 12, true, null]}")
    {'no': ['yes', '007', 1.5, 12, True, None]}
    >>> read_values("[1.10, null]", "data.classes")
    ['1.10', 'null']

    Raises:
        yaml.YAMLError: it is none.
    """
    loader = _Words(text, field)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_text(name: Any) -> Any:
    """A name that a program gives as the number or truth value that it is."""
    return str(name) if isinstance(name, bool | int | float) else name


def class_list(names: Sequence[object], shown: int | None = None) -> str:
    """Names of classes, all or the first ones, as they are written in advice to set ``data.classes``.

    >>> class_list(["salt, pepper", "1.10", "c"], 2)
    "['salt, pepper', 1.10, ...]"
    """
    more = [] if shown is None or shown >= len(names) else ["..."]
    return f"[{', '.join([*(_quoted(str(name)) for name in names[:shown]), *more])}]"


def _quoted(name: str) -> str:
    try:
        plain = read_values(f"[{name}]", CLASSES) == [name]
    except yaml.YAMLError:
        plain = False
    return name if plain else "'" + name.replace("'", "''") + "'"

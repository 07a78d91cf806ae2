"""The shape of the package: no circle of imports, and no function that needs more than a few things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ddistill

ROOT = Path(ddistill.__file__).parent
MOST = 8


def modules() -> dict[str, ast.Module]:
    """Every module's tree by its dotted name below the package; a package's own is its name, that of all ``""``."""
    trees = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


TREES = modules()


def things(tree: ast.AST, name: str) -> Iterator[tuple[str, int]]:
    """Functions and dataclasses with the number of their parameters; settings and the command have their own rule.

    What Triton compiles is left out: its kernels take a pointer for each tensor, and each size.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(one) for one in node.decorator_list):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield f"{name}.{node.name}", len([word for word in words if word.arg not in ("self", "cls")])
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
            yield f"{name}.{node.name}", len([one for one in fields if not ast.unparse(one.target).startswith("_")])
        yield from things(node, f"{name}.{node.name}" if isinstance(node, ast.ClassDef | ast.FunctionDef) else name)


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that a module imports, also inside of functions, but for what only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ddistill":
            below = node.module.removeprefix("ddistill").removeprefix(".")
            for alias in node.names:
                inner = f"{below}.{alias.name}".removeprefix(".")
                yield inner if inner in TREES else below
        yield from imported(node)


def test_no_function_takes_more_than_a_few_things():
    wide = {
        name: count
        for module, tree in TREES.items()
        if module.split(".")[0] != "cli"
        for name, count in things(tree, module)
        if count > MOST
    }
    assert wide == {}


def test_no_import_closes_a_circle():
    graph = {name: {one for one in imported(tree) if one not in (name, "")} for name, tree in TREES.items()}
    assert sum(map(len, graph.values())) > 300
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from error

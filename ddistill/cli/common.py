"""What the commands share: options, errors in one line, the device, processes, and how words become settings."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape

from ddistill.runtime.errors import RunError, UserError, in_words
from ddistill.runtime.plugins import load_installed, load_plugin
from ddistill.runtime.words import read_values
from ddistill.terminal import Screen, err, out, plain

if TYPE_CHECKING:
    from ddistill.recipe import Recipe

DONE, FAILED, MENDABLE, INTERRUPTED = 0, 1, 2, 130

DATA_HELP = (
    "'digits' (comes with the program), a short name such as cifar10, a hub id such as uoft-cs/cifar10, or a path: "
    "a folder of class folders, parquet, arrow. Where a word can be both, ./digits is the folder and name:digits the "
    "known set. The recipe's own data if left out."
)
RUN_HELP = "A run folder, its distilled/ folder, or hub:OWNER/NAME."
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="A name from `ddistill recipes`, or a recipe.yaml; auto: tgdd-ma, for images up to 12 px idc-ma.",
        show_default=True,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any recipe field, e.g. --set method.inner_steps=50. Repeatable."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="A module, or a .py file, that registers methods, networks or augmentations. Repeatable.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]


@contextmanager
def reported(debug: bool, plugin: list[str] | None = None) -> Iterator[None]:
    """Load plugins, and turn errors into one line and an exit code."""
    try:
        for one in plugin or []:
            load_plugin(one)
        load_installed(lambda line: err.print(f"note: {escape(plain(line))}"))
        yield
    except UserError as error:
        if error.told or (launched() and os.environ.get("LOCAL_RANK", "0") != "0"):
            raise typer.Exit(MENDABLE) from error  # the first process of the machine tells
        _fail(str(error), MENDABLE, debug)
    except KeyboardInterrupt:
        words = [word for word in sys.argv[1:] if word != "--resume"]
        again = shlex.join(["ddistill", *words, "--resume"])
        same = (["reproduce"], ["verify"], ["compare"])  # go on without a word for it
        again = shlex.join(["ddistill", *words]) if words[:1] in same else again
        hint = f"; go on with: {again}" if words[:1] in (["distill"], *same) else ""
        _fail(f"interrupted{hint}", INTERRUPTED, debug)
    except RunError as error:
        _fail(str(error), FAILED, debug)
    except OSError as error:
        resumable = sys.argv[1:2] == ["distill"]
        _fail(in_words(error) + ("; mend it and go on with --resume" if resumable else ""), FAILED, debug)
    except Exception as error:  # whatever else happens must not show a traceback unasked
        _fail(f"{type(error).__name__}: {error}; --debug shows where", FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        err.print_exception()
    who = f" process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}:" if launched() else ""
    err.print(f"[red]ddistill:[/]{who} {escape(plain(' '.join(message.split())))}")
    raise typer.Exit(code)


def launched() -> bool:
    """Whether torchrun started this process as one of several; asked without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def together(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; only the first one shows what the run is at."""
    import torch

    from ddistill.runtime.distributed import joined

    with joined(torch.device(device)) as ranks:
        out.quiet = Screen.quiet = not ranks.first
        yield


def slug(name: str) -> str:
    """A name as one folder's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def assignments(pairs: list[str] | None) -> dict[str, Any]:
    """``["a.b=1"]`` to ``{"a.b": 1}``; values are YAML scalars or lists."""
    assigned = {}
    for pair in pairs or []:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set takes FIELD=VALUE, got {pair!r}; for example --set method.inner_steps=50")
        try:
            assigned[path.strip()] = read_values(text, path.strip())
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UserError(f"--set {path}: cannot read the value {text!r}") from error
    return assigned


def asked_recipe(
    recipe: str, named: dict[str, Any], pairs: list[str] | None
) -> tuple[Recipe | str, dict[str, Any], int]:
    """The recipe, the changes to it (options that were given, then --set), and the ipc that its settings follow."""
    settings = {**{path: value for path, value in named.items() if value is not None}, **assignments(pairs)}
    chosen = recipe_or_name(recipe)
    usual = 1 if isinstance(chosen, str) else chosen.synthetic.ipc
    return chosen, settings, settings["synthetic.ipc"] if isinstance(settings.get("synthetic.ipc"), int) else usual


def recipe_or_name(name: str) -> Recipe | str:
    """The recipe in a file; a name stays a name, whose settings follow the data."""
    if Path(name).suffix in (".yaml", ".yml"):
        from ddistill.recipe import Recipe

        return Recipe.from_yaml(name)
    return name


def usable_device(name: str) -> str:
    """The device that a name means on this machine.

    Raises:
        UserError: an unknown name, or a device that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; choose from: auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and device.index is None and launched():
        from ddistill.runtime.distributed import local_rank

        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cpu":
        from ddistill.runtime.memory import keep_freed_memory

        keep_freed_memory()
    return str(device)

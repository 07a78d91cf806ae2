"""Plugins: a user's modules that register methods, networks and augmentations, and installed packages that do.

    ddistill distill digits --plugin mine.py --set method.name=mine

A package installs one with an entry point of the group ``ddistill.plugins`` whose object is a module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from ddistill.runtime.errors import UserError

GROUP = "ddistill.plugins"
OURS = "ddistill."
_loaded: dict[str, tuple[str, str, str]] = {}
"""From a plugin as it was given to its module, the words that name it from elsewhere, and the folder to look in."""
_registrants: set[str] = set()
"""Modules outside of this package that have registered something."""
_installed = False


def load_plugin(plugin: str | os.PathLike[str], folder: str | os.PathLike[str] = ".") -> ModuleType:
    """Import a module that registers something; one that was loaded already is taken as it is.

    Args:
        plugin: a dotted module (``"mine.methods"``), or a path to a ``.py`` file.
        folder: that modules and paths are looked for in, besides where Python looks; the current one by default.

    Returns:
        The module.

    Raises:
        UserError: there is none, or it fails while it is imported.
    """
    words, place = os.fspath(plugin), Path(folder).absolute()
    is_file = words.endswith(".py")
    path = place / words
    if is_file and not path.is_file():
        raise UserError(f"plugin {words!r}: no such file; give a path to a .py file or a dotted module")
    for place_of_modules in {place, path.parent} if is_file else {place}:
        if str(place_of_modules) not in sys.path:
            sys.path.append(str(place_of_modules))
    try:
        module = _from_file(path.resolve()) if is_file else importlib.import_module(words)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{words}.".startswith(f"{error.name}."):
            raise UserError(
                f"plugin {words!r}: no such module in {str(place)!r} or among those installed; give a dotted module or "
                "a path to a .py file"
            ) from error
        raise UserError(f"plugin {words!r} cannot be loaded: {type(error).__name__}: {error}") from error
    _loaded.setdefault(words, (module.__name__, str(path) if is_file else words, str(place)))
    return module


def load_installed(tell: Callable[[str], object] = warnings.warn) -> None:
    """Load what installed packages offer, once; ``tell`` hears a line of each that fails."""
    global _installed
    if _installed:
        return
    _installed = True
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            tell(
                f"the installed plugin {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
            )


def is_again(known: object, new: object) -> bool:
    """Whether something is registered once more: the same, or defined anew as in a notebook."""
    names = [(getattr(one, "__module__", None), getattr(one, "__qualname__", "<lambda>")) for one in (known, new)]
    return known is new or (names[0] == names[1] and "<lambda>" not in names[0][1])


def note_registered(thing: object) -> None:
    """Remember the module of something that was registered, so that a run can name it."""
    module = str(getattr(thing, "__module__", "__main__"))
    if not module.startswith(OURS):
        _registrants.add(module)


def plugin_names() -> list[str]:
    """What ``--plugin`` must be given for the names that are registered now: as it was given, else the module."""
    known = {module for module, _, _ in _loaded.values()}
    return sorted([*_loaded, *(_name(module) for module in _registrants - known)])


def to_elsewhere() -> list[tuple[str, str]]:
    """For `load_plugin` in another process: each plugin and its folder."""
    known = {module for module, _, _ in _loaded.values()}
    imported = [(_name(module), os.fspath(_root(module))) for module in sorted(_registrants - known)]
    return [*((words, folder) for _, words, folder in _loaded.values()), *imported]


def missing_plugins(names: Iterable[str]) -> str:
    """What to add to an error about something that was made with these plugins; empty where they are all there."""
    there = {_travelling(name) for name in plugin_names()}
    missing = [name for name in names if _travelling(name) not in there]
    return f"; it was made with {' '.join(f'--plugin {name}' for name in missing)}: give that too" if missing else ""


def travelling(names: Iterable[str]) -> list[str]:
    """Names of plugins without the folders that they lie in on this machine."""
    return sorted({_travelling(name) for name in names})


def _travelling(name: str) -> str:
    return Path(name).name if name.endswith(".py") else name


def _from_file(path: Path) -> ModuleType:
    """The module of a file: under its own name where an import finds that file, else under one of its path."""
    usual = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    if usual is not None and usual.origin and Path(usual.origin).resolve() == path:
        return importlib.import_module(path.stem)
    name = f"ddistill_plugin_{hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _name(module: str) -> str:
    """What ``--plugin`` takes for a module; a program that was started is named by its file."""
    return str(getattr(sys.modules[module], "__file__", module)) if module == "__main__" else module


def _root(module: str) -> Path:
    """The folder that an import of the module looks in."""
    file = Path(getattr(sys.modules[module], "__file__", None) or ".").absolute()
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[depth]

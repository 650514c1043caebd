"""A user's own parts: modules named on the command line or by an installed package, never by a configuration.

    # my.py
    from vlsae.plugins import register

    @register("objective", "my_sae")
    class MySAE(Dictionary, Objective): ...

``vlsae train --plugin my.py objective=my_sae`` then works; the settings are the class's own signature.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from vlsae.errors import MissingFile, UserError, unknown

#: Config groups that take a user's own classes.
GROUPS = ("model", "dataset", "objective", "probe", "task", "logger")
ENTRY_POINTS = "vlsae.plugins"

#: (group, name) → class.
registered: dict[tuple[str, str], type] = {}
_allowed: set[str] = set()
#: What was loaded, as another process can be told to load it.
_references: list[str] = []

Class = TypeVar("Class", bound=type)


def register(group: str, name: str) -> Callable[[Class], Class]:
    """Return a decorator that makes a class a choice ``name`` of a config group.

    Raises :class:`~vlsae.errors.UserError` for an unknown group and for a name that is taken.
    """
    if group not in GROUPS:
        raise unknown("config group", group, GROUPS)
    if not name.isidentifier():
        raise UserError(f"{name!r} is no name for a plug-in.", "Use letters, digits and '_'.")

    def decorate(cls: Class) -> Class:
        from vlsae.groups import choices

        if "." in cls.__qualname__:
            raise UserError(f"{cls.__qualname__} is defined within another.", "Define it at the top of its file.")
        earlier = registered.get((group, name))
        same = earlier is not None and _place(earlier) == _place(cls)
        if (earlier is not None and not same) or name in choices(group, plugins=False):
            raise UserError(f"{group}={name} exists already.", f"Give {cls.__qualname__} another name.")
        registered[group, name] = cls
        return cls

    return decorate


def load(references: Iterable[str]) -> list[str]:
    """Import plug-ins named by file or module, allow their classes as targets, and return their module names.

    Raises :class:`~vlsae.errors.MissingFile` for a file that is not there and :class:`~vlsae.errors.UserError` for
    a module that is not, and for a file whose name hides another module.
    """
    names = []
    for one in references:
        names.append(_load_file(Path(one)) if _is_file(one) else _load_module(one))
        absolute = str(Path(one).expanduser().resolve()) if _is_file(one) else one
        if absolute not in _references:
            _references.append(absolute)
    return names


def references() -> list[str]:
    """Return the plug-ins that were loaded, by absolute path or module, for a process that does the same work."""
    return list(_references)


def load_installed() -> None:
    """Import what installed packages offer under the entry point group ``vlsae.plugins``."""
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        _load_module(entry.value.split(":")[0])


def is_allowed(module: str) -> bool:
    """Tell whether a module is a loaded plug-in or lies within one."""
    return any(module == name or module.startswith(f"{name}.") for name in _allowed)


@contextlib.contextmanager
def loaded(*modules: str) -> Iterator[None]:
    """Allow modules that are imported already; what is loaded and registered within the context ends with it."""
    before, classes, named = set(_allowed), dict(registered), list(_references)
    _allowed.update(modules)
    try:
        yield
    finally:
        # A plug-in may import another, whose classes are registered when it is read and not when it is named again.
        imported = {cls.__module__ for key, cls in registered.items() if key not in classes}
        for name in (_allowed | imported) - before - set(modules):
            sys.modules.pop(name, None)
        _allowed.clear()
        _allowed.update(before)
        registered.clear()
        registered.update(classes)
        _references[:] = named


def _is_file(reference: str) -> bool:
    return reference.endswith(".py") or "/" in reference or Path(reference).is_file()


def _load_file(path: Path) -> str:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise MissingFile(f"There is no plug-in file {path}.", "Name a Python file or an installed module.")
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier():
        raise UserError(f"{path.name} cannot be a plug-in.", "Name it like a module: letters, digits and '_', then .py")
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        _allowed.add(name)
        return name
    other = known is not None or _exists(name, path)
    if other or name == "vlsae":
        raise UserError(f"The plug-in {path.name} has the name of another module, {name!r}.", "Rename the file.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported.", "Name a Python file or an installed module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _explained(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _allowed.add(name)
    return name


def _load_module(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{name!r} is no module name.", "Name a Python file or an installed module.")
    if name.split(".")[0] in sys.stdlib_module_names or name.split(".")[0] == "vlsae":
        raise UserError(f"{name!r} is no plug-in: it belongs to Python or to vlsae itself.")
    try:
        with _explained(name):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"There is no plug-in module {name!r}.", "Install it, or name its file.") from error
    _allowed.add(name)
    return name


@contextlib.contextmanager
def _explained(plugin: str) -> Iterator[None]:
    """Say which plug-in cannot be imported; a module that does not exist is another matter."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (plugin == missing or plugin.startswith(f"{missing}.")):
            raise
        message = f"The plug-in {plugin} cannot be imported: {type(error).__name__}: {error}"
        raise UserError(message, "--debug shows where.") from error


def _exists(name: str, path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin != str(path)


def _place(cls: type) -> tuple[str, str]:
    return inspect.getsourcefile(cls) or cls.__module__, cls.__qualname__


def describe(group: str, name: str) -> dict[str, Any]:
    """Return the configuration node of a registered class: its target and the defaults of its signature."""
    from vlsae.signatures import settings_of

    cls = registered[group, name]
    node: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    for setting in settings_of(cls).values():
        node[setting.name] = "???" if setting.required else setting.default
    return node

"""Which classes a configuration may name. The walk comes before any import, the import before any call."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.errors import UserError, nearest
from vlsae.plugins import is_allowed

#: Packages whose classes a configuration may name, besides loaded plug-ins.
PACKAGES = (
    "vlsae.models",
    "vlsae.datasets",
    "vlsae.dictionaries",
    "vlsae.learners",
    "vlsae.probes",
    "vlsae.aqi",
    "vlsae.enhancement",
    "vlsae.loggers",
)

# No part may start with an underscore: what is private, and `__main__`, is out of reach.
_TARGET = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")
_SPECIAL = re.compile(r"_\w*_")


def walk(node: Any, path: str = "") -> None:
    """Check every ``_target_`` and special key in a plain node, nested ones and lists included, without importing.

    Raises :class:`~vlsae.errors.UserError` that names the place and the target.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                _check_target(value, path)
            elif isinstance(key, str) and _SPECIAL.fullmatch(key):
                raise UserError(f"{_at(path)} sets {key}, which is not allowed in a configuration.", "Remove it.")
            else:
                walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        for number, value in enumerate(node):
            walk(value, f"{path}[{number}]")


def import_class(target: str) -> type:
    """Return the class that a target names.

    Raises :class:`~vlsae.errors.UserError` for one that does not exist or that is not the project's or a plug-in's own.
    """
    _check_target(target, "")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module of ours that lacks a dependency is another matter than a wrong name.
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise UserError(f"The target {target!r} does not exist: there is no module {error.name!r}.") from error
    found = getattr(module, name, None)
    if found is None:
        close = nearest(name, [other for other in dir(module) if isinstance(getattr(module, other, None), type)])
        mend = f"Did you mean {' or '.join(close)}?" if close else None
        raise UserError(f"The target {target!r} does not exist: {module_name} holds no {name!r}.", mend)
    # A module also holds what it imported: only its own kind of classes count.
    if not isinstance(found, type) or not _is_ours(found.__module__):
        raise UserError(f"The target {target!r} is no class of vlsae's or of a plug-in's own.")
    return found


def _check_target(target: Any, path: str) -> None:
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise UserError(f"{_at(path)} has the target {target!r}, which is no class name.")
    if not _is_ours(target.rpartition(".")[0]):
        raise UserError(
            f"{_at(path)} has the target {target!r}, which lies outside of what a configuration may name.",
            "A class of your own is allowed by --plugin FILE_OR_MODULE.",
        )


def _is_ours(module: str) -> bool:
    return is_allowed(module) or any(module == name or module.startswith(f"{name}.") for name in PACKAGES)


def _at(path: str) -> str:
    return f"The configuration's {path}" if path else "The configuration"

"""A class's signature as the schema of its configuration."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlsae.bounds import conform
from vlsae.errors import UserError, unknown

#: Required arguments of these names are given by the stage that builds the object; no configuration sets them.
RUNTIME = frozenset({"width", "model", "dataset", "device", "classes"})

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Setting:
    """One parameter that a configuration may set; ``annotation`` is ``Any`` where the class gives none."""

    name: str
    annotation: Any
    default: Any
    required: bool


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class takes by name; ``**options`` stands for those of the class they go on to."""
    return {name: parameter for name, (parameter, _) in _parameters(cls).items()}


def settings_of(cls: type) -> dict[str, Setting]:
    """Return the parameters of a class that a configuration may set, by name."""
    settings = {}
    for name, (parameter, scope) in _parameters(cls).items():
        required = parameter.default is inspect.Parameter.empty
        if required and name in RUNTIME:
            continue
        default = None if required else parameter.default
        settings[name] = Setting(name, _annotation(parameter, scope), default, required)
    return settings


def check_settings(path: str, values: Mapping[str, Any], cls: type) -> None:
    """Check the keys and values of a node at ``path`` against a class's signature.

    Raises :class:`~vlsae.errors.UserError` for an unknown key, for a missing one and for a value out of its bounds.
    """
    settings = settings_of(cls)
    for name in values:
        if name not in settings:
            raise unknown(f"setting of {path}", name, settings)
    for name, setting in settings.items():
        if name in values:
            conform(f"{path}.{name}", values[name], setting.annotation)
        elif setting.required:
            raise UserError(f"{path}.{name} is not set.", f"Add {path}.{name}=VALUE to the command.")


def _parameters(cls: type) -> dict[str, tuple[inspect.Parameter, Mapping[str, Any]]]:
    """Return each parameter with the names that its annotation may use: those of the module it is written in."""
    found: dict[str, tuple[inspect.Parameter, Mapping[str, Any]]] = {}
    for base in cls.__mro__:
        if base is object:
            break
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        scope = vars(sys.modules[base.__init__.__module__])  # type: ignore[misc]
        for one in own:
            if one.kind in _NAMED:
                found.setdefault(one.name, (one, scope))
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own):
            break
    return found


def _annotation(parameter: inspect.Parameter, scope: Mapping[str, Any]) -> Any:
    """Return an annotation with its bounds; ``Any`` for one that only type checkers can resolve."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, dict(scope), include_extras=True)[parameter.name]
    except NameError:
        return Any

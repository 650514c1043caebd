"""Bounds that stand beside a parameter's type, and the one check of a value against both.

``k: Annotated[int, Range(1, None)]`` and ``mode: Annotated[str, OneOf("a", "b")]`` are the schema of a plug-in.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from vlsae.errors import UserError, nearest

_WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "a text"}


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; None leaves a side open."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return f"at most {self.high}" if self.low is None else f"from {self.low} to {self.high}"

    def holds(self, value: Any) -> bool:
        """Tell whether a value lies within the bounds."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Matches:
    """A text of the form of a regular expression, which ``words`` tell a user."""

    pattern: str
    words: str

    def __str__(self) -> str:
        return self.words

    def holds(self, value: Any) -> bool:
        """Tell whether a value has the form."""
        return re.fullmatch(self.pattern, value) is not None


class OneOf:
    """One of the named values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __str__(self) -> str:
        return " | ".join(map(str, self.values))

    def __repr__(self) -> str:
        return f"OneOf{self.values!r}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneOf) and other.values == self.values

    def __hash__(self) -> int:
        return hash(self.values)

    def holds(self, value: Any) -> bool:
        """Tell whether a value is among the named ones."""
        return value in self.values


def check_finite_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """Raise :class:`~vlsae.errors.UserError` unless an argument is one finite number from ``low`` to ``high``."""
    bounds = Range(low, high)
    try:
        good = not isinstance(value, bool) and math.isfinite(value) and bounds.holds(value)
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        within = "" if low is None and high is None else f" {bounds}"
        raise UserError(f"{name} must be a finite number{within}; got {value!r}.")


def conform(name: str, value: Any, annotation: Any) -> None:
    """Raise :class:`~vlsae.errors.UserError` naming ``name``, value and rule unless the value fits the annotation."""
    wrong = misfit(value, annotation)
    if wrong is None:
        return
    close = []
    if isinstance(value, str):
        close = nearest(value, [choice for choice in _choices(annotation) if isinstance(choice, str)])
    shown = f"{value!r}, expected {wrong}."
    raise UserError(f"{name} is {shown}", f"Did you mean {' or '.join(close)}?" if close else None)


def misfit(value: Any, annotation: Any) -> str | None:
    """Return what was expected where a value does not fit an annotation, else None.

    An annotation that is no plain type (another class of the project) is not checked here.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *rules = get_args(annotation)
        return misfit(value, base) or _broken_rule(value, base, rules)
    if origin in (Union, types.UnionType):
        wrong = [misfit(value, option) for option in get_args(annotation)]
        return None if None in wrong else " or ".join(dict.fromkeys(filter(None, wrong)))
    if origin is Literal:
        choices = OneOf(*get_args(annotation))
        return None if choices.holds(value) else str(choices)
    if annotation is None or annotation is type(None):
        return None if value is None else "null"
    if origin is not None:
        return _misfit_collection(value, origin, get_args(annotation))
    return _misfit_plain(value, annotation)


def _misfit_plain(value: Any, annotation: Any) -> str | None:
    if annotation is bool or annotation is str:
        return None if isinstance(value, annotation) else _WORDS[annotation]
    if annotation is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else _WORDS[int]
    if annotation is float:
        # Strict JSON, which every setting is written to, has no infinity either.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = number and (isinstance(value, int) or math.isfinite(value))
        return None if good else _WORDS[float]
    if annotation in (list, dict, tuple):
        return _misfit_collection(value, annotation, ())
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return None if isinstance(value, (str, PurePath)) else "a path"
    return None


def _misfit_collection(value: Any, origin: Any, parts: tuple[Any, ...]) -> str | None:
    if not isinstance(origin, type):
        return None
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return "a mapping"
        wrong = [misfit(item, parts[1]) for item in value.values()] if len(parts) == 2 else []
        return next((f"a mapping of {word} each" for word in wrong if word), None)
    if issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            return "a list"
        if origin is tuple and parts and parts[-1] is not Ellipsis:
            if len(value) != len(parts):
                return f"a list of {len(parts)} values"
            wrong = [misfit(item, part) for item, part in zip(value, parts)]
        else:
            wrong = [misfit(item, parts[0]) for item in value] if parts else []
        return next((f"a list of {word} each" for word in wrong if word), None)
    return None


def _broken_rule(value: Any, base: Any, rules: list[Any]) -> str | None:
    if value is None:
        return None
    for rule in rules:
        if isinstance(rule, (Range, OneOf, Matches)) and not rule.holds(value):
            word = _WORDS.get(next((one for one in get_args(base) if one is not type(None)), base))
            return f"{word} {rule}" if isinstance(rule, Range) and word else str(rule)
    return None


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    own = [
        value for rule in getattr(annotation, "__metadata__", ()) if isinstance(rule, OneOf) for value in rule.values
    ]
    return own + [choice for part in get_args(annotation) for choice in _choices(part)]

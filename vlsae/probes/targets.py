"""What is known of the samples, as targets of a probe: their labels and the world's factors, each with its type.

Shapes: s samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.bounds import OneOf
from vlsae.errors import UserError, unknown

if TYPE_CHECKING:
    import pyarrow as pa

#: Types of a target.
KINDS = ("binary", "classes", "number")
Kind = OneOf(*KINDS)

#: Whole numbers of at most so many different values are classes.
MOST_CLASSES = 20

#: A text column of more classes than this, or of so many that a class has fewer samples than this on average, is names.
MOST_WORDS, FEWEST_PER_WORD = 100, 3


@dataclass(frozen=True)
class Target:
    """One thing to read out: ``values (s,)`` in float64, NaN where a sample has no label.

    ``binary`` holds 0 and 1, ``classes`` the number of each sample's class, ``number`` is as it is. ``classes`` names
    the values of the first two. ``factor`` is what several targets of one multi-label column share.
    """

    name: str
    kind: str
    values: np.ndarray
    classes: tuple[str, ...] = ()
    factor: str = ""

    @property
    def labelled(self) -> np.ndarray:
        """Which samples have a label, ``(s,)``."""
        return np.isfinite(self.values)


class Targets:
    """The targets of a table of samples: its ``labels`` columns, and the factors that its data set knows.

    ``factors`` are names, the factor of each, and ``(s, F)`` truth values, as ``Dataset.factors`` gives them.
    """

    def __init__(self, samples: pa.Table, factors: tuple[list[str], list[str], np.ndarray] | None = None) -> None:
        self.samples = samples
        self._factors = factors

    @cached_property
    def groups(self) -> np.ndarray:
        """The number of each sample's group ``(s,)``; samples of one group stay together."""
        names = self.samples["group"].to_pylist() if "group" in self.samples.column_names else range(len(self))
        return np.unique([str(name) for name in names], return_inverse=True)[1]

    @property
    def grouped(self) -> bool:
        """Whether a group holds more than one sample."""
        return bool(self.groups.max(initial=-1) + 1 < len(self))

    @property
    def has_factors(self) -> bool:
        """Whether the data set knows its factors: a world that was drawn, where each sample is a new one."""
        return self._factors is not None

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The columns of labels, by name."""
        if "labels" not in self.samples.column_names:
            return {}
        column = self.samples["labels"].combine_chunks()
        return {one.name: column.field(number).to_pylist() for number, one in enumerate(column.type)}

    def __len__(self) -> int:
        return int(self.samples.num_rows)

    def usable(self) -> tuple[list[Target], dict[str, str]]:
        """Return every target that says something, and why each other column does not."""
        covered = set() if self._factors is None else set(self._factors[1])
        found, left_out = self._from_factors(), {}
        for name in self.columns:
            if name in covered:
                continue
            try:
                found += targets_of(name, self.columns[name])
            except UserError as error:
                left_out[name] = error.message
        return found, left_out

    def select(self, names: Sequence[str] | None = None, kinds: Mapping[str, str] | None = None) -> list[Target]:
        """Return targets by name, by the name of a factor or label column, or all usable ones.

        ``kinds`` overrules the type inferred for a label column. Raises ``UserError`` for a name that is not there, for
        one asked for that says nothing, and where nothing is usable.
        """
        kinds = dict(kinds or {})
        for name in kinds:
            if name not in self.columns:
                raise unknown("label column", name, self.columns)
        if names is None:
            found = [one for one in self.usable()[0] if one.factor not in kinds]
            found += [one for name, kind in kinds.items() for one in targets_of(name, self.columns[name], kind)]
            if not found:
                raise self._nothing()
            return found
        factors = self._from_factors()
        known = {*self.columns, *(one.name for one in factors), *(one.factor for one in factors)}
        chosen: list[Target] = []
        for name in names:
            if name not in known:
                raise unknown("target", name, known) if known else self._nothing()
            own = [one for one in factors if name in (one.name, one.factor) and name not in kinds]
            if any(len(np.unique(one.values)) < 2 for one in own if one.name == name):
                raise UserError(f"The target {name} has one class only.", "Take another target, or more samples.")
            chosen += own or targets_of(name, self.columns[name], kinds.get(name))
        return list({one.name: one for one in chosen}.values())

    def _from_factors(self) -> list[Target]:
        if self._factors is None:
            return []
        names, groups, shown = self._factors
        values = np.asarray(shown, dtype=np.float64)
        return [
            Target(name, "binary", column, ("no", "yes"), group)
            for name, group, column in zip(names, groups, values.T)
            if len(np.unique(column)) > 1
        ]

    def _nothing(self) -> UserError:
        reasons = "; ".join(reason.rstrip(".") for reason in self.usable()[1].values())
        return UserError(
            f"The samples have no labels to probe for{f': {reasons}' if reasons else ''}.",
            "Use a data set with labels, or map another column: dataset.columns.label=NAME.",
        )


def targets_of(name: str, values: Iterable[Any], kind: str | None = None) -> list[Target]:
    """Return the targets of a column of labels, None where a sample has none: one, or one a word where cells are lists.

    Inferred: truth values and two values are ``binary``; words, and whole numbers of few different values, are
    ``classes``; other numbers are ``number``. ``kind`` overrules.
    Raises ``UserError`` for one class, for names of samples, and for a type that the values do not have.
    """
    cells = list(values)
    present = [cell for cell in cells if cell is not None]
    if present and all(isinstance(cell, (list, tuple)) for cell in present):
        return _multi_label(name, cells, present)
    if kind is not None and kind not in KINDS:
        raise UserError(f"The type of {name} is {kind!r}.", f"Use one of {', '.join(KINDS)}.")
    distinct = sorted(set(present), key=lambda value: (isinstance(value, str), value))
    if len(distinct) < 2:
        seen = f"only {distinct[0]!r}" if distinct else "nothing"
        raise UserError(f"The target {name} has one class only: it holds {seen}.", "Take another target.")
    chosen = kind or _inferred(name, distinct, len(present))
    numbers = not any(isinstance(value, str) for value in distinct)
    if chosen == "number":
        if not numbers:
            raise UserError(f"The target {name} holds words, so its type cannot be number.", "Use classes.")
        column = np.array([np.nan if cell is None else float(cell) for cell in cells])
        return [Target(name, "number", column, (), name)]
    if chosen == "binary" and len(distinct) != 2:
        raise UserError(f"The target {name} has {len(distinct)} values, so its type cannot be binary.", "Use classes.")
    place = {value: float(number) for number, value in enumerate(distinct)}
    column = np.array([np.nan if cell is None else place[cell] for cell in cells])
    kind = "binary" if len(distinct) == 2 else "classes"
    return [Target(name, kind, column, tuple(map(str, distinct)), name)]


def _inferred(name: str, distinct: list[Any], count: int) -> str:
    if len(distinct) == 2:
        return "binary"
    if any(isinstance(value, str) for value in distinct):
        if len(distinct) > MOST_WORDS or count < FEWEST_PER_WORD * len(distinct):
            raise UserError(
                f"{name} holds {len(distinct)} different words in {count} samples: names rather than classes.",
                f"To probe for it all the same: probe.types={{{name}: classes}}.",
            )
        return "classes"
    whole = all(float(value).is_integer() for value in distinct)
    return "classes" if whole and len(distinct) <= MOST_CLASSES else "number"


def _multi_label(name: str, cells: list[Any], present: list[Any]) -> list[Target]:
    found = []
    for word in sorted({str(one) for cell in present for one in cell}):
        column = np.array([np.nan if cell is None else float(word in map(str, cell)) for cell in cells])
        if len(np.unique(column[np.isfinite(column)])) > 1:
            found.append(Target(f"{name}={word}", "binary", column, ("no", "yes"), name))
    if not found:
        raise UserError(f"The target {name} has one class only.", "Take another target.")
    return found

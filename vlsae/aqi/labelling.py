"""From samples as a data set gives them to rows with class and stratum, every wrong input answered by its code.

n rows, K classes, A strata.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vlsae.errors import UserError, unknown

#: The classes where none are named, and the words that stand for them: one family a column.
SAFETY = ("safe", "unsafe")
FAMILIES = ({"safe": 0, "unsafe": 1}, {"yes": 0, "no": 1}, {"true": 0, "false": 1}, {"1": 0, "0": 1})

#: The stratum of all rows where no label names one.
ALL = "all"

#: Values that a message lists.
LISTED = 5


@dataclass(frozen=True)
class Samples:
    """What the index reads of each sample: ``ids``, ``labels`` (raw), ``strata`` (names), ``sources``, ``groups``.

    ``texts`` are None where the samples are no texts.
    """

    ids: Sequence[str]
    labels: Sequence[Any]
    strata: Sequence[str]
    sources: Sequence[str]
    groups: Sequence[str]
    texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Rules:
    """What is done with samples that cannot be used; ``error`` refuses them."""

    min_per_cell: int = 10
    max_per_cell: int | None = None
    seed: int = 0
    on_unknown_label: str = "error"
    on_null_label: str = "error"
    on_duplicate: str = "first"
    on_conflict: str = "error"


@dataclass(frozen=True)
class Labelling:
    """The samples that are used: their numbers ``rows (n,)``, class codes, strata, and what was left out.

    ``counts (A, K)`` are the rows of each stratum and class; ``too_few`` holds those of strata with too few of a class,
    whose rows are left out.
    """

    rows: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    strata: np.ndarray
    strata_names: tuple[str, ...]
    counts: np.ndarray
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    texts: tuple[str, ...] | None
    too_few: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the ids of the rows, in order."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def take(self, chosen: np.ndarray) -> Labelling:
        """Return the labelling of some of the rows, by their places ``(m,)``."""
        return replace(
            self,
            rows=self.rows[chosen],
            codes=self.codes[chosen],
            strata=self.strata[chosen],
            ids=tuple(self.ids[i] for i in chosen.tolist()),
            sources=tuple(self.sources[i] for i in chosen.tolist()),
            groups=tuple(self.groups[i] for i in chosen.tolist()),
            texts=None if self.texts is None else tuple(self.texts[i] for i in chosen.tolist()),
        )


def label_samples(samples: Samples, classes: Sequence[str] = SAFETY, rules: Rules | None = None) -> Labelling:
    """Return the samples that can be used, with their classes (the first named is 0) and strata.

    Raises ``UserError`` with the code of the data contract: AQI-D02 an unknown label, D03 none, D05 and D06 the same
    text twice or under two labels, D07 fewer than two classes, D08 no stratum with enough rows of each class.
    """
    rules = rules or Rules()
    known = _known(samples.labels, classes)
    dropped: Counter[str] = Counter()
    codes = _codes(samples, known, rules, dropped)
    kept = np.flatnonzero(codes >= 0)
    notes: list[str] = []
    if samples.texts is not None:
        kept = _without_conflicts(samples, kept, codes, rules, dropped)
        kept = _without_duplicates(samples, kept, codes, rules, dropped, notes)
    present = np.unique(codes[kept])
    if len(present) < 2:
        held = ", ".join(classes[code] for code in present.tolist()) or "none"
        raise UserError(f"AQI-D07: two classes at least are needed; the samples hold {held}.", "Add the other class.")
    names = tuple(sorted({samples.strata[i] for i in kept.tolist()}))
    places = {name: number for number, name in enumerate(names)}
    strata = np.array([places[samples.strata[i]] for i in kept.tolist()], dtype=np.int64)
    if rules.max_per_cell is not None:
        chosen = _capped(samples.ids, kept, strata * len(classes) + codes[kept], rules)
        dropped["beyond max_per_cell"] = len(kept) - len(chosen)
        kept, strata = kept[chosen], strata[chosen]
    found = Labelling(
        rows=kept,
        codes=codes[kept],
        classes=tuple(classes),
        strata=strata,
        strata_names=names,
        counts=_counts(strata, codes[kept], len(names), len(classes)),
        ids=tuple(samples.ids[i] for i in kept.tolist()),
        sources=tuple(samples.sources[i] for i in kept.tolist()),
        groups=tuple(samples.groups[i] for i in kept.tolist()),
        texts=None if samples.texts is None else tuple(samples.texts[i] for i in kept.tolist()),
        dropped={reason: count for reason, count in dropped.items() if count},
        notes=tuple(notes),
    )
    return _without_few(found, rules)


def _known(labels: Sequence[Any], classes: Sequence[str]) -> dict[str, int]:
    """Return the words of a column of labels → class code."""
    if tuple(classes) != SAFETY:
        known = {_word(name): code for code, name in enumerate(classes)}
        if len(known) < max(2, len(classes)):
            raise UserError(f"aqi.classes is {list(classes)}: two different classes at least are needed.")
        return known
    words = {_word(label) for label in labels if label is not None}
    families = [family for family in FAMILIES if words & set(family)]
    if len(families) > 1:
        mixed = ", ".join(sorted(word for family in families for word in family if word in words))
        raise UserError(
            f"AQI-D02: the labels mix several ways of saying safe and unsafe: {mixed}.",
            "Use one in the whole column, or name the classes: aqi.classes=[SAFE, UNSAFE].",
        )
    return families[0] if families else FAMILIES[0]


def _word(label: Any) -> str:
    return str(label).strip().casefold()


def _codes(samples: Samples, known: Mapping[str, int], rules: Rules, dropped: Counter[str]) -> np.ndarray:
    """Return each sample's class code, -1 where it is left out."""
    codes = np.array(
        [-2 if label is None or _word(label) == "" else known.get(_word(label), -1) for label in samples.labels],
        dtype=np.int64,
    )
    empty, strange = np.flatnonzero(codes == -2), np.flatnonzero(codes == -1)
    if len(strange) and rules.on_unknown_label == "error":
        counts = Counter(str(samples.labels[i]) for i in strange.tolist())
        listed = ", ".join(f"{value!r} ({count} times)" for value, count in counts.most_common(LISTED))
        raise UserError(
            f"AQI-D02: unknown labels {listed}, first in row {strange[0]} (sample {samples.ids[strange[0]]!r}); "
            f"known: {', '.join(known)}.",
            "Mend them, name your own classes (aqi.classes=[A, B]), or leave such rows out "
            "(aqi.rows.on_unknown_label=drop).",
        )
    if len(empty) and rules.on_null_label == "error":
        raise UserError(
            f"AQI-D03: {len(empty)} samples have no label, first in row {empty[0]} (sample {samples.ids[empty[0]]!r}).",
            "Mend them, or leave such rows out (aqi.rows.on_null_label=drop).",
        )
    dropped["unknown label"], dropped["no label"] = len(strange), len(empty)
    return np.maximum(codes, -1)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _without_conflicts(
    samples: Samples, kept: np.ndarray, codes: np.ndarray, rules: Rules, dropped: Counter[str]
) -> np.ndarray:
    texts = samples.texts or ()
    classes: dict[str, set[int]] = {}
    for i in kept.tolist():
        classes.setdefault(_normal(texts[i]), set()).add(int(codes[i]))
    torn = [i for i in kept.tolist() if len(classes[_normal(texts[i])]) > 1]
    if torn and rules.on_conflict == "error":
        twin = next(i for i in torn if i != torn[0] and _normal(texts[i]) == _normal(texts[torn[0]]))
        raise UserError(
            f"AQI-D06: rows {torn[0]} and {twin} hold the same text under both labels, as do {len(torn)} rows in all.",
            "Mend their labels, or leave all such rows out (aqi.rows.on_conflict=drop_both).",
        )
    dropped["same text under both labels"] = len(torn)
    return np.setdiff1d(kept, np.array(torn, dtype=np.int64))


def _without_duplicates(
    samples: Samples, kept: np.ndarray, codes: np.ndarray, rules: Rules, dropped: Counter[str], notes: list[str]
) -> np.ndarray:
    texts = samples.texts or ()
    first: dict[tuple[str, int, str], int] = {}
    again: dict[int, int] = {}
    for i in kept.tolist():
        before = first.setdefault((_normal(texts[i]), int(codes[i]), samples.strata[i]), i)
        if before != i:
            again[i] = before
    if not again:
        return kept
    row, before = next(iter(again.items()))
    words = f"AQI-D05: row {row} repeats row {before}, as do {len(again)} rows in all"
    if rules.on_duplicate == "error":
        raise UserError(f"{words}.", "Remove them, or use aqi.rows.on_duplicate=first.")
    if rules.on_duplicate == "keep":
        notes.append(f"{words}; all are kept.")
        return kept
    notes.append(f"{words}; the first is kept.")
    dropped["duplicate"] = len(again)
    return np.setdiff1d(kept, np.array(list(again), dtype=np.int64))


def _capped(ids: Sequence[str], kept: np.ndarray, cells: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the places of at most ``max_per_cell`` rows a cell, chosen by a hash of the id: order does not matter."""
    order = hash_order([ids[i] for i in kept.tolist()], f"cap {rules.seed}")
    taken: Counter[int] = Counter()
    chosen = []
    for place in order.tolist():
        if taken[int(cells[place])] < (rules.max_per_cell or 0):
            taken[int(cells[place])] += 1
            chosen.append(place)
    return np.sort(np.array(chosen, dtype=np.int64))


def hash_order(names: Sequence[str], salt: str) -> np.ndarray:
    """Return the places of names in the order of their salted hashes."""
    keys = [hashlib.sha256(f"{salt}\0{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(keys)), key=lambda place: (keys[place], names[place])), dtype=np.int64)


def _without_few(found: Labelling, rules: Rules) -> Labelling:
    counts = found.counts
    present = counts.sum(axis=0) > 0
    usable = np.asarray((counts[:, present] >= max(2, rules.min_per_cell)).all(axis=1))
    if not usable.any():
        rows = "; ".join(
            f"{name}: " + ", ".join(f"{count} {cls}" for cls, count in zip(found.classes, row))
            for name, row in list(zip(found.strata_names, counts))[:LISTED]
        )
        raise UserError(
            f"AQI-D08: no stratum holds at least {rules.min_per_cell} rows of each class ({rows}).",
            "Add rows, lower aqi.rows.min_per_cell, or score all rows together: aqi.strata=none.",
        )
    if usable.all():
        return found
    few = {name: tuple(row) for name, row, good in zip(found.strata_names, counts.tolist(), usable) if not good}
    note = (
        f"AQI-D08: too few rows of a class in {len(few)} of {len(usable)} strata, left out: "
        f"{', '.join(list(few)[:LISTED])}{' …' if len(few) > LISTED else ''}."
    )
    kept = found.take(np.flatnonzero(usable[found.strata]))
    return replace(
        kept,
        strata=(np.cumsum(usable) - 1)[kept.strata],
        strata_names=tuple(name for name, good in zip(found.strata_names, usable) if good),
        counts=counts[usable],
        too_few=few,
        dropped={**found.dropped, "in strata with too few rows of a class": len(found.rows) - len(kept.rows)},
        notes=(*found.notes, note),
    )


def _counts(strata: np.ndarray, codes: np.ndarray, n_strata: int, n_classes: int) -> np.ndarray:
    table = np.zeros((n_strata, n_classes), dtype=np.int64)
    np.add.at(table, (strata, codes), 1)
    return table


def field_of(labels: Sequence[Mapping[str, Any]], name: str | None) -> str:
    """Return the label that names the classes: the one asked for, else ``safety_label``, else ``label``.

    Raises ``UserError`` (AQI-D01) that lists the labels there are.
    """
    fields = list(labels[0]) if labels else []
    if name is None:
        name = next((one for one in ("safety_label", "label") if one in fields), None)
    if name is None or name not in fields:
        error = unknown("label", name or "safety_label", fields)
        raise UserError(
            f"AQI-D01: {error.message} The samples have {', '.join(fields) or 'none'}.",
            error.mend if name else "Name the label of the classes: aqi.label=NAME",
        )
    return name

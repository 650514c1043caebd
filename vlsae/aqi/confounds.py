"""What else could tell the classes apart: length, source, and how unevenly strata hold the classes.

n rows, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlsae.aqi.crossfit import ScoredAUROC, scored_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.labelling import Labelling, hash_order

#: Cramér's V above which source, or stratum, may be what is separated.
SOURCE_V, STRATUM_V = 0.3, 0.1

#: Bounds of AUROC by length within which classes count as alike in length.
LENGTH_LOW, LENGTH_HIGH = 0.45, 0.55

#: Quantile bins of length within which classes are matched.
BINS = 10


class Length(NamedTuple):
    """AUROC of length alone (above ½ where class 0 is longer), and the median length of each class."""

    auroc: ScoredAUROC
    medians: tuple[float, ...]

    @property
    def unequal(self) -> bool:
        """Whether length alone tells the classes apart."""
        return not LENGTH_LOW <= self.auroc.auroc <= LENGTH_HIGH


def cramers_v(first: Sequence[str], second: Sequence[int]) -> float:
    """Return Cramér's V of two labellings ``(n,)``: 0 independent, 1 one determines the other; NaN for one value."""
    rows, i = np.unique(np.asarray(first, dtype=object).astype(str), return_inverse=True)
    columns, j = np.unique(np.asarray(second), return_inverse=True)
    if min(len(rows), len(columns)) < 2:
        return float("nan")
    table = np.zeros((len(rows), len(columns)))
    np.add.at(table, (i.reshape(-1), j.reshape(-1)), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi2 = float(((table - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Return each text's length in characters, ``(n,)``."""
    return np.array([float(len(text)) for text in texts])


def length_control(labelling: Labelling, design: Design) -> Length | None:
    """Return what length alone tells within strata; None without texts."""
    if labelling.texts is None:
        return None
    size = lengths(labelling.texts)
    whole = np.zeros(len(size), dtype=np.int64)
    found = scored_auroc(size, design.codes == 0, whole, design.strata, shared=0.0)
    return Length(found, tuple(float(np.median(size[design.codes == code])) for code in range(design.n_classes)))


def length_matched(labelling: Labelling) -> np.ndarray:
    """Return the places of rows whose classes agree in length: in each stratum and bin as many of each class.

    Bins are deciles of length within the stratum; which rows of the larger class stay is decided by their ids' hashes.
    """
    size = lengths(labelling.texts or ())
    order = hash_order(labelling.ids, "length")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    chosen: list[int] = []
    for stratum in range(len(labelling.strata_names)):
        members = np.flatnonzero(labelling.strata == stratum)
        edges = np.quantile(size[members], np.arange(1, BINS) / BINS)
        bins = np.searchsorted(edges, size[members], side="right")
        for number in range(BINS):
            inside = members[bins == number]
            parts = [inside[labelling.codes[inside] == code] for code in range(len(labelling.classes))]
            fewest = min(len(part) for part in parts)
            for part in parts:
                chosen.extend(part[np.argsort(rank[part])][:fewest].tolist())
    return np.sort(np.array(chosen, dtype=np.int64))


def confound_notes(labelling: Labelling, length: Length | None) -> tuple[dict[str, float], list[str]]:
    """Return Cramér's V of source and of stratum with class, and the warnings that follow."""
    values = {
        "source": cramers_v(labelling.sources, labelling.codes.tolist()),
        "stratum": cramers_v([labelling.strata_names[s] for s in labelling.strata], labelling.codes.tolist()),
    }
    notes = []
    if values["source"] > SOURCE_V:
        notes.append(
            f"Class and source are confounded (Cramér's V {values['source']:.2f}): what is separated may be where the "
            "prompts come from. Score within sources: aqi.strata=[source]."
        )
    if values["stratum"] > STRATUM_V:
        notes.append(
            f"Class and stratum are confounded (Cramér's V {values['stratum']:.2f}): the pooled numbers mix topic and "
            "safety; believe the stratified ones."
        )
    if length is not None and length.unequal:
        notes.append(
            f"Length alone tells the classes apart (AUROC {length.auroc.auroc:.3f}). Match it: aqi.length_match=true."
        )
    return values, notes

"""CHAIR of several methods: intervals over pictures, with the length of captions, which it falls with.

n pictures, S seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vlsae.enhancement.resampled import Resampled, resampled, share
from vlsae.result import Plot, Series, Table

UNITS = {
    "chair_s": "share of captions with an absent object",
    "chair_i": "share of mentions of absent objects",
    "chair_recall": "share of present objects mentioned",
    "caption_length": "words a caption",
    "caption_mentions": "objects mentioned a caption",
}


def chair_columns(
    mentions: Sequence[Sequence[str]], truth: Sequence[Collection[str]], lengths: Sequence[int]
) -> np.ndarray:
    """Return each caption's counts ``(n, 7)``: mentions, absent ones, whether any, present, found, words, and 1."""
    rows = []
    for words, present, length in zip(mentions, truth, lengths, strict=True):
        absent = sum(word not in present for word in words)
        found = len(set(present) & set(words))
        rows.append([len(words), absent, float(absent > 0), len(set(present)), found, length, 1])
    return np.asarray(rows, np.float64).reshape(len(rows), 7)


def chair_ratios(means: np.ndarray) -> dict[str, np.ndarray]:
    """Return CHAIR's numbers of mean counts ``(…, 7)``, as in :func:`vlsae.enhancement.chair.chair_scores`."""
    mentions, absent, any_absent, present, found, words, captions = np.moveaxis(means, -1, 0)
    nothing = float("nan")
    return {
        "chair_s": share(any_absent, captions, nothing),
        "chair_i": share(absent, mentions, nothing),
        "chair_recall": share(found, present, nothing),
        "caption_length": share(words, captions, nothing),
        "caption_mentions": share(mentions, captions, nothing),
    }


def chair_resampled(columns: Sequence[np.ndarray], *, resamples: int, seed: int) -> Resampled:
    """Return CHAIR of one method, whose counts ``(n, 7)`` there are for each seed."""
    return resampled(columns, chair_ratios, UNITS, resamples=resamples, seed=seed)


def chair_table(found: Mapping[str, Resampled], control: Mapping[str, str]) -> Table:
    """Return all numbers of all methods with their intervals."""
    columns = ["method", "control"]
    for name in UNITS:
        columns += [name, f"{name} low", f"{name} high"]
    rows: list[list[Any]] = []
    for method, one in found.items():
        measures = [one.measures[name] for name in UNITS]
        rows.append([method, control.get(method, ""), *(v for m in measures for v in (m.value, m.low, m.high))])
    text = (
        "95 % intervals over pictures, means over seeds. Lower is better for both CHAIRs, which fall where captions "
        "get shorter or name less: length, mentions and recall stand beside them."
    )
    return Table("chair", "CHAIR: objects in captions", columns, rows, text)


def chair_short_table(found: Mapping[str, Resampled], control: Mapping[str, str]) -> Table:
    """Return the numbers of all methods as the terminal shows them."""
    rows = [
        [method, control.get(method, ""), *(one.measures[name].value for name in UNITS)]
        for method, one in found.items()
    ]
    columns = ["method", "control", "CHAIR_S", "CHAIR_I", "recall", "words", "mentions"]
    return Table("chair_short", "CHAIR by method", columns, rows, "Intervals: table chair.", shown=True)


def chair_plot(found: Mapping[str, Resampled]) -> Plot:
    """Return both CHAIRs and recall by method."""
    methods = list(found)
    series = []
    for name, label in (("chair_s", "CHAIR_S"), ("chair_i", "CHAIR_I"), ("chair_recall", "recall")):
        measures = [found[method].measures[name] for method in methods]
        low, high = [one.low for one in measures], [one.high for one in measures]
        series.append(Series(label, methods, [one.value for one in measures], low, high))
    return Plot("chair", "CHAIR by method", "", "share", series, "bars", "95 % intervals over pictures.")

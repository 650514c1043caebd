"""POPE's figures of several methods: intervals over pictures, by setting and over all of them.

n pictures, S seeds, T settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlsae.enhancement.pope import pope_outcomes, said
from vlsae.enhancement.resampled import Resampled, resampled, share
from vlsae.result import Plot, Series, Table

FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
OUTCOMES = ("tp", "fp", "tn", "fn")

#: The mean over settings.
ALL = "mean"

#: Columns of one setting: the four outcomes, answers that say neither, and questions.
WIDTH = len(OUTCOMES) + 2

Item = Mapping[str, Any]


def pope_columns(
    items: Sequence[Item], settings: Sequence[str], pictures: Mapping[str, int], parser: str
) -> np.ndarray:
    """Return the counts of each picture ``(n, 6T)``, of items with ``answer``, ``label``, ``setting``, ``image``."""
    found = np.zeros((len(pictures), len(settings), WIDTH))
    outcomes = pope_outcomes([one["answer"] for one in items], [one["label"] for one in items], parser)
    for one, outcome in zip(items, outcomes):
        cell = found[pictures[one["image"]], settings.index(one["setting"])]
        if outcome is not None:
            cell[OUTCOMES.index(outcome)] += 1
        cell[-2] += said(one["answer"]) is None
        cell[-1] += 1
    return found.reshape(len(pictures), -1)


def pope_ratios(settings: Sequence[str]) -> Any:
    """Return what turns mean counts ``(…, 6T)`` into the figures of each setting and their mean over settings.

    What has nothing to divide by is 0, as in :func:`vlsae.enhancement.pope.pope_scores`.
    """

    def ratios(means: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        counts = means.reshape(*means.shape[:-1], len(settings), WIDTH)
        tp, fp, tn, fn, unparsed, n = np.moveaxis(counts, -1, 0)
        precision, recall = share(tp, tp + fp, 0.0), share(tp, tp + fn, 0.0)
        figures = {
            "accuracy": share(tp + tn, n, 0.0),
            "precision": precision,
            "recall": recall,
            "f1": share(2 * precision * recall, precision + recall, 0.0),
            "yes_ratio": share(tp + fp, n, 0.0),
            "unparsed": share(unparsed, n, 0.0),
        }
        for name in FIGURES:
            found |= {f"{name}/{setting}": figures[name][..., t] for t, setting in enumerate(settings)}
            found[f"{name}/{ALL}"] = figures[name].mean(axis=-1)
        return found

    return ratios


def pope_resampled(columns: Sequence[np.ndarray], settings: Sequence[str], *, resamples: int, seed: int) -> Resampled:
    """Return POPE's figures of one method, whose counts ``(n, 6T)`` there are for each seed."""
    return resampled(columns, pope_ratios(settings), "share of questions", resamples=resamples, seed=seed)


def pope_table(found: Mapping[str, Resampled], settings: Sequence[str], control: Mapping[str, str]) -> Table:
    """Return all figures of all methods with their intervals, a row a method and setting."""
    columns = ["method", "control", "setting"]
    for name in FIGURES[:-1]:
        columns += [name, f"{name} low", f"{name} high"]
    columns += ["unparsed", "F1 by seed"]
    rows: list[list[Any]] = []
    for method, one in found.items():
        for setting in (*settings, ALL):
            row: list[Any] = [method, control.get(method, ""), setting]
            for name in FIGURES[:-1]:
                measure = one.measures[f"{name}/{setting}"]
                row += [measure.value, measure.low, measure.high]
            row += [one.measures[f"unparsed/{setting}"].value, _words(one.by_seed[f"f1/{setting}"])]
            rows.append(row)
    text = (
        "95 % intervals over pictures, means over seeds. unparsed: share of answers that say neither yes nor no; to a "
        "question whose answer is yes they are misses, to others neither right nor an alarm."
    )
    return Table("pope", "POPE: questions after objects", columns, rows, text)


def pope_short_table(found: Mapping[str, Resampled], settings: Sequence[str], control: Mapping[str, str]) -> Table:
    """Return F1 of all methods by setting, as the terminal shows it."""
    names = [*settings, ALL]
    rows = [
        [method, control.get(method, ""), *(one.measures[f"f1/{name}"].value for name in names),
         one.measures[f"f1/{ALL}"].low, one.measures[f"f1/{ALL}"].high, one.measures[f"yes_ratio/{ALL}"].value]
        for method, one in found.items()
    ]  # fmt: skip
    columns = ["method", "control", *(f"F1 {name}" for name in names), "mean low", "mean high", "yes ratio"]
    return Table("pope_f1", "POPE: F1 by method", columns, rows, "All figures: table pope.", shown=True)


def unparsed_words(found: Mapping[str, Resampled], parser: str) -> list[str]:
    """Return a sentence where answers of a method say neither yes nor no, none where all say either."""
    shares = {method: one.measures[f"unparsed/{ALL}"].value or 0.0 for method, one in found.items()}
    some = [f"{100 * value:.1f} % of {method}" for method, value in shares.items() if value > 0]
    if not some:
        return []
    counted = "as the published code counts them"
    if parser == "word":
        counted = "as misses where the label is yes, where it is no as neither right nor an alarm"
    return [f"POPE: answers that say neither yes nor no, counted {counted}: {', '.join(some)}."]


def pope_plot(found: Mapping[str, Resampled], settings: Sequence[str]) -> Plot:
    """Return F1 by method, with a group of bars for each setting."""
    methods = list(found)
    series = []
    for setting in settings:
        measures = [found[method].measures[f"f1/{setting}"] for method in methods]
        low, high = [one.low for one in measures], [one.high for one in measures]
        series.append(Series(setting, methods, [one.value for one in measures], low, high))
    return Plot("pope_f1", "POPE: F1 by method and setting", "", "F1", series, "bars", "95 % intervals over pictures.")


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)

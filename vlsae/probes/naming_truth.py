"""Whether names tell the truth, on a world whose factors are known: a name and its concept should mean one factor.

n rows of a stream, h concepts, T names, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.dictionaries.auroc import auroc
from vlsae.dictionaries.naming import ConceptName, NamingRows, distinct, matches
from vlsae.dictionaries.usage import mean_measure
from vlsae.runs import Measure

if TYPE_CHECKING:
    from vlsae.probes.targets import Targets

#: F1 from which a name says the same as a factor.
SAME = 0.5
RESAMPLES = 1000

#: Numbers of the summary, and columns of the table of names.
Part = tuple[dict[str, Measure], dict[str, list[Any]]]


def by_truth(
    names: Sequence[ConceptName],
    passed: Sequence[int],
    rows: Mapping[str, NamingRows],
    owners: Mapping[str, np.ndarray],
    targets: Targets,
    seed: int,
) -> Part:
    """Return the factor that each concept follows, the one that its name says, and how often these agree.

    ``passed`` are the concepts whose names stand; ``owners``: stream → the sample of each row ``(n,)``. The control
    gives each concept the name of every other. Nothing where no factors are known.
    """
    known = [one for one in targets.usable()[0] if one.factor and one.kind == "binary" and "=" in one.name]
    texts = distinct(names)
    if not known or not texts:
        return {}, {}
    factors = np.stack([one.values == 1 for one in known], axis=1)
    present = {stream: factors[owners[stream][one.score]] for stream, one in rows.items()}
    followed, area = _followed(rows, present)
    said = _said(matches(rows, texts), present)
    column = {text: place for place, text in enumerate(texts)}
    tells = np.array([-1 if one.proposed is None else said[column[one.proposed]] for one in names])
    chosen = np.array([place for place in passed if followed[place] >= 0], dtype=np.int64)
    truth, own = ([known[place].name if place >= 0 else None for place in places] for places in (followed, tells))
    agree = [None if name is None or best is None else name == best for name, best in zip(own, truth)]
    columns = {"factor": truth, "factor_auroc": area, "name_says": own, "agrees": agree}
    if not len(chosen):
        return {}, columns
    alike = tells[chosen][None, :] == followed[chosen][:, None]
    unit = "share of names"
    return {
        "naming/truth": mean_measure(np.diag(alike), unit, seed=seed, resamples=RESAMPLES),
        "naming/truth/shuffled": mean_measure(alike.mean(axis=1), unit, seed=seed, resamples=RESAMPLES),
    }, columns


def _followed(
    rows: Mapping[str, NamingRows], present: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, list[float | None]]:
    """Return the factor that each concept follows best, −1 for none, and its AUROC, the smaller of the streams."""
    areas = []
    for stream, one in rows.items():
        area = auroc(one.codes[one.score], present[stream]).T
        area[np.diff(one.codes[one.score].tocsc().indptr) == 0] = np.nan
        areas.append(area)
    joint = np.fmin.reduce(areas)
    live = ~np.isnan(joint).all(axis=1)
    best = np.where(live, np.argmax(np.nan_to_num(joint, nan=-1.0), axis=1), -1)
    return best, [float(joint[concept, place]) if place >= 0 else None for concept, place in enumerate(best)]


def _said(found: Mapping[str, Any], present: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the factor that each name says, by its F1 with the rows that say it, −1 where none reaches a half."""
    hits: Any = sum(np.asarray(found[stream].T @ present[stream].astype(float)) for stream in found)
    called: Any = sum(np.asarray(found[stream].sum(axis=0)).ravel() for stream in found)
    shown: Any = sum(present[stream].sum(axis=0) for stream in found)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.nan_to_num(2 * hits / (called[:, None] + shown[None, :]))
    return np.where(f1.max(axis=1) >= SAME, f1.argmax(axis=1), -1)

"""One number out of several indices, in every form that the paper (arXiv 2506.13901) and its code print.

None of these is comparable between samples of different size, width or between runs; δ² and AUROC of
:mod:`vlsae.aqi.effect` are. Limits: docs/aqi.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vlsae.aqi.inputs import real
from vlsae.errors import UserError, unknown

_READS = {
    "paper_sum": ("xbi", "chi"),
    "paper_product": ("chi", "xbi"),
    "code_dbs_dunn": ("dbs", "dunn"),
    "code_sil_chi": ("silhouette", "chi"),
    "code_sil_xbi": ("silhouette", "xbi"),
    "delta2": ("delta2",),
}

#: The composites of a single cell; ``code_chi_xbi`` needs all cells of a run, see :func:`code_chi_xbi`.
NAMES = tuple(_READS)


class CellScores(NamedTuple):
    """The code's marks of each cell ``(cells,)``, 0 to 100: of chi, of xbi, and both together (``aqi``)."""

    chi: np.ndarray
    xbi: np.ndarray
    aqi: np.ndarray


def composite(
    name: str, indices: Mapping[str, float], lam: float = 0.5, gamma: float = 0.5, chi_max: float | None = None
) -> float:
    """Return a composite of ``indices`` (``chi, xbi, dbs, dunn, silhouette``, those that it reads).

    ``paper_sum`` λ/xbi + (1 - λ)·chi (section 3); ``paper_product`` (chi/chi_max)^λ · exp(-xbi)^(1 - λ) (appendix
    B.4); ``code_dbs_dunn`` γ/(1 + dbs) + (1 - γ)·dunn/(1 + dunn); ``code_sil_chi`` γ·(silhouette + 1)/2 +
    (1 - γ)·chi/(1 + chi); ``code_sil_xbi`` γ·(silhouette + 1)/2 + (1 - γ)/(1 + xbi); ``delta2`` itself. A weight of 0
    drops its term. NaN where an index that counts is NaN. Raises ``ValueError``: AQI-C01 for λ or γ outside [0, 1],
    AQI-C02 for ``paper_product`` without ``chi_max``, and for names, missing indices and values out of range.
    """
    if name == "code_chi_xbi":
        raise UserError(
            "code_chi_xbi marks a cell by the other cells of its run; one cell's indices do not give it.",
            "composites.code_chi_xbi(chi, xbi, gamma) takes the values of all cells.",
        )
    if name not in _READS:
        raise unknown("composite", name, (*_READS, "code_chi_xbi"))
    check_weight("lam", lam)
    check_weight("gamma", gamma)
    values = [_read(indices, index, name) for index in _READS[name]]
    if name == "delta2":
        return values[0]
    first, second = values
    if name == "paper_sum":
        return _weighted(lam, first, _reciprocal, second, float)
    if name == "paper_product":
        return _product(first, second, lam, _checked_chi_max(chi_max))
    if name == "code_dbs_dunn":
        return _weighted(gamma, first, _falling, second, _rising)
    return _weighted(gamma, first, _unit, second, _rising if name == "code_sil_chi" else _falling)


def composite_status(name: str, indices: Mapping[str, float], lam: float = 0.5, chi_max: float | None = None) -> str:
    """Return ``ok``, or for ``paper_product`` ``chi_above_max`` (above 1 then) or ``chi_infinite`` (undefined)."""
    if name != "paper_product" or lam == 0:
        return "ok"
    chi = _read(indices, "chi", name)
    if math.isinf(chi):
        return "chi_infinite"
    return "chi_above_max" if chi > _checked_chi_max(chi_max) else "ok"


def code_chi_xbi(chi: Any, xbi: Any, gamma: float = 0.5) -> CellScores:
    """Return the published code's marks of the cells (strata and overall) of one run, ``chi``, ``xbi`` ``(cells,)``.

    ``C = 100·(chi - min)/(max - min)``, ``X = 100·(1 - sigmoid((xbi - median)/IQR))`` within [10, 100], γC + (1 - γ)X.
    Relative to the run: some cell marks high on noise, and scaling all chi leaves every mark as it is. Cells that are
    not finite get NaN and count in no other's mark.
    """
    check_weight("gamma", gamma)
    chi, xbi = real(chi, "chi"), real(xbi, "xbi")
    if chi.ndim != 1 or chi.shape != xbi.shape or len(chi) == 0:
        raise UserError(f"chi and xbi must hold one value a cell, (cells,); got shapes {chi.shape} and {xbi.shape}.")
    usable = np.isfinite(chi) & np.isfinite(xbi)
    by_chi, by_xbi = np.full(len(chi), np.nan), np.full(len(chi), np.nan)
    if usable.any():
        by_chi[usable], by_xbi[usable] = _stretched(chi[usable]), _squeezed(xbi[usable])
    # A weight of 0 drops a term here too, but a cell without a mark stays without one.
    return CellScores(by_chi, by_xbi, gamma * by_chi + (1 - gamma) * by_xbi)


def check_weight(name: str, value: float) -> None:
    """Raise ``ValueError`` (AQI-C01) for a weight outside [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"AQI-C01: {name} must lie between 0 and 1; got {value!r}.")


def _stretched(chi: np.ndarray) -> np.ndarray:
    low, high = chi.min(), chi.max()
    if high - low < 1e-9:
        return np.full(len(chi), 50.0 if high != 0 else 0.0)
    return 100 * (chi - low) / (high - low)


def _squeezed(xbi: np.ndarray) -> np.ndarray:
    lower, median, upper = np.percentile(xbi, [25, 50, 75])
    argument = np.clip((xbi - median) / (upper - lower + 1e-9), -500, 500)
    return np.clip(100 * (1 - 1 / (1 + np.exp(-argument))), 10, 100)


def _read(indices: Mapping[str, float], index: str, name: str) -> float:
    if index not in indices:
        raise UserError(f"{name} reads {index}, which indices lack; they hold {', '.join(sorted(indices)) or 'none'}.")
    value = float(indices[index])
    low, high = {"silhouette": (-1.0, 1.0), "delta2": (-math.inf, math.inf)}.get(index, (0.0, math.inf))
    if value < low - 1e-9 or value > high + 1e-9:
        raise UserError(f"{index} must lie in [{low:g}, {high:g}]; got {value!r}.")
    return value if math.isnan(value) else min(max(value, low), high)


def _checked_chi_max(chi_max: float | None) -> float:
    if chi_max is None or not 0 < chi_max < math.inf:
        raise UserError(
            f"AQI-C02: paper_product needs chi_max, a positive number; got {chi_max!r}.",
            "Give the largest chi that counts as 1, the same for all that is compared.",
        )
    return float(chi_max)


def _weighted(
    weight: float, first: float, of_first: Callable[[float], float], second: float, of_second: Callable[[float], float]
) -> float:
    """Return the weighted sum; a weight of 0 drops its term, be it infinite or undefined."""
    total = weight * of_first(first) if weight > 0 else 0.0
    return total + ((1 - weight) * of_second(second) if weight < 1 else 0.0)


def _product(chi: float, xbi: float, lam: float, chi_max: float) -> float:
    if lam > 0 and math.isinf(chi):
        return float("nan")
    share = (chi / chi_max) ** lam if lam > 0 else 1.0
    return share * (math.exp(-xbi) ** (1 - lam) if lam < 1 else 1.0)


def _reciprocal(value: float) -> float:
    return math.inf if value == 0 else 1 / value


def _falling(value: float) -> float:
    return 1 / (1 + value)


def _rising(value: float) -> float:
    return 1.0 if math.isinf(value) else value / (1 + value)


def _unit(value: float) -> float:
    return (value + 1) / 2

"""Probes: what a layer, a neuron or a concept holds, as functions of arrays, float64 throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.probes.conditions import CCGP, Parallelism, ccgp, parallelism_score
    from vlsae.probes.depth_points import GatedJump, depth_metrics, gated_jump
    from vlsae.probes.dimension import TwoNN, participation_ratio, twonn
    from vlsae.probes.information import KDEBounds, MutualInformation, mi_binned, mi_kde
    from vlsae.probes.logistic import LogisticFit, fit_logistic
    from vlsae.probes.ridge import RidgePath, ridge_path
    from vlsae.probes.separability import GDV, gdv
    from vlsae.probes.similarity import cka, cka_unbiased, hsic_unbiased, rsa
    from vlsae.probes.variance import VarianceExplained, variance_explained

_HOMES = {
    "CCGP": "conditions",
    "GDV": "separability",
    "GatedJump": "depth_points",
    "KDEBounds": "information",
    "LogisticFit": "logistic",
    "MutualInformation": "information",
    "Parallelism": "conditions",
    "RidgePath": "ridge",
    "TwoNN": "dimension",
    "VarianceExplained": "variance",
    "ccgp": "conditions",
    "cka": "similarity",
    "cka_unbiased": "similarity",
    "depth_metrics": "depth_points",
    "fit_logistic": "logistic",
    "gated_jump": "depth_points",
    "gdv": "separability",
    "hsic_unbiased": "similarity",
    "mi_binned": "information",
    "mi_kde": "information",
    "parallelism_score": "conditions",
    "participation_ratio": "dimension",
    "ridge_path": "ridge",
    "rsa": "similarity",
    "twonn": "dimension",
    "variance_explained": "variance",
}

__all__ = [
    "CCGP",
    "GDV",
    "GatedJump",
    "KDEBounds",
    "LogisticFit",
    "MutualInformation",
    "Parallelism",
    "RidgePath",
    "TwoNN",
    "VarianceExplained",
    "ccgp",
    "cka",
    "cka_unbiased",
    "depth_metrics",
    "fit_logistic",
    "gated_jump",
    "gdv",
    "hsic_unbiased",
    "mi_binned",
    "mi_kde",
    "parallelism_score",
    "participation_ratio",
    "ridge_path",
    "rsa",
    "twonn",
    "variance_explained",
]

__getattr__ = lazy.exports(__name__, _HOMES)

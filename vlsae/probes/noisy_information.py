"""Information in a layer plus Gaussian noise, by bounds and by nearest neighbours, in bits. n rows, d units."""

from __future__ import annotations

import numpy as np

from vlsae.probes.information import mi_kde
from vlsae.probes.nearest_information import mi_nearest

#: Estimators in the order of :func:`noisy_information`.
NOISY = ("kde upper", "kde lower", "nearest")

#: Draws of noise for each input that the nearest-neighbour estimator tells inputs apart by.
DRAWS = 2


def noisy_information(
    t: np.ndarray, labels: np.ndarray, noise: np.ndarray, variance: float
) -> list[tuple[float, float]]:
    """Return I(X;T) and I(T;Y) by each of :data:`NOISY`, of ``t (n, d)`` and ``labels (n,)``.

    ``noise (2n, d)`` of ``variance`` is what the nearest neighbours add: two draws an input, the same for all layers.
    """
    bounds = mi_kde(t, labels, variance)
    noisy, which = np.tile(t, (DRAWS, 1)) + noise, np.tile(np.arange(len(t)), DRAWS)
    return [
        (bounds.i_xt_upper, bounds.i_ty_upper),
        (bounds.i_xt_lower, bounds.i_ty_lower),
        (mi_nearest(noisy, which, 1), mi_nearest(noisy, labels[which])),
    ]

"""Independent components of both streams' rows, each stream about its own mean (scikit-learn's FastICA)."""

from __future__ import annotations

import logging
import warnings

import torch

from vlsae.dictionaries.base import Count, OptionalCount, positive
from vlsae.dictionaries.fit import Fit, RowReader, sampled, stream_means
from vlsae.dictionaries.linear_basis import LinearBasis
from vlsae.dictionaries.pca import components

logger = logging.getLogger(__name__)


class ICA(Fit):
    """Directions whose coordinates are as independent as can be; a row keeps the ``k`` of largest magnitude.

    ``n_concepts`` components, at most the width, its default. FastICA has no streaming form: it sees at most ``rows``
    rows, drawn by the reader's order, in ``iterations`` steps.
    """

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        rows: Count = 100_000,
        iterations: Count = 200,
    ) -> None:
        self.width, self.k = positive("width", width), k
        self.n_concepts = components(n_concepts, width)
        self.rows, self.iterations = positive("rows", rows), positive("iterations", iterations)

    def fit(self, reader: RowReader) -> LinearBasis:
        """Return the components of a reader's rows; a warning in the log where they have not settled."""
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        means = stream_means(reader)
        rows = sampled(reader, self.rows, means)
        model = FastICA(
            min(self.n_concepts, len(rows)),
            whiten="unit-variance",
            max_iter=self.iterations,
            random_state=int(torch.initial_seed() % 2**32),
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(rows)
        if any(issubclass(one.category, ConvergenceWarning) for one in caught):
            logger.warning("ICA has not settled after %d iterations", self.iterations)
        analysis, synthesis = torch.from_numpy(model.components_), torch.from_numpy(model.mixing_.T)
        # What is left of a mean over both streams, which the streams' own have taken almost all of.
        offset = means + torch.from_numpy(model.mean_ - model.mean_ @ model.components_.T @ model.mixing_.T)
        return LinearBasis.of(analysis, synthesis, offset, self.k)

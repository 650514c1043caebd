"""Principal components of both streams' rows, each stream about its own mean (scikit-learn, one pass)."""

from __future__ import annotations

import torch

from vlsae.dictionaries.base import Count, OptionalCount, positive
from vlsae.dictionaries.fit import Fit, RowReader, chunks, stream_means
from vlsae.dictionaries.linear_basis import LinearBasis
from vlsae.errors import UserError


class PCA(Fit):
    """Directions of most variance; a row keeps the ``k`` coordinates of largest magnitude, all by default.

    ``n_concepts`` components, at most the width, its default. ``chunk``: rows held at a time.
    """

    def __init__(
        self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, *, chunk: Count = 4096
    ) -> None:
        self.width, self.k = positive("width", width), k
        self.n_concepts = components(n_concepts, width)
        self.chunk = positive("chunk", chunk)

    def fit(self, reader: RowReader) -> LinearBasis:
        """Return the components of a reader's rows; with fewer rows than the width, as many as there are rows."""
        from sklearn.decomposition import IncrementalPCA

        means = stream_means(reader)
        # All components are carried along, so that nothing of the covariance is lost on the way.
        model: IncrementalPCA | None = None
        for rows in chunks(reader, max(self.chunk, self.width), means):
            model = model or IncrementalPCA(min(self.width, len(rows)))
            model.partial_fit(rows)
        assert isinstance(model, IncrementalPCA)
        directions = torch.from_numpy(model.components_[: self.n_concepts].copy())
        return LinearBasis.of(directions, directions, means, self.k)


def components(n_concepts: int | None, width: int) -> int:
    """Return a number of components; ``ValueError`` for more than the width."""
    count = width if n_concepts is None else positive("n_concepts", n_concepts)
    if count > width:
        raise UserError(f"n_concepts must lie in 1…{width} (the width); got {count}.")
    return count

"""k-means: concepts are centres, and a row is the mean of the k centres next to it (scikit-learn, mini-batches)."""

from __future__ import annotations

import torch

from vlsae.dictionaries.base import Count, OptionalCount, positive
from vlsae.dictionaries.codebook_dictionary import Codebook
from vlsae.dictionaries.fit import Fit, RowReader, chunks
from vlsae.errors import UserError


class KMeans(Fit):
    """``n_concepts`` centres (default ``expansion · width``); a row is coded by the ``k`` nearest, 1 by default.

    ``epochs`` passes in mini-batches. The outcome is a codebook with ``metric=l2``.
    """

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: Count = 1,
        *,
        expansion: Count = 8,
        epochs: Count = 5,
    ) -> None:
        self.width = positive("width", width)
        self.n_concepts = positive("n_concepts", expansion * width if n_concepts is None else n_concepts)
        self.k, self.epochs = positive("k", k), positive("epochs", epochs)

    def fit(self, reader: RowReader) -> Codebook:
        """Return the centres of a reader's rows; ``ValueError`` for fewer rows than centres."""
        from sklearn.cluster import MiniBatchKMeans

        model = MiniBatchKMeans(self.n_concepts, random_state=int(torch.initial_seed() % 2**32), n_init=1)
        for _ in range(self.epochs):
            for rows in chunks(reader, max(1024, 3 * self.n_concepts)):
                if len(rows) < self.n_concepts:
                    raise UserError(
                        f"{self.n_concepts} centres need as many rows; there are {len(rows)}.",
                        "Lower objective.n_concepts.",
                    )
                model.partial_fit(rows)
        dictionary = Codebook(self.width, self.n_concepts, self.k, metric="l2", input_norm="none")
        with torch.no_grad():
            dictionary.codes.copy_(torch.from_numpy(model.cluster_centers_))
        return dictionary.eval()

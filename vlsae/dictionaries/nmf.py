"""Non-negative matrix factorisation of rows split by sign (scikit-learn, mini-batches)."""

from __future__ import annotations

import logging
from typing import Annotated

import numpy as np
import torch

from vlsae.bounds import Range
from vlsae.dictionaries.base import Count, OptionalCount, positive
from vlsae.dictionaries.fit import Fit, RowReader, chunks, passes, stream_means
from vlsae.dictionaries.nonnegative import NonNegative

logger = logging.getLogger(__name__)

#: Rows a stream by which the penalty of codes is chosen.
CHOOSING = 256


class NMF(Fit):
    """Non-negative atoms and weights; rows of either sign are split into their positive and their negative part.

    ``n_concepts`` atoms (default ``expansion · width``), ``k`` of them active a row on average (default a sixteenth).
    ``center``: rows are taken about their stream's mean, without which a stream's mean direction is what atoms tell
    first. ``alpha`` is the L1 penalty on weights while atoms are learned, over ``epochs`` passes.
    """

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: bool = True,
        alpha: Annotated[float, Range(0, None)] = 0.001,
        epochs: Count = 2,
    ) -> None:
        self.width = positive("width", width)
        h = expansion * width if n_concepts is None else n_concepts
        self.form = NonNegative(width, h, k, split=True)
        self.center, self.alpha, self.epochs = center, alpha, positive("epochs", epochs)

    def fit(self, reader: RowReader) -> NonNegative:
        """Return the atoms of a reader's rows, and the penalty at which rows have k of them."""
        from sklearn.decomposition import MiniBatchNMF

        dictionary = self.form
        offset = stream_means(reader) if self.center else torch.zeros(2, self.width, dtype=torch.float64)
        scale, model = 0.0, None
        for rows in chunks(reader, 1024, offset, self.epochs):
            if model is None:
                scale = float(np.sqrt(np.square(rows).mean())) or 1.0
                model = MiniBatchNMF(
                    dictionary.n_concepts,
                    init="random",
                    batch_size=1024,
                    alpha_W=self.alpha,
                    l1_ratio=1.0,
                    random_state=int(torch.initial_seed() % 2**32),
                )
            model.partial_fit(np.concatenate([rows.clip(min=0), (-rows).clip(min=0)], axis=1) / scale)
        assert isinstance(model, MiniBatchNMF)
        with torch.no_grad():
            dictionary.atoms.copy_(torch.from_numpy(model.components_))
            dictionary.offset.copy_(offset)
            dictionary.scale.fill_(scale)
        first = next(passes(reader))
        found = dictionary.choose_penalty({stream: x[:CHOOSING] for stream, x in first.items()})
        logger.info("NMF: %.1f active concepts a row at penalty %.3g", found, float(dictionary.penalty))
        return dictionary.eval()

"""Whether texts repeat what they are about: the same person, place or picture in several samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Texts looked at, evenly spread.
LOOKED_AT = 4000

#: Two texts are about the same where the cosine of their word counts, rare words weighing most, is at least this.
ALIKE = 0.5

#: Share of texts with such a partner from which on repeats are told of.
MANY = 0.3


def repeated(texts: Sequence[str]) -> float:
    """Return the share of texts that have another one about the same things, by their rare words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    chosen = [texts[row] for row in np.unique(np.linspace(0, len(texts) - 1, LOOKED_AT).astype(int))] if texts else []
    if len(chosen) < 2 or not any(any(map(str.isalnum, text)) for text in chosen):
        return 0.0
    counts = TfidfVectorizer(token_pattern=r"\b\w+\b", sublinear_tf=True).fit_transform(chosen)
    counts.data *= counts.data  # rare words weigh more still
    lengths = np.sqrt(counts.multiply(counts).sum(axis=1))
    counts = counts.multiply(1 / np.maximum(np.asarray(lengths), 1e-12)).tocsr()
    alike = 0
    for first in range(0, len(chosen), 500):
        near = (counts[first : first + 500] @ counts.T).toarray()
        near[np.arange(len(near)), first + np.arange(len(near))] = 0.0
        alike += int((near.max(axis=1) >= ALIKE).sum())
    return alike / len(chosen)

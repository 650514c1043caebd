"""What the words alone tell: a baseline that every number about a model's layers has to beat.

n texts, F folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlsae.aqi.inputs import groups
from vlsae.errors import UserError

#: Inverse strength of the penalty of the classifier on words.
C = 10.0


def bag_of_words_scores(texts: Sequence[str], codes: Any, folds: Any) -> np.ndarray:
    """Return each text's score ``(n,)``, higher for class 0, by a logistic regression on weighted words of other folds.

    Words are weighted by tf-idf; ``codes (n,)`` are 0 and 1. A fold whose others lack a class, or words, scores NaN.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(codes).astype(np.int64)
    names, fold = groups("folds", folds, len(texts))
    if len(names) < 2:
        raise UserError(f"folds must name at least 2 folds; got {len(names)}.")
    scores = np.full(len(texts), np.nan)
    content = np.asarray(texts, dtype=object)
    for number in range(len(names)):
        held = fold == number
        if len(np.unique(labels[~held])) < 2:
            continue
        words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        try:
            table = words.fit_transform(content[~held])
        except ValueError:  # no text holds a word
            continue
        model = LogisticRegression(C=C, max_iter=1000).fit(table, labels[~held] == 0)
        scores[held] = model.decision_function(words.transform(content[held]))
    return scores

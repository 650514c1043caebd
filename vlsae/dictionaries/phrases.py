"""Phrases of texts: which of up to three words each text holds, as a sparse matrix.

n documents, V phrases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

#: Words of a phrase at most.
LONGEST = 3
#: Words of a document that are read.
MOST_WORDS = 256

# A word is letters and digits with marks inside; scripts without spaces are read sign by sign.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’-][^\W_]+)*")

#: What a row says in words: its own text, or all texts of its image.
Document = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, in order."""
    return _WORD.findall(text.casefold())[:MOST_WORDS]


def phrases_of(document: Document, longest: int = LONGEST) -> set[str]:
    """Return the phrases of a document's texts: runs of one to ``longest`` words."""
    found: set[str] = set()
    for text in document:
        words = words_of(text)
        for length in range(1, longest + 1):
            found.update(" ".join(words[i : i + length]) for i in range(len(words) - length + 1))
    return found


def phrase_matrix(
    documents: Sequence[Document], vocabulary: Mapping[str, int] | None = None
) -> tuple[sparse.csr_matrix, dict[str, int]]:
    """Return which document holds which phrase, ``(n, V)`` of ones, and each phrase's column.

    A given ``vocabulary`` fixes the columns; else they are all phrases of the documents, in order of appearance.
    """
    columns: dict[str, int] = dict(vocabulary or {})
    grows = vocabulary is None
    seen: dict[Document, list[int]] = {}
    indices: list[list[int]] = []
    for document in documents:
        if document not in seen:
            phrases = sorted(phrases_of(document))
            if grows:
                for phrase in phrases:
                    columns.setdefault(phrase, len(columns))
            seen[document] = sorted(columns[phrase] for phrase in phrases if phrase in columns)
        indices.append(seen[document])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in indices])]).astype(np.int64)
    flat = np.fromiter((column for row in indices for column in row), np.int64, int(offsets[-1]))
    shape = (len(documents), len(columns))
    return sparse.csr_matrix((np.ones(len(flat), np.float32), flat, offsets), shape=shape), columns


def contrasts(
    tops: Mapping[str, sparse.csr_matrix], base: Mapping[str, np.ndarray], vocabulary: Mapping[str, int]
) -> list[list[tuple[str, float]]]:
    """Return each concept's phrases with how much more often its top items hold them than all items do, best first.

    ``tops``: stream → ``(h, V)``, the share of a concept's top items that hold a phrase (a row of zeros where it has no
    items); ``base``: stream → ``(V,)``, the share of all items. The mean over the streams in which a concept has items
    counts. A phrase may begin and end only with words that mark the concept themselves, at least half as much: so
    "red circle" stands and "a red" does not.
    """
    live = {stream: np.diff(matrix.indptr) > 0 for stream, matrix in tops.items()}
    count = np.maximum(sum(one.astype(np.int64) for one in live.values()), 1)
    share = sparse.csr_matrix(sum(tops.values())).multiply(1 / count[:, None]).tocsr()
    names = list(vocabulary)
    ranked = []
    for concept in range(share.shape[0]):
        first, last = share.indptr[concept], share.indptr[concept + 1]
        columns = share.indices[first:last]
        usual = sum(base[stream][columns] for stream in tops if live[stream][concept]) / count[concept]
        over = dict(zip((names[column] for column in columns), (share.data[first:last] - usual).tolist()))
        ranked.append(_standing(over))
    return ranked


def _standing(over: Mapping[str, float]) -> list[tuple[str, float]]:
    kept = []
    for phrase, contrast in over.items():
        words = phrase.split(" ")
        if contrast > 0 and min(over.get(words[0], 0.0), over.get(words[-1], 0.0)) >= contrast / 2:
            kept.append((phrase, float(contrast)))
    return sorted(kept, key=lambda one: (-round(one[1], 9), -len(one[0].split(" ")), one[0]))

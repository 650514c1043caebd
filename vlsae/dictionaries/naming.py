"""Names of concepts that are tested: proposed from their most activating items, scored on rows never looked at before.

n rows of a stream, h concepts, M top items, T names, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from vlsae.dictionaries.detection import detection
from vlsae.dictionaries.names_file import NAMES, UNNAMED, NamedConcept, has_names, read_names
from vlsae.dictionaries.phrases import Document, contrasts, phrase_matrix
from vlsae.dictionaries.running_top import RunningTop
from vlsae.statistics import permutation_p_value

__all__ = [
    "NAMES",
    "UNNAMED",
    "ConceptName",
    "Evidence",
    "NamedConcept",
    "Namer",
    "NamingRows",
    "has_names",
    "name_concepts",
    "read_names",
    "scored",
]

#: Rows of which the usual frequency of a phrase is counted.
BASE_ROWS = 10_000
#: Documents of the top items that must hold a phrase for it to be proposed.
FEWEST_DOCUMENTS = 2
#: Concepts scored at once against every name.
CONCEPTS_AT_ONCE = 1024
ALTERNATIVES = 3


class NamingRows(NamedTuple):
    """The rows of a stream: ``codes (n, h)``, what each says in words, a number that is equal for equal items ``(n,)``,
    and which rows names are made from and which they are tested on, ``(n,)`` bool."""

    codes: sparse.csr_matrix
    documents: Sequence[Document]
    keys: np.ndarray
    choose: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What a namer is shown of a concept: the texts of its top items by stream, and phrases with their contrasts."""

    concept: int
    texts: Mapping[str, list[Document]]
    phrases: list[tuple[str, float]]


class Namer(Protocol):
    """Whatever proposes names."""

    def propose(self, evidence: Sequence[Evidence]) -> list[str | None]:
        """Return a name for each concept, None for none."""


@dataclass(frozen=True)
class ConceptName:
    """A concept's proposed name and how it fared: ``score`` is the smaller AUROC of the streams tested.

    ``shuffled`` is the mean score of the other concepts' names on this concept, ``p_value`` the share of them that
    score as high.
    """

    concept: int
    proposed: str | None
    alternatives: list[str]
    contrast: float | None = None
    margin: float | None = None
    score: float | None = None
    shuffled: float | None = None
    p_value: float | None = None
    by_stream: Mapping[str, float] = field(default_factory=dict)

    def passes(self, threshold: float, level: float) -> bool:
        """Tell whether the name may stand: its score reaches the threshold and few other names reach its score."""
        if self.score is None or self.p_value is None:
            return False
        return self.score >= threshold and self.p_value <= level


class PhraseNamer:
    """Names a concept by the phrase that its top items hold most above the usual."""

    def propose(self, evidence: Sequence[Evidence]) -> list[str | None]:
        """Return the first phrase of each concept."""
        return [one.phrases[0][0] if one.phrases else None for one in evidence]


def name_concepts(
    rows: Mapping[str, NamingRows],
    *,
    items: int = 10,
    smallest_contrast: float = 0.2,
    namer: Namer | None = None,
    seed: int = 0,
) -> list[ConceptName]:
    """Return a proposed name of every concept that has one, untested.

    The ``items`` most activating rows of each stream are chosen among the rows ``choose``, equal items once. A phrase
    is proposed that at least two of them hold and whose contrast (:func:`~vlsae.dictionaries.phrases.contrasts`)
    reaches ``smallest_contrast``; a ``namer`` may propose otherwise from the same evidence.
    """
    evidence = [
        replace(one, phrases=[phrase for phrase in one.phrases if phrase[1] >= smallest_contrast])
        for one in gather_evidence(rows, items=items, seed=seed)
    ]
    proposed = (namer or PhraseNamer()).propose(evidence)
    names = []
    for one, name in zip(evidence, proposed, strict=True):
        best = [contrast for _, contrast in one.phrases[:2]] + [0.0, 0.0]
        known = bool(one.phrases) and name == one.phrases[0][0]
        contrast, margin = (best[0], best[0] - best[1]) if known else (None, None)
        alternatives = [phrase for phrase, _ in one.phrases[:ALTERNATIVES] if phrase != name]
        names.append(ConceptName(one.concept, name, alternatives, contrast, margin))
    return names


def gather_evidence(rows: Mapping[str, NamingRows], *, items: int, seed: int) -> list[Evidence]:
    """Return what each concept's top items say: their texts, and phrases by their contrast with the usual."""
    tops = {stream: _top(one, items) for stream, one in rows.items()}
    documents: list[Document] = []
    places: dict[str, dict[int, int]] = {}
    for stream, one in rows.items():
        kept = tops[stream].kept_rows
        places[stream] = dict(zip(kept.tolist(), range(len(documents), len(documents) + len(kept))))
        documents += [one.documents[row] for row in kept.tolist()]
    matrix, vocabulary = phrase_matrix(documents)
    several = np.flatnonzero(np.asarray(matrix.sum(axis=0)).ravel() >= FEWEST_DOCUMENTS)
    every = list(vocabulary)
    vocabulary = {every[column]: place for place, column in enumerate(several)}
    matrix = matrix[:, several]
    base, shares = {}, {}
    for stream, one in rows.items():
        base[stream] = _usual(one, vocabulary, seed)
        shares[stream] = _selection(tops[stream], places[stream], len(documents)) @ matrix
    ranked = contrasts(shares, base, vocabulary)
    return [
        Evidence(
            concept,
            {
                stream: [one.documents[row] for row in tops[stream].of(concept)[0].tolist()]
                for stream, one in rows.items()
            },
            phrases,
        )
        for concept, phrases in enumerate(ranked)
    ]


def scored(
    names: Sequence[ConceptName], rows: Mapping[str, NamingRows], predicted: Mapping[str, Any] | None = None
) -> list[ConceptName]:
    """Return names with their detection scores on the rows ``score``, beside those of all other concepts' names.

    A row is predicted to activate a concept where it says the name. ``predicted`` maps streams to other predictions
    ``(n, T)`` for the distinct names in the order of :func:`distinct`, such as an encoder's similarities.
    """
    texts = distinct(names)
    if not texts:
        return list(names)
    if predicted is None:
        predicted = matches(rows, texts)
    column = {text: place for place, text in enumerate(texts)}
    found = list(names)
    for first in range(0, len(names), CONCEPTS_AT_ONCE):
        part = slice(first, first + CONCEPTS_AT_ONCE)
        table = {stream: detection(one.codes[one.score][:, part], predicted[stream]) for stream, one in rows.items()}
        # A name must serve every stream in which the concept can be tested.
        joint = np.fmin.reduce(list(table.values()))
        for place, one in enumerate(names[part]):
            if one.proposed is not None:
                found[first + place] = _scored(one, joint[place], {s: t[place] for s, t in table.items()}, column)
    return found


def distinct(names: Sequence[ConceptName]) -> list[str]:
    """Return the proposed names, each once, in order of the concepts."""
    return list(dict.fromkeys(one.proposed for one in names if one.proposed is not None))


def matches(rows: Mapping[str, NamingRows], texts: Sequence[str]) -> dict[str, sparse.csr_matrix]:
    """Return by stream which of the rows ``score`` say which name, ``(n, T)`` of ones."""
    vocabulary = {text: place for place, text in enumerate(texts)}
    return {
        stream: phrase_matrix([one.documents[row] for row in np.flatnonzero(one.score).tolist()], vocabulary)[0]
        for stream, one in rows.items()
    }


def _scored(
    name: ConceptName, joint: np.ndarray, by_stream: Mapping[str, np.ndarray], column: Mapping[str, int]
) -> ConceptName:
    own = column[str(name.proposed)]
    others = np.delete(joint, own)
    if np.isnan(joint[own]):
        return name
    return replace(
        name,
        score=float(joint[own]),
        shuffled=float(others.mean()) if len(others) else None,
        p_value=permutation_p_value(float(joint[own]), others) if len(others) else None,
        by_stream={stream: float(scores[own]) for stream, scores in by_stream.items() if not np.isnan(scores[own])},
    )


def _top(rows: NamingRows, items: int) -> RunningTop:
    top = RunningTop(rows.codes.shape[1], items)
    chosen = np.flatnonzero(rows.choose)
    top.add(sparse.csr_matrix(rows.codes[chosen]), chosen, rows.keys[chosen])
    return top


def _usual(rows: NamingRows, vocabulary: Mapping[str, int], seed: int) -> np.ndarray:
    """Return the share of rows that hold each phrase, of a sample of those that names are made from."""
    chosen = np.flatnonzero(rows.choose)
    if len(chosen) > BASE_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, BASE_ROWS, replace=False))
    matrix, _ = phrase_matrix([rows.documents[row] for row in chosen.tolist()], vocabulary)
    return np.asarray(matrix.sum(axis=0)).ravel() / max(1, len(chosen))


def _selection(top: RunningTop, places: Mapping[int, int], n: int) -> sparse.csr_matrix:
    """Return which documents are a concept's top items, ``(h, n)``, each row summing to one."""
    lists = [[places[int(row)] for row in top.of(concept)[0]] for concept in range(top.n_concepts)]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    indices = np.array([place for one in lists for place in one], dtype=np.int64)
    values = np.concatenate([np.full(len(one), 1 / len(one)) for one in lists if one] or [np.zeros(0)])
    return sparse.csr_matrix((values, indices, offsets), shape=(top.n_concepts, n))

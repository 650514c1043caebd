"""SpLiCE: a row as a sparse non-negative sum of text embeddings of a vocabulary; nothing is trained (arXiv 2402.10376).

Shapes: d width of the embedding, m words.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.bounds import Range
from vlsae.dictionaries.base import STREAMS, Count
from vlsae.dictionaries.fit import Fit, RowReader, passes
from vlsae.dictionaries.nonnegative import NonNegative
from vlsae.errors import MissingFile, UserError

if TYPE_CHECKING:
    from vlsae.models.base import Model

logger = logging.getLogger(__name__)

#: Words that are embedded at once, and rows a stream by which the penalty is chosen.
AT_ONCE, CHOOSING = 256, 256

#: How often a word must occur in the captions to be a concept.
FEWEST = 2

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Splice(Fit):
    """Atoms are the text embeddings of words, at length 1 less the mean of texts, at length 1 again.

    ``vocabulary``: a file with a concept a line; None takes the ``words`` most frequent words and ``bigrams`` most
    frequent pairs of words in the captions. ``k`` concepts a row on average, by the choice of the L1 penalty, unless
    ``penalty`` gives it (twice the papers' λ counts, as the loss is written there). Rows must be the joint embedding.
    """

    def __init__(
        self,
        width: int,
        k: Count = 20,
        *,
        model: Model,
        vocabulary: str | None = None,
        words: Annotated[int, Range(0, None)] = 10_000,
        bigrams: Annotated[int, Range(0, None)] = 5_000,
        penalty: Annotated[float, Range(0, None)] | None = None,
    ) -> None:
        self.width, self.k, self.model = width, k, model
        self.vocabulary, self.words, self.bigrams, self.penalty = vocabulary, words, bigrams, penalty
        if vocabulary is not None and not Path(vocabulary).expanduser().is_file():
            raise MissingFile(f"There is no vocabulary {vocabulary}.", "objective.vocabulary=FILE, a concept a line.")

    def fit(self, reader: RowReader) -> NonNegative:
        """Return the dictionary of the vocabulary; ``ValueError`` for rows that are no joint embedding."""
        sites = getattr(reader, "sites", {})
        strange = [site for site in sites.values() if not site.endswith(".embedding")]
        if strange:
            raise UserError(f"objective=splice needs the joint embedding, not {strange[0]}.", "train.sites=embedding")
        names = self._concepts(reader)
        offset = _unit_means(reader)
        embedded = _embedded(self.model, names, self.width)
        # Without texts among the rows, the vocabulary itself says where texts lie.
        own = offset[1] if "language" in sites or offset[1].any() else embedded.mean(dim=0)
        dictionary = NonNegative(self.width, len(names), min(self.k, len(names)), unit=True, names=names)
        dictionary.atoms.copy_(F.normalize(embedded - own, dim=1, eps=1e-12))
        dictionary.offset.copy_(offset)
        if self.penalty is not None:
            dictionary.penalty.fill_(self.penalty)
        else:
            first = next(passes(reader))
            found = dictionary.choose_penalty({stream: x[:CHOOSING] for stream, x in first.items()})
            logger.info("SpLiCE: %.1f active concepts a row at penalty %.3g", found, float(dictionary.penalty))
        return dictionary.eval()

    def _concepts(self, reader: RowReader) -> list[str]:
        if self.vocabulary is not None:
            lines = Path(self.vocabulary).expanduser().read_text(encoding="utf-8").splitlines()
            names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        else:
            store: Any = getattr(reader, "store", None)
            texts = [] if store is None else store.samples.column("texts").to_pylist()
            names = frequent((text for several in texts for text in several), self.words, self.bigrams)
        if not names:
            raise UserError("There is no word to explain rows by.", "Name a file: objective.vocabulary=FILE.")
        return names


def frequent(texts: Iterable[str], words: int, bigrams: int) -> list[str]:
    """Return the most frequent words and pairs of neighbouring words of texts, at least two of each, in lower case."""
    singles: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for text in texts:
        found = _WORD.findall(text.lower())
        singles.update(found)
        pairs.update(f"{a} {b}" for a, b in pairwise(found))
    chosen = [counted(singles, words), counted(pairs, bigrams)]
    return [name for part in chosen for name in part]


def counted(counts: Counter[str], most: int) -> list[str]:
    """Return at most ``most`` of what was counted twice or more, most frequent first, ties in alphabetical order."""
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [name for name, count in ranked if count >= FEWEST][:most]


@torch.no_grad()
def _embedded(model: Model, names: list[str], width: int) -> Tensor:
    model.load()
    parts = []
    for first in range(0, len(names), AT_ONCE):
        batch = model.prepare(None, names[first : first + AT_ONCE])
        parts.append(model.represent(batch, ["language.embedding"])["language.embedding"].values.float().cpu())
    found = F.normalize(torch.cat(parts), dim=1, eps=1e-12)
    if found.shape[1] != width:
        raise UserError(f"The model's texts are {found.shape[1]} wide, the rows {width}.", "Use the rows' own model.")
    return found


def _unit_means(reader: RowReader) -> Tensor:
    """Return the mean of each stream's rows at length 1, ``(2, d)``; zeros for a stream that is not read."""
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for batch in passes(reader):
        for stream, x in batch.items():
            unit = F.normalize(x.double(), dim=1, eps=1e-12)
            sums[stream] = sums.get(stream, torch.zeros_like(unit[0])) + unit.sum(dim=0)
            counts[stream] += len(x)
    if not sums:
        raise UserError("There is no row to fit a dictionary to.", "Check the split, the limit and the sites.")
    zero = torch.zeros_like(next(iter(sums.values())))
    return torch.stack([sums[s] / counts[s] if s in sums else zero for s in STREAMS]).float()

"""Which tokens of a concept's listed items activate it: for stores whose rows are tokens.

r token rows of an item, h concepts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlsae.dictionaries.base import Dictionary
from vlsae.models.base import ROLES

if TYPE_CHECKING:
    from vlsae.representations import Store

#: Items marked of each of a concept's lists.
MARKED = 5
LISTS = ("", "_median", "_low")


def token_marks(
    dictionary: Dictionary,
    store: Store,
    sites: Mapping[str, str],
    concepts: Sequence[Mapping[str, Any]],
    pieces: Mapping[int, str],
) -> Iterator[dict[str, Any]]:
    """Yield of each concept (as ``concepts.jsonl`` holds it) the activations of its listed items' tokens and patches.

    ``{"id", "texts": [{"text", "tokens": [[piece, activation], …]}], "images": [{"pair_id", "patches": (g, g)}]}``;
    ``pieces`` is the text of each token id. A picture whose patches make no square grid is left out.
    """
    number = {name: place for place, name in enumerate(store.samples.column("sample_id").to_pylist())}
    items = {stream: _Items(dictionary, store, stream, site) for stream, site in sites.items()}
    for concept in concepts:
        content: dict[str, Any] = {"id": concept["id"], "texts": [], "images": []}
        for ending in LISTS:
            for item in concept.get(f"texts{ending}", [])[:MARKED] if "language" in items else ():
                tokens = items["language"].tokens(number[item["pair_id"]], item["text"], concept["id"], pieces)
                content["texts"].append({"text": item["text"], "tokens": tokens})
            for item in concept.get(f"images{ending}", [])[:MARKED] if "vision" in items else ():
                patches = items["vision"].patches(number[item["pair_id"]], concept["id"])
                if patches:
                    content["images"].append({"pair_id": item["pair_id"], "patches": patches})
        yield content


class _Items:
    """The token rows of one stream by sample, encoded once each."""

    def __init__(self, dictionary: Dictionary, store: Store, stream: str, site: str) -> None:
        self.dictionary, self.store, self.stream, self.site = dictionary, store, stream, site
        self.table, self.offsets = store.row_table(stream), store.offsets(stream)
        self._kept: dict[int, np.ndarray] = {}

    def tokens(self, sample: int, text: str, concept: int, pieces: Mapping[int, str]) -> list[tuple[str, float]]:
        """Return the tokens of one of a sample's texts with their activations."""
        table = self._rows(sample)
        texts = self.store.samples.column("texts")[sample].as_py()
        mine = np.flatnonzero(table.column("item").to_numpy() == texts.index(text))
        ids = table.column("token").to_numpy()[mine]
        values = self._codes(sample)[mine, concept]
        return [(pieces.get(int(one), "\ufffd"), round(float(value), 5)) for one, value in zip(ids, values)]

    def patches(self, sample: int, concept: int) -> list[list[float]]:
        """Return the activations of a sample's patches as a square grid, empty where they make none."""
        table = self._rows(sample)
        mine = np.flatnonzero(table.column("role").to_numpy() == ROLES.index("image"))
        side = math.isqrt(len(mine))
        if side < 2 or side * side != len(mine):
            return []
        grid = self._codes(sample)[mine, concept].reshape(side, side)
        return [[round(float(value), 5) for value in row] for row in grid]

    def _rows(self, sample: int) -> Any:
        first, last = int(self.offsets[sample]), int(self.offsets[sample + 1])
        return self.table.slice(first, last - first)

    @torch.no_grad()
    def _codes(self, sample: int) -> np.ndarray:
        if sample not in self._kept:
            x = self.store.read(self.site, np.arange(self.offsets[sample], self.offsets[sample + 1]))
            self._kept[sample] = self.dictionary.encode(x, self.stream).to_dense().float().cpu().numpy()
        return self._kept[sample]

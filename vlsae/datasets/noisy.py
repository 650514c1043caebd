"""Another data set's samples with noise in their texts: what a model still reads of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset, Skipped

if TYPE_CHECKING:
    import datasets as hf

#: What ``prefix`` puts before a text, without a space (Jin et al., 2024, arXiv 2404.07066, section 5).
PREFIXES = ("aaa", "bbb")


class Noisy(Dataset):
    """The samples of ``clean`` with noisy texts: a random ``prefix`` of three letters, or neighbours ``swapped``.

    ``share`` is the probability of a prefix, or of a swap at each letter. Images are those of ``clean``.
    """

    def __init__(
        self,
        *,
        clean: Dataset,
        kind: Annotated[str, OneOf("prefix", "swapped")] = "prefix",
        share: Annotated[float, Range(0, 1)] = 1.0,
        seed: Annotated[int, Range(0, None)] = 0,
    ) -> None:
        self.clean, self.kind, self.share, self.seed = clean, kind, share, seed
        self.block = clean.block

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def has_images(self) -> bool:
        return self.clean.has_images

    @cached_property
    def table(self) -> hf.Dataset:
        """The table of ``clean`` with noise in ``texts``; what is drawn for a sample depends on its id alone."""
        clean = self.clean.table
        texts = [
            [self._noisy(text, f"{self.seed}:{name}:{number}") for number, text in enumerate(own)]
            for name, own in zip(clean["sample_id"], clean["texts"])
        ]
        place = clean.column_names
        return clean.remove_columns("texts").add_column("texts", texts).select_columns(place)

    def images(self, indices: Sequence[int]) -> Any:
        return self.clean.images(indices)

    def digest(self) -> str:
        facts = f"{self.clean.digest()}:{self.kind}:{self.share}:{self.seed}"
        return hashlib.sha256(facts.encode()).hexdigest()

    @property
    def skipped(self) -> list[Skipped]:
        return self.clean.skipped

    def _noisy(self, text: str, key: str) -> str:
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
        if self.kind == "prefix":
            return PREFIXES[generator.integers(2)] + text if generator.random() < self.share else text
        letters = list(text)
        for place in range(len(letters) - 1):
            inside = letters[place].isalpha() and letters[place + 1].isalpha()
            if inside and generator.random() < self.share:
                letters[place], letters[place + 1] = letters[place + 1], letters[place]
        return "".join(letters)

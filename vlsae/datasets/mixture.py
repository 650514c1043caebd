"""Several datasets as one, their rows side by side: for a learner that needs easy and hard samples in one batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.base import Dataset, Skipped
from vlsae.errors import UserError

if TYPE_CHECKING:
    import datasets as hf


class Mixture(Dataset):
    """The rows of all ``parts``, one part after the other; shuffled reading mixes them by their lengths.

    Samples and groups carry their part's number in front, so that equal names of two parts stay apart. Where a part
    keeps more rows together than another, the other's rows are grouped as many at a time: a split parts no block.
    """

    def __init__(self, *, parts: list[Dataset]) -> None:
        if not parts:
            raise UserError("dataset.parts is empty.", "Name at least one dataset.")
        self.parts = parts
        self.block = math.lcm(*(part.block for part in parts))
        self.in_files = any(part.in_files for part in parts)
        uneven = [number for number, part in enumerate(parts) if len(part) % self.block]
        if uneven:
            raise UserError(
                f"dataset.parts[{uneven[0]}] has {len(parts[uneven[0]])} rows, and rows stay together by {self.block}.",
                f"Give every part a multiple of {self.block} rows.",
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def has_images(self) -> bool:
        return all(part.has_images for part in self.parts)

    @cached_property
    def table(self) -> hf.Dataset:
        from datasets import concatenate_datasets

        together = [self.block if part.block < self.block else 1 for part in self.parts]
        return concatenate_datasets(
            [_numbered(n, part.table, rows) for n, (part, rows) in enumerate(zip(self.parts, together))]
        )

    def images(self, indices: Sequence[int]) -> np.ndarray | list[Any]:
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        owner = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        found: list[Any] = [None] * len(rows)
        for number in np.unique(owner):
            own = np.flatnonzero(owner == number)
            for place, image in zip(own, self.parts[number].images((rows[own] - starts[number]).tolist())):
                found[place] = image
        same = all(isinstance(image, np.ndarray) and image.shape == found[0].shape for image in found)
        return np.stack(found) if found and same else found

    def digest(self) -> str:
        return hashlib.sha256("\n".join(part.digest() for part in self.parts).encode()).hexdigest()

    @property
    def skipped(self) -> list[Skipped]:
        return [
            Skipped(f"part {number}: {skipped.row}", skipped.reason)
            for number, part in enumerate(self.parts)
            for skipped in part.skipped
        ]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(part) for part in self.parts])


def _numbered(number: int, table: hf.Dataset, together: int) -> hf.Dataset:
    first = table["group"][::together]

    def named(batch: dict[str, list[str]], rows: list[int]) -> dict[str, list[str]]:
        return {
            "sample_id": [f"{number}/{value}" for value in batch["sample_id"]],
            "group": [f"{number}/{first[row // together]}" for row in rows],
        }

    return table.map(named, batched=True, with_indices=True, keep_in_memory=True)

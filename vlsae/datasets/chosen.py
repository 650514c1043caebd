"""Some samples of another data set, in the order in which they lie there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.base import Dataset

if TYPE_CHECKING:
    import datasets as hf


class Chosen(Dataset):
    """The samples of ``whole`` with the given ``numbers``, ascending."""

    def __init__(self, whole: Dataset, numbers: Sequence[int] | np.ndarray) -> None:
        self.whole, self.numbers = whole, np.sort(np.asarray(numbers, dtype=np.int64))
        self.in_files = whole.in_files

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_images(self) -> bool:
        return self.whole.has_images

    @cached_property
    def table(self) -> hf.Dataset:
        """The rows of the whole's table that were chosen."""
        return self.whole.table.select(self.numbers)

    def images(self, indices: Sequence[int]) -> Any:
        return self.whole.images(self.numbers[list(indices)].tolist())

    def digest(self) -> str:
        return hashlib.sha256(f"{self.whole.digest()}:{self.numbers.tolist()}".encode()).hexdigest()

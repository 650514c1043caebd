"""What every dataset offers: a table of everything but the pixels, and the pixels on demand."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets as hf
    import numpy as np
    from PIL import Image

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Skipped:
    """A row that was left out: where it stands in the source and why."""

    row: str
    reason: str


class Dataset(ABC):
    """A collection of samples, one image and/or several texts each.

    Construction is cheap: files are opened when ``table``, ``images`` or ``digest`` is first used.
    """

    #: Rows that must stay next to each other when the order is shuffled (1 = none).
    block: int = 1

    #: Whether images are decoded from files, which is worth worker processes.
    in_files: bool = False

    @property
    @abstractmethod
    def table(self) -> hf.Dataset:
        """Every column but the pixels, one row a sample.

        Columns: ``sample_id`` (str, unique), ``texts`` (list of str), ``labels`` (struct), ``objects`` (list of struct;
        absent is unknown), ``source`` (str), ``group`` (str; samples of one group fall into one split).
        """

    @property
    @abstractmethod
    def has_images(self) -> bool:
        """Whether samples carry an image."""

    @abstractmethod
    def images(self, indices: Sequence[int]) -> np.ndarray | list[Image.Image]:
        """Decode the images of some rows: ``(n, height, width, 3)`` uint8 where all have one size, else RGB images."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 that identifies the content; equal content gives an equal digest on every machine."""

    @property
    def skipped(self) -> list[Skipped]:
        """Rows that were left out, for the summary."""
        return []

    def __len__(self) -> int:
        return len(self.table)

    def hugging_face(self) -> hf.Dataset:
        """Return the table as a Hugging Face dataset whose rows also carry ``image``, decoded on access."""
        if not self.has_images:
            return self.table
        table = self.table

        def decode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            from PIL import Image

            numbers = batch.pop("_row")
            pictures = [p if isinstance(p, Image.Image) else Image.fromarray(p) for p in self.images(numbers)]
            return {**batch, "image": pictures}

        return table.add_column("_row", list(range(len(table)))).with_transform(decode)


def split_of(group: str, *, seed: int = 0, validation: float = 0.2, test: float = 0.0) -> str:
    """Return the split of a group by a seeded hash, so that every stage and machine agrees.

    The hash is uniform in [0, 1): the lowest ``test`` go to "test", the next ``validation`` to "validation".
    """
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def sample_splits(dataset: Dataset, samples: int, settings: Mapping[str, Any]) -> list[str]:
    """Return the split of the first samples: the source's own where the table has one, else by their group's hash.

    Where the source has no validation split, its share is held out of the training split by the same hash.
    """
    groups = dataset.table["group"][:samples]
    if "split" not in dataset.table.column_names:
        return [split_of(group, **settings) for group in groups]
    own = list(dataset.table["split"][:samples])
    if "validation" in dataset.table.unique("split"):
        return own
    held_out = {**settings, "test": 0.0}
    return [split_of(group, **held_out) if split == "train" else split for group, split in zip(groups, own)]

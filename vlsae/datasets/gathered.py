"""Samples gathered from image files: the table and the pictures of what a caption file or a folder names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlsae.datasets.gather import Files, Sample
from vlsae.datasets.label_values import label_struct
from vlsae.datasets.pictured import Source

if TYPE_CHECKING:
    import datasets as hf


class Gathered(Source):
    """A source of :class:`~vlsae.datasets.gather.Sample`, whose pictures are files."""

    files: Files

    @abstractmethod
    def labels(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        """Return the columns of labels by name."""

    def table(self, samples: Sequence[Sample]) -> hf.Dataset:
        """Return the table of samples, with their splits where the source has some."""
        import datasets as hf
        import pyarrow as pa
        from datasets.table import InMemoryTable

        columns: dict[str, Any] = {
            "sample_id": [sample.id for sample in samples],
            # Where no sample has a text, nothing else says that the lists hold texts.
            "texts": pa.array([sample.texts for sample in samples], pa.list_(pa.string())),
            "labels": label_struct(self.labels(samples)),
            "source": [str(sample.location) for sample in samples],
            "group": [sample.group for sample in samples],
        }
        if samples[0].split is not None:
            columns["split"] = [sample.split for sample in samples]
        return hf.Dataset(InMemoryTable(pa.table(columns)))

    def read(self, sample: Sample) -> bytes:
        """Return the bytes of a sample's picture."""
        return self.files.read(sample.location)

    def place(self, sample: Sample) -> str:
        """Return the row of the caption file, or the picture, that a sample comes from."""
        return sample.place

    def picture(self, sample: Sample) -> str:
        """Return where a sample's picture lies."""
        return str(sample.location)

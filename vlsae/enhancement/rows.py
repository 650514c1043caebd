"""The rows that a task works on: one image and one caption a sample, read from a store or made on the spot.

n samples, d width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlsae.datasets.base import split_of
from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.enhancement.task import Work
    from vlsae.models.base import Model
    from vlsae.representations import Store

#: The joint embeddings of a contrastive model.
EMBEDDINGS = ("vision.embedding", "language.embedding")

#: Seeds of halving start here: the seed of the split itself would put all validation rows on one side.
HALVING = 1_000_003

#: Texts that pass through the model at once.
BATCH = 256


@dataclass(frozen=True)
class TaskRows:
    """Rows of the samples: ``values`` by stream ``(n, d)``, row i of each stream of sample i; ``split (n,)``."""

    values: dict[str, Tensor]
    samples: Any
    split: np.ndarray

    def __len__(self) -> int:
        return self.samples.num_rows

    @property
    def ids(self) -> list[str]:
        """The samples' ids."""
        return self.samples.column("sample_id").to_pylist()

    def take(self, numbers: np.ndarray) -> TaskRows:
        """Return some of the rows."""
        chosen = torch.from_numpy(np.asarray(numbers, dtype=np.int64))
        values = {stream: x[chosen] for stream, x in self.values.items()}
        return TaskRows(values, self.samples.take(numbers), self.split[numbers])

    def pictures(self, numbers: Sequence[int]) -> list[bytes | None]:
        """Return the small pictures that are kept of some rows' samples, None where none is."""
        if "thumbnail" not in self.samples.column_names:
            return [None] * len(numbers)
        return self.samples.column("thumbnail").take(np.asarray(numbers, np.int64)).to_pylist()


def rows_of(work: Work, model: Model, data: Any, sites: Sequence[str]) -> TaskRows:
    """Return the rows of a task's data at one site a stream, from the stage's store or by the model itself."""
    if work.store is not None:
        return rows_in(work.store, sites)
    if data is None:
        raise UserError(
            "This task has no data.", "Give it some: data=Shapes(n=1000), or task.data on the command line."
        )
    from vlsae.models.base import TokenSelection
    from vlsae.representations import Store
    from vlsae.representations.extraction import extract_rows

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "representations"
        extract_rows(
            model,
            data,
            path,
            sites=sites,
            tokens=TokenSelection(),
            samples=min(len(data), work.limit or len(data)),
            split={"seed": 0, "validation": 0.5, "test": 0.5},
            dtype="float32",
        )
        return rows_in(Store.open(path), sites)


def rows_in(store: Store, sites: Sequence[str]) -> TaskRows:
    """Return the rows of a store at one site a stream, the first caption of each sample; samples without are left out.

    Raises :class:`~vlsae.errors.UserError` where no sample has all of them.
    """
    first: dict[str, dict[int, int]] = {}
    for site in sites:
        stream = site.split(".")[0]
        owner = store.row_table(stream).column("sample").to_numpy()
        samples, rows = np.unique(owner, return_index=True)
        first[stream] = dict(zip(samples.tolist(), rows.tolist()))
    common = sorted(set.intersection(*(set(rows) for rows in first.values())))
    if not common:
        raise UserError(f"No sample of {store.path} has rows of {' and '.join(first)}.", "Choose data with captions.")
    values = {
        site.split(".")[0]: store.read(site, [first[site.split(".")[0]][one] for one in common]) for site in sites
    }
    samples = store.samples.take(common)
    return TaskRows(values, samples, np.asarray(samples.column("split").to_pylist()))


def check_sites(sites: Mapping[str, str], needed: Sequence[str], auxiliary: Any = None) -> None:
    """Raise :class:`~vlsae.errors.UserError` where a dictionary of ``sites`` by stream cannot serve those needed.

    Nothing is known of a dictionary without sites, which is taken; one that reads through an autoencoder is not.
    """
    wrong = [site for site in needed if sites and sites.get(site.split(".")[0]) != site]
    if wrong or (sites and auxiliary is not None):
        raise UserError(
            f"The dictionary was trained on {' and '.join(sites.values())}; this task works on {' and '.join(needed)}.",
            "Use a dictionary of those sites: train.sites=embedding",
        )


def halves(rows: TaskRows, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows that settings are chosen on, and of those that are scored; they share no group.

    Scored are the test rows and chosen on the validation rows, or where there are none the training rows, which no
    dictionary of other data has seen. Without test rows the validation rows are halved by a seeded hash.
    Raises :class:`~vlsae.errors.UserError` where either would be empty.
    """
    test = np.flatnonzero(rows.split == "test")
    validation = np.flatnonzero(rows.split == "validation")
    if len(test):
        chosen = validation if len(validation) else np.flatnonzero(rows.split == "train")
    else:
        groups = rows.samples.column("group").to_pylist()
        scored = [split_of(groups[n], seed=HALVING + seed, validation=0.5) == "validation" for n in validation]
        test, chosen = validation[np.array(scored, bool)], validation[~np.array(scored, bool)]
    if not len(test) or not len(chosen):
        counts = {name: int((rows.split == name).sum()) for name in ("train", "validation", "test")}
        raise UserError(
            f"The task's data has {counts}: there must be rows to choose settings on and others to be scored.",
            "Take more rows, or other shares: enhance.split.validation and enhance.split.test.",
        )
    return chosen, test


@torch.no_grad()
def encode_texts(model: Model, texts: Sequence[str], site: str = "language.embedding") -> Tensor:
    """Return the rows ``(n, d)`` of texts at a pooled site, float32 on the CPU."""
    parts = [
        model.represent(model.prepare(None, list(texts[first : first + BATCH])), [site])[site].values.float().cpu()
        for first in range(0, len(texts), BATCH)
    ]
    return torch.cat(parts)

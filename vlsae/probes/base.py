"""What every probe offers, and what it is given: rows by site, their samples, and what is known of these.

Shapes: n rows of a site, d columns, h concepts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlsae.errors import UserError
from vlsae.result import Result

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from vlsae.probes.targets import Targets
    from vlsae.representations import Store

#: What a probe may read: the rows of an extraction, a trained dictionary with the rows it reads, or nothing upstream.
READS = ("representations", "dictionary", "nothing")

#: The part of a site's name that a dictionary's concepts go by.
CONCEPTS = "concepts"


@dataclass(frozen=True)
class SiteRows:
    """The rows of one site: ``width`` d, the row table of its stream, and ``read()``, which gives ``(n, d)`` float32.

    ``table`` has the columns ``sample`` (row of the sample table), ``item``, ``position`` (−1 is pooled) and ``split``;
    of token rows also ``token`` and ``role``.
    """

    width: int
    table: pa.Table
    read: Callable[[], Tensor]

    @property
    def sample(self) -> np.ndarray:
        """The row of the sample table that each row belongs to, ``(n,)``."""
        return np.asarray(self.table.column("sample").to_numpy())


@dataclass(frozen=True)
class TrainedDictionary:
    """A dictionary with the site of each stream that it reads, the encoder before it if any, and its run's folder."""

    dictionary: Any
    sites: Mapping[str, str]
    auxiliary: Any = None
    path: Path | None = None
    run_id: str | None = None

    def inputs(self, x: Tensor, stream: str) -> Tensor:
        """Return rows ``(n, d)`` of the stream's site as the dictionary reads them."""
        return x if self.auxiliary is None else self.auxiliary.encode(x, stream).detach()

    def concepts(self, x: Tensor, stream: str) -> Tensor:
        """Return the codes ``(n, h)`` of rows ``(n, d)`` of the stream's site."""
        import torch

        with torch.no_grad():
            return self.dictionary.encode(self.inputs(x, stream), stream).to_dense()


@dataclass(frozen=True)
class Representations:
    """What a probe reads: ``sites`` by name, ``samples`` (one row a sample, every dataset column but the pixels).

    ``dictionary`` is there where a training's run is read; its concepts are sites too, named after the site they are
    read from: ``vision.embedding.concepts``. ``variants`` are the same sites for other inputs or weights, where the
    probe asks for such. ``model()`` loads the model that the rows came from, ``dataset()`` gives the data set. ``runs``
    is the folder of all runs, for probes that read another one.
    """

    sites: Mapping[str, SiteRows] = field(default_factory=dict)
    samples: pa.Table | None = None
    seed: int = 0
    device: str = "cpu"
    dictionary: TrainedDictionary | None = None
    variants: Mapping[str, Representations] = field(default_factory=dict)
    model: Callable[[], Any] | None = None
    dataset: Callable[[], Any] | None = None
    runs: Path | None = None

    @classmethod
    def of_store(cls, store: Store, sites: Sequence[str] | None = None, **more: Any) -> Representations:
        """Return the rows of a store, of some of its sites or of all."""
        rows = {
            site: SiteRows(
                store.sites[site].width,
                store.row_table(store.sites[site].stream),
                lambda site=site: store.read(site),  # type: ignore[misc]
            )
            for site in (store.sites if sites is None else sites)
        }
        return cls(rows, store.samples, **more)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], samples: pa.Table, **more: Any) -> Representations:
        """Return rows that lie in memory: arrays ``(n, d)`` by site, row i of each belonging to sample i."""
        import pyarrow as pa
        import torch

        n = samples.num_rows
        zeros = np.zeros(n, np.int64)
        split = samples["split"] if "split" in samples.column_names else pa.array(["train"] * n)
        table = pa.table({"sample": np.arange(n), "item": zeros, "position": zeros - 1, "split": split})
        rows = {}
        for site, array in arrays.items():
            values = torch.as_tensor(array, dtype=torch.float32)
            if values.ndim != 2 or len(values) != n:
                raise UserError(f"{site} must have shape ({n}, d), a row a sample; got {tuple(values.shape)}.")
            rows[site] = SiteRows(values.shape[1], table, lambda values=values: values)  # type: ignore[misc]
        return cls(rows, samples, **more)

    def with_concepts(self) -> Representations:
        """Return the same with the dictionary's concepts as sites beside those that it reads."""
        if self.dictionary is None:
            return self
        sites = dict(self.sites)
        for stream, site in self.dictionary.sites.items():
            own = self.sites[site]
            read = _concepts_of(self.dictionary, own, stream)
            sites[f"{site}.{CONCEPTS}"] = SiteRows(self.dictionary.dictionary.n_concepts, own.table, read)
        return replace(self, sites=sites)

    def rows(self, site: str) -> SiteRows:
        """Return the rows of a site; ``UserError`` names the sites there are."""
        if site not in self.sites:
            raise UserError(f"There is no site {site!r} here.", f"There are {', '.join(self.sites)}.")
        return self.sites[site]

    def __iter__(self) -> Iterator[tuple[str, SiteRows]]:
        return iter(self.sites.items())


@dataclass(frozen=True)
class Measured(Result):
    """A result with arrays to keep: ``arrays`` maps a file's name to its arrays, written as ``<name>.safetensors``."""

    arrays: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


class Probe(ABC):
    """A question to representations. Its keyword-only typed constructor is the schema of its configuration.

    ``reads`` says what the stage gives it: ``representations`` (an extraction, all sites by default; with ``--run`` of
    a training also the dictionary's concepts), ``dictionary`` (a training's run, made where there is none), or
    ``nothing`` (the probe has its own data; ``representations`` then only holds seed and device).
    """

    reads: ClassVar[str] = "representations"

    @abstractmethod
    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return numbers with intervals, tables and the data of figures; everything random follows the seed."""

    def check(self, targets: Targets) -> None:  # noqa: B027
        """Raise ``UserError`` for what the targets alone show to be impossible, before representations are made."""

    def variants(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], runs: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return further extractions that the probe needs: name → the ``model`` and ``dataset`` nodes that differ.

        ``runs`` is the folder of all runs.
        """
        return {}


def _concepts_of(trained: TrainedDictionary, rows: SiteRows, stream: str) -> Callable[[], Tensor]:
    return lambda: trained.concepts(rows.read(), stream).float()

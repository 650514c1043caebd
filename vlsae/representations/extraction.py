"""Run a model over a dataset and write what it holds into a store, shard by shard."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlsae import ranks
from vlsae.datasets.base import sample_splits
from vlsae.errors import UserError
from vlsae.memory import Pieces
from vlsae.progress import Advance, progress
from vlsae.representations import workers as ahead

if TYPE_CHECKING:
    import pyarrow as pa

    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection


@dataclass(frozen=True)
class Numbered:
    """Samples of one forward pass: their numbers, their texts, and which sample each text belongs to.

    ``answers`` go with the texts; None where the dataset has none.
    """

    samples: list[int]
    texts: list[str]
    owner: list[int]
    item: list[int]
    answers: list[str | None] | None = None


#: A batch's samples, the model's inputs for them, and a small picture of each.
Prepared = tuple[Numbered, "Batch", "list[bytes | None]"]

#: A batch's samples and the rows of each site.
Part = tuple[Numbered, "dict[str, Rows]"]


def extract_rows(
    model: Model,
    dataset: Dataset,
    path: Path,
    *,
    sites: Sequence[str],
    tokens: TokenSelection,
    samples: int,
    split: Mapping[str, Any],
    dtype: str = "bfloat16",
    batch_size: int = 256,
    shard_samples: int = 4096,
    thumbnails: int = 20_000,
    workers: int = 1,
    worker_timeout: float = ahead.TIMEOUT,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write the store of the first ``samples`` shard by shard, those that an interrupted extraction left to do.

    Shards are dealt to the ranks in turn, each to be written whole, so that the store is one process's byte by byte;
    the first rank finishes it.
    ``workers`` decode and prepare batches while the model runs, processes where the images lie in files and threads
    otherwise; they change no number. Raises ``UserError`` for sites whose rows do not fit together, for values that are
    not finite, and for a worker process that ends or takes more than ``worker_timeout`` seconds over a batch.
    """
    from vlsae.representations import SiteInfo, StoreWriter

    known = model.sites()
    _check_row_kinds(known, sites, tokens)
    infos = {
        site: SiteInfo(width=known[site].width, module=known[site].module, pooling=tokens.pooling) for site in sites
    }
    writer = StoreWriter(path, sites=infos, shard_samples=shard_samples, dtype=dtype, attributes=dict(attributes or {}))
    splits = sample_splits(dataset, samples, split)
    work = _Work(model, dataset, list(sites), tokens, thumbnails, workers, worker_timeout)
    missing = writer.missing(-(-samples // shard_samples))
    shards = missing[ranks.rank() :: ranks.size()]
    spans = [range(number * shard_samples, min((number + 1) * shard_samples, samples)) for number in shards]
    batches = [[span[i : i + batch_size] for i in range(0, len(span), batch_size)] for span in spans]
    done = samples - sum(min(shard_samples, samples - number * shard_samples) for number in missing)
    with (
        progress("extract", done + sum(map(len, spans)), "samples", done) as advance,
        ahead.explained(),
        closing(work.prepared([rows for several in batches for rows in several])) as prepared,
    ):
        for number, span, several in zip(shards, spans, batches):
            parts, pictures = work.represent(islice(prepared, len(several)), advance)
            writer.write_shard(
                number,
                samples=_sample_table(dataset, span.start, span.stop, splits, pictures),
                rows=_row_tables(sites, parts, splits),
                values={site: torch.cat([rows[site].values for _, rows in parts]) for site in sites},
            )
    ranks.barrier()
    if ranks.is_first():
        writer.finish()


def _check_row_kinds(known: Mapping[str, Site], sites: Sequence[str], tokens: TokenSelection) -> None:
    """Raise ``UserError`` where one stream would have rows of two kinds: a stream's sites share their row table."""
    for stream in dict.fromkeys(site.split(".")[0] for site in sites):
        mine = [site for site in sites if site.startswith(f"{stream}.")]
        pooled = [site for site in mine if site.endswith(".embedding") and not known[site].tokens]
        if tokens.pooling == "tokens" and pooled and len(pooled) < len(mine):
            raise UserError(
                f"extract.tokens.pooling=tokens: {pooled[0]} has one row an item, and {mine[0]} one a token.",
                "Extract them in two runs, or pool the layers.",
            )


@dataclass(frozen=True)
class _Work:
    """What is the same for every batch of an extraction."""

    model: Model
    dataset: Dataset
    sites: list[str]
    tokens: TokenSelection
    thumbnails: int
    workers: int
    timeout: float
    pieces: Pieces = field(default_factory=lambda: Pieces("extract.batch_size"))

    def represent(self, prepared: Iterable[Prepared], advance: Advance) -> tuple[list[Part], list[bytes | None]]:
        """Return each batch with its rows on the CPU, and a small picture of each sample."""
        parts: list[Part] = []
        pictures: list[bytes | None] = []
        for samples, batch, small in prepared:
            parts += self._represented(samples, batch)
            pictures.extend(small)
            advance(len(samples.samples))
        return parts, pictures

    def _represented(self, samples: Numbered, batch: Batch) -> list[Part]:
        """Return a batch's rows, in pieces that are prepared again where memory is too small for all at once."""

        def represent(some: Sequence[int]) -> Part:
            mine, inputs = samples, batch
            if len(some) < len(samples.samples):
                mine = numbered(self.dataset, some)
                inputs = prepare(self.model, self.dataset, mine, self.sites)
            found = self.model.represent_in_groups(inputs, self.sites, self.tokens)
            lacking = next((site for site in self.sites if site not in found), None)
            if lacking is not None:
                raise UserError(
                    f"The model gives no rows at {lacking}: has this dataset what its stream reads, images or texts?",
                    "Choose sites of the other stream: extract.sites=[…].",
                )
            return mine, {site: replace(rows, values=rows.values.cpu()) for site, rows in found.items()}

        return self.pieces.run(samples.samples, represent)

    def prepared(self, batches: Sequence[range]) -> Generator[Prepared, None, None]:
        """Give the batches in order, up to ``workers`` of them prepared while the model runs."""
        if self.dataset.in_files and self.workers and ahead.may_have_children():
            return ahead.in_processes(self._prepare, batches, self.workers, self.timeout)
        return ahead.in_threads(self._prepare, batches, max(1, self.workers), self.timeout)

    def _prepare(self, rows: range) -> Prepared:
        from vlsae.representations.thumbnails import thumbnails

        samples = numbered(self.dataset, rows)
        images = _images(self.model, self.dataset, samples, self.sites)
        wanted = max(0, min(len(samples.samples), self.thumbnails - samples.samples[0]))
        small: list[bytes | None] = [None] * len(samples.samples)
        if images is not None and wanted:
            small[:wanted] = thumbnails(images[:wanted])
        return samples, _inputs(self.model, images, samples, self.sites), small


def prepare(model: Model, dataset: Dataset, samples: Numbered, sites: Sequence[str]) -> Batch:
    """Return the model's inputs for some samples; a stream without a wanted site is left out."""
    return _inputs(model, _images(model, dataset, samples, sites), samples, sites)


def _inputs(model: Model, images: Any, samples: Numbered, sites: Sequence[str]) -> Batch:
    texts = _texts(samples, sites)
    more: dict[str, Any] = {"answers": samples.answers} if model.reads_answers and texts is not None else {}
    if model.joint and images is not None and texts is not None:
        row = {sample: number for number, sample in enumerate(samples.samples)}
        more["owners"] = [row[sample] for sample in samples.owner]
    return model.prepare(images, texts, **more)


def _images(model: Model, dataset: Dataset, samples: Numbered, sites: Sequence[str]) -> Any:
    if model.joint and dataset.has_images:
        return dataset.images(samples.samples)
    if not any(site.startswith("vision.") for site in sites):
        return None
    if not dataset.has_images:
        raise UserError(
            "A vision site is wanted, and this dataset has no images.",
            "Choose language sites only: extract.sites=language.embedding or language.last.",
        )
    return dataset.images(samples.samples)


def _texts(samples: Numbered, sites: Sequence[str]) -> list[str] | None:
    return samples.texts if samples.texts and any(site.startswith("language.") for site in sites) else None


def numbered(dataset: Dataset, samples: Sequence[int]) -> Numbered:
    """Return the samples of one forward pass with their captions."""
    rows = dataset.table[list(samples)]
    flat = [(text, row, item) for row, several in enumerate(rows["texts"]) for item, text in enumerate(several)]
    answers = [rows["answer"][row] for _, row, _ in flat] if "answer" in rows else None
    owner = [samples[row] for _, row, _ in flat]
    return Numbered(list(samples), [text for text, _, _ in flat], owner, [item for _, _, item in flat], answers)


def _row_tables(sites: Sequence[str], parts: Sequence[Part], splits: Sequence[str]) -> dict[str, pa.Table]:
    """Return the row table of each stream; the sites of a stream have the same rows."""
    first: dict[str, str] = {}
    for site in sites:
        first.setdefault(site.split(".")[0], site)
    return {stream: _row_table(stream, site, parts, splits) for stream, site in first.items()}


def _row_table(stream: str, site: str, parts: Sequence[Part], splits: Sequence[str]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("sample", "item", "position")}
    extra: dict[str, list[np.ndarray]] = {}
    for current, rows in parts:
        found = rows[site]
        local = found.sample.numpy()
        owner = np.asarray(current.samples if stream == "vision" else current.owner, dtype=np.int64)
        item = np.zeros(len(owner), np.int64) if stream == "vision" else np.asarray(current.item, dtype=np.int64)
        columns["sample"].append(owner[local])
        columns["item"].append(item[local])
        columns["position"].append(found.position.numpy())
        for name, tensor in (("token", found.token), ("role", found.role)):
            if tensor is not None:
                extra.setdefault(name, []).append(tensor.numpy())
    joined = {name: np.concatenate(chunks) for name, chunks in {**columns, **extra}.items()}
    table = pa.table(joined)
    return table.append_column("split", pa.array([splits[sample] for sample in joined["sample"]]))


def _sample_table(
    dataset: Dataset, first: int, last: int, splits: Sequence[str], pictures: Sequence[bytes | None]
) -> pa.Table:
    import pyarrow as pa

    table = dataset.table.select(range(first, last)).with_format("arrow")[:].combine_chunks()
    for name in ("split", "thumbnail"):
        if name in table.column_names:
            table = table.drop_columns([name])
    table = table.append_column("split", pa.array(splits[first:last], pa.string()))
    return table.append_column("thumbnail", pa.array(pictures, pa.binary()))

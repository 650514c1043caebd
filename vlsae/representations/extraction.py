"""Run a model over a dataset and write what it holds into a store, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.datasets.base import sample_splits
from vlsae.errors import UserError
from vlsae.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Batch, Model, Rows, TokenSelection
    from vlsae.representations import StoreWriter


@dataclass(frozen=True)
class Numbered:
    """Samples of one forward pass: their numbers, their captions, and which sample each caption belongs to."""

    samples: list[int]
    texts: list[str]
    owner: list[int]
    item: list[int]


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
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write the store shard by shard, going on after the last whole shard of an interrupted extraction."""
    from vlsae.representations import SiteInfo, StoreWriter

    known = model.sites()
    _check_row_kinds(sites, tokens)
    infos = {
        site: SiteInfo(width=known[site].width, module=known[site].module, pooling=tokens.pooling) for site in sites
    }
    writer = StoreWriter(path, sites=infos, shard_samples=shard_samples, dtype=dtype, attributes=dict(attributes or {}))
    splits = sample_splits(dataset, samples, split)
    done = min(writer.next_shard * shard_samples, samples)
    with progress("extract", samples, "samples", done) as advance:
        for number in range(writer.next_shard, -(-samples // shard_samples)):
            first, last = number * shard_samples, min((number + 1) * shard_samples, samples)
            batches = [numbered(dataset, range(i, min(i + batch_size, last))) for i in range(first, last, batch_size)]
            _write_shard(writer, number, model, dataset, batches, sites, tokens, splits, thumbnails, advance)
    writer.finish()


def _check_row_kinds(sites: Sequence[str], tokens: TokenSelection) -> None:
    """Raise ``UserError`` where one stream would have rows of two kinds: a stream's sites share their row table."""
    for stream in dict.fromkeys(site.split(".")[0] for site in sites):
        mine = [site for site in sites if site.startswith(f"{stream}.")]
        pooled = [site for site in mine if site.endswith(".embedding")]
        if tokens.pooling == "tokens" and pooled and len(pooled) < len(mine):
            raise UserError(
                f"extract.tokens.pooling=tokens: {pooled[0]} has one row an item, and {mine[0]} one a token.",
                "Extract them in two runs, or pool the layers.",
            )


def _write_shard(
    writer: StoreWriter,
    number: int,
    model: Model,
    dataset: Dataset,
    batches: list[Numbered],
    sites: Sequence[str],
    tokens: TokenSelection,
    splits: list[str],
    thumbnails: int,
    advance: Any,
) -> None:
    import torch

    parts: list[tuple[Numbered, dict[str, Rows]]] = []
    pictures: list[bytes | None] = []
    for current, batch, small in _prepared(model, dataset, batches, sites, thumbnails):
        parts.append((current, model.represent(batch, sites, tokens)))
        pictures.extend(small)
        advance(len(current.samples))
    streams = {site: site.split(".")[0] for site in sites}
    values = {site: torch.cat([rows[site].values for _, rows in parts]) for site in sites}
    tables = {
        stream: _row_table(stream, next(site for site in sites if streams[site] == stream), parts, splits)
        for stream in dict.fromkeys(streams.values())
    }
    first, last = batches[0].samples[0], batches[-1].samples[-1]
    writer.write_shard(
        number, samples=_sample_table(dataset, first, last + 1, splits, pictures), rows=tables, values=values
    )


def _prepared(
    model: Model, dataset: Dataset, batches: Sequence[Numbered], sites: Sequence[str], thumbnails: int
) -> Iterator[tuple[Numbered, Batch, list[bytes | None]]]:
    """Prepare the next batch in a thread while the model runs on this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(_with_thumbnails, model, dataset, batches[0], sites, thumbnails)
        for number, current in enumerate(batches):
            batch, small = pending.result()
            if number + 1 < len(batches):
                pending = pool.submit(_with_thumbnails, model, dataset, batches[number + 1], sites, thumbnails)
            yield current, batch, small


def _with_thumbnails(
    model: Model, dataset: Dataset, batch_of: Numbered, sites: Sequence[str], limit: int
) -> tuple[Batch, list[bytes | None]]:
    from vlsae.representations.thumbnails import thumbnails

    images = _images(dataset, batch_of, sites)
    wanted = max(0, min(len(batch_of.samples), limit - batch_of.samples[0]))
    small: list[bytes | None] = [None] * len(batch_of.samples)
    if images is not None and wanted:
        small[:wanted] = thumbnails(images[:wanted])
    return model.prepare(images, _texts(batch_of, sites)), small


def prepare(model: Model, dataset: Dataset, batch_of: Numbered, sites: Sequence[str]) -> Batch:
    """Return the model's inputs for some samples; a stream without a wanted site is left out."""
    return model.prepare(_images(dataset, batch_of, sites), _texts(batch_of, sites))


def _images(dataset: Dataset, batch_of: Numbered, sites: Sequence[str]) -> Any:
    if not any(site.startswith("vision.") for site in sites):
        return None
    if not dataset.has_images:
        raise UserError("A vision site is wanted, and this dataset has no images.", "Choose language sites only.")
    return dataset.images(batch_of.samples)


def _texts(batch_of: Numbered, sites: Sequence[str]) -> list[str] | None:
    return batch_of.texts if batch_of.texts and any(site.startswith("language.") for site in sites) else None


def numbered(dataset: Dataset, samples: Sequence[int]) -> Numbered:
    """Return the samples of one forward pass with their captions."""
    texts = dataset.table[list(samples)]["texts"]
    flat = [(text, sample, item) for sample, several in zip(samples, texts) for item, text in enumerate(several)]
    return Numbered(list(samples), [row[0] for row in flat], [row[1] for row in flat], [row[2] for row in flat])


def _row_table(
    stream: str, site: str, parts: Sequence[tuple[Numbered, dict[str, Rows]]], splits: Sequence[str]
) -> pa.Table:
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

"""What each concept stands for: its statistics and most activating images and texts over a whole store.

n rows of a stream, d width, h concepts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.base import STREAMS, Dictionary
from vlsae.dictionaries.codes import row_chunks, to_matrix
from vlsae.dictionaries.running_sample import RunningSample
from vlsae.dictionaries.running_top import RunningTop

if TYPE_CHECKING:
    from vlsae.representations import Store

#: Columns of the samples that may hold where an image lies.
PATH_COLUMNS = ("path", "image_path", "file_name")
#: Active rows of a concept from which its median and low items and its histogram are taken.
SAMPLED = 32
#: Median and low items listed, of each stream.
MIDDLE_ITEMS = 3
#: Equal bins from zero to the largest activation, which a concept's histogram counts.
BINS = 12

Item = dict[str, Any]


@dataclass(frozen=True)
class _Stream:
    """One stream of a store: which sample and which of its captions each row belongs to."""

    name: str
    site: str
    samples: Any
    owner: np.ndarray
    item: np.ndarray

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Return a number for each row that is equal where the item is: the same caption, the same picture."""
        if self.name == "language":
            return np.array([_digest(text.encode()) for text in self.texts(rows)], dtype=np.int64)
        owner = self.owner[rows]
        if "thumbnail" not in self.samples.column_names:
            return owner
        pictures = self.samples.column("thumbnail").take(owner).to_pylist()
        # A digest has its sign bit set; a sample's own number, for want of a picture, has not.
        return np.array([number if p is None else _digest(p) for p, number in zip(pictures, owner)], dtype=np.int64)

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return the caption of each row."""
        captions = self.samples.column("texts").take(self.owner[rows]).to_pylist()
        return [several[number] for several, number in zip(captions, self.item[rows])]

    def describe(self, rows: np.ndarray) -> dict[int, Item]:
        """Return what is said of each row in a concept's list, without the activation."""
        owner = self.owner[rows]
        ids = self.samples.column("sample_id").take(owner).to_pylist()
        if self.name == "language":
            texts = self.texts(rows)
            return {int(r): {"pair_id": i, "text": t} for r, i, t in zip(rows, ids, texts)}
        column = next((name for name in PATH_COLUMNS if name in self.samples.column_names), None)
        paths = self.samples.column(column).take(owner).to_pylist() if column else [None] * len(ids)
        return {int(r): {"pair_id": i, "path": p} for r, i, p in zip(rows, ids, paths)}


class _Seen(NamedTuple):
    """What one stream showed: the most activating rows and a fair sample of the active ones."""

    top: RunningTop
    sample: RunningSample

    @property
    def rows(self) -> np.ndarray:
        """Every row that some concept lists."""
        return np.union1d(self.top.kept_rows, self.sample.kept_rows)


@torch.no_grad()
def top_items(
    dictionary: Dictionary,
    store: Store,
    sites: Mapping[str, str],
    *,
    items: int = 10,
    encode: Callable[[Tensor, str], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield each concept as ``concepts.jsonl`` holds it (VL-SAE, concept interpretation).

    ``sites``: stream → site of the store; ``encode``: maps rows before the dictionary reads them (the auxiliary
    autoencoder); ``progress`` is called with the number of rows done. Only active rows are listed, so a dead concept's
    list is empty; identical captions and identical pictures are listed once; ties go to the lower row. Beside the top
    items stand ``images_median`` and ``images_low`` (and of texts), other items from a fair sample of active rows, and
    ``density_v``, ``density_l``: that sample's counts in equal bins from zero to its largest activation. A stream that
    the store lacks has None for its statistics.
    """
    streams = {name: _stream(store, name, sites[name]) for name in STREAMS if name in sites}
    seen = {
        name: _scan(dictionary, store, stream, items, encode, progress or (lambda rows: None))
        for name, stream in streams.items()
    }
    described = {name: streams[name].describe(one.rows) for name, one in seen.items()}
    for concept in range(dictionary.n_concepts):
        yield _concept(concept, seen, described)


def _scan(
    dictionary: Dictionary,
    store: Store,
    stream: _Stream,
    items: int,
    encode: Callable[[Tensor, str], Tensor] | None,
    progress: Callable[[int], None],
) -> _Seen:
    seen = _Seen(RunningTop(dictionary.n_concepts, items), RunningSample(dictionary.n_concepts, SAMPLED))
    for chunk in row_chunks(len(stream.owner), dictionary.n_concepts):
        rows = np.arange(chunk.start, chunk.stop)
        x = store.read(stream.site, rows)
        if encode is not None:
            x = encode(x, stream.name)
        codes = to_matrix(dictionary.encode(x, stream.name))
        seen.top.add(codes, rows, stream.keys(rows))
        seen.sample.add(codes, rows)
        progress(len(rows))
    return seen


def _concept(number: int, seen: Mapping[str, _Seen], described: Mapping[str, dict[int, Item]]) -> dict[str, Any]:
    tops = {stream: one.top for stream, one in seen.items()}
    record: dict[str, Any] = {"id": number, "name": None}
    means: list[float] = []
    for stream, letter in (("vision", "v"), ("language", "l")):
        top = tops.get(stream)
        rows_seen = 0 if top is None else top.rows_seen
        count = None if top is None else int(top.counts[number])
        record[f"freq_{letter}"] = None if count is None or not rows_seen else count / rows_seen
        record[f"mean_{letter}"] = None if top is None or not rows_seen else float(top.sums[number]) / rows_seen
        record[f"dead_{letter}"] = None if count is None else count == 0
        if record[f"mean_{letter}"] is not None:
            means.append(record[f"mean_{letter}"])
    record["mean_activation"] = sum(means) / len(means) if means else None
    for stream, field, letter in (("vision", "images", "v"), ("language", "texts", "l")):
        lists: dict[str, Any] = {"top": ((), ()), "median": ((), ()), "low": ((), ())}
        density = None
        if stream in seen:
            lists["top"] = tops[stream].of(number)
            rows, values = seen[stream].sample.of(number)
            items = [_key(described[stream][int(row)]) for row in rows]
            top_ones = {_key(described[stream][int(row)]) for row in lists["top"][0]}
            lists["median"], lists["low"] = _middle_and_low(rows, values, items, top_ones)
            density = _density(values)
        for place, (rows, values) in lists.items():
            name = field if place == "top" else f"{field}_{place}"
            record[name] = [{**described[stream][int(r)], "act": round(float(a), 6)} for r, a in zip(rows, values)]
        record[f"density_{letter}"] = density
    return record


def _key(item: Item) -> str:
    return str(item.get("text", item["pair_id"]))


def _middle_and_low(rows: np.ndarray, values: np.ndarray, items: list[str], top: set[str]) -> tuple[Any, Any]:
    """Return the sampled rows about the median activation and the weakest ones, of each item its strongest row alone.

    ``items`` says whose row each is; none of the ``top`` ones is taken.
    """
    strongest = {item: place for place, item in enumerate(items) if item not in top}
    kept = np.array(sorted(strongest.values()), dtype=np.int64)
    rows, values = rows[kept], values[kept]
    low = min(MIDDLE_ITEMS, len(rows) // 2)
    start = max(low, len(rows) // 2 - MIDDLE_ITEMS // 2)
    middle = slice(start, start + MIDDLE_ITEMS)
    return (rows[middle], values[middle]), (rows[:low], values[:low])


def _density(values: np.ndarray) -> list[int]:
    if not len(values):
        return []
    largest = float(np.abs(values).max())
    counts, _ = np.histogram(np.abs(values), bins=BINS, range=(0, largest))
    return [int(count) for count in counts]


def _stream(store: Store, name: str, site: str) -> _Stream:
    table = store.row_table(name)
    owner = table.column("sample").to_numpy().astype(np.int64)
    return _Stream(name, site, store.samples, owner, table.column("item").to_numpy().astype(np.int64))


def _digest(content: bytes) -> int:
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
    return -(digest >> 1) - 1

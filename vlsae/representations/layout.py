"""Where a store's files lie and what they are called; the format is written down in docs/store.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vlsae.errors import UserError

#: Number of the format; a change that old readers would misread raises it.
SCHEMA = 1

INDEX = "index.json"
SAMPLES = "samples.arrow"
PAIRS = "pairs.arrow"
#: Records of a store that is still being written; gone when it is finished.
PROGRESS = "progress"

#: Bytes of a value by dtype.
DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}

_SITE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


@dataclass(frozen=True)
class SiteInfo:
    """A site of a store: its width, the path of the module that was read, and how its tokens were pooled.

    ``stream`` defaults to the first part of the site's name; the writer fills in ``dtype`` and ``rows``.
    """

    width: int
    module: str = ""
    pooling: str = "default"
    stream: str = ""
    dtype: str = "bfloat16"
    rows: int = 0


def values_file(site: str, shard: int) -> str:
    """Return the path of a site's values in a shard."""
    return f"{site}/{shard:05d}.safetensors"


def rows_file(stream: str, shard: int) -> str:
    """Return the path of a stream's row table in a shard."""
    return f"rows/{stream}/{shard:05d}.arrow"


def samples_part(shard: int) -> str:
    """Return the path of a shard's samples while the store is being written."""
    return f"{PROGRESS}/samples/{shard:05d}.arrow"


def record_file(shard: int) -> str:
    """Return the path of a shard's record while the store is being written."""
    return f"{PROGRESS}/{shard:05d}.json"


def expected_files(sites: Iterable[str], streams: Iterable[str], shards: int, pairs: bool) -> set[str]:
    """Return every file of a finished store but its index."""
    files = {SAMPLES} | ({PAIRS} if pairs else set())
    files |= {values_file(site, shard) for site in sites for shard in range(shards)}
    return files | {rows_file(stream, shard) for stream in streams for shard in range(shards)}


def site_order(site: str) -> tuple[int, str, tuple[int, int, str]]:
    """Return a key that sorts sites as a model reaches them: vision, language, others; layers, then the embedding."""
    stream, layer, *part = site.split(".", 2)
    known = ("vision", "language")
    number = int(layer) if layer.isdigit() else 0
    return (
        known.index(stream) if stream in known else len(known),
        stream,
        (0 if layer.isdigit() else 1, number, ".".join([layer, *part])),
    )


def check_site_name(site: str) -> None:
    """Refuse a site name that is not ``stream.layer[.part]``: it becomes a folder."""
    if not _SITE.fullmatch(site):
        raise UserError(
            f"{site!r} is not the name of a site.", "Sites are named stream.layer[.part], such as vision.12."
        )

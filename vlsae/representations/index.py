"""A store's index: what it holds, and the size and SHA-256 of each of its files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError
from vlsae.representations.files import MEND, DamagedStore, text_digest
from vlsae.representations.layout import INDEX, PAIRS, PROGRESS, SCHEMA, SiteInfo, expected_files
from vlsae.representations.moments import Statistics
from vlsae.runs.files import dump_json, load_json, write_atomic

_BLANK = "0" * 64
_OWN_DIGEST = re.compile(r'"sha256": "([0-9a-f]{64})"\n\}\n\Z')


@dataclass(frozen=True)
class ShardInfo:
    """What one shard holds: samples, rows by stream, and pairs."""

    samples: int
    rows: dict[str, int]
    pairs: int = 0


@dataclass(frozen=True)
class Index:
    """Everything that ``index.json`` says."""

    shard_samples: int
    sites: dict[str, SiteInfo]
    shards: list[ShardInfo]
    statistics: dict[str, Statistics]
    files: dict[str, dict[str, Any]]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> list[str]:
        """The streams that the store has rows of."""
        return list(dict.fromkeys(info.stream for info in self.sites.values()))

    def write(self, folder: Path) -> None:
        """Write ``index.json`` atomically; its last entry is its own digest, taken with zeros in the digest's place."""
        body = {
            "schema": SCHEMA,
            "samples": sum(shard.samples for shard in self.shards),
            "shard_samples": self.shard_samples,
            "sites": {
                name: {**dataclasses.asdict(info), "statistics": self.statistics[name].as_json()}
                for name, info in self.sites.items()
            },
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "attributes": self.attributes,
            "files": {path: self.files[path] for path in sorted(self.files)},
            "sha256": _BLANK,
        }
        text = dump_json(body, indent=1) + "\n"
        digest = text_digest(text)
        write_atomic(folder / INDEX, text[: -len(_BLANK) - len('"\n}\n')] + digest + '"\n}\n')

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Read and check ``index.json``.

        Raises:
            MissingFile: there is no store, or one that is not finished.
            DamagedStore: the index is not as it was written.
            UserError: a newer version of vlsae wrote it.
        """
        path = folder / INDEX
        if not path.is_file():
            raise _missing(folder)
        text = path.read_bytes().decode("utf-8", errors="replace")
        found = _OWN_DIGEST.search(text)
        actual = text_digest(text[: found.start(1)] + _BLANK + text[found.end(1) :]) if found else "none"
        if found is None or actual != found[1]:
            expected = found[1] if found else "a SHA-256 as the last entry"
            raise DamagedStore(f"{path} was changed: expected {expected}, found {actual}.", MEND)
        body = load_json(text)
        if body["schema"] != SCHEMA:
            raise UserError(
                f"{path} has format {body['schema']}; this version of vlsae reads format {SCHEMA}.",
                "Update vlsae, or extract the representations anew.",
            )
        return cls._parse(body)

    @classmethod
    def _parse(cls, body: Mapping[str, Any]) -> Index:
        sites = {name: dict(info) for name, info in body["sites"].items()}
        statistics = {name: Statistics.from_json(info.pop("statistics")) for name, info in sites.items()}
        return cls(
            shard_samples=body["shard_samples"],
            sites={name: SiteInfo(**info) for name, info in sites.items()},
            shards=[ShardInfo(**shard) for shard in body["shards"]],
            statistics=statistics,
            files=body["files"],
            attributes=body["attributes"],
        )

    def check(self, folder: Path) -> None:
        """Check that the files that must be there are, each of its size, and no other is listed.

        Raises :class:`DamagedStore`, naming file, expected and found.
        """
        needed = expected_files(self.sites, self.streams, len(self.shards), PAIRS in self.files)
        if needed != set(self.files):
            path = min(needed ^ set(self.files))
            state = "lacks" if path in needed else "lists"
            raise DamagedStore(f"{folder / INDEX} {state} {path!r}, against the store's own sites and shards.", MEND)
        for path, facts in self.files.items():
            size = (folder / path).stat().st_size if (folder / path).is_file() else None
            if size != facts["bytes"]:
                found = "no file" if size is None else f"{size} bytes"
                raise DamagedStore(f"{folder / path}: expected {facts['bytes']} bytes, found {found}.", MEND)


def _missing(folder: Path) -> UserError:
    if (folder / PROGRESS).is_dir():
        return MissingFile(
            f"The store {folder} is not finished.",
            "Resume its extraction with `vlsae runs resume`: it goes on after the last whole shard.",
        )
    return MissingFile(f"There is no store at {folder}: {INDEX} is missing.", "Make one with `vlsae extract`.")


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON of a record that a writer left; an unreadable one is a :class:`DamagedStore`."""
    try:
        return dict(load_json(path.read_text(encoding="utf-8")))
    except (ValueError, json.JSONDecodeError) as error:
        raise DamagedStore(f"{path} cannot be read: {error}.", "Delete the store and extract anew.") from error

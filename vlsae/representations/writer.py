"""Writing a store shard by shard, so that a killed extraction goes on after its last whole shard."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from vlsae.errors import UserError, unknown
from vlsae.representations.chunks import check_samples, converted, row_table
from vlsae.representations.files import described, read_arrow, write_arrow, write_tensors
from vlsae.representations.index import Index, ShardInfo, read_record
from vlsae.representations.joining import join_samples, site_statistics, write_pairs
from vlsae.representations.layout import (
    DTYPES,
    INDEX,
    PAIRS,
    PROGRESS,
    SAMPLES,
    SCHEMA,
    SiteInfo,
    check_site_name,
    expected_files,
    record_file,
    rows_file,
    samples_part,
    site_order,
    values_file,
)
from vlsae.representations.moments import Moments
from vlsae.runs.files import dump_json, plain, write_atomic


class StoreWriter:
    """Writes sites into a new store, into one that was interrupted, or beside the sites of a finished one.

    A shard is a fixed number of samples, so its bytes depend on nothing but them. Several processes may write shards of
    their own at a time; one of them finishes the store when all are done.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        sites: Mapping[str, SiteInfo],
        shard_samples: int,
        dtype: str = "bfloat16",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin or go on.

        Raises:
            UserError: settings that are out of range, or differ from those the store was begun with.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        if shard_samples < 1:
            raise UserError(f"shard_samples must be at least 1; got {shard_samples}.")
        if not sites:
            raise UserError("A store needs a site.", "Name one, such as vision.embedding.")
        for site in sites:
            check_site_name(site)
        self.path, self.shard_samples = Path(path), shard_samples
        self.attributes = plain(dict(attributes or {}))
        self.sites = {
            name: dataclasses.replace(info, stream=info.stream or name.split(".")[0], dtype=dtype, rows=0)
            for name, info in sites.items()
        }
        self.index = Index.read(self.path) if (self.path / INDEX).is_file() else None
        self._settings = self._begin()
        self._records = self._read_records()

    @property
    def streams(self) -> list[str]:
        """The streams of the sites that are being written."""
        return list(dict.fromkeys(info.stream for info in self.sites.values()))

    @property
    def next_shard(self) -> int:
        """The first shard that is not whole: the one to write next."""
        shard = 0
        while self._is_whole(shard):
            shard += 1
        return shard

    def missing(self, shards: int) -> list[int]:
        """Return which of the first ``shards`` are not whole: those to write."""
        return [shard for shard in range(shards) if not self._is_whole(shard)]

    def write_shard(
        self, number: int, *, samples: pa.Table, rows: Mapping[str, pa.Table], values: Mapping[str, Tensor]
    ) -> None:
        """Write the samples ``number * shard_samples`` and following.

        ``samples`` has their rows, with ``sample_id``; ``rows`` by stream have ``sample`` (counted over all shards,
        ascending), ``item``, ``position``, ``split``, for tokens ``token`` and ``role``; ``values`` by site ``(r, d)``.

        Raises:
            UserError: shapes or tables that do not fit together or the store, or values that are not finite or do not
                fit the dtype, by sample id.
        """
        if self.index is not None and number >= len(self.index.shards):
            raise UserError(
                f"The store {self.path} has {len(self.index.shards)} shards; shard {number} would be more.",
                "Sites are added for the samples that the store has; extract more samples into a store of their own.",
            )
        first = number * self.shard_samples
        if not 0 < samples.num_rows <= self.shard_samples:
            raise UserError(
                f"Shard {number} has {samples.num_rows} samples; expected 1…{self.shard_samples}.",
                "Every shard but the last has shard_samples samples.",
            )
        for kind, given, needed in (("stream", rows, self.streams), ("site", values, list(self.sites))):
            if set(given) != set(needed):
                raise UserError(f"Shard {number} has the {kind}s {sorted(given)}; expected {sorted(needed)}.")
        samples = check_samples(samples, number)
        tables = {stream: row_table(table, first, samples, stream) for stream, table in rows.items()}
        record: dict[str, Any] = self._records.get(number) or {"samples": samples.num_rows, "rows": {}, "files": {}}
        files: dict[str, dict[str, Any]] = dict(record["files"])
        stored = {
            site: converted(site, info, values[site], tables[info.stream], samples, first)
            for site, info in self.sites.items()
        }
        self._write_samples(number, samples, files)
        for stream, table in tables.items():
            self._write_rows(number, stream, table, files)
        for site, tensor in stored.items():
            if values_file(site, number) not in self._known(files):
                path = self.path / values_file(site, number)
                metadata = {"schema": SCHEMA, "site": site, "shard": number}
                write_tensors(path, {"values": tensor, **Moments.of(tensor).tensors()}, metadata)
                files[values_file(site, number)] = described(path)
        counts = {**record["rows"], **{stream: table.num_rows for stream, table in tables.items()}}
        self._records[number] = {"samples": samples.num_rows, "rows": counts, "files": files}
        # The record comes last: a shard counts as whole when its record is there.
        write_atomic(self.path / record_file(number), dump_json(self._records[number]) + "\n")

    def finish(self) -> None:
        """Join the shards: samples, pairs, statistics, and the index that makes the store readable.

        Raises :class:`~vlsae.errors.UserError` where shards are missing.
        """
        self._records |= self._read_records()
        if self.index is None or not set(self.sites) <= set(self.index.sites):
            self.index = self._joined(self.index)
            self._remove_left_overs()
            self.index.write(self.path)
        if set(self._settings["sites"]) <= set(self.index.sites):
            shutil.rmtree(self.path / PROGRESS, ignore_errors=True)

    def _joined(self, old: Index | None) -> Index:
        infos = {**(old.sites if old else {}), **self.sites}
        streams = list(dict.fromkeys(info.stream for info in infos.values()))
        shards = self._whole_shards(streams)
        files = {**(old.files if old else {})}
        for record in self._records.values():
            files |= record["files"]
        if {"vision", "language"} <= set(streams):
            shards = write_pairs(self.path, shards)
            files[PAIRS] = described(self.path / PAIRS)
        if old is None:
            join_samples(self.path, len(shards))
            files[SAMPLES] = described(self.path / SAMPLES)
        # In the order of the model, so that the index does not depend on which site came first.
        sites = {
            name: dataclasses.replace(infos[name], rows=sum(shard.rows[infos[name].stream] for shard in shards))
            for name in sorted(infos, key=site_order)
        }
        statistics = {
            name: old.statistics[name] if old and name in old.statistics else site_statistics(self.path, name, shards)
            for name in sites
        }
        listed = expected_files(sites, streams, len(shards), PAIRS in files)
        files = {path: facts for path, facts in files.items() if path in listed}
        return Index(self.shard_samples, sites, shards, statistics, files, self._settings["attributes"])

    def _begin(self) -> dict[str, Any]:
        """Check against what was begun before, and note what is being written."""
        path = self.path / PROGRESS / "settings.json"
        asked: dict[str, Any] = {
            "schema": SCHEMA,
            "shard_samples": self.shard_samples,
            "attributes": self.attributes,
            "sites": {name: dataclasses.asdict(info) for name, info in self.sites.items()},
        }
        begun = [read_record(path)] if path.is_file() else []
        if self.index is not None:
            sites = {name: {**dataclasses.asdict(info), "rows": 0} for name, info in self.index.sites.items()}
            held = {"shard_samples": self.index.shard_samples, "attributes": self.index.attributes, "sites": sites}
            begun.append({**asked, **held})
        for settings in begun:
            self._compare(settings, asked)
        for part in ("attributes", "sites"):
            asked[part] = {name: value for settings in [*begun, asked] for name, value in settings[part].items()}
        if self.index is None or not set(self.sites) <= set(self.index.sites):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, dump_json(asked) + "\n")
        return asked

    def _compare(self, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        facts = [(name, begun[name], asked[name]) for name in ("schema", "shard_samples")]
        for part in ("attributes", "sites"):
            shared = begun[part].keys() & asked[part].keys()
            facts += [(f"{part[:-1]} {name}", begun[part][name], asked[part][name]) for name in sorted(shared)]
        for name, old, new in facts:
            if old != new:
                raise UserError(
                    f"The store {self.path} was begun with {name} {old}; this writer has {new}.",
                    "Use the settings that it was begun with, or another folder.",
                )

    def _read_records(self) -> dict[int, dict[str, Any]]:
        records = {}
        for path in sorted((self.path / PROGRESS).glob("[0-9]*.json")):
            record = read_record(path)
            # A file that is gone, or of another size, makes its shard one to be written again.
            record["files"] = {
                name: facts
                for name, facts in record["files"].items()
                if (self.path / name).is_file() and (self.path / name).stat().st_size == facts["bytes"]
            }
            records[int(path.stem)] = record
        return records

    def _known(self, files: Mapping[str, Any]) -> set[str]:
        return set(files) | (set(self.index.files) if self.index else set())

    def _is_whole(self, shard: int) -> bool:
        known = self._known(self._records[shard]["files"] if shard in self._records else {})
        needed = {values_file(site, shard) for site in self.sites} | {rows_file(s, shard) for s in self.streams}
        return needed <= known and (self.index is not None or samples_part(shard) in known)

    def _write_samples(self, number: int, samples: pa.Table, files: dict[str, dict[str, Any]]) -> None:
        part = samples_part(number)
        if self.index is not None or part in files:
            first = number * self.shard_samples
            if self.index is not None:
                old = read_arrow(self.path / SAMPLES)["sample_id"].slice(first, self.index.shards[number].samples)
            else:
                old = read_arrow(self.path / part)["sample_id"]
            _refuse_other("samples", number, old.to_pylist(), samples["sample_id"].to_pylist())
            return
        if number and samples_part(0) in self._known(self._records.get(0, {}).get("files", {})):
            schema = read_arrow(self.path / samples_part(0)).schema
            samples = _cast(samples, schema, number)
        write_arrow(self.path / part, iter([samples]), samples.schema)
        files[part] = described(self.path / part)

    def _write_rows(self, number: int, stream: str, table: pa.Table, files: dict[str, dict[str, Any]]) -> None:
        name = rows_file(stream, number)
        if name in self._known(files):
            old = read_arrow(self.path / name)
            if not old.equals(table):
                _refuse_other(f"{stream} rows", number, old.to_pylist(), table.to_pylist())
            return
        write_arrow(self.path / name, iter([table]), table.schema)
        files[name] = described(self.path / name)

    def _whole_shards(self, streams: Sequence[str]) -> list[ShardInfo]:
        count = self.next_shard
        wanted = len(self.index.shards) if self.index else max(self._records, default=-1) + 1
        if count < wanted or not count:
            raise UserError(
                f"The store {self.path} is not complete: shard {count} is missing.", "Write every shard first."
            )
        shards = []
        for number in range(count):
            record = self._records[number]
            rows = {**(self.index.shards[number].rows if self.index else {}), **record["rows"]}
            shards.append(ShardInfo(record["samples"], {stream: rows[stream] for stream in streams}))
            if number + 1 < count and record["samples"] != self.shard_samples:
                raise UserError(
                    f"Shard {number} has {record['samples']} samples.",
                    f"Only the last may have fewer than {self.shard_samples}.",
                )
        return shards

    def _remove_left_overs(self) -> None:
        """Remove temporary files of attempts that were killed."""
        for path in self.path.rglob(".*"):
            if path.is_file():
                path.unlink()


def _cast(samples: pa.Table, schema: pa.Schema, number: int) -> pa.Table:
    try:
        return samples.select(schema.names).cast(schema)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise UserError(f"The columns of samples in shard {number} differ from those of shard 0: {error}.") from error


def _refuse_other(what: str, shard: int, old: list[Any], new: list[Any]) -> None:
    """Refuse other samples or rows than the store already has, naming the first that differs."""
    if old == new:
        return
    first = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    had, got = (values[first] if first < len(values) else "nothing" for values in (old, new))
    raise UserError(
        f"The {what} of shard {shard} are not those in the store: at {first}, {had!r} is there and {got!r} came.",
        "A site is added for the same samples in the same order; use another folder for others.",
    )

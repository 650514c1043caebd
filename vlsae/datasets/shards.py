"""Pictures and captions in WebDataset tar shards: an index of where each lies, and the bytes read there on demand.

The files of one sample stand next to each other and share a key, the name up to its first dot: ``000017.jpg`` with
``000017.txt``, or with ``000017.json`` whose fields are the sample's columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.archives import MOST_BYTES, SUFFIXES, leaves
from vlsae.datasets.base import Skipped
from vlsae.datasets.gather import strings
from vlsae.datasets.pictured import Source
from vlsae.datasets.tables import COLUMNS, USUAL
from vlsae.datasets.tar import Member, TarBytes, members
from vlsae.datasets.values import split_name, word
from vlsae.errors import UserError, unknown

if TYPE_CHECKING:
    import datasets as hf
    import pyarrow as pa

#: Endings that hold a sample's caption and label where the user maps none.
TEXT_ENDING, LABEL_ENDING = "txt", "cls"

#: Most bytes of a text or JSON file of a sample.
MOST_TEXT = 1 << 24


@dataclass(frozen=True)
class Entry:
    """One sample of a shard."""

    key: str
    image: Member
    texts: list[str]
    values: dict[str, str | None]


class Shards(Source):
    """The samples of tar shards; a sample is its number in the index, which holds all but the pixels."""

    wanted = "no image with a caption"
    check_many = "none"

    def __init__(self, paths: Sequence[Path], origin: str, columns: Mapping[str, str], settings: Any) -> None:
        for name in columns:
            if name not in COLUMNS:
                raise unknown("key in dataset.columns", name, COLUMNS)
        self.paths, self._origin, self.columns, self.settings = list(paths), origin, columns, settings
        root = os.path.commonpath([path.parent for path in self.paths])
        self.names = [path.relative_to(root).as_posix() for path in self.paths]

    @property
    def origin(self) -> str:
        """The folder or the pattern of the shards."""
        return self._origin

    def found(self) -> tuple[Sequence[int], list[Skipped]]:
        """Index every shard: read its members' headers and its texts, no picture."""
        import pyarrow as pa

        problems: list[Skipped] = []
        first: dict[str, str] = {}
        parts = [
            _table(number, self.names[number], self._entries(path, number, first, problems))
            for number, path in enumerate(self.paths)
        ]
        self._index: pa.Table = pa.concat_tables(parts)
        locators = self._index.column("locator").combine_chunks()
        self._shard = np.asarray(self._index.column("_shard"))
        self._offset, self._size = (np.asarray(locators.field(name)) for name in ("offset", "size"))
        return range(self._index.num_rows), problems

    def table(self, samples: Sequence[int]) -> hf.Dataset:
        """Return the table of samples; ``locator`` says where a picture's bytes lie: shard, offset and size."""
        import datasets as hf
        from datasets.table import InMemoryTable

        kept = self._index.take(np.asarray(samples, dtype=np.int64)).drop_columns(["_shard"])
        if kept.column("split").null_count == kept.num_rows:
            kept = kept.drop_columns(["split"])
        return hf.Dataset(InMemoryTable(kept.combine_chunks()))

    def read(self, sample: int) -> bytes:
        """Return the bytes of a sample's picture."""
        member = Member(self.picture(sample), int(self._offset[sample]), int(self._size[sample]))
        if member.size > MOST_BYTES:
            raise UserError(f"file of {member.size:,} bytes, more than {MOST_BYTES:,}")
        return _opened(self.paths[self._shard[sample]]).read(member)

    def place(self, sample: int) -> str:
        """Return the id of a sample: its shard and key."""
        return str(self._index.column("sample_id")[sample])

    def picture(self, sample: int) -> str:
        """Return the shard and the member of a sample's picture."""
        return str(self._index.column("source")[sample])

    def digest(self, samples: Sequence[int]) -> str:
        """Return the SHA-256 over the shards and the settings."""
        from vlsae.runs import content_digest

        total = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        for name, path in zip(self.names, self.paths):
            total.update(f"{name}\0{content_digest(path)}\n".encode())
        return total.hexdigest()

    def _entries(
        self, path: Path, number: int, first: dict[str, str], problems: list[Skipped]
    ) -> Iterator[tuple[str, Entry]]:
        """Yield the samples of a shard with their ids; what cannot be used goes to ``problems``."""
        name = self.names[number]
        for key, files in _samples(path, name, problems):
            place = f"{name}:{key}"
            try:
                entry = _entry(key, files, path, self.columns)
                identifier = entry.values["id"] or f"{name.removesuffix('.tar')}/{key}"
                before = first.setdefault(identifier, place)
                if before is not place:
                    raise UserError(f"duplicate id {identifier!r}, first at {before}")
            except UserError as error:
                problems.append(Skipped(place, error.message))
            else:
                yield identifier, entry


def _samples(path: Path, name: str, problems: list[Skipped]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield each key of a shard with its members by their endings."""

    def usable() -> Iterator[Member]:
        try:
            for entry in members(path):
                if not isinstance(entry, Member):
                    problems.append(Skipped(f"{name}:{entry[0]}", entry[1]))
                elif leaves(entry.name):
                    problems.append(Skipped(f"{name}:{entry.name}", "has a name that leads out of its archive"))
                elif not entry.name.rsplit("/", 1)[-1].startswith("."):
                    yield entry
        except UserError as error:
            problems.append(Skipped(name, error.message))

    for key, several in groupby(usable(), lambda member: _key_and_ending(member.name)[0]):
        yield key, {_key_and_ending(member.name)[1]: member for member in several}


def _key_and_ending(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _entry(key: str, files: Mapping[str, Member], path: Path, columns: Mapping[str, str]) -> Entry:
    endings = columns["image"].split(";") if "image" in columns else [suffix[1:] for suffix in SUFFIXES]
    image = next((files[ending] for ending in endings if ending in files), None)
    if image is None:
        raise UserError(f"no picture (.{', .'.join(endings[:4])}) among {', '.join(sorted(files)) or 'no files'}")
    fields = _fields(files, path)
    text = _value("text", columns, files, path, fields, TEXT_ENDING)
    texts = list(strings(text if isinstance(text, list) else [text]))
    values: dict[str, Any] = {
        "id": _value("id", columns, files, path, fields) if "id" in columns else None,
        "label": _value("label", columns, files, path, fields, LABEL_ENDING),
        "group": _value("group", columns, files, path, fields),
        "split": _value("split", columns, files, path, fields),
    }
    words = {name: word(value, name) for name, value in values.items()}
    return Entry(key, image, texts, {**words, "split": split_name(words["split"])})


def _fields(files: Mapping[str, Member], path: Path) -> dict[str, Any]:
    if "json" not in files:
        return {}
    try:
        content = json.loads(_text(files["json"], path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"its .json is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"its .json is {type(content).__name__}; expected an object of columns")
    return content


def _value(
    key: str,
    columns: Mapping[str, str],
    files: Mapping[str, Member],
    path: Path,
    fields: Mapping[str, Any],
    ending: str | None = None,
) -> Any:
    """Return a sample's value: of the file or field that the user maps, else of the usual file or field."""
    asked = columns.get(key)
    if asked == "":
        return None
    if asked is not None:
        if asked in files:
            return _text(files[asked], path).strip()
        if asked not in fields:
            raise UserError(f"no file .{asked} and no field {asked!r} in its .json (dataset.columns.{key})")
        return fields[asked]
    if ending is not None and ending in files:
        return _text(files[ending], path).strip()
    return next((fields[name] for name in USUAL[key] if name in fields), None)


def _text(member: Member, path: Path) -> str:
    if member.size > MOST_TEXT:
        raise UserError(f"{member.name} has {member.size:,} bytes, more than {MOST_TEXT:,}")
    try:
        return _opened(path).read(member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{member.name} is not UTF-8 (byte {error.object[error.start]:#04x})") from error


@lru_cache(maxsize=64)
def _opened(path: Path) -> TarBytes:
    return TarBytes(path)


def _table(number: int, name: str, entries: Iterator[tuple[str, Entry]]) -> pa.Table:
    import pyarrow as pa

    rows = list(entries)
    text = pa.string()
    locator = pa.struct([("shard", text), ("offset", pa.int64()), ("size", pa.int64())])
    columns: dict[str, tuple[Any, list[Any]]] = {
        "sample_id": (text, [identifier for identifier, _ in rows]),
        "texts": (pa.list_(text), [entry.texts for _, entry in rows]),
        "labels": (pa.struct([("label", text)]), [{"label": entry.values["label"]} for _, entry in rows]),
        "source": (text, [f"{name}:{entry.image.name}" for _, entry in rows]),
        "group": (text, [entry.values["group"] or identifier for identifier, entry in rows]),
        "split": (text, [entry.values["split"] for _, entry in rows]),
        "locator": (
            locator,
            [{"shard": name, "offset": entry.image.offset, "size": entry.image.size} for _, entry in rows],
        ),
        "_shard": (pa.int32(), [number] * len(rows)),
    }
    return pa.table({column: pa.array(values, kind) for column, (kind, values) in columns.items()})

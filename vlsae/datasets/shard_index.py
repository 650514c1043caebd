"""The index of one WebDataset shard: what its samples say, and where the bytes of their pictures lie.

The files of one sample stand next to each other and share a key, the name up to its first dot: ``000017.jpg`` with
``000017.txt``, or with ``000017.json`` whose fields are the sample's columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlsae.datasets.archives import SUFFIXES, leaves
from vlsae.datasets.base import Skipped
from vlsae.datasets.gather import strings
from vlsae.datasets.tables import USUAL
from vlsae.datasets.tar import Member, TarBytes, members
from vlsae.datasets.values import split_name, word
from vlsae.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

#: Endings that hold a sample's caption and label where the user maps none.
TEXT_ENDING, LABEL_ENDING = "txt", "cls"

#: Most bytes of a text or JSON file of a sample.
MOST_TEXT = 1 << 24


class ShardIndex(NamedTuple):
    """The samples of a shard by :func:`schema`, what of it cannot be used by its place in the shard (an empty one: the
    shard itself), and whether it was read to its end."""

    table: pa.Table
    problems: list[Skipped]
    whole: bool


def schema() -> pa.Schema:
    """Return the columns of an index; ``image`` is the name of a picture's file in the shard."""
    import pyarrow as pa

    text = pa.string()
    places = [("key", text), ("image", text), ("offset", pa.int64()), ("size", pa.int64())]
    return pa.schema(
        [*places, ("texts", pa.list_(text)), *((name, text) for name in ("id", "label", "group", "split"))]
    )


def index_shard(path: Path, columns: Mapping[str, str]) -> ShardIndex:
    """Read the headers and texts of a shard, no picture; ``columns`` are the user's names of endings and fields."""
    import pyarrow as pa

    problems: list[Skipped] = []
    shard = _Shard(path, columns)
    rows = []
    for key, files in shard.samples(problems):
        try:
            rows.append(shard.row(key, files))
        except UserError as error:
            problems.append(Skipped(key, error.message))
    return ShardIndex(pa.Table.from_pylist(rows, schema()), problems, all(one.row for one in problems))


class _Shard:
    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.path, self.columns = path, columns

    @cached_property
    def _bytes(self) -> TarBytes:
        return TarBytes(self.path)

    def samples(self, problems: list[Skipped]) -> Iterator[tuple[str, dict[str, Member]]]:
        """Yield each key with its files by their endings."""
        for key, several in groupby(self._usable(problems), lambda member: _key_and_ending(member.name)[0]):
            yield key, {_key_and_ending(member.name)[1]: member for member in several}

    def _usable(self, problems: list[Skipped]) -> Iterator[Member]:
        try:
            for entry in members(self.path):
                if not isinstance(entry, Member):
                    problems.append(Skipped(*entry))
                elif leaves(entry.name):
                    problems.append(Skipped(entry.name, "has a name that leads out of its archive"))
                elif not entry.name.rsplit("/", 1)[-1].startswith("."):
                    yield entry
        except UserError as error:
            problems.append(Skipped("", error.message))

    def row(self, key: str, files: Mapping[str, Member]) -> dict[str, Any]:
        columns = self.columns
        endings = columns["image"].split(";") if "image" in columns else [suffix[1:] for suffix in SUFFIXES]
        image = next((files[ending] for ending in endings if ending in files), None)
        if image is None:
            raise UserError(f"no picture (.{', .'.join(endings[:4])}) among {', '.join(sorted(files)) or 'no files'}")
        fields = self._fields(files)
        text = self._value("text", files, fields, TEXT_ENDING)
        values = {
            "id": self._value("id", files, fields) if "id" in columns else None,
            "label": self._value("label", files, fields, LABEL_ENDING),
            "group": self._value("group", files, fields),
            "split": self._value("split", files, fields),
        }
        texts = list(strings(text if isinstance(text, list) else [text]))
        words = {name: word(value, name) for name, value in values.items()}
        place = {"key": key, "image": image.name, "offset": image.offset, "size": image.size}
        return {**place, "texts": texts, **words, "split": split_name(words["split"])}

    def _fields(self, files: Mapping[str, Member]) -> dict[str, Any]:
        if "json" not in files:
            return {}
        try:
            content = json.loads(self._text(files["json"]))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"its .json is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise UserError(f"its .json is {type(content).__name__}; expected an object of columns")
        return content

    def _value(
        self, key: str, files: Mapping[str, Member], fields: Mapping[str, Any], ending: str | None = None
    ) -> Any:
        """Return a sample's value: of the file or field that the user maps, else of the usual file or field."""
        asked = self.columns.get(key)
        if asked == "":
            return None
        if asked is not None:
            if asked in files:
                return self._text(files[asked]).strip()
            if asked not in fields:
                raise UserError(f"no file .{asked} and no field {asked!r} in its .json (dataset.columns.{key})")
            return fields[asked]
        if ending is not None and ending in files:
            return self._text(files[ending]).strip()
        return next((fields[name] for name in USUAL[key] if name in fields), None)

    def _text(self, member: Member) -> str:
        if member.size > MOST_TEXT:
            raise UserError(f"{member.name} has {member.size:,} bytes, more than {MOST_TEXT:,}")
        try:
            return self._bytes.read(member).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{member.name} is not UTF-8 (byte {error.object[error.start]:#04x})") from error


def _key_and_ending(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()

"""Any dataset of the Hugging Face Hub, or a downloaded copy of one, through the `datasets` library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import Range
from vlsae.datasets.base import Skipped
from vlsae.datasets.faults import OnError
from vlsae.datasets.features import Mapped, map_columns
from vlsae.datasets.gather import strings
from vlsae.datasets.hub_access import Origin, local_origin, remote_origin
from vlsae.datasets.label_values import label_struct, label_value, typed
from vlsae.datasets.pictured import Check, Pictured, Source
from vlsae.datasets.values import split_name, word
from vlsae.errors import UserError

if TYPE_CHECKING:
    import datasets as hf


class Hub(Pictured):
    """A dataset by its ``name`` on the Hub (and ``config``, ``revision``), or at ``path`` on this machine.

    ``split`` is one of its splits, in the library's own grammar (``train``, ``train[:10%]``), and then rows are split
    by ``split.seed``; without it all splits are taken, and stand. ``columns`` maps id, image, text, label, group and
    split to the dataset's own names (``text`` and ``label`` may list several); what is not mapped is found by its type
    and its usual name. ``limit`` takes the first rows of each split; with ``streaming`` no more than those are
    downloaded. No code that comes with a dataset is run. ``on_error="skip"`` leaves out a bad row and counts it.
    ``check`` says how images are looked at beforehand: their ``header``, a ``full`` decoding, ``none``, or ``auto`` by
    their number.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        path: str | None = None,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        columns: dict[str, str | list[str] | None] | None = None,
        limit: Annotated[int, Range(1, None)] | None = None,
        streaming: bool = False,
        on_error: OnError = "raise",
        check: Check = "auto",
    ) -> None:
        super().__init__(on_error, check)
        if (name is None) == (path is None):
            raise UserError(
                "dataset=hub needs a name on the Hub or a path on this machine, one of the two.",
                "Write dataset.name=ORG/NAME or dataset.path=FOLDER.",
            )
        if path is not None and (revision is not None or streaming):
            setting = "revision" if revision is not None else "streaming"
            raise UserError(f"dataset.{setting} goes with dataset.name, not with dataset.path.", "Leave it out.")
        if streaming and limit is None:
            raise UserError("dataset.streaming=true has no end without a limit.", "Add dataset.limit=ROWS.")
        self.name, self.path, self.config, self.split, self.revision = name, path, config, split, revision
        self.limit, self.streaming = limit, streaming
        self.columns = {key: value for key, value in (columns or {}).items() if value is not None}

    @cached_property
    def source(self) -> HubRows:
        """The dataset's rows."""
        return HubRows(self)

    @property
    def has_images(self) -> bool:
        """Whether the dataset has a column of images."""
        return self.source.columns.image is not None


class HubRows(Source):
    """The rows of all splits, one after the other; a sample is its number among them."""

    wanted = "no row"

    def __init__(self, dataset: Hub) -> None:
        self.dataset = dataset

    @property
    def origin(self) -> str:
        """The name or the path."""
        return str(self.dataset.name or self.dataset.path)

    @cached_property
    def _origin(self) -> Origin:
        own = self.dataset
        if own.path is not None:
            return local_origin(Path(own.path).expanduser(), own.config)
        return remote_origin(str(own.name), own.config, own.revision)

    @cached_property
    def _splits(self) -> dict[str, hf.Dataset]:
        own = self.dataset
        splits = self._origin.load(own.split, own.limit, own.streaming)
        return {name: table.select(range(min(own.limit or len(table), len(table)))) for name, table in splits.items()}

    @cached_property
    def columns(self) -> Mapped:
        """The dataset's own names of our columns."""
        return map_columns(next(iter(self._splits.values())).features, self.dataset.columns, self.origin)

    @cached_property
    def _rows(self) -> hf.Dataset:
        import datasets as hf

        return hf.concatenate_datasets(list(self._splits.values()))

    @cached_property
    def _stored(self) -> hf.Dataset:
        # Images as the bytes that are stored: they are decoded as every other picture of ours.
        return self._rows.with_format("arrow")

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self._splits.values())])

    def found(self) -> tuple[Sequence[int], list[Skipped]]:
        """Return the rows that hold all they need, and the others."""
        problems: list[Skipped] = []
        mapped, rows = self.columns, self._rows
        texts: list[list[str]] = [[] for _ in range(len(rows))]
        faults: dict[int, str] = {}
        for column in mapped.text:
            for number, value in enumerate(rows[column]):
                try:
                    texts[number] += strings(value if isinstance(value, list) else [value])
                except UserError as error:
                    faults.setdefault(number, f"{column}: {error.message}")
        if mapped.image is not None:
            missing = np.asarray(self._stored[:].column(mapped.image).is_null())
            faults |= {int(number): f"{mapped.image}: no image" for number in np.flatnonzero(missing)}
        self._texts = texts
        self._ids = self._identify(faults)
        problems += [Skipped(self.place(number), reason) for number, reason in sorted(faults.items())]
        return [number for number in range(len(rows)) if number not in faults], problems

    def table(self, samples: Sequence[int]) -> hf.Dataset:
        """Return the table of rows; labels keep their own names, and classes theirs."""
        import datasets as hf
        import pyarrow as pa
        from datasets.table import InMemoryTable

        kept = list(samples)
        ids = [self._ids[number] for number in kept]
        group = self._words("group")
        columns: dict[str, Any] = {
            "sample_id": ids,
            "texts": pa.array([self._texts[number] for number in kept], pa.list_(pa.string())),
            "labels": label_struct(self._labels(kept)),
            "source": [self.place(number) for number in kept],
            "group": ids if group is None else [group[number] or self._ids[number] for number in kept],
        }
        splits = self._split_column()
        if splits is not None:
            columns["split"] = [splits[number] for number in kept]
        return hf.Dataset(InMemoryTable(pa.table(columns)))

    def read(self, sample: int) -> bytes:
        """Return the bytes of a row's image."""
        value = self._stored[int(sample)].column(self.columns.image)[0].as_py()
        if value["bytes"] is not None:
            return value["bytes"]
        try:
            return Path(value["path"]).read_bytes()
        except OSError as error:
            raise UserError(f"unreadable file ({error})") from error

    def place(self, sample: int) -> str:
        """Return the split and the row in it."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return f"{list(self._splits)[number]}/{sample - self._starts[number]}"

    def picture(self, sample: int) -> str:
        """Return the column of the image."""
        return str(self.columns.image)

    def digest(self, samples: Sequence[int]) -> str:
        """Return the SHA-256 over the revision, or over a local copy's files, and the settings."""
        own = self.dataset
        settings = [own.name, own.config, own.split, own.columns, own.limit, own.on_error]
        return hashlib.sha256(json.dumps([self._origin.content, *settings], sort_keys=True).encode()).hexdigest()

    def _identify(self, faults: dict[int, str]) -> list[str]:
        """Return the ids: the mapped column's, else split and row; what has none or another's is a fault."""
        if self.columns.id is None:
            return [self.place(number) for number in range(len(self._rows))]
        ids: list[str] = []
        first: dict[str, int] = {}
        for number, value in enumerate(self._words("id") or []):
            ids.append(value or self.place(number))
            before = first.setdefault(ids[-1], number)
            if value is None:
                faults.setdefault(number, f"{self.columns.id}: no id")
            elif before != number:
                faults.setdefault(number, f"duplicate id {value!r}, first at {self.place(before)}")
        return ids

    def _words(self, key: str) -> list[str | None] | None:
        column = getattr(self.columns, key)
        if column is None:
            return None
        names = self.columns.names.get(column)
        return [word(value if names is None else _class(names, value), key) for value in self._rows[column]]

    def _labels(self, kept: Sequence[int]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for column in self.columns.label:
            values, names = list(self._rows[column]), self.columns.names.get(column)
            if names is not None:
                columns[column] = [_class(names, values[number]) for number in kept]
            else:
                columns[column] = typed([label_value(values[number], f"label {column!r}") for number in kept])
        return columns or {"label": [None] * len(kept)}

    def _split_column(self) -> list[str] | None:
        """Return each row's split: of the mapped column, else the source's own where all of them are taken."""
        mapped = self._words("split")
        if mapped is not None:
            found = [split_name(value) for value in mapped]
            if None in found:
                raise UserError(f"{self.origin} has rows without {self.columns.split}.", "Leave the column unmapped.")
            return [str(value) for value in found]
        names = list(self._splits)
        if self.dataset.split is not None or len(names) < 2:
            return None
        try:
            own = {name: str(split_name(name)) for name in names}
        except UserError as error:
            raise UserError(
                f"{self.origin} has the splits {', '.join(names)}, which are not all train, validation and test.",
                f"Choose one, or several as one: dataset.split={names[0]} or dataset.split={'+'.join(names[:2])}",
            ) from error
        return [own[name] for name, table in self._splits.items() for _ in range(len(table))]


def _class(names: Mapping[int, str], value: Any) -> str | None:
    # The library writes −1 where a row of a test split keeps its class to itself.
    return None if value is None or value == -1 else names[value]

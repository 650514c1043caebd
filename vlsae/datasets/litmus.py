"""dataset=litmus: safe and unsafe prompts by axiom, in the columns of LITMUS (Borah et al., 2025), from Hub or disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.bounds import conform
from vlsae.datasets import tables
from vlsae.datasets.base import Dataset, Skipped
from vlsae.datasets.faults import OnError, settle
from vlsae.datasets.values import whole_text, word
from vlsae.errors import MissingFile, UserError, nearest, unknown

if TYPE_CHECKING:
    import datasets as hf
    import numpy as np
    from PIL import Image

#: Where the published prompts lie; no licence is declared, so none are shipped.
HUB = "hasnat79/litmus"

#: What a column is for → its name in LITMUS; those without one, and all but the first two, may be absent.
COLUMNS: dict[str, str | None] = {
    "text": "input",
    "label": "safety_label",
    "axiom": "axiom",
    "source": "source_dataset",
    "completion": "target",
    "id": None,
    "group": None,
}
NEEDED = ("text", "label")

#: The axiom of prompts that name none.
ALL = "all"


@dataclass(frozen=True)
class Prompt:
    """One row: its id, place, texts and what it belongs to; the label as it stands in the file."""

    id: str
    place: str
    text: str
    label: str | None
    axiom: str
    source: str
    completion: str | None
    group: str | None


class Litmus(Dataset):
    """Prompts with a safety label, an axiom, a source and a completion.

    ``path`` is a table (CSV, TSV, JSON, JSONL, Parquet) or a folder of tables with equal columns; without one,
    ``hasnat79/litmus`` on the Hub or in the local cache, at ``revision``. ``columns`` maps text, label, axiom, source,
    completion, id and group to the table's own names; an empty name leaves a column unread. ``on_error="skip"`` leaves
    out a bad row and counts it. Labels are checked where they are used, not here.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        revision: str | None = None,
        columns: dict[str, str | None] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        conform("on_error", on_error, OnError)
        for key in columns or {}:
            if key not in COLUMNS:
                raise unknown("key in dataset.columns", key, COLUMNS)
        self.path = None if path is None else Path(path).expanduser()
        self.revision, self.on_error = revision, on_error
        self.columns = {key: name for key, name in (columns or {}).items() if name is not None}

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: never."""
        return False

    def images(self, indices: Sequence[int]) -> np.ndarray | list[Image.Image]:
        """Raise ``UserError``: there are none."""
        raise UserError("Prompts have no images.", "Choose language sites only, such as language.last.")

    @property
    def skipped(self) -> list[Skipped]:
        """Rows that were left out."""
        return self._content[1]

    @cached_property
    def table(self) -> hf.Dataset:
        """One row a prompt: ``labels.safety_label`` and ``labels.axiom``; the completion is ``answer``."""
        import datasets as hf

        prompts = self._content[0]
        first: dict[str, str] = {}
        columns: dict[str, list[Any]] = {
            "sample_id": [prompt.id for prompt in prompts],
            "texts": [[prompt.text] for prompt in prompts],
            "labels": [{"safety_label": prompt.label, "axiom": prompt.axiom} for prompt in prompts],
            "source": [prompt.source for prompt in prompts],
            # Equal texts are of one group, so that they fall into one split and one block.
            "group": [prompt.group or first.setdefault(prompt.text, prompt.id) for prompt in prompts],
        }
        if any(prompt.completion is not None for prompt in prompts):
            columns["answer"] = [prompt.completion for prompt in prompts]
        return hf.Dataset.from_dict(columns)

    def digest(self) -> str:
        """Return the SHA-256 over the files and the settings."""
        from vlsae.runs import content_digest

        total = hashlib.sha256(json.dumps([self.columns, self.on_error], sort_keys=True).encode())
        for file in self.files:
            total.update(f"{file.name}\0{content_digest(file)}\n".encode())
        return total.hexdigest()

    @cached_property
    def files(self) -> list[Path]:
        """The tables that are read, of one format; AQI-D09 where there are none."""
        place = hub_folder(HUB, self.revision) if self.path is None else self.path
        if place.is_file():
            return [place]
        if not place.is_dir():
            close = nearest(place.name, [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else [])
            hint = f"Did you mean {' or '.join(close)}?" if close else "Name a table, or a folder of tables."
            raise MissingFile(f"AQI-D09: dataset.path={place} does not exist.", hint)
        for suffix in (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json"):
            found = [one for one in sorted(place.rglob(f"*{suffix}")) if one.is_file()]
            if found:
                return found
        raise MissingFile(f"AQI-D09: {place} holds no table.", f"Known: {', '.join(tables.SUFFIXES)}.")

    @cached_property
    def _content(self) -> tuple[list[Prompt], list[Skipped]]:
        problems: list[Skipped] = []
        prompts: dict[str, Prompt] = {}
        number = 0
        for file in self.files:
            found = _records(file)
            names = _names(found, file, self.columns)
            problems += [Skipped(fault.row, f"AQI-D09: {fault.reason}") for fault in found.faults]
            for place, record in found.records:
                try:
                    prompt = _prompt(place, record, names, str(number))
                    if prompt.id in prompts:
                        raise UserError(f"AQI-D09: duplicate id {prompt.id!r}, first at {prompts[prompt.id].place}")
                    prompts[prompt.id] = prompt
                except UserError as error:
                    problems.append(Skipped(place, error.message))
                number += 1
        settle(problems, self.on_error)
        if not prompts:
            raise UserError(f"AQI-D09: {self.files[0]} holds no row that can be used.", "Name a table with rows.")
        return list(prompts.values()), problems


def hub_folder(name: str, revision: str | None) -> Path:
    """Return the folder of a data set's tables: the cache where it is filled, else the Hub.

    Raises ``UserError`` with the ways out where neither can be reached; no other data are read in its place.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"*{suffix}" for suffix in tables.SUFFIXES]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except Exception as error:  # offline, not found, gated, a broken connection: each is out of reach
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"AQI-D09: the data set {name} cannot be reached: {reason}",
            "Ways out: a local copy (dataset.path=FILE_OR_FOLDER), a filled Hugging Face cache (HF_HOME, "
            "HF_HUB_OFFLINE=1), or the small bundled prompts (dataset=safety_mini).",
        ) from error


def _records(file: Path) -> tables.Records:
    try:
        found = tables.read_records(file)
    except UserError as error:
        raise UserError(f"AQI-D09: {error.message}", error.mend) from error
    if not found.records and not found.faults:
        raise UserError(f"AQI-D09: {file.name} has no rows.", "Name a table with rows.")
    return found


def _names(found: tables.Records, file: Path, columns: Mapping[str, str | None]) -> dict[str, str]:
    """Return the table's own name of each column that it has; AQI-D01 for one that is asked for and absent."""
    names: dict[str, str] = {}
    for key, usual in COLUMNS.items():
        asked = columns.get(key, usual if key in NEEDED else None)
        known = () if usual is None else (usual,)
        try:
            name = tables.column_name(key, asked, found.names, file, known, key in NEEDED)
        except UserError as error:
            raise UserError(f"AQI-D01: {error.message}", error.mend) from error
        if name is not None:
            names[key] = name
    return names


def _prompt(place: str, record: dict[str, Any], names: dict[str, str], number: str) -> Prompt:
    values = {key: record.get(name) for key, name in names.items()}
    text = values["text"]
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UserError(f"AQI-D04: empty {names['text']}")
    if not isinstance(text, str):
        raise UserError(f"AQI-D04: {names['text']} is {type(text).__name__}; expected text")
    completion = values.get("completion")
    label = values["label"]
    return Prompt(
        id=word(values.get("id"), "id") or number,
        place=place,
        text=whole_text(text.strip(), "text"),
        label=None if label is None or label == "" or label != label else str(label),
        axiom=word(values.get("axiom"), "axiom") or ALL,
        source=word(values.get("source"), "source") or place.split(" ")[0],
        completion=whole_text(str(completion).strip(), "completion") if str(completion or "").strip() else None,
        group=word(values.get("group"), "group"),
    )

"""Images in folders or archives, whose folders are their classes, with or without a metadata file beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from vlsae.bounds import OneOf, conform
from vlsae.datasets.archives import COMPRESSED, SUFFIXES, ImageFiles
from vlsae.datasets.base import Skipped
from vlsae.datasets.faults import OnError
from vlsae.datasets.gather import Sample, gather
from vlsae.datasets.gathered import Gathered
from vlsae.datasets.label_values import typed
from vlsae.datasets.layout import in_turn, read_layout
from vlsae.datasets.metadata import read_metadata
from vlsae.datasets.pictured import Check, Pictured
from vlsae.datasets.tables import Rows
from vlsae.datasets.templates import fields_of, filled
from vlsae.errors import MissingFile, UserError

Splits = Annotated[str, OneOf("auto", "ignore")]

#: Files that hold pictures which this dataset does not read, and the one that does.
ELSEWHERE = {
    ".parquet": "dataset=hub dataset.path=FOLDER",
    ".arrow": "dataset=hub dataset.path=FOLDER",
    ".npz": "dataset=image_arrays dataset.path=FILE",
    ".npy": "dataset=image_arrays dataset.path=FILE",
    "ubyte.gz": "dataset=image_arrays dataset.path=FOLDER",
    "ubyte": "dataset=image_arrays dataset.path=FOLDER",
}


class ImageFolder(Pictured):
    """Pictures in a folder, its subfolders and its zip and tar archives, or in one archive.

    The folder right above a picture is its class (``labels.class``); folders named train, validation (val, valid, dev)
    and test that hold all pictures are splits, unless ``splits="ignore"``. Metadata files (``metadata.csv``, ``.jsonl``
    or ``.parquet``, or the ``metadata`` named) say which pictures are samples and give them texts, labels, ids, groups
    and splits, by ``columns``; ``columns.label`` may list several. ``template`` makes a text of the labels where there
    is none, such as ``"a photo of a {class}"``. Rows come in turn from each split and class, so that a limit leaves
    some of each. ``on_error="skip"`` leaves out a bad row and counts it. ``check`` says how images are looked at
    beforehand: their ``header``, a ``full`` decoding, ``none``, or ``auto`` by their number.
    """

    def __init__(
        self,
        *,
        path: str,
        metadata: str | None = None,
        columns: dict[str, str | list[str] | None] | None = None,
        splits: Splits = "auto",
        template: str | None = None,
        on_error: OnError = "raise",
        check: Check = "auto",
    ) -> None:
        super().__init__(on_error, check)
        conform("splits", splits, Splits)
        self.path = Path(path).expanduser()
        self.metadata, self.splits, self.template = metadata, splits, template
        self.columns = {key: name for key, name in (columns or {}).items() if name is not None}

    @cached_property
    def source(self) -> Folder:
        """The folder."""
        return Folder(self)

    @cached_property
    def class_names(self) -> list[str]:
        """The classes in the order of their names; none where the folders say none."""
        return sorted({row["class"] for row in self.table["labels"] if row.get("class") is not None})


class Folder(Gathered):
    """The pictures of a folder with what layout and metadata say of them."""

    def __init__(self, dataset: ImageFolder) -> None:
        self.dataset = dataset

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.dataset.path)

    @cached_property
    def files(self) -> ImageFiles:  # type: ignore[override]
        """The images, by name."""
        path = self.dataset.path
        if not path.exists():
            raise MissingFile(f"There is no dataset folder or archive {path}.", "Name one that exists: dataset.path=…")
        if path.is_file() and not path.name.lower().endswith((".zip", ".tar")):
            raise UserError(f"{path} is no folder, zip or tar archive.", _elsewhere([path]))
        files = ImageFiles(path)
        if not len(files) and not files.faults:
            raise UserError(f"{path} holds no picture.", _elsewhere(sorted(path.rglob("*")) if path.is_dir() else []))
        return files

    def found(self) -> tuple[Sequence[Sample], list[Skipped]]:
        """Return the samples by metadata, or by folder without, and the rows that are bad."""
        problems: list[Skipped] = []
        if self._rows is None:
            problems += self.files.faults
            samples = self._by_folder()
        else:
            samples = gather(self._rows, self.files, problems)
        layout = read_layout([self.files.folder_of(sample.location) for sample in samples], self.dataset.splits)
        classed, kept = any(layout.classes), []
        for sample, split, name in zip(samples, layout.splits, layout.classes):
            sample.split = sample.split or split
            if not sample.labels:
                sample.labels = {"class": name}
                if classed and name is None:
                    problems.append(Skipped(sample.place, "lies in no folder of a class, and others do"))
                    continue
            kept.append(sample)
        usable = self._with_texts(kept, problems)
        keys = [(sample.split, next(iter(sample.labels.values()), None)) for sample in usable]
        return [usable[number] for number in in_turn(keys)], problems

    def labels(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        """Return the columns of labels, each of one type."""
        names = list(dict.fromkeys(name for sample in samples for name in sample.labels)) or ["class"]
        return {name: typed([sample.labels.get(name) for sample in samples]) for name in names}

    def digest(self, samples: Sequence[Sample]) -> str:
        """Return the SHA-256 over the images and all that is said of them."""
        rows = [[s.id, s.texts, s.labels, s.group, s.split] for s in samples]
        total = hashlib.sha256(json.dumps([self.dataset.on_error, rows], sort_keys=True).encode())
        total.update(self.files.digest([sample.location for sample in samples]).encode())
        return total.hexdigest()

    @cached_property
    def _rows(self) -> Rows | None:
        return read_metadata(self.files.root, self.dataset.metadata, self.dataset.columns)

    @cached_property
    def unused(self) -> list[Skipped]:
        """The pictures that the metadata does not name."""
        if self._rows is None:
            return []
        named = {sample.location for sample in gather(self._rows, self.files, [])}
        return [Skipped(str(place), "is not in the metadata") for place in self.files.all() if place not in named]

    def _by_folder(self) -> list[Sample]:
        places = self.files.all()
        several = len({place.member for place in places}) < len(places)
        samples = []
        for place in places:
            archive = "" if place.archive is None else place.archive.relative_to(self.files.root).as_posix() + ":"
            name = f"{archive}{place.member}" if several else place.member
            samples.append(Sample(name, f"{archive}{place.member}", place, group=name))
        return samples

    def _with_texts(self, samples: Sequence[Sample], problems: list[Skipped]) -> list[Sample]:
        """Give the samples without a text one by the template; each that cannot have one goes to ``problems``."""
        template = self.dataset.template
        if template is None:
            return list(samples)
        known = list(dict.fromkeys(name for sample in samples for name in sample.labels))
        fields = fields_of(template, known) if samples else []
        kept = []
        for sample in samples:
            missing = [name for name in fields if sample.labels.get(name) is None]
            if not sample.texts and missing:
                problems.append(Skipped(sample.place, f"has no {missing[0]} to make a text of"))
                continue
            sample.texts = sample.texts or [filled(template, sample.labels)]
            kept.append(sample)
        return kept


def _elsewhere(paths: Sequence[Path]) -> str | None:
    """Return what to do where no picture was found, by the files that are there."""
    if any(path.name.lower().endswith(COMPRESSED) for path in paths):
        return "A compressed tar archive cannot be read in place: unpack it, or store it as a plain .tar or a .zip."
    for suffix, words in ELSEWHERE.items():
        if any(path.name.lower().endswith(suffix) for path in paths):
            return f"Pictures in {suffix.lstrip('.')} files are read by {words}"
    return f"Pictures end in {', '.join(SUFFIXES)}."

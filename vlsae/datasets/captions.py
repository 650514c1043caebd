"""Images with captions: a folder with one caption file, a file of paths and captions, or WebDataset shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlsae.datasets.archives import ImageFiles
from vlsae.datasets.base import Skipped
from vlsae.datasets.faults import OnError
from vlsae.datasets.gather import Sample, gather
from vlsae.datasets.gathered import Gathered
from vlsae.datasets.paths import PathFiles
from vlsae.datasets.pictured import Check, Pictured
from vlsae.datasets.shard_names import are_shards, shard_paths
from vlsae.datasets.tables import SUFFIXES, Rows, is_captions, read_rows
from vlsae.errors import MissingFile, UserError


class Captions(Pictured):
    """Images and captions from a folder, a file, or tar shards.

    ``path`` is a folder, with ``captions`` its caption file (found where the folder holds just one) and ``images`` the
    folder or archive of the images (default: all under ``path``); or a caption file, which names its images by paths,
    absolute or below its folder (``images`` is another folder for them); or WebDataset shards: a folder that holds
    ``.tar`` files and no caption file, or a pattern such as ``shards/{000..009}.tar`` or ``shards/*.tar``; or a folder
    of images with text files of their names beside them (``a.jpg``, ``a.txt``), one caption a line.

    ``columns`` maps id, image, text, label, group and split to the source's own names. ``on_error="skip"`` leaves out a
    bad row and counts it. ``check`` says how images are looked at beforehand: their ``header``, a ``full`` decoding,
    ``none``, or ``auto`` by their number.
    """

    def __init__(
        self,
        *,
        path: str,
        captions: str | None = None,
        images: str | None = None,
        columns: dict[str, str | None] | None = None,
        on_error: OnError = "raise",
        check: Check = "auto",
    ) -> None:
        super().__init__(on_error, check)
        self.path = Path(path).expanduser()
        self._captions, self._images = captions, images
        self.columns = {key: name for key, name in (columns or {}).items() if name is not None}

    @cached_property
    def source(self) -> Any:
        """The caption file with its images, the shards, or the images with texts beside them."""
        from vlsae.datasets.shards import Shards
        from vlsae.datasets.sidecars import Sidecars, are_sidecars

        settings = {"columns": self.columns, "on_error": self.on_error}
        if self._captions is None and self._images is None and are_shards(self.path):
            return Shards(shard_paths(self.path), str(self.path), self.columns, settings)
        if self._captions is None and self._images is None and not self.columns and are_sidecars(self.path):
            return Sidecars(self.path, None, None, {}, settings)
        return CaptionTable(self.path, self._captions, self._images, self.columns, settings)

    @property
    def caption_file(self) -> Path:
        """The file that holds the captions."""
        return self.source.caption_file

    @property
    def files(self) -> Any:
        """The images, by name."""
        return self.source.files


class CaptionTable(Gathered):
    """The rows of one caption file, and the images that they name."""

    wanted = "no image with a caption"

    def __init__(
        self, path: Path, captions: str | None, images: str | None, columns: dict[str, str], settings: dict[str, Any]
    ) -> None:
        self.path, self._captions, self._images = path, captions, images
        self.columns, self.settings = columns, settings

    @property
    def origin(self) -> str:
        """The caption file."""
        return str(self.caption_file)

    @property
    def unused(self) -> list[Skipped]:
        """The images that are listed without any caption."""
        return [Skipped(name, "has no caption") for name in self._rows.uncaptioned]

    @cached_property
    def caption_file(self) -> Path:
        """The file that holds the captions."""
        if self.path.is_file() and self._captions is None:
            return self.path
        if not self.path.is_dir():
            raise MissingFile(f"There is no dataset folder {self.path}.", "Name one that exists: dataset.path=FOLDER")
        if self._captions is not None:
            inside = self.path / self._captions
            return inside if inside.exists() else Path(self._captions).expanduser()
        candidates = sorted(file for file in self.path.iterdir() if file.suffix.lower() in SUFFIXES)
        fitting = [file for file in candidates if is_captions(file)] if len(candidates) > 1 else candidates
        named = [file for file in fitting if "caption" in file.stem.lower()]
        for choice in (named, fitting):
            if len(choice) == 1:
                return choice[0]
        names = ", ".join(file.name for file in (fitting or candidates)) or "no caption file"
        raise UserError(
            f"{self.path} holds {names}; expected one file of captions ({', '.join(SUFFIXES)}).",
            "Say which: dataset.captions=FILE",
        )

    @cached_property
    def files(self) -> ImageFiles | PathFiles:  # type: ignore[override]
        """The images, by name."""
        if self.path.is_file():
            return PathFiles(Path(self._images).expanduser() if self._images else self.path.parent)
        if self._images is None:
            return ImageFiles(self.path)
        inside = self.path / self._images
        return ImageFiles(inside if inside.exists() else Path(self._images).expanduser())

    @cached_property
    def _rows(self) -> Rows:
        return read_rows(self.caption_file, self.columns)

    def found(self) -> tuple[Sequence[Sample], list[Skipped]]:
        """Return the samples by their rows and names, and the rows that are bad."""
        problems: list[Skipped] = []
        return gather(self._rows, self.files, problems), problems

    def labels(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        """Return the label of each sample."""
        return {"label": [sample.label for sample in samples]}

    def digest(self, samples: Sequence[Sample]) -> str:
        """Return the SHA-256 over the caption file, the images it names, and the settings."""
        total = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        total.update(self._captions_digest())
        total.update(self.files.digest([sample.location for sample in samples]).encode())
        return total.hexdigest()

    def _captions_digest(self) -> bytes:
        return hashlib.sha256(self.caption_file.read_bytes()).digest()

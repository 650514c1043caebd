"""Images with captions from a local folder: loose files or zip archives, and one caption file."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf, conform
from vlsae.datasets.archives import ImageFiles
from vlsae.datasets.base import Dataset, Skipped
from vlsae.datasets.faults import OnError, first_left_out, settle
from vlsae.datasets.gather import Sample, gather
from vlsae.datasets.tables import SUFFIXES, Rows, is_captions, read_rows
from vlsae.errors import MissingFile, UserError

if TYPE_CHECKING:
    import datasets as hf
    from PIL import Image

#: Images up to which ``check="auto"`` decodes every image once; above, only headers are read.
DECODE_UP_TO = 2_000

#: Threads that read and decode images.
THREADS = min(16, os.cpu_count() or 1)

Check = Annotated[str, OneOf("auto", "full", "header", "none")]


class Captions(Dataset):
    """Images and captions from a folder.

    ``path`` is the folder; ``captions`` its caption file (found where the folder holds just one) and ``images`` the
    folder or archive of the images (default: all under ``path``). ``columns`` maps id, image, text, label, group and
    split to the file's own column names. ``on_error="skip"`` leaves out a bad row and counts it. ``check`` says how
    images are looked at beforehand: their ``header``, a ``full`` decoding, ``none``, or ``auto`` by their number.
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
        conform("on_error", on_error, OnError)
        conform("check", check, Check)
        self.path = Path(path).expanduser()
        self._captions, self._images = captions, images
        self.columns = {key: name for key, name in (columns or {}).items() if name is not None}
        self.on_error, self.check = on_error, check

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: always."""
        return True

    @property
    def skipped(self) -> list[Skipped]:
        """Rows that were left out, and images that have no caption."""
        problems = self._content[1]
        return problems + [Skipped(name, "has no caption") for name in self._rows.uncaptioned]

    @cached_property
    def table(self) -> hf.Dataset:
        """Every column but the pixels, one row an image."""
        import datasets as hf

        samples = self._samples
        columns: dict[str, list[Any]] = {
            "sample_id": [sample.id for sample in samples],
            "texts": [sample.texts for sample in samples],
            "labels": [{"label": sample.label} for sample in samples],
            "source": [str(sample.location) for sample in samples],
            "group": [sample.group for sample in samples],
        }
        if samples[0].split is not None:
            columns["split"] = [sample.split for sample in samples]
        return hf.Dataset.from_dict(columns)

    def images(self, indices: Sequence[int]) -> list[Image.Image]:
        """Decode the images of some rows as RGB; ``UserError`` names the row of one that cannot be read."""
        samples = [self._samples[int(index)] for index in indices]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._decode, samples))

    def digest(self) -> str:
        """Return the SHA-256 over the caption file, the images it names, and the settings."""
        settings = {"columns": self.columns, "on_error": self.on_error}
        total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        total.update(hashlib.sha256(self.caption_file.read_bytes()).digest())
        total.update(self.files.digest([sample.location for sample in self._gathered[0]]).encode())
        return total.hexdigest()

    @cached_property
    def caption_file(self) -> Path:
        """The file that holds the captions."""
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
    def files(self) -> ImageFiles:
        """The images, by name."""
        if self._images is None:
            return ImageFiles(self.path)
        inside = self.path / self._images
        return ImageFiles(inside if inside.exists() else Path(self._images).expanduser())

    @property
    def _samples(self) -> list[Sample]:
        return self._content[0]

    @cached_property
    def _rows(self) -> Rows:
        return read_rows(self.caption_file, self.columns)

    @cached_property
    def _gathered(self) -> tuple[list[Sample], list[Skipped]]:
        """The samples by their rows and names, no image looked at yet."""
        problems: list[Skipped] = []
        return gather(self._rows, self.files, problems), problems

    @cached_property
    def _content(self) -> tuple[list[Sample], list[Skipped]]:
        samples, problems = self._gathered[0], list(self._gathered[1])
        samples = self._readable(samples, problems)
        settle(problems, self.on_error)
        if not samples:
            left = first_left_out(problems)
            raise UserError(f"{self.caption_file} holds no image with a caption that can be used{left}.")
        return samples, problems

    def _readable(self, samples: list[Sample], problems: list[Skipped]) -> list[Sample]:
        from vlsae.datasets.pictures import check_header, check_whole

        level = self.check
        if level == "auto":
            level = "full" if len(samples) <= DECODE_UP_TO else "header"
        if level == "none":
            return samples
        look = check_whole if level == "full" else check_header

        def fault(sample: Sample) -> str | None:
            try:
                look(self._read(sample))
            except UserError as error:
                return f"{sample.location}: {error.message}"
            return None

        with ThreadPoolExecutor(THREADS) as pool:
            faults = list(pool.map(fault, samples))
        problems.extend(Skipped(sample.place, found) for sample, found in zip(samples, faults) if found)
        return [sample for sample, found in zip(samples, faults) if not found]

    def _decode(self, sample: Sample) -> Image.Image:
        from vlsae.datasets.pictures import decode

        try:
            return decode(self._read(sample))
        except UserError as error:
            raise UserError(
                f"{sample.place}: {sample.location}: {error.message}.",
                "Mend it, or find all such images first: dataset.check=full dataset.on_error=skip",
            ) from error

    def _read(self, sample: Sample) -> bytes:
        try:
            return self.files.read(sample.location)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
            raise UserError(f"unreadable file ({error})") from error

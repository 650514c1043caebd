"""Images whose captions lie beside them: ``a.jpg`` with ``a.txt``, one caption a line."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from vlsae.datasets.archives import ImageFiles, Location
from vlsae.datasets.base import Skipped
from vlsae.datasets.captions import CaptionTable
from vlsae.datasets.tables import SUFFIXES, Row, Rows

TEXT = ".txt"


class Sidecars(CaptionTable):
    """The images of a folder, with the captions that a text file of the same name holds."""

    @cached_property
    def caption_file(self) -> Path:
        """The folder: its captions lie in many files."""
        return self.path

    @cached_property
    def files(self) -> ImageFiles:  # type: ignore[override]
        """The images, by name."""
        return ImageFiles(self.path)

    @property
    def unused(self) -> list[Skipped]:
        """The images without a text file, and the text files without an image."""
        with_image = {self._text_of(place) for place in self._places}
        alone = [path for path in sorted(self.path.rglob(f"*{TEXT}")) if path not in with_image]
        return super().unused + [Skipped(self._name(path), "has no image of its name") for path in alone]

    @cached_property
    def _places(self) -> list[Location]:
        return [place for place in self.files.all() if place.archive is None]

    @cached_property
    def _rows(self) -> Rows:
        rows = Rows()
        for place in self._places:
            path = self._text_of(place)
            if not path.is_file():
                rows.uncaptioned.append(place.member)
                continue
            try:
                lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                rows.faults.append(Skipped(self._name(path), f"cannot be read as text ({error})"))
                continue
            rows.rows.append(Row(self._name(path), place.member, list(lines) or [""]))
        return rows

    def _captions_digest(self) -> bytes:
        total = hashlib.sha256()
        for path in sorted({self._text_of(place) for place in self._places}):
            if path.is_file():
                total.update(self._name(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return total.digest()

    def _text_of(self, place: Location) -> Path:
        return (self.path / place.member).with_suffix(TEXT)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def are_sidecars(path: Path) -> bool:
    """Tell whether a folder holds no caption file, and a text file beside an image of its name."""
    if not path.is_dir() or any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
        return False
    texts = {text.with_suffix("") for text in path.rglob(f"*{TEXT}")}
    if not texts:
        return False
    places = (place for place in ImageFiles(path).all() if place.archive is None)
    return any((path / place.member).with_suffix("") in texts for place in places)

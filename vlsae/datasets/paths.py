"""Image files named by paths in a file that the user chose: absolute ones, or ones from a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlsae.datasets.archives import Location, read_file
from vlsae.datasets.base import Skipped
from vlsae.errors import MissingFile


class PathFiles:
    """Images by their paths; nothing is listed beforehand, so a folder of millions costs nothing.

    A relative path counts from ``folder``. A file of paths may name any picture that its user may read: that is what
    such a file is for.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFile(f"There is no image folder {folder}.", "Name one that exists: dataset.images=…")
        self.folder = folder
        self.faults: list[Skipped] = []

    def find(self, name: str) -> Location:
        """Return where an image lies; ``MissingFile`` where there is no such file."""
        if not (self.folder / name).is_file():
            raise MissingFile(f"image {name!r} is not there")
        return Location(None, name)

    def read(self, place: Location) -> bytes:
        """Return the bytes of an image; ``UserError`` for more than 256 MiB or a file that cannot be read."""
        return read_file(self.folder / place.member)

    def digest(self, places: list[Location]) -> str:
        """Return the SHA-256 over names and contents."""
        from vlsae.runs import content_digest

        total = hashlib.sha256()
        for place in places:
            total.update(f"{place}\0{content_digest(self.folder / place.member)}\n".encode())
        return total.hexdigest()

"""Image files found by name in a folder and in the zip archives beside them, read without unpacking."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlsae.errors import MissingFile, UserError, nearest

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})

#: Bytes read from each end of a loose file for its digest.
SAMPLED = 4096


@dataclass(frozen=True)
class Location:
    """Where an image lies: ``member`` of a zip ``archive``, or a plain file where ``archive`` is None."""

    archive: Path | None
    member: str

    def __str__(self) -> str:
        return self.member if self.archive is None else f"{self.archive.name}:{self.member}"


class ImageFiles:
    """All images under a folder or in its zip archives, found by relative path or by a file name that is unique.

    Names that leave the folder or archive (absolute, or with ``..``) are never indexed.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise MissingFile(f"There is no image folder or archive {root}.", "Name one that exists: dataset.images=…")
        self.root = root if root.is_dir() else root.parent
        archives = [root] if root.is_file() else sorted(root.rglob("*.zip"))
        loose = [] if root.is_file() else sorted(root.rglob("*"))
        self._handles = threading.local()
        self._by_path: dict[str, list[Location]] = {}
        self._by_name: dict[str, list[Location]] = {}
        for path in loose:
            if path.suffix.lower() in SUFFIXES and path.is_file():
                self._add(Location(None, path.relative_to(self.root).as_posix()))
        for archive in archives:
            for member in self._members(archive):
                self._add(Location(archive, member))

    def __len__(self) -> int:
        return sum(len(places) for places in self._by_path.values())

    def find(self, name: str) -> Location:
        """Return where an image lies; ``MissingFile`` where it is not, ``UserError`` where a bare name fits several."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        if wanted.is_absolute() or ".." in wanted.parts:
            raise UserError(f"image {name!r} leads out of its folder", "Use a path inside the dataset's folder.")
        for places in (self._by_path.get(wanted.as_posix()), self._by_name.get(wanted.name)):
            if places and len(places) == 1:
                return places[0]
            if places:
                raise UserError(
                    f"image {name!r} lies in several places: {', '.join(map(str, places[:3]))}", "Use its whole path."
                )
        close = nearest(wanted.name, list(self._by_name)[:20_000], limit=1)
        hint = f"; the nearest name is {close[0]!r}" if close else ""
        raise MissingFile(f"image {name!r} is not in {self.root.name or self.root}{hint}")

    def read(self, place: Location) -> bytes:
        """Return the bytes of an image."""
        if place.archive is None:
            return (self.root / place.member).read_bytes()
        return self._open(place.archive).read(place.member)

    def digest(self, places: list[Location]) -> str:
        """Return the SHA-256 over names, sizes, and checksums (archives) or the bytes at both ends (loose files)."""
        total = hashlib.sha256()
        for place in places:
            total.update(f"{place}\0{self._content_mark(place)}\n".encode())
        return total.hexdigest()

    def _content_mark(self, place: Location) -> str:
        if place.archive is not None:
            info = self._open(place.archive).getinfo(place.member)
            return f"{info.file_size}:{info.CRC}"
        path = self.root / place.member
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(SAMPLED)
            file.seek(max(0, size - SAMPLED))
            ends = hashlib.sha256(head + file.read(SAMPLED)).hexdigest()
        return f"{size}:{ends}"

    def _add(self, place: Location) -> None:
        self._by_path.setdefault(place.member, []).append(place)
        self._by_name.setdefault(PurePosixPath(place.member).name, []).append(place)

    def _members(self, archive: Path) -> list[str]:
        names = [info.filename for info in self._open(archive).infolist() if not info.is_dir()]
        return [name for name in names if _is_image(PurePosixPath(name))]

    def _open(self, archive: Path) -> zipfile.ZipFile:
        """Return this thread's handle of an archive: seeks of one thread must not move another's."""
        if getattr(self._handles, "process", None) != os.getpid():
            self._handles.process, self._handles.open = os.getpid(), {}
        handles: dict[Path, zipfile.ZipFile] = self._handles.open
        if archive not in handles:
            try:
                handles[archive] = zipfile.ZipFile(archive)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{archive} is not a readable zip archive: {error}.", "Download it again.") from error
        return handles[archive]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_handles"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._handles = threading.local()


def _is_image(path: PurePosixPath) -> bool:
    safe = not path.is_absolute() and ".." not in path.parts
    return safe and path.suffix.lower() in SUFFIXES and "__MACOSX" not in path.parts

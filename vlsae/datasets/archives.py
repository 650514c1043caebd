"""Image files found by name in a folder and in the zip archives beside them, read without unpacking."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vlsae.datasets.base import Skipped
from vlsae.errors import MissingFile, UserError, nearest

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

#: A file that is or unpacks to more bytes is refused: no picture needs them, and an archive may promise any number.
MOST_BYTES = 1 << 28

#: Missing images for which the nearest name is looked up; the search takes long among many names.
HINTS = 5


@dataclass(frozen=True)
class Location:
    """Where an image lies: ``member`` of a zip ``archive``, or a plain file where ``archive`` is None."""

    archive: Path | None
    member: str

    def __str__(self) -> str:
        return self.member if self.archive is None else f"{self.archive.name}:{self.member}"


class ImageFiles:
    """All images under a folder or in its zip archives, found by a path, or by the end of one that is unique.

    Archives that cannot be read and members whose names leave their archive are not indexed but noted in ``faults``.
    Reading is safe from many threads; a forked or pickled copy opens the archives anew.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise MissingFile(f"There is no image folder or archive {root}.", "Name one that exists: dataset.images=…")
        self.root = root if root.is_dir() else root.parent
        self.faults: list[Skipped] = []
        archives = [root] if root.is_file() else sorted(root.rglob("*.zip"))
        loose = [] if root.is_file() else sorted(root.rglob("*"))
        self._hints = HINTS
        self._handles: dict[tuple[int, Path], _Archive] = {}
        self._by_name: dict[str, list[Location]] = {}
        for path in loose:
            name = path.relative_to(self.root).as_posix()
            if _is_image(name) and path.is_file():
                self._add(Location(None, name))
        for archive in archives:
            self._add_members(archive)

    def __len__(self) -> int:
        return sum(len(places) for places in self._by_name.values())

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_handles": {}}

    def find(self, name: str) -> Location:
        """Return where an image lies; ``MissingFile`` where it is not, ``UserError`` where a name fits several.

        The path counts first, then files whose path ends in the name (``1.jpg`` finds ``train/1.jpg``), and files of
        which the name is a longer path (``train/1.jpg`` finds ``1.jpg``), never a file of another folder.
        """
        wanted = self._inside(name)
        fitting = [place for place in self._by_name.get(_base(wanted), ()) if _fits(place.member, wanted)]
        places = [place for place in fitting if _normal(place.member) == wanted] or fitting
        if len(places) == 1:
            return places[0]
        if places:
            raise UserError(
                f"image {name!r} lies in several places: {', '.join(map(str, places[:3]))}", "Use its whole path."
            )
        raise MissingFile(f"image {name!r} is not in {self.root.name or self.root}{self._nearest(_base(wanted))}")

    def read(self, place: Location) -> bytes:
        """Return the bytes of an image.

        Raises ``UserError`` for more than 256 MiB, and what ``zipfile`` and ``zlib`` raise for a damaged archive.
        """
        if place.archive is None:
            path = self.root / place.member
            _refuse_huge(path.stat().st_size)
            return path.read_bytes()
        return self._archive(place.archive).read(place.member)

    def digest(self, places: list[Location]) -> str:
        """Return the SHA-256 over names and contents: sizes and checksums of archives' members, digests of files."""
        total = hashlib.sha256()
        for place in places:
            total.update(f"{place}\0{self._content_mark(place)}\n".encode())
        return total.hexdigest()

    def _content_mark(self, place: Location) -> str:
        from vlsae.runs import content_digest

        if place.archive is None:
            return content_digest(self.root / place.member)
        info = self._archive(place.archive).zip.getinfo(place.member)
        return f"{info.file_size}:{info.CRC}"

    def _inside(self, name: str) -> str:
        wanted = name
        if os.path.isabs(name):
            wanted = os.path.relpath(os.path.normpath(name), os.path.abspath(self.root))
        if _leaves(wanted):
            raise UserError(f"image {name!r} leads out of its folder", "Use a path inside the dataset's folder.")
        return _normal(wanted)

    def _nearest(self, name: str) -> str:
        if self._hints <= 0:
            return ""
        self._hints -= 1
        close = nearest(name, list(self._by_name)[:20_000], limit=1)
        return f"; the nearest name is {close[0]!r}" if close else ""

    def _add(self, place: Location) -> None:
        self._by_name.setdefault(_base(_normal(place.member)), []).append(place)

    def _add_members(self, archive: Path) -> None:
        shown = archive.relative_to(self.root).as_posix()
        try:
            members = self._archive(archive).zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            self.faults.append(Skipped(shown, f"is not a readable zip archive: {str(error).rstrip('.')}"))
            return
        for info in members:
            name = info.filename
            if info.is_dir() or not _is_image(name):
                continue
            if _leaves(name):
                self.faults.append(Skipped(f"{shown}:{name}", "has a name that leads out of its archive"))
            else:
                self._add(Location(archive, name))

    def _archive(self, path: Path) -> _Archive:
        # By process: after a fork both sides would move one file position.
        key = (os.getpid(), path)
        found = self._handles.get(key)
        return found if found is not None else self._handles.setdefault(key, _Archive(path))


class _Archive:
    """An open archive whose members are read and unpacked side by side; only opening and closing take turns."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()

    def read(self, member: str) -> bytes:
        _refuse_huge(self.zip.getinfo(member).file_size)
        with self._lock:
            file = self.zip.open(member)
        try:
            return file.read()
        finally:
            with self._lock:
                file.close()


def _refuse_huge(size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"file of {size:,} bytes, more than {MOST_BYTES:,}")


def _is_image(name: str) -> bool:
    # Macs put a file of attributes, named like the picture, beside each picture of an archive.
    attributes = name.startswith("__MACOSX/") or _base(name).startswith("._")
    return name.lower().endswith(SUFFIXES) and not attributes


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")


def _fits(member: str, wanted: str) -> bool:
    here, there = f"/{_normal(member)}", f"/{wanted}"
    return here.endswith(there) or there.endswith(here)


def _normal(name: str) -> str:
    # Some systems write an accent as part of its letter, others after it.
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", "."))

"""Image files found by name in a folder and in the zip and tar archives beside them, read without unpacking."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlsae.datasets.base import Skipped
from vlsae.datasets.tar import Member, TarBytes, members
from vlsae.errors import MissingFile, UserError, nearest

ARCHIVES = (".zip", ".tar")

#: Archives whose members cannot be read in place.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

#: A file that is or unpacks to more bytes is refused: no picture needs them, and an archive may promise any number.
MOST_BYTES = 1 << 28

#: Missing images for which the nearest name is looked up; the search takes long among many names.
HINTS = 5


@dataclass(frozen=True)
class Location:
    """Where an image lies: ``member`` of a zip or tar ``archive``, or a plain file where ``archive`` is None."""

    archive: Path | None
    member: str

    def __str__(self) -> str:
        return self.member if self.archive is None else f"{self.archive.name}:{self.member}"


class ImageFiles:
    """All images under a folder or in its archives, found by a path, or by the end of one that is unique.

    Archives that cannot be read, members whose names leave their archive and names that are no text in UTF-8 are not
    indexed but noted in ``faults``.
    Reading is safe from many threads; a forked or pickled copy opens the archives anew.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise MissingFile(f"There is no image folder or archive {root}.", "Name one that exists: dataset.images=…")
        self.root = root if root.is_dir() else root.parent
        self.faults: list[Skipped] = []
        loose = [] if root.is_file() else sorted(root.rglob("*"))
        archives = [root] if root.is_file() else [path for path in loose if _is_archive(path)]
        self._hints = HINTS
        self._handles: dict[tuple[int, Path], _Zip | _Tar] = {}
        self._by_name: dict[str, list[Location]] = {}
        for path in loose:
            name = path.relative_to(self.root).as_posix()
            if _is_image(name) and path.is_file():
                self._add(Location(None, name))
        for archive in archives:
            self._add_members(archive)

    def __len__(self) -> int:
        return sum(len(places) for places in self._by_name.values())

    def all(self) -> list[Location]:
        """Return every image in the order of its path, archives by theirs."""
        places = [place for several in self._by_name.values() for place in several]
        return sorted(places, key=lambda place: (self.folder_of(place), place.member))

    def folder_of(self, place: Location) -> tuple[str, ...]:
        """Return the folders that an image lies in, below the root; an archive counts as a folder of its name."""
        inside = tuple(_normal(place.member).split("/")[:-1])
        if place.archive is None:
            return inside
        return (*place.archive.relative_to(self.root).with_suffix("").parts, *inside)

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

        Raises ``UserError`` for more than 256 MiB or a file that cannot be read.
        """
        if place.archive is None:
            return read_file(self.root / place.member)
        with _read_errors():
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
        return self._archive(place.archive).mark(place.member)

    def _inside(self, name: str) -> str:
        wanted = name
        if os.path.isabs(name):
            wanted = os.path.relpath(os.path.normpath(name), os.path.abspath(self.root))
        if leaves(wanted):
            raise UserError(f"image {name!r} leads out of its folder", "Use a path inside the dataset's folder.")
        return _normal(wanted)

    def _nearest(self, name: str) -> str:
        if self._hints <= 0:
            return ""
        self._hints -= 1
        close = nearest(name, list(self._by_name)[:20_000], limit=1)
        return f"; the nearest name is {close[0]!r}" if close else ""

    def _add(self, place: Location) -> None:
        shown = str(place).encode("utf-8", "backslashreplace").decode()
        if shown != str(place):
            # A sample's id and a store's table are text.
            self.faults.append(Skipped(shown, "has a name that is no text in UTF-8"))
            return
        self._by_name.setdefault(_base(_normal(place.member)), []).append(place)

    def _add_members(self, archive: Path) -> None:
        shown = archive.relative_to(self.root).as_posix()
        try:
            opened = self._archive(archive)
        except UserError as error:
            self.faults.append(Skipped(shown, error.message))
            return
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            self.faults.append(Skipped(shown, f"is not a readable zip archive: {str(error).rstrip('.')}"))
            return
        self.faults += [Skipped(f"{shown}:{name}", reason) for name, reason in opened.faults if _is_image(name)]
        for name in opened.names:
            if not _is_image(name):
                continue
            if leaves(name):
                self.faults.append(Skipped(f"{shown}:{name}", "has a name that leads out of its archive"))
            else:
                self._add(Location(archive, name))

    def _archive(self, path: Path) -> _Zip | _Tar:
        # By process: after a fork both sides would move one file position.
        key = (os.getpid(), path)
        found = self._handles.get(key)
        return found if found is not None else self._handles.setdefault(key, _opened(path))


class _Zip:
    """An open archive whose members are read and unpacked side by side; only opening and closing take turns."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        self.names = [info.filename for info in self.zip.infolist() if not info.is_dir()]
        self.faults: list[tuple[str, str]] = []
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

    def mark(self, member: str) -> str:
        info = self.zip.getinfo(member)
        return f"{info.file_size}:{info.CRC}"


class _Tar:
    """An open archive without compression, each member a stretch of the file."""

    def __init__(self, path: Path) -> None:
        entries = list(members(path))
        self._members = {entry.name: entry for entry in entries if isinstance(entry, Member)}
        self.names = list(self._members)
        self.faults = [entry for entry in entries if not isinstance(entry, Member)]
        self._bytes = TarBytes(path)

    def read(self, member: str) -> bytes:
        _refuse_huge(self._members[member].size)
        return self._bytes.read(self._members[member])

    def mark(self, member: str) -> str:
        return hashlib.sha256(self.read(member)).hexdigest()


def _opened(path: Path) -> _Zip | _Tar:
    return _Tar(path) if path.name.lower().endswith((".tar", *COMPRESSED)) else _Zip(path)


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES) and path.is_file()


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; ``UserError`` for more than 256 MiB or a file that cannot be read."""
    with _read_errors():
        _refuse_huge(path.stat().st_size)
        return path.read_bytes()


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"unreadable file ({error})") from error


def _refuse_huge(size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"file of {size:,} bytes, more than {MOST_BYTES:,}")


def _is_image(name: str) -> bool:
    # Macs put a file of attributes, named like the picture, beside each picture of an archive.
    attributes = name.startswith("__MACOSX/") or _base(name).startswith("._")
    return name.lower().endswith(SUFFIXES) and not attributes


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def leaves(name: str) -> bool:
    """Tell whether a member's name leads out of its archive."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")


def _fits(member: str, wanted: str) -> bool:
    here, there = f"/{_normal(member)}", f"/{wanted}"
    return here.endswith(there) or there.endswith(here)


def _normal(name: str) -> str:
    # Some systems write an accent as part of its letter, others after it.
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", "."))

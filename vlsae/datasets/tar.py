"""Tar archives read in place: the index of their members, and the bytes of one, without unpacking anything."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlsae.errors import UserError

#: How compressed files begin. Their members cannot be reached without unpacking all that stands before.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name, and where its bytes begin and how many they are."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member | tuple[str, str]]:
    """Yield the files of an archive in order; of an entry that is not taken, its name and why.

    Links are never followed: what they point to lies elsewhere. Raises ``UserError`` where the archive ends too early,
    is compressed or is none.
    """
    end = path.stat().st_size
    _refuse_compressed(path)
    try:
        with tarfile.open(path, "r:") as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header in memory
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    yield entry.name, "is a link" if entry.islnk() or entry.issym() else "is no plain file"
                elif entry.offset_data + entry.size > end:
                    raise UserError(f"{path.name} is cut off within {entry.name!r}", "Copy or download it again.")
                else:
                    yield Member(entry.name, entry.offset_data, entry.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} is not a readable tar archive ({str(error).rstrip('.')})") from error


class TarBytes:
    """An open archive; reading is safe from many threads and after a fork, for it moves no file position."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    @property
    def state(self) -> tuple[int, int]:
        """The archive's size and time of change, in nanoseconds."""
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def read(self, member: Member) -> bytes:
        """Return a member's bytes; ``UserError`` where the archive has become shorter."""
        data = os.pread(self._file, member.size, member.offset)
        if len(data) < member.size:
            raise UserError(f"{self._name} is cut off within {member.name!r}", "Copy or download it again.")
        return data


def _refuse_compressed(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(6)
    kind = next((kind for start, kind in _COMPRESSED.items() if head.startswith(start)), None)
    if kind:
        raise UserError(
            f"{path.name} is a tar archive compressed with {kind}, whose members cannot be read in place",
            "Pictures do not compress: store them in a plain .tar.",
        )

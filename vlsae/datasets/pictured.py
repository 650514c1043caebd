"""Datasets whose pictures lie in files: looked at beforehand, decoded on demand, each fault named with its row."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf, conform
from vlsae.datasets.base import Dataset, Skipped
from vlsae.datasets.faults import OnError, first_left_out, settle
from vlsae.errors import UserError

if TYPE_CHECKING:
    import datasets as hf
    from PIL import Image

#: Images up to which ``check="auto"`` decodes every image once.
DECODE_UP_TO = 2_000

#: Threads that read and decode images in a process that has no workers.
THREADS = min(16, os.cpu_count() or 1)

Check = Annotated[str, OneOf("auto", "full", "header", "none")]


class Source(ABC):
    """Where samples and the bytes of their pictures come from; what a sample is, each source says for itself."""

    #: What is missing where nothing can be used.
    wanted = "no image"

    #: How the pictures of a large source are looked at beforehand.
    check_many = "header"

    @property
    @abstractmethod
    def origin(self) -> str:
        """The file or folder, for messages."""

    @abstractmethod
    def found(self) -> tuple[Sequence[Any], list[Skipped]]:
        """Return the samples, no picture looked at yet, and the rows that are bad."""

    @abstractmethod
    def table(self, samples: Sequence[Any]) -> hf.Dataset:
        """Return the table of some of the samples."""

    @abstractmethod
    def read(self, sample: Any) -> bytes:
        """Return the bytes of a sample's picture; ``UserError`` where they cannot be read."""

    @abstractmethod
    def place(self, sample: Any) -> str:
        """Return which row a sample is."""

    @abstractmethod
    def picture(self, sample: Any) -> str:
        """Return where a sample's picture lies."""

    @property
    def unused(self) -> list[Skipped]:
        """What lies there and makes no sample, without being bad."""
        return []

    @abstractmethod
    def digest(self, samples: Sequence[Any]) -> str:
        """Return the SHA-256 over the content of the source and of the samples' pictures."""


class Pictured(Dataset):
    """A dataset of pictures from a ``source``.

    ``on_error="skip"`` leaves out a bad row and counts it. ``check`` says how images are looked at beforehand: their
    ``header``, a ``full`` decoding, ``none``, or ``auto`` by their number.
    """

    in_files = True

    def __init__(self, on_error: OnError, check: Check) -> None:
        conform("on_error", on_error, OnError)
        conform("check", check, Check)
        self.on_error, self.check = on_error, check

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the samples come from."""

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: always."""
        return True

    @property
    def skipped(self) -> list[Skipped]:
        """Rows that were left out, and what lies beside them unused."""
        return self._content[1] + self.source.unused

    @cached_property
    def table(self) -> hf.Dataset:
        """Every column but the pixels, one row a sample."""
        return self.source.table(self._content[0])

    def images(self, indices: Sequence[int]) -> list[Image.Image]:
        """Decode the images of some rows as RGB; ``UserError`` names the row of one that cannot be read."""
        return in_threads(self._decode, [self._content[0][int(index)] for index in indices])

    def digest(self) -> str:
        """Return the SHA-256 over the rows, the images they name, and the settings."""
        return self.source.digest(self._found[0])

    @cached_property
    def _found(self) -> tuple[Sequence[Any], list[Skipped]]:
        return self.source.found()

    @cached_property
    def _content(self) -> tuple[Sequence[Any], list[Skipped]]:
        samples, problems = self._found[0], list(self._found[1])
        samples = self._readable(samples, problems)
        settle(problems, self.on_error)
        if not len(samples):
            raise UserError(
                f"{self.source.origin} holds {self.source.wanted} that can be used{first_left_out(problems)}."
            )
        return samples, problems

    def _readable(self, samples: Sequence[Any], problems: list[Skipped]) -> Sequence[Any]:
        from vlsae.datasets.pictures import check_header, check_whole

        level = self.check
        if level == "auto":
            level = "full" if len(samples) <= DECODE_UP_TO else self.source.check_many
        if level == "none" or not self.has_images:
            return samples
        look, source = check_whole if level == "full" else check_header, self.source

        def fault(sample: Any) -> str | None:
            try:
                look(source.read(sample))
            except UserError as error:
                return f"{source.picture(sample)}: {error.message}"
            return None

        faults = _once(source, samples, fault) if level == "full" else in_threads(fault, samples)
        problems.extend(Skipped(source.place(sample), found) for sample, found in zip(samples, faults) if found)
        return [sample for sample, found in zip(samples, faults) if not found] if any(faults) else samples

    def _decode(self, sample: Any) -> Image.Image:
        from vlsae.datasets.pictures import decode

        try:
            return decode(self.source.read(sample))
        except UserError as error:
            raise UserError(
                f"{self.source.place(sample)}: {self.source.picture(sample)}: {error.message}.",
                "Mend it, or find all such images first: dataset.check=full dataset.on_error=skip",
            ) from error


#: What whole decodings found in this process, by the digest of what was decoded: a run's plan and the run look once.
_found_before: dict[str, list[str | None]] = {}


def _once(source: Source, samples: Sequence[Any], fault: Callable[[Any], str | None]) -> list[str | None]:
    try:
        content = source.digest(samples)
    except (UserError, OSError):  # an unreadable file is a fault of its row, and has no digest
        return in_threads(fault, samples)
    if content not in _found_before:
        _found_before[content] = in_threads(fault, samples)
    return _found_before[content]


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Return a function's values in order, computed in threads, or one by one in a worker process."""
    if _is_worker():
        return [function(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def _is_worker() -> bool:
    # A process that only describes data imports no torch, and is no worker of its loader.
    torch = sys.modules.get("torch")
    return torch is not None and torch.utils.data.get_worker_info() is not None

"""Work that memory is too small for: recognised, and done in smaller pieces."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from vlsae import ranks
from vlsae.errors import UserError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class Cuttable(Protocol):
    """Whatever slices cut: a sequence, an array, a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> Any: ...


Items = TypeVar("Items", bound=Cuttable)

# Torch tells of too little memory on the CPU in words alone.
_WORDS = ("can't allocate memory", "Storage size calculation overflowed", "not enough memory")

_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a CPU or another device."""
    in_words = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return in_words or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextmanager
def shortage_told(listener: Callable[[], None]) -> Iterator[None]:
    """Within the context, call ``listener`` whenever work is done otherwise than asked because memory ran out."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def after_shortage() -> None:
    """Let go of what was held when memory ran out, and tell the listener that work is done otherwise than asked."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    listener = _listener.get()
    if listener is not None:
        listener()


class Pieces:
    """Does work on many items in pieces, halved wherever memory runs out; a smaller size stays.

    ``setting`` is what the user sets to have the smaller size from the start, if there is such a setting.
    """

    def __init__(self, setting: str | None = None) -> None:
        self.setting = setting
        self.size: int | None = None

    def run(self, items: Items, work: Callable[[Items], Value]) -> list[Value]:
        """Return what the work gives for each piece, in order; ``UserError`` where one item is too large."""
        found: list[Value] = []
        first = 0
        while first < len(items):
            piece = items[first : first + (self.size or len(items))]
            try:
                found.append(work(piece))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = _reason(error)
            else:
                first += len(piece)
                continue
            # Outside of the handler: the traceback holds what the attempt had made.
            self._halve(len(piece), reason)
        return found

    def _halve(self, tried: int, reason: str) -> None:
        if tried == 1:
            raise UserError(
                f"Memory ran out on a single item ({reason}).",
                "Use a smaller model, hardware.dtype=bfloat16, or a machine with more memory.",
            )
        self.size = tried // 2
        hint = f", which {self.setting}={self.size} does from the start" if self.setting else ""
        where = f" on rank {ranks.rank()}" if ranks.size() > 1 else ""
        logger.warning("memory ran out%s at %d at once (%s); going on with %d%s", where, tried, reason, self.size, hint)
        after_shortage()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

"""Several trainings in turns on one reader: each stays a run of its own, a batch is read once for all of them.

One thread a training, and only the thread whose turn it is runs; it hands the turn on whenever it asks for a batch. So
all numbers are those of a training alone: torch's random state belongs to the turn, and gradients to the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

#: Bytes of a reader's batches that are kept for those that come after; two batches always are.
KEPT_BYTES = 64 << 20

_own = threading.local()


class Turns:
    """Runs functions in turns, a thread each; what they share is kept by key and step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ring: list[int] = []
        self._stopped = False
        self._errors: list[BaseException] = []
        self._batches: dict[Hashable, dict[int, Any]] = {}

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run tasks to their ends and raise what the first of them raised, if any.

        An interruption of the caller reaches each of them at its next turn.
        """
        self._ring = list(range(len(tasks)))
        threads = [
            threading.Thread(target=self._work, args=(number, task), name=f"together-{number}")
            for number, task in enumerate(tasks)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except KeyboardInterrupt:
            self._stopped = True
            for thread in threads:
                thread.join()
            raise
        if self._errors:
            raise self._errors[0]

    def share(self, key: Hashable, step: int, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives for a step, made once for all who ask, after the others had their turn."""
        self._hand_on()
        known = self._batches.setdefault(key, {})
        if step not in known:
            known[step] = made = make()
            # Whoever measures rows before its first step falls behind by as many batches.
            kept = max(2, KEPT_BYTES // max(1, sum(x.nbytes for x in made.values())))
            while len(known) > kept:
                del known[next(iter(known))]
        return known[step]

    def _work(self, number: int, task: Callable[[], None]) -> None:
        _own.turns, _own.number = self, number
        with self._changed:
            self._changed.wait_for(lambda: self._ring[0] == number)
        try:
            task()
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._changed:
                self._ring.remove(number)
                self._changed.notify_all()

    def _hand_on(self) -> None:
        state = torch.get_rng_state()
        with self._changed:
            self._ring.append(self._ring.pop(0))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ring[0] == _own.number)
        torch.set_rng_state(state)
        if self._stopped:
            raise KeyboardInterrupt


class SharedReader:
    """A reader whose batches are shared with equal readers of other trainings: those of an equal ``key``."""

    def __init__(self, reader: Any, turns: Turns, key: Hashable) -> None:
        self._reader, self._turns, self._key = reader, turns, key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def batch(self, step: int) -> Mapping[str, Any]:
        """Return a step's batch, read once for all; nobody may write into it."""
        found: Mapping[str, Any] = self._turns.share(self._key, step, lambda: self._reader.batch(step))
        return found

    def mapped(self, encode: Any) -> SharedReader:
        """Return the reader of the same rows seen through an encoder, which is this training's own."""
        return SharedReader(self._reader.mapped(encode), self._turns, (self._key, object()))

    def labelled(self, labels: Any) -> SharedReader:
        """Return the reader of the same rows with labels."""
        return SharedReader(self._reader.labelled(labels), self._turns, (self._key, labels.tobytes()))


def shared(reader: Any, key: Hashable) -> Any:
    """Return a reader, shared with other trainings by its key where this thread takes turns with them."""
    turns = getattr(_own, "turns", None)
    return reader if turns is None else SharedReader(reader, turns, key)

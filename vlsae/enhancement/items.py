"""The items of a task, one line each in ``samples.jsonl``: an interrupted task goes on after the last whole line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.memory import Pieces
from vlsae.progress import Advance
from vlsae.runs.files import dump_json, load_json

SAMPLES = "samples.jsonl"

#: What every item says; a task may add more.
FIELDS = ("id", "input", "answer", "label", "method", "seed")

Item = dict[str, Any]


class Items:
    """The items answered so far, by method and seed; kept in a file where ``path`` names one, else in memory.

    Raises :class:`~vlsae.errors.UserError` for a file with a line that is no item; half a last line is what a killed
    process left, and is cut off.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._items: dict[tuple[str, int], dict[str, Item]] = {}
        if path is not None and path.exists():
            for item in _read(path):
                self._keep(item)

    def of(self, method: str, seed: int) -> dict[str, Item]:
        """Return id → item of one method and seed, in the order in which they were answered."""
        return dict(self._items.get((method, seed), {}))

    def __iter__(self) -> Any:
        return (item for items in self._items.values() for item in items.values())

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def add(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Write items at once; one whose id, method and seed are known already is left as it is."""
        new = [dict(item) for item in items]
        for item in new:
            missing = [name for name in FIELDS if name not in item]
            if missing:
                raise ValueError(f"The item {item.get('id')!r} lacks {', '.join(missing)}.")
        fresh = [item for item in new if item["id"] not in self._items.get((item["method"], item["seed"]), {})]
        if self.path is not None and fresh:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(dump_json(item, indent=None) + "\n" for item in fresh))
        for item in fresh:
            self._keep(item)

    def complete(
        self,
        ids: Sequence[str],
        method: str,
        seed: int,
        answer: Callable[[list[int]], Sequence[Mapping[str, Any]]],
        *,
        batch: int = 1,
        advance: Advance | None = None,
    ) -> list[Item]:
        """Return the items of ``ids`` in order; those not answered before are answered batch by batch, and kept.

        A batch that memory is too small for is answered in smaller ones.

        ``answer`` takes positions in ``ids`` and gives ``input``, ``answer``, ``label`` and whatever else of each.
        """
        known = self.of(method, seed)
        waiting = [number for number, one in enumerate(ids) if one not in known]
        if advance is not None and len(waiting) < len(ids):
            advance(len(ids) - len(waiting))

        def answered(numbers: Sequence[int]) -> None:
            found = answer(list(numbers))
            self.add(
                {"id": ids[n], **one, "method": method, "seed": seed} for n, one in zip(numbers, found, strict=True)
            )
            if advance is not None:
                advance(len(numbers))

        pieces = Pieces()
        for first in range(0, len(waiting), batch):
            pieces.run(waiting[first : first + batch], answered)
        done = self.of(method, seed)
        return [done[one] for one in ids]

    def _keep(self, item: Item) -> None:
        self._items.setdefault((item["method"], item["seed"]), {})[item["id"]] = item


def _read(path: Path) -> list[Item]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    items = []
    for number, line in enumerate(whole.decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            item = load_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged ({error}).", "Start the task anew.") from error
        if not isinstance(item, dict) or not set(FIELDS) <= set(item):
            raise UserError(f"{path}, line {number} is no item: it lacks some of {', '.join(FIELDS)}.")
        items.append(item)
    return items

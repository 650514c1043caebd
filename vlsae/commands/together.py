"""launcher=together: jobs of a sweep that differ in objective and seed alone train in turns on one reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from vlsae.errors import UserError

_OWN = re.compile(r"(objective(\.[\w.]+)?|seed)=(?P<value>.*)", re.DOTALL)


def grouped(jobs: Sequence[Sequence[str]], most: int) -> list[list[int]]:
    """Return the numbers of jobs that may train together, at most ``most`` a group, in order."""
    by_rest: dict[tuple[str, ...], list[int]] = {}
    for number, words in enumerate(jobs):
        rest = tuple(sorted(word for word in words if not _OWN.fullmatch(word)))
        by_rest.setdefault(rest, []).append(number)
    size = max(1, most)
    return [group[first : first + size] for group in by_rest.values() for first in range(0, len(group), size)]


def with_one_order(jobs: Sequence[Sequence[str]], group: Sequence[int]) -> dict[int, list[str]]:
    """Return the overrides of a group's jobs, the order of rows by the first one's seed where seeds differ.

    The seed of the order is written into each job, so that its run alone comes to the same numbers.
    """
    seeds = [_seed(jobs[number]) for number in group]
    found = {number: list(jobs[number]) for number in group}
    told = any(word.startswith("train.order_seed=") for word in jobs[group[0]])
    if len(set(seeds)) > 1 and not told:
        order = seeds[0] if seeds[0] is not None else "0"
        found = {number: [*words, f"train.order_seed={order}"] for number, words in found.items()}
    return found


def run_together(
    jobs: Sequence[Sequence[str]], most: int, run: Callable[[int, list[str]], None], overrides: Sequence[str]
) -> None:
    """Run every job by ``run(number, overrides)``, those of a group in turns.

    Raises ``UserError`` for a sweeper that draws jobs one after another.
    """
    from vlsae.training.together import Turns

    if any(word.startswith("hydra/sweeper=") for word in overrides):
        raise UserError(
            "launcher=together runs jobs that are known from the start, and a sweeper draws them one by one.",
            "Leave out hydra/sweeper, or use launcher=local.",
        )
    for group in grouped(jobs, most):
        Turns().run([partial(run, number, words) for number, words in with_one_order(jobs, group).items()])


def _seed(words: Sequence[str]) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith("seed=")), None)

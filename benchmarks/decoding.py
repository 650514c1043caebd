"""Pictures a second that worker processes read, decode and prepare for a model of 224 × 224, by their number.

What the workers of an extraction do is timed without the model: bytes from the folder or archive, RGB, the model's
transform, a thumbnail, and the way back to the process that asks. Without workers the process does it itself, in
threads. The contenders take turns, in an order that rotates from round to round; CPU seconds are those of the process
and its workers together.

    python benchmarks/decoding.py FOLDER_WITH_CAPTIONS [--workers 0,1,2]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vlsae.datasets import Captions
from vlsae.models.pixels import Pixels
from vlsae.representations.thumbnails import thumbnails
from vlsae.representations.workers import in_processes, in_threads

SIDE = 224


class Decoding:
    """What is done with a batch of rows."""

    def __init__(self, folder: Path) -> None:
        self.dataset = Captions(path=str(folder), check="none")
        self.pixels = Pixels({}, SIDE)

    def __call__(self, rows: Sequence[int]) -> tuple[Any, list[bytes]]:
        images = self.dataset.images(rows)
        return self.pixels(images), thumbnails(images)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def once(decoding: Decoding, batches: Sequence[Sequence[int]], workers: int) -> tuple[float, float]:
    """Return the (wall, CPU) seconds of one pass through all batches."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    given = in_processes(decoding, batches, workers) if workers else in_threads(decoding, batches, 1)
    rows = sum(len(pixels) for pixels, _ in given)
    if rows != sum(map(len, batches)):
        raise RuntimeError(f"{rows} rows came back")
    return time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    """Measure and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", default="0,1,2", help="numbers of workers, comma-separated")
    parser.add_argument("--count", type=int, default=512, help="pictures a pass")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = [int(one) for one in options.workers.split(",")]
    decoding = Decoding(options.folder)
    rows = [number % len(decoding.dataset) for number in range(options.count)]
    batches = [rows[first : first + options.batch_size] for first in range(0, len(rows), options.batch_size)]
    once(decoding, batches, 0)
    taken: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
    for turn in range(options.rounds):
        for number in numbers[turn % len(numbers) :] + numbers[: turn % len(numbers)]:
            taken[number].append(once(decoding, batches, number))
    title = f"{options.count} pictures to {SIDE} × {SIDE}, {os.cpu_count()} cores, {options.rounds} rounds"
    table = Table("workers", "rows/s", "of the first", "CPU ms/row", title=title)
    for number, times in taken.items():
        ratios = [first / wall for (first, _), (wall, _) in zip(taken[numbers[0]], times)]
        table.add_row(
            str(number),
            f"{options.count / statistics.median(wall for wall, _ in times):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{1e3 * statistics.median(cpu for _, cpu in times) / options.count:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()

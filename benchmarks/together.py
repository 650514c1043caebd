"""What trainings in turns on one reader cost beside their bare steps: CPU time at one thread, interleaved rounds.

    python benchmarks/together.py [--jobs 4] [--width 256] [--rounds 3]

A bare step is everything of a step but reading: its batch lies in memory already.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from vlsae.dictionaries import TopK
from vlsae.representations import Reader, Store, StoreWriter
from vlsae.representations.layout import SiteInfo
from vlsae.training import build_optimizer, train_step
from vlsae.training.together import Turns, shared

ROWS, BATCH, SITE = 16_384, 512, "vision.embedding"


def write_store(folder: Path, width: int) -> Store:
    """Return a store of random rows."""
    writer = StoreWriter(folder, sites={SITE: SiteInfo(width, module="m", pooling="default")}, shard_samples=4096)
    for shard in range(ROWS // 4096):
        numbers = np.arange(shard * 4096, (shard + 1) * 4096)
        samples = pa.table({"sample_id": [str(n) for n in numbers], "split": ["train"] * 4096})
        zeros = np.zeros(4096, np.int64)
        rows = {"sample": numbers, "item": zeros, "position": zeros - 1, "split": ["train"] * 4096}
        values = torch.randn(4096, width, generator=torch.Generator().manual_seed(shard))
        writer.write_shard(shard, samples=samples, rows={"vision": pa.table(rows)}, values={SITE: values})
    writer.finish()
    return Store.open(folder)


def trained(make_reader: Callable[[], object], width: int, seed: int) -> None:
    """Train one dictionary over one epoch of a reader."""
    torch.manual_seed(seed)
    dictionary = TopK(width, 8 * width, 32)
    optimizer = build_optimizer(dictionary, 1e-3)
    reader = make_reader()
    for step in range(ROWS // BATCH):
        train_step(dictionary, reader.batch(step), optimizer, step)  # type: ignore[attr-defined]


class InMemory:
    """Batches that are read already."""

    def __init__(self, reader: Reader) -> None:
        self.batches = [reader.batch(step) for step in range(reader.steps_per_epoch)]

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """Return a step's batch."""
        return self.batches[step]


def main() -> None:
    """Print the CPU seconds of bare steps, of jobs one after another, and in turns, with medians over rounds."""
    parser = argparse.ArgumentParser()
    for name, value in (("jobs", 4), ("width", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", given.width)

        def reader() -> Reader:
            return Reader(store, {"vision": SITE}, batch_size=BATCH, split="train")

        held = InMemory(reader())

        def bare() -> None:
            for seed in range(given.jobs):
                trained(lambda: held, given.width, seed)

        def alone() -> None:
            for seed in range(given.jobs):
                trained(reader, given.width, seed)

        def together() -> None:
            tasks = [
                lambda seed=seed: trained(lambda: shared(reader(), "key"), given.width, seed)
                for seed in range(given.jobs)
            ]
            Turns().run(tasks)

        times: dict[str, list[float]] = {"bare steps": [], "one after another": [], "in turns": []}
        ways = dict(zip(times, (bare, alone, together)))
        for turn in range(given.rounds):
            names = list(ways)[turn % 3 :] + list(ways)[: turn % 3]
            for name in names:
                start = time.process_time()
                ways[name]()
                times[name].append(time.process_time() - start)
    base = statistics.median(times["bare steps"])
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        spread = max(seconds) - min(seconds)
        sys.stdout.write(f"{name:18} {middle:7.2f} s (spread {spread:.2f})  {middle / base:.3f} of bare steps\n")


if __name__ == "__main__":
    main()

"""What share of a training step goes into reading rows from a store larger than the memory the reader is allowed.

Writes a store of random rows, reads one whole epoch of it, and times steps of TopK (d → h, k) beside it: CPU time at
one thread. The reader maps the shards of its window; how much of them and of its own memory is resident is sampled
while it reads.

    python benchmarks/loader.py FOLDER [--gigabytes 3] [--window-megabytes 300]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console

from vlsae.dictionaries import TopK
from vlsae.representations import Reader, SiteInfo, Store, StoreWriter
from vlsae.training import build_optimizer, train_step

WIDTH, CONCEPTS, K, BATCH = 512, 4096, 32, 512
SHARD_ROWS = 1 << 16
SITE = "vision.embedding"
STEPS = 25


def write(folder: Path, shards: int) -> Store:
    """Write shards of random rows in bfloat16; those of a store that is there already are kept."""
    writer = StoreWriter(folder, sites={SITE: SiteInfo(WIDTH)}, shard_samples=SHARD_ROWS)
    rows = torch.randn(SHARD_ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    for shard in range(writer.next_shard, shards):
        numbers = pa.array(range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS))
        zeros = pa.array([0] * SHARD_ROWS)
        table = pa.table(
            {
                "sample": numbers,
                "item": zeros,
                "position": pa.array([-1] * SHARD_ROWS),
                "split": pa.array(["train"] * SHARD_ROWS),
            }
        )
        samples = pa.table({"sample_id": numbers.cast(pa.string())})
        writer.write_shard(shard, samples=samples, rows={"vision": table}, values={SITE: rows.roll(shard, 0)})
    writer.finish()
    return Store.open(folder)


def resident() -> int:
    """Return the resident bytes of this process, mapped files among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def cpu_of(function: Callable[[int], object], steps: int, sample: Callable[[], None] | None = None) -> list[float]:
    """Return the CPU milliseconds of a function of each step."""
    times = []
    for step in range(steps):
        start = time.process_time()
        function(step)
        times.append(1e3 * (time.process_time() - start))
        if sample is not None and step % 50 == 0:
            sample()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--window-megabytes", type=float, default=300.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shard_bytes = 2 * WIDTH * SHARD_ROWS
    store = write(options.folder, max(1, round(options.gigabytes * 1e9 / shard_bytes)))
    window = max(1, int(options.window_megabytes * 1e6 // shard_bytes))
    reader = Reader(store, {"vision": SITE}, batch_size=BATCH, split="train", window_shards=window)
    base, most = resident(), [0]
    reading = cpu_of(reader.batch, reader.steps_per_epoch, lambda: most.append(resident()))
    dictionary = TopK(WIDTH, CONCEPTS, K)
    optimizer = build_optimizer(dictionary, 1e-4)
    batches = [reader.batch(step) for step in range(STEPS)]
    stepping = cpu_of(lambda step: train_step(dictionary, batches[step], optimizer, step), STEPS)[3:]
    mean, step = statistics.fmean(reading), statistics.median(stepping)
    Console().print(
        f"store {store.bytes / 1e9:.2f} GB, window {window} shards of {shard_bytes / 1e6:.0f} MB, "
        f"{len(reading)} batches of {BATCH} rows: reading {mean:.2f} ms a batch (slowest {max(reading):.0f}), "
        f"a step {step:.1f} ms, share {mean / (mean + step):.1%}; "
        f"resident while reading: {(max(most) - base) / 1e6:.0f} MB more than before"
    )


if __name__ == "__main__":
    main()

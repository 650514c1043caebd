"""What docs/scaling.md reckons with: CPU seconds at one thread, of the work and of the floating-point operations in it.

.venv/bin/python benchmarks/scaling.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import torch
from rich.console import Console
from rich.table import Table

from vlsae.dictionaries import VLSAE, TopK
from vlsae.training import build_optimizer, train_step

ROUNDS = 3

#: Floating-point operations of a pair in both towers of ViT-B-32, as open_clip counts them.
PAIR = 14.78e9
PAIRS = 16

WIDTH, CONCEPTS, ACTIVE, ROWS = 512, 4096, 32, 512


def seconds(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of a few rounds, after one that is not counted."""
    work()
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def product() -> Callable[[], object]:
    """Return a product of two square matrices: what a core can do at best."""
    a, b = torch.randn(2, 1024, 1024)
    return lambda: a @ b


def towers() -> Callable[[], object]:
    """Return a pass of pairs through both towers of a ViT-B-32 with random weights."""
    import open_clip

    module = open_clip.create_model("ViT-B-32").eval()
    pixels, tokens = torch.randn(PAIRS, 3, 224, 224), torch.randint(1, 49000, (PAIRS, 77))

    def work() -> None:
        with torch.no_grad():
            module.encode_image(pixels)
            module.encode_text(tokens)

    return work


def bundled(count: int) -> Callable[[], object]:
    """Return an extraction of the bundled CLIP's embeddings of drawn scenes, files and all."""
    from vlsae.cli import main

    def work() -> None:
        with tempfile.TemporaryDirectory() as runs, redirect_stdout(StringIO()):
            main(["extract", f"runs_dir={runs}", f"--limit={count}", "hardware=cpu", "hardware.threads=1"])

    return work


def step(kind: type) -> Callable[[], object]:
    """Return a training step of a dictionary on rows of two streams."""
    torch.manual_seed(0)
    objective = kind(WIDTH, CONCEPTS, ACTIVE)
    optimizer = build_optimizer(objective, 1e-3)
    batch = {stream: torch.randn(ROWS, WIDTH) for stream in ("vision", "language")}
    return lambda: train_step(objective, batch, optimizer)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    work = {
        "product of 1024 × 1024 matrices": (product(), 1, 2 * 1024**3),
        f"ViT-B-32, {PAIRS} pairs": (towers(), PAIRS, PAIRS * PAIR),
        "extract, bundled CLIP, 512 samples": (bundled(512), 512, None),
        f"VL-SAE step, {ROWS} pairs": (step(VLSAE), ROWS, 2 * ROWS * _operations()),
        f"TopK step, {ROWS} pairs": (step(TopK), ROWS, 2 * ROWS * _operations()),
    }
    table = Table(title="CPU seconds at one thread, least of three")
    for heading in ("work", "ms each", "GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for name, (function, count, operations) in work.items():
        taken = seconds(function)
        rate = "" if operations is None else f"{operations / taken / 1e9:.1f}"
        table.add_row(name, f"{1000 * taken / count:.2f}", rate)
    Console(width=100).print(table)


def _operations() -> float:
    """Return the operations of a row: one dense product that chooses, six sparse ones forth and back."""
    return 2.0 * WIDTH * CONCEPTS + 6 * 2.0 * WIDTH * ACTIVE


if __name__ == "__main__":
    main()

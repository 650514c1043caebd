"""What the alignment quality index costs: beside the forward pass, and on stored rows.

    python benchmarks/aqi.py forward    one pass beside a randomly initialised model of GPT-2 small's shape
    python benchmarks/aqi.py rows       everything but the forward pass of 20,000 rows × 12 layers × 768
    python benchmarks/aqi.py all        both, with what they should stay under

Bare passes and those with the index take turns, batch by batch, and the median of their ratios counts. CPU seconds are
told beside wall seconds: on a busy machine only the first are the program's own.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlsae.aqi.design import design_of
from vlsae.aqi.labelling import Labelling, Samples, label_samples

AXIOMS = 7

BARE, WITH = "bare forward", "forward with the index"
POOLING, MOMENTS = "of that, pooling", "of that, moments and kept rows of all layers"


def prompts(n: int) -> Labelling:
    """Return n labelled prompts of two classes in seven axioms."""
    ids = [str(number) for number in range(n)]
    return label_samples(
        Samples(
            ids=ids,
            labels=[("safe", "unsafe")[number % 2] for number in range(n)],
            strata=[f"axiom {number // 2 % AXIOMS}" for number in range(n)],
            sources=["benchmark"] * n,
            groups=ids,
            texts=[f"prompt number {number} of {number % 97} words" for number in range(n)],
        )
    )


@contextmanager
def timed(taken: dict[str, list[float]], name: str) -> Iterator[None]:
    """Add the wall and CPU seconds of a block to ``taken``."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    spent = taken.setdefault(name, [0.0, 0.0])
    spent[0] += time.perf_counter() - wall
    spent[1] += time.process_time() - cpu


def forward(options: argparse.Namespace) -> Table:
    """Return what hooks, pooling and moments add to the bare forward pass, batches taking turns."""
    import torch
    from transformers import GPT2Config, GPT2Model

    from vlsae.aqi.kept import KeptRows, kept_places
    from vlsae.aqi.onepass import OnePass
    from vlsae.models.hooks import Place, read

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config()).eval()
    labelling = prompts(options.prompts)
    design = design_of(labelling)
    sites = {f"language.{i + 1}": Place(block) for i, block in enumerate(model.h)}
    passes = OnePass(dict.fromkeys(sites, 768), design)
    kept = KeptRows(dict.fromkeys(sites, 768), kept_places(design, labelling.ids, 2000))
    taken: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {"wall": [], "CPU": []}

    def whole(places: np.ndarray, tokens: torch.Tensor) -> None:
        found: dict[str, Any] = {}

        def pool(site: str, hidden: torch.Tensor) -> None:
            with timed(taken, POOLING):
                found[site] = hidden.float().mean(dim=1)

        with timed(taken, WITH):
            read(sites, pool, lambda: model(tokens))
            with timed(taken, MOMENTS):
                passes.add(places, found)
                kept.add(places, found)

    def bare(tokens: torch.Tensor) -> None:
        with timed(taken, BARE):
            model(tokens)

    with torch.no_grad():
        model(torch.randint(0, 50_257, (options.batch, options.tokens)))  # the first pass also reserves memory
        for number, at in enumerate(range(0, len(passes.order), options.batch)):
            places = passes.order[at : at + options.batch]
            tokens = torch.randint(0, 50_257, (len(places), options.tokens))
            before = {name: list(taken.get(name, [0.0, 0.0])) for name in (BARE, WITH)}
            if number % 2:
                bare(tokens)
            whole(places, tokens)
            if not number % 2:
                bare(tokens)
            for clock, unit in enumerate(ratios):
                plain, more = (taken[name][clock] - before[name][clock] for name in (BARE, WITH))
                ratios[unit].append(more / plain - 1)
    with timed(taken, "intervals at the end, once"):
        passes.layers()
    title = f"GPT-2 small's shape, {options.prompts} prompts of {options.tokens} tokens, batches of {options.batch}"
    table = Table("part", "wall s", "CPU s", "of the bare forward (CPU)", title=title)
    for name, (wall, cpu) in taken.items():
        table.add_row(name, f"{wall:.2f}", f"{cpu:.3f}", f"{cpu / spent(taken, BARE):.1%}")
    added = spent(taken, POOLING) + spent(taken, MOMENTS)
    table.add_row("added, timed by itself (under 3 %)", "", f"{added:.3f}", f"{added / spent(taken, BARE):.1%}")
    for unit, found in ratios.items():
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
        table.add_row(
            f"added by difference, {unit}: median (quartiles)", "", "", f"{middle:.1%} ({low:.1%} to {high:.1%})"
        )
    return table


def spent(taken: dict[str, list[float]], name: str) -> float:
    """Return the CPU seconds so far."""
    return taken.get(name, [0.0, 0.0])[1]


def rows(options: argparse.Namespace) -> Table:
    """Return the cost of the whole index on rows that are drawn anew for each layer, and the peak memory."""
    from vlsae.aqi.analysis import Settings, Source, analyse

    labelling = prompts(options.rows)
    design = design_of(labelling)
    taken: dict[str, list[float]] = {}

    def fetch(place: int, chosen: np.ndarray) -> np.ndarray:
        with timed(taken, "drawing the rows, not counted"):
            x = np.random.default_rng(place).standard_normal((options.rows, options.width), dtype=np.float32)
            x[:, 0] += labelling.codes * (place / options.layers)
            return x[chosen].astype(np.float64)

    source = Source([f"language.{i}" for i in range(options.layers)], [options.width] * options.layers, fetch)
    with timed(taken, "everything"):
        analyse(source, labelling, design, Settings(), lambda layers: None)
    table = Table("part", "wall s", "CPU s", title=f"{options.rows} rows × {options.layers} layers × {options.width}")
    for name, (wall, cpu) in taken.items():
        table.add_row(name, f"{wall:.1f}", f"{cpu:.1f}")
    drawn = taken["drawing the rows, not counted"]
    net = [whole - part for whole, part in zip(taken["everything"], drawn)]
    table.add_row("everything but the rows (under 60 s, wall)", f"{net[0]:.1f}", f"{net[1]:.1f}")
    table.add_row("peak memory, GB (under 2)", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}", "")
    return table


def main() -> None:
    """Measure and show a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forward", "rows", "all"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    parts = {"rows": rows, "forward": forward}
    for name, part in parts.items():
        if options.what in (name, "all"):
            Console(width=110).print(part(options))


if __name__ == "__main__":
    main()

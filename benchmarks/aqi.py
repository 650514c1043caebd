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


class Beside:
    """A model of GPT-2 small's shape with the index beside it, and what its batches took so far."""

    def __init__(self, prompts_read: int) -> None:
        import torch
        from transformers import GPT2Config, GPT2Model

        from vlsae.aqi.kept import KeptRows, kept_places
        from vlsae.aqi.onepass import OnePass
        from vlsae.models.hooks import Place

        torch.manual_seed(0)
        self.model = GPT2Model(GPT2Config()).eval()
        labelling = prompts(prompts_read)
        design = design_of(labelling)
        self.sites = {f"language.{i + 1}": Place(block) for i, block in enumerate(self.model.h)}
        self.passes = OnePass(dict.fromkeys(self.sites, 768), design)
        self.kept = KeptRows(dict.fromkeys(self.sites, 768), kept_places(design, labelling.ids, 2000))
        self.taken: dict[str, list[float]] = {}

    def whole(self, places: np.ndarray, tokens: Any) -> None:
        """Run a batch with hooks, pooling and moments."""
        from vlsae.models.hooks import read

        found: dict[str, Any] = {}

        def pool(site: str, hidden: Any) -> None:
            with timed(self.taken, POOLING):
                found[site] = hidden.float().mean(dim=1)

        with timed(self.taken, WITH):
            read(self.sites, pool, lambda: self.model(tokens))
            with timed(self.taken, MOMENTS):
                self.passes.add(places, found)
                self.kept.add(places, found)

    def bare(self, tokens: Any) -> None:
        """Run a batch through the model alone."""
        with timed(self.taken, BARE):
            self.model(tokens)


def forward(options: argparse.Namespace) -> Table:
    """Return what hooks, pooling and moments add to the bare forward pass, batches taking turns."""
    beside = Beside(options.prompts)
    ratios = turns(beside, options.batch, options.tokens)
    taken = beside.taken
    with timed(taken, "intervals at the end, once"):
        beside.passes.layers()
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


def turns(beside: Beside, batch: int, length: int) -> dict[str, list[float]]:
    """Return by how much of it each batch's pass with the index took longer than the bare one, by clock."""
    import torch

    ratios: dict[str, list[float]] = {"wall": [], "CPU": []}
    order = beside.passes.order
    with torch.no_grad():
        beside.model(torch.randint(0, 50_257, (batch, length)))  # the first pass also reserves memory
        for number, at in enumerate(range(0, len(order), batch)):
            places = order[at : at + batch]
            tokens = torch.randint(0, 50_257, (len(places), length))
            before = {name: list(beside.taken.get(name, [0.0, 0.0])) for name in (BARE, WITH)}
            if number % 2:
                beside.bare(tokens)
            beside.whole(places, tokens)
            if not number % 2:
                beside.bare(tokens)
            for clock, unit in enumerate(ratios):
                plain, more = (beside.taken[name][clock] - before[name][clock] for name in (BARE, WITH))
                ratios[unit].append(more / plain - 1)
    return ratios


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

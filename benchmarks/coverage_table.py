"""The command of the benchmarks of coverage: how often intervals hold the truth over draws of known populations."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def show(
    description: str | None,
    populations: Sequence[Any],
    headings: Sequence[str],
    facts: Callable[[Any], Sequence[str]],
    coverage: Callable[[Any, int, int], np.ndarray],
    draws: int,
) -> None:
    """Read the options, draw, and show a table: ``coverage`` gives a population's shares from draws and seed.

    ``facts`` are a population's first columns; a share of NaN is one that the population has none of.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of populations, from 0")
    parser.add_argument("--lines", action="store_true", help="show each population as soon as it is done")
    options = parser.parse_args()
    table = Table(*headings, title=f"{options.draws} draws each")
    for one in populations if options.only is None else [populations[number] for number in options.only]:
        shares = coverage(one, options.draws, options.seed)
        cells = [*facts(one), *("–" if np.isnan(share) else f"{share:.3f}" for share in shares)]
        table.add_row(*cells)
        if options.lines:
            print(" | ".join(cells), flush=True)
    Console(width=130).print(table)

"""Everything that is measured of a dictionary on held-out rows, with 95 % intervals.

n rows, d width, h concepts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlsae.dictionaries.alignment import similarity_measures
from vlsae.dictionaries.base import STREAMS, Dictionary, check_stream
from vlsae.dictionaries.codes import code_matrix
from vlsae.dictionaries.consistency import activation_gap, consistency_measures, retrieval_measures
from vlsae.dictionaries.loss_recovered import SCALE, contrastive_recovery
from vlsae.dictionaries.monosemanticity import monosemanticity_measures
from vlsae.dictionaries.reconstruction import reconstruction
from vlsae.dictionaries.usage import usage_measures
from vlsae.errors import UserError
from vlsae.runs.metrics import Measure

#: What needs pairs, or both streams, and is given as undefined without.
ALWAYS_NAMED = {"consistency": "Jaccard", "intra_sim": "cosine", "inter_sim": "cosine"}


@torch.no_grad()
def evaluate(
    dictionary: Dictionary,
    values: Mapping[str, Tensor],
    *,
    paired: bool = True,
    joint: bool = False,
    scale: float = SCALE,
    seed: int = 0,
    bootstrap: int = 200,
) -> dict[str, Measure]:
    """Return the numbers of a dictionary on held-out rows by their names in ``summary.json``.

    ``values``: stream → ``(n, d)``; where ``paired``, row i of each stream is one pair. Each stream's explained
    variance, cosine, FVU of unit rows, MSE, L0, dead and dense shares, monosemanticity by the rows themselves; of both
    streams the bimodal share, Intra- and Inter-Sim; of pairs the consistency of codes beside shuffled pairs, and
    retrieval by codes and by features; of pairs of the ``joint`` embedding the contrastive loss recovered, whose
    logits are cosines times ``scale``.
    Raises ``ValueError`` for no rows, and for pairs of unequal number.
    """
    _check(values, paired)
    streams = [stream for stream in STREAMS if stream in values]
    common = {"seed": seed, "resamples": bootstrap}
    numbers: dict[str, Measure] = {}
    for stream in streams:
        parts = reconstruction(dictionary, values[stream], stream, **common)
        numbers |= {f"{name}/{stream}": measure for name, measure in parts.items()}
    codes = {stream: code_matrix(dictionary, values[stream], stream) for stream in streams}
    numbers |= usage_measures(codes, **common)
    features = {stream: values[stream].double().cpu().numpy() for stream in streams}
    numbers |= monosemanticity_measures(codes, features, **common)
    if len(streams) == 2:
        numbers |= similarity_measures(codes, dict(values), **common)
        if paired:
            sides = codes["vision"], codes["language"]
            numbers |= consistency_measures(*sides, **common)
            numbers |= retrieval_measures(sides, (values["vision"], values["language"]), **common)
            if joint:
                numbers |= contrastive_recovery(dictionary, values, scale=scale, **common)
            numbers["activation_gap"] = activation_gap(dictionary, values["vision"], values["language"], **common)
    for stream in streams:
        numbers[f"rows/{stream}"] = Measure(len(values[stream]), "held-out rows")
    return {**{name: Measure(None, unit) for name, unit in ALWAYS_NAMED.items()}, **numbers}


def _check(values: Mapping[str, Tensor], paired: bool) -> None:
    if not values:
        raise UserError("values must hold at least one stream.")
    for stream, x in values.items():
        check_stream(stream)
        if len(x) == 0:
            raise UserError(
                f"There are no held-out rows of {stream} to evaluate on.", "Use more data or a larger split.validation."
            )
    counts = {stream: len(x) for stream, x in values.items()}
    if paired and len(set(counts.values())) > 1:
        raise UserError(f"Pairs need as many rows of each stream; got {counts}.", "Say paired=False for unpaired rows.")

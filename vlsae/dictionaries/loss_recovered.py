"""How much of a model's own loss is left when reconstructions stand in for its representations.

Recovered is (L_ablated − L_reconstructed) / (L_ablated − L_clean): 1 is no harm, 0 no better than the ablation. n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import row_chunks
from vlsae.runs.metrics import Measure
from vlsae.statistics import bootstrap_sums

#: Pairs among which each is told from the others.
BATCH = 256
#: Held-out texts that run through a language model, and how many at a time.
TEXTS = 64
TEXTS_AT_ONCE = 8
#: Sharpness where the model's own is not known: that at which CLIP's training starts.
SCALE = 1 / 0.07


def contrastive_losses(vision: Tensor, language: Tensor, scale: float = SCALE) -> np.ndarray:
    """Return each pair's symmetric contrastive loss among its batch of 256, ``(n,)``; row i of each is pair i."""
    losses = []
    for first in range(0, len(vision), BATCH):
        sides = [F.normalize(x[first : first + BATCH].double(), dim=1, eps=1e-12) for x in (vision, language)]
        similarity = scale * sides[0] @ sides[1].T
        own = torch.arange(len(similarity))
        both = [F.cross_entropy(table, own, reduction="none") for table in (similarity, similarity.T)]
        losses.append((both[0] + both[1]) / 2)
    return torch.cat(losses).numpy()


@torch.no_grad()
def contrastive_recovery(
    dictionary: Dictionary,
    values: Mapping[str, Tensor],
    *,
    scale: float = SCALE,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Measure]:
    """Return how much of the contrastive loss of joint embeddings ``(n, d)`` is left with both sides reconstructed.

    Beside it the loss as it is, with reconstructions, and with either ablation: rows replaced by their stream's mean,
    or by zero. Reconstructions are at the length that the dictionary gives; the loss looks at directions alone.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(values["vision"])))
    rows = {stream: values[stream][order].cpu() for stream in ("vision", "language")}
    rebuilt = {stream: _rebuilt(dictionary, x, stream) for stream, x in rows.items()}
    means = {stream: x.mean(dim=0).expand_as(x) for stream, x in rows.items()}
    zeros = {stream: torch.zeros_like(x) for stream, x in rows.items()}
    kinds = {"clean": rows, "reconstructed": rebuilt, "mean": means, "zero": zeros}
    losses = {name: contrastive_losses(x["vision"], x["language"], scale) for name, x in kinds.items()}
    return recovered_measures(losses, seed=seed, resamples=resamples)


@torch.no_grad()
def spliced_recovery(
    loss_of: Callable[[Callable[[Tensor], Tensor] | None], np.ndarray],
    dictionary: Dictionary,
    stream: str,
    mean: Tensor,
    *,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Measure]:
    """Return how much of a model's loss is left with token states replaced by their reconstructions within it.

    ``loss_of(edit)`` gives the losses ``(t,)`` of the model's own task with hidden states ``(b, s, d)`` at the site
    replaced by ``edit`` of them; ``mean (d,)`` is the ablation.
    """

    def through(hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        return _rebuilt(dictionary, flat.float(), stream).to(hidden).view_as(hidden)

    edits: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "reconstructed": through,
        "mean": lambda hidden: mean.to(hidden).expand_as(hidden).clone(),
        "zero": torch.zeros_like,
    }
    losses = {name: loss_of(edit) for name, edit in edits.items()}
    return recovered_measures(losses, seed=seed, resamples=resamples)


def token_recovery(
    model: Any,
    site: str,
    dictionary: Dictionary,
    table: pa.Table,
    samples: pa.Table,
    mean: Tensor,
    *,
    texts: int = TEXTS,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Measure]:
    """Return how much of a language model's loss on held-out texts is left with a site's tokens reconstructed.

    ``table`` are the site's token rows and ``samples`` the texts, of which the first ``texts`` of the validation split
    are read. Positions that are no rows, such as the first, stay as they are in every case: the dictionary never saw
    them. Empty where there is no such text, or the model has no ``losses``.
    """
    split, item = (np.asarray(table[name].to_pylist()) for name in ("split", "item"))
    chosen = table.filter(pa.array((split == "validation") & (item == 0)))
    owners, positions = (chosen[name].to_numpy() for name in ("sample", "position"))
    numbers = np.unique(owners)[:texts]
    if len(numbers) == 0 or not hasattr(model, "losses"):
        return {}
    read = [positions[owners == number] for number in numbers]
    words = [several[0] for several in samples["texts"].take(numbers).to_pylist()]
    spans = [slice(at, at + TEXTS_AT_ONCE) for at in range(0, len(words), TEXTS_AT_ONCE)]
    batches = [(model.prepare(None, words[span]), read[span]) for span in spans]

    def loss_of(edit: Callable[[Tensor], Tensor] | None) -> np.ndarray:
        found = []
        for batch, places in batches:
            with nullcontext() if edit is None else model.edit(site, _only_at(places, edit)):
                found.append(model.losses(batch).double().cpu().numpy().ravel())
        losses = np.concatenate(found)
        return losses[np.isfinite(losses)]

    return spliced_recovery(loss_of, dictionary, site.split(".")[0], mean, seed=seed, resamples=resamples)


def recovered_measures(losses: Mapping[str, np.ndarray], *, seed: int, resamples: int) -> dict[str, Measure]:
    """Return the share recovered by ablation, ``loss_recovered/mean`` and ``/zero``, and the losses themselves.

    ``losses``: clean, reconstructed, mean, zero → ``(n,)``.
    """
    names = ("clean", "reconstructed", "mean", "zero")
    columns = np.stack([losses[name] for name in names], axis=1)
    numbers = {}
    for name, ablated in (("mean", 2), ("zero", 3)):
        with np.errstate(divide="ignore", invalid="ignore"):
            found = bootstrap_sums(_share, columns[:, [0, 1, ablated]], resamples=resamples, seed=seed)
        known = np.isfinite(found.estimate)
        parts = (float(found.estimate), found.low, found.high) if known else (None, None, None)
        numbers[f"loss_recovered/{name}"] = Measure(parts[0], "share", parts[1], parts[2])
    means = columns.mean(axis=0)
    return {**numbers, **{f"task_loss/{name}": Measure(float(x), "nats") for name, x in zip(names, means)}}


def _only_at(places: list[np.ndarray], edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return an edit of hidden states ``(b, s, d)`` at each text's places alone."""

    def edited(hidden: Tensor) -> Tensor:
        chosen = torch.zeros(hidden.shape[:2], dtype=torch.bool)
        for text, own in enumerate(places):
            chosen[text, torch.from_numpy(own).long()] = True
        return torch.where(chosen[..., None].to(hidden.device), edit(hidden), hidden)

    return edited


def _share(means: np.ndarray) -> np.ndarray:
    clean, reconstructed, ablated = np.moveaxis(means, -1, 0)
    return np.asarray((ablated - reconstructed) / (ablated - clean))


def _rebuilt(dictionary: Dictionary, x: Tensor, stream: str) -> Tensor:
    parts = [
        dictionary.decode(dictionary.encode(x[rows], stream), stream).cpu()
        for rows in row_chunks(len(x), dictionary.n_concepts)
    ]
    return torch.cat(parts)

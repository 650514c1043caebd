"""How many answers of a vision-language model are right, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlsae.statistics import bootstrap

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader


def right_answers(learner: Any, reader: SampleReader) -> dict[str, Measure]:
    """Return the share of a reader's answers of which every token is the likeliest given those before it.

    ``right/WORD`` is the share among answers of that one word, for each word that is a whole answer at least twenty
    times; intervals over samples. ``learner`` has ``scores(batch) (n, s, v)`` and ``answered(batch) (n, s)``.
    """
    right: list[bool] = []
    said: list[str] = []
    with torch.no_grad():
        for step in range(reader.steps_per_epoch):
            batch: Any = reader.batch(step)
            wanted = learner.answered(batch)[:, 1:]
            likeliest = learner.scores(batch)[:, :-1].argmax(dim=-1)
            right.extend(((likeliest == batch.language[:, 1:]) | ~wanted).all(dim=1).tolist())
            said.extend(
                learner.processor.tokenizer.decode(ids[own], skip_special_tokens=True)
                for ids, own in zip(batch.language[:, 1:], wanted)
            )
    whole, answers = np.asarray(right, dtype=float), np.asarray(said)
    words, counts = np.unique(answers, return_counts=True)
    groups = {f"right/{word}": answers == word for word, n in zip(words, counts) if n >= 20 and " " not in word}
    everything = {"right": np.ones(len(whole), bool), **groups}
    return {name: _share(whole[chosen]) for name, chosen in everything.items()}


def _share(right: np.ndarray) -> Measure:
    from vlsae.runs import Measure

    interval = bootstrap(lambda rows: right[rows].mean(), len(right))
    return Measure(float(interval.estimate), "share", float(interval.low), float(interval.high))

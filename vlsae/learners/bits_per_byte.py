"""Bits per byte: how well a language model predicts texts, whatever its tokens are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlsae.statistics import bootstrap

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader


def bits_per_byte(learner: Any, reader: SampleReader) -> Measure:
    """Return Σ −log₂ p over Σ bytes of the predicted tokens of a reader's texts, with its interval over texts.

    ``learner`` has ``token_losses(batch) (b, s)``, NaN where nothing is predicted, and a ``tokenizer``.
    """
    from vlsae.runs import Measure

    nats: list[float] = []
    sizes: list[int] = []
    with torch.no_grad():
        for step in range(reader.steps_per_epoch):
            batch: Any = reader.batch(step)
            losses = learner.token_losses(batch)
            nats.extend(losses.double().nansum(dim=1).tolist())
            for ids, predicted in zip(batch.language, ~losses.isnan()):
                text = learner.tokenizer.decode(ids[predicted].tolist(), skip_special_tokens=True)
                sizes.append(len(text.encode()))
    bits, counts = np.asarray(nats) / math.log(2), np.asarray(sizes)
    found = bootstrap(lambda rows: bits[rows].sum() / counts[rows].sum(), len(bits))
    return Measure(float(found.estimate), "bits", float(found.low), float(found.high))

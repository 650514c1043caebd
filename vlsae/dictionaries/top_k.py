"""TopK autoencoder with a unit-norm decoder and an auxiliary loss for dead concepts (arXiv 2406.04093, section 2)."""

from __future__ import annotations

from typing import ClassVar

from vlsae.dictionaries.centered import CenteredDictionary


class TopK(CenteredDictionary):
    """``z = W_e (x − b_d) + b_e``, ``x̂ = W_d TopK(ReLU z) + b_d``, columns of ``W_d`` of length 1, for all streams.

    The options are those of every autoencoder in this form: centre, scaling, start, decoder norm, care for dead
    concepts (:class:`~vlsae.dictionaries.centered.CenteredDictionary`).
    """

    kind: ClassVar[str] = "top_k"

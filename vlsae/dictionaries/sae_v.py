"""SAE-V: one shared sparse autoencoder on single token states, image and text tokens mixed (arXiv 2502.17514)."""

from __future__ import annotations

from typing import ClassVar

from vlsae.dictionaries.sae_s import SAES


class SAEV(SAES):
    """SAE-S on rows that are tokens; codes are pooled by sample afterwards (:mod:`vlsae.dictionaries.token_codes`).

    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "sae_v"
    #: What a row must be: the training refuses pooled ones.
    rows: ClassVar[str] = "tokens"

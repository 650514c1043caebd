"""TopK autoencoder with a unit-norm decoder and an auxiliary loss for dead concepts (arXiv 2406.04093, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.dictionaries import kernels
from vlsae.dictionaries.centered import CenteredDictionary
from vlsae.dictionaries.linear import sparse_reconstruction
from vlsae.training.objective import Loss

#: How far from 1 a column's length may lie for its gradient to lose only the part along the column.
UNIT_TOLERANCE = 1e-5


class TopK(CenteredDictionary):
    """``z = W_e (x − b_d) + b_e``, ``x̂ = W_d TopK(ReLU z) + b_d``, columns of ``W_d`` of length 1, for all streams.

    The options are those of every autoencoder in this form: centre, scaling, start, decoder norm, care for dead
    concepts (:class:`~vlsae.dictionaries.centered.CenteredDictionary`).
    """

    kind: ClassVar[str] = "top_k"

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the modalities' mean squared errors and the auxiliary loss of dead concepts."""
        if not self._learns_sparsely():
            return super().loss(batch, step)
        rows = self.checked_batch(batch)
        scaled = torch.cat(list(rows.values())) / self.scale
        unit, center = self.decoder_norm == "unit", self.decoder.bias
        dead = self._dead([len(x) for x in rows.values()], step)
        made = sparse_reconstruction(scaled, self.encoder, self.decoder, self.k, self.scratch, unit, center, dead)

        def fired() -> Tensor:
            found = torch.zeros(self.n_concepts, dtype=torch.bool, device=scaled.device)
            found[made.support.indices[made.scores.detach() > 0]] = True
            return found

        of_dead = None
        if dead is not None and made.block_scores is not None and made.block_columns is not None:
            of_dead = dead, F.relu(made.block_scores), made.block_columns
        parts = self._parts(rows, scaled, made.decoded, of_dead, fired)
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def _learns_sparsely(self) -> bool:
        if not kernels.pays(self.n_concepts, self.k, self.encoder.weight):
            return False
        if self.decoder_norm == "free" or self._unit_since == self.decoder.weight._version:
            return True
        off = torch.linalg.vector_norm(self.decoder.weight.detach(), dim=0).sub_(1).abs_().max()
        return bool(off < UNIT_TOLERANCE)

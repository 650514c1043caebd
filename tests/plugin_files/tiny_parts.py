"""A user's own model and objective in one file, as small as they can be."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.vl_sae import VLSAE
from vlsae.errors import unknown
from vlsae.models.base import Batch, Model, Rows, Site
from vlsae.plugins import register


@register("model", "tiny")
class TinyModel(Model):
    """Mean colours and letter counts, projected to one width."""

    def __init__(self, *, dimensions: Annotated[int, Range(2, 512)] = 8, scale: float = 1.0) -> None:
        self.dimensions = dimensions
        self.scale = scale
        self.function = None

    def sites(self):
        return {f"{stream}.embedding": Site(self.dimensions, stream) for stream in ("vision", "language")}

    def digest(self):
        return hashlib.sha256(f"tiny {self.dimensions} {self.scale}".encode()).hexdigest()

    def load(self, device="cpu", dtype="float32"):
        pass

    def prepare(self, images=None, texts=None):
        pixels = None if images is None else torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        letters = None if texts is None else [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]
        return Batch(pixels, None if letters is None else torch.tensor(letters))

    def represent(self, batch, sites, tokens=None):
        found = {}
        for site in sites:
            if site not in self.sites():
                raise unknown("site", site, self.sites())
            stream = site.split(".")[0]
            inputs = getattr(batch, stream)
            if inputs is None:
                continue
            flat = inputs.reshape(len(inputs), -1).float()
            generator = torch.Generator().manual_seed(0)
            weight = torch.randn(flat.shape[1], self.dimensions, generator=generator) / flat.shape[1] ** 0.5
            values = self.scale * flat @ weight
            if self.function is not None:
                values = self.function(values[:, None])[:, 0]
            rows = torch.arange(len(inputs))
            found[site] = Rows(values, rows, torch.full_like(rows, -1))
        return found

    @contextmanager
    def edit(self, site, function):
        self.function = function
        try:
            yield
        finally:
            self.function = None


@register("objective", "my_sae")
class MySAE(VLSAE):
    """VL-SAE with a switch of its own."""

    kind = "my_sae"

    def __init__(
        self,
        width: int,
        n_concepts: Annotated[int, Range(1, None)] | None = None,
        k: Annotated[int, Range(1, None)] | None = None,
        *,
        flavour: Annotated[str, OneOf("sweet", "salty")] = "sweet",
    ) -> None:
        super().__init__(width, n_concepts, k)
        self.flavour = flavour

    def settings(self):
        return {"width": self.width, "n_concepts": self.n_concepts, "k": self.k, "flavour": self.flavour}

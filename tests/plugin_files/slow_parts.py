"""A small model with layers and a dictionary that take their time, so that a kill finds them at work."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

from tiny_parts import MySAE, TinyModel

from vlsae.bounds import Range
from vlsae.models.base import Site
from vlsae.plugins import register

LAYERS = ("0", "1", "embedding")


@register("model", "slow")
class SlowModel(TinyModel):
    """The tiny model at three sites a stream, ``pause`` seconds a pass."""

    def __init__(
        self, *, dimensions: Annotated[int, Range(2, 512)] = 8, scale: float = 1.0, pause: float = 0.02
    ) -> None:
        super().__init__(dimensions=dimensions, scale=scale)
        self.pause = pause

    def sites(self):
        return {
            f"{stream}.{layer}": Site(self.dimensions, stream) for stream in ("vision", "language") for layer in LAYERS
        }

    def represent(self, batch, sites, tokens=None):
        time.sleep(self.pause)
        found = {}
        for site in sites:
            stream, layer = site.split(".")
            rows = super().represent(batch, [f"{stream}.embedding"], tokens)
            if rows:
                # The layers differ, and the last holds most of its input.
                power = 1 + LAYERS.index(layer)
                values = rows[f"{stream}.embedding"].values
                found[site] = replace(rows[f"{stream}.embedding"], values=values.sign() * values.abs() ** (power / 3))
        return found


@register("objective", "slow_sae")
class SlowSAE(MySAE):
    """The small dictionary, 5 ms a step."""

    kind = "slow_sae"

    def loss(self, batch, step=0):
        time.sleep(0.005)
        return super().loss(batch, step)

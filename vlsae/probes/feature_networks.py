"""Small networks that compute features of bits: on pictures of them, on sequences, and decoding them one by one.

Shapes: n items, m bits, w width. Each returns its layers ``(n, units)`` and its outputs, in a tuple.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlsae.probes.network_batch import ACTIVATIONS

#: Pixels across a bit's cell in a picture of four by four cells.
CELL = 2

#: Heads of attention.
HEADS = 2


class ConvolutionalNetwork(nn.Module):
    """Convolutions of 3 × 3 over a picture of 16 bits, ``channels`` each, then one linear map of all units.

    The first one moves by a cell; a layer has a unit a channel and cell. ``residual`` adds each later layer's input,
    where the channels agree.
    """

    def __init__(self, channels: Sequence[int], outputs: int, activation: str, residual: bool = False) -> None:
        super().__init__()
        sizes = [1, *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=CELL if number == 0 else 1, padding=1)
            for number, (before, after) in enumerate(zip(sizes, channels))
        )
        self.read_out = nn.Linear(channels[-1] * 16, outputs)
        self.activation, self.residual = activation, residual

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the layers and outputs of bits ±1 ``(n, 16)``."""
        hidden = x.reshape(-1, 1, 4, 4).repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
        found = []
        for convolution in self.convolutions:
            after = ACTIVATIONS[self.activation](convolution(hidden))
            hidden = after + hidden if self.residual and after.shape == hidden.shape else after
            found.append(hidden.flatten(1))
        return (*found, self.read_out(found[-1]))


class SequenceNetwork(nn.Module):
    """A transformer over the sequence of bits; outputs are read from the mean of its positions."""

    def __init__(self, bits: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(bits, width, layers)
        self.read_out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the layers' means over positions, and the outputs, of bits ±1 ``(n, m)``."""
        means = [one.mean(dim=1) for one in self.encoder(x)]
        return (*means, self.read_out(means[-1]))


class DecodingNetwork(nn.Module):
    """A transformer that reads bits and writes ``outputs`` of them, one after the other, given those before."""

    def __init__(self, bits: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(bits, width, layers)
        self.before = nn.Embedding(3, width)
        self.position = nn.Parameter(torch.randn(outputs, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width, crossed=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, 1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's layers as means over positions, and the outputs ``(n, k)``, of bits and ``y`` 0 or 1."""
        layers = self.encoder(x)
        start = torch.full_like(y[:, :1], 2)
        own = self.before(torch.cat([start, y[:, :-1]], dim=1)) + self.position
        for block in self.blocks:
            own = block(own, layers[-1])
        return (*(one.mean(dim=1) for one in layers), self.read_out(self.norm(own))[..., 0])


class Encoder(nn.Module):
    """Blocks over the positions of a sequence of bits; the last layer is normalised."""

    def __init__(self, bits: int, width: int, layers: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.position = nn.Parameter(torch.randn(bits, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return each layer ``(n, m, w)`` of bits ±1 ``(n, m)``."""
        own, found = x[..., None] * self.value + self.position, []
        for block in self.blocks:
            own = block(own)
            found.append(own)
        return [*found[:-1], self.norm(found[-1])]


class Block(nn.Module):
    """Attention and a perceptron, each on normalised inputs and added; with ``crossed`` causal, then to a context."""

    def __init__(self, width: int, crossed: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crossed else 2))
        self.attention = Attention(width, causal=crossed)
        self.crossed = Attention(width) if crossed else None
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the block's output ``(n, m, w)``."""
        normal = self.norms[0](x)
        x = x + self.attention(normal, normal)
        if self.crossed is not None and context is not None:
            x = x + self.crossed(self.norms[2](x), context)
        return x + self.perceptron(self.norms[1](x))


class Attention(nn.Module):
    """Attention of several heads from positions to those of a context."""

    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.causal = causal

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return what ``x (n, m, w)`` reads from ``context (n, s, w)``."""
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))

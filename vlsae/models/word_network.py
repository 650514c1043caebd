"""A recurrent network that reads a few words and predicts the next one. Shapes: n texts, s words, d width, v words."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class WordNetwork(nn.Module):
    """Word vectors, layers of long short-term memory, and a softmax over all words (arXiv 2302.07588)."""

    def __init__(self, *, words: int, word_width: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_width)
        self.layers = nn.ModuleList(
            nn.LSTM(word_width if number == 0 else width, width, batch_first=True) for number in range(layers)
        )
        self.read_out = nn.Linear(width, words)

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments that make a network of this shape."""
        words, word_width = self.embedding.weight.shape
        width, layers = self.read_out.in_features, len(self.layers)
        return {"words": words, "word_width": word_width, "width": width, "layers": layers}

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of the next word ``(n, v)`` after word numbers ``(n, s)``."""
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden)[0]
        return self.read_out(hidden[:, -1])

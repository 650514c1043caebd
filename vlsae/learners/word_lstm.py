"""objective=word_lstm: a recurrent network that predicts the next word from the few before it (arXiv 2302.07588).

Shapes: b texts, s words, w words of a window, v known words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from vlsae.bounds import Range
from vlsae.datasets.base import Dataset
from vlsae.errors import UserError
from vlsae.models.base import Batch, TextBatch
from vlsae.models.word_lstm import write_word_network
from vlsae.models.word_network import WordNetwork
from vlsae.models.words import Words
from vlsae.statistics import bootstrap
from vlsae.training.objective import Loss, Objective

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader

Size = Annotated[int, Range(1, None)]


class WordLSTM(Objective):
    """Word vectors, recurrent layers and a softmax under the cross-entropy of the next word.

    Each word is predicted from the ``window`` words before it and nothing else; a text is filled up in front. The
    ``words`` commonest of the data set's texts are known, the others are one.
    """

    source = "samples"
    loss_unit = "nats"

    def __init__(
        self,
        *,
        dataset: Dataset,
        words: Annotated[int, Range(3, None)] = 4000,
        window: Size = 9,
        word_width: Size = 64,
        width: Size = 64,
        layers: Size = 2,
    ) -> None:
        super().__init__()
        self.words = Words.commonest((text for texts in dataset.table["texts"] for text in texts), words)
        if len(self.words) < 3:
            raise UserError("objective=word_lstm learns from texts, and these samples have none.")
        self.window = window
        self.module = WordNetwork(words=len(self.words), word_width=word_width, width=width, layers=layers)

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None, **more: Any) -> Batch:
        """Number the words of texts; images are not looked at."""
        if not texts:
            raise UserError("objective=word_lstm learns from texts, and these samples have none.")
        rows = [self.words.numbers(text) for text in texts]
        longest = max(1, *map(len, rows)) if rows else 1
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[place < len(row) for place in range(longest)] for row in rows])
        return TextBatch(language=ids, mask=mask)

    def loss(self, batch: Any, step: int = 0) -> Loss:
        """Return the mean over all words of −ln p, for word numbers ``(b, s)``."""
        scores, words = self._predicted(batch)
        right = (scores.detach().argmax(-1) == words).float().mean()
        return Loss(cross_entropy(scores, words), {"accuracy": right})

    def _predicted(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the scores ``(n, v)`` of each word of the texts and the words ``(n,)``, text by text."""
        before = pad(batch.language[:, :-1], (self.window, 0))
        windows = before.unfold(1, self.window, 1)
        there = batch.mask.bool()
        return self.module(windows[there]), batch.language[there]

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return cross-entropy and the share of words guessed right on held-out texts, with intervals over texts."""
        from vlsae.runs import Measure

        sums: list[np.ndarray] = []
        with torch.no_grad():
            for step in range(reader.steps_per_epoch):
                batch: Any = reader.batch(step)
                scores, words = self._predicted(batch)
                each = torch.stack(
                    [cross_entropy(scores, words, reduction="none"), (scores.argmax(-1) == words).float()]
                )
                sizes = batch.mask.sum(dim=1).tolist()
                parts = each.double().split(sizes, dim=1)
                sums += [np.append(part.sum(dim=1).numpy(), part.shape[1]) for part in parts]
        table = np.stack(sums)
        found = bootstrap(lambda rows: table[rows, :2].sum(axis=0) / table[rows, 2].sum(), len(table))
        names = {"cross_entropy": "nats", "word_accuracy": "share"}
        return {
            name: Measure(*(float(found.estimate[k]), unit, float(found.low[k]), float(found.high[k])))
            for k, (name, unit) in enumerate(names.items())
        }

    def product(self) -> WordLSTM:
        """Return the trained network, which ``save_pretrained`` writes for ``model=word_lstm``."""
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network for ``model=word_lstm model.checkpoint=path:FOLDER``: sizes, words, weights."""
        write_word_network(Path(folder), self.module, self.words, self.window)

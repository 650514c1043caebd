"""What every model offers: named sites, representations of a batch at those sites, and edits there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

#: Roles of a token row.
ROLES = ("image", "text", "special", "answer")


@dataclass(frozen=True)
class TokenSelection:
    """Which token rows of a site are kept.

    ``pooling``: ``"cls"`` (class token), ``"mean"`` (over the included tokens), ``"last"`` (a text's last included
    token), ``"eot"`` (end-of-text token; of a language model the last token of all), ``"tokens"`` (every included token
    a row), or ``"default"``: ``cls`` for vision towers that have a class token and ``mean`` for those without, ``eot``
    for texts of CLIP, ``last`` for those of language models. ``include``: ``"content"`` leaves out padding,
    begin-of-text, the first position and template tokens, ``"answer"`` keeps those of answers alone, ``"all"`` keeps
    all but padding.
    """

    pooling: str = "default"
    include: str = "content"


@dataclass
class Batch:
    """Model inputs, by stream: ``vision`` ``(b, 3, height, width)`` pixels, ``language`` ``(c, length)`` token ids."""

    vision: torch.Tensor | None = None
    language: torch.Tensor | None = None


@dataclass
class TextBatch(Batch):
    """Token ids ``language (c, length)`` with ``mask (c, length)``, false at padding, and the ``role (c, length)`` of
    each token, an index into :data:`ROLES`."""

    mask: torch.Tensor | None = None
    role: torch.Tensor | None = None


@dataclass
class Rows:
    """Rows of one site: ``values (r, d)``, ``sample (r,)`` (number within the stream's items), ``position (r,)``.

    Position −1 is pooled. Token rows also carry ``token (r,)`` (id, −1 for image patches) and ``role (r,)`` (index
    into :data:`ROLES`).
    """

    values: torch.Tensor
    sample: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor | None = None
    role: torch.Tensor | None = None


@dataclass(frozen=True)
class Site:
    """A place in a model: ``width`` and the path of the original module that is read there.

    An ``embedding`` has one row an item, unless ``tokens`` says that it has one a token, as layers have.
    """

    width: int
    module: str
    tokens: bool = False


class Model(ABC):
    """A model whose original modules are hooked, never rewritten.

    Construction is cheap (no weights, no heavy import) so that a run can be fingerprinted; ``load`` brings the weights.
    """

    #: Whether ``prepare`` also takes ``answers``, one (or None) a text.
    reads_answers: bool = False

    #: Whether a text is read together with its image; ``prepare`` then also takes ``owners``, each text's image.
    joint: bool = False

    #: Whether ``load`` also takes a ``quantisation``: ``none``, ``8bit`` or ``4bit``.
    quantises: bool = False

    @abstractmethod
    def sites(self) -> dict[str, Site]:
        """Every site by name, ``stream.layer[.part]``."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of weights, architecture, tokenizer and preprocessing, without loading the weights."""

    @abstractmethod
    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights once, in evaluation mode."""

    @abstractmethod
    def prepare(
        self, images: np.ndarray | Sequence[Image.Image] | None = None, texts: Sequence[str] | None = None
    ) -> Batch:
        """Preprocess images and tokenize texts, by the model's own transform and tokenizer."""

    @abstractmethod
    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Run the model no further than needed and return the rows of each site."""

    def represent_in_groups(
        self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None
    ) -> dict[str, Rows]:
        """As ``represent``, free to run the items of a batch in groups where that is cheaper."""
        return self.represent(batch, sites, tokens)

    def token_texts(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the piece of text that each token id stands for; nothing for a model without a tokenizer."""
        return {}

    @abstractmethod
    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them."""

    def input_counts(self) -> dict[str, int]:
        """Return how many inputs ``prepare`` had to change so far, by what was done to them."""
        return {}

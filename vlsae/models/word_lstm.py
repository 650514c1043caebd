"""model=word_lstm: the recurrent network of words that objective=word_lstm trains, read at every layer.

Shapes: b texts, s words, d width, v words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError, unknown
from vlsae.models.base import Batch, Model, Rows, Site, TextBatch, TokenSelection
from vlsae.models.checkpoints import file_digest, parse
from vlsae.models.words import Words

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.models.positions import Positions

CONFIG, WORDS, WEIGHTS = "config.json", "words.json", "model.safetensors"

#: What its configuration says it is.
KIND = "word_lstm"


class WordLSTM(Model):
    """A recurrent network of words, as a training of ``objective=word_lstm`` leaves it: ``checkpoint`` ``path:FOLDER``.

    A text is its last ``window`` words, as many as the network learned to read; shorter ones are filled up in front.
    Layer 0 are the word vectors, layer i the i-th recurrent one.
    """

    def __init__(self, *, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._module: Any = None
        self._device = "cpu"

    @cached_property
    def folder(self) -> Path:
        """The folder of the network's files."""
        kind, rest = parse(self.checkpoint, ("path",))
        folder = Path(rest).expanduser()
        if kind != "path" or not (folder / CONFIG).is_file():
            raise MissingFile(
                f"model.checkpoint={self.checkpoint} is no folder of a word network.",
                "Train one: vlsae train objective=word_lstm, then model.checkpoint=path:RUN/model",
            )
        return folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """Sizes of the network and its ``window``."""
        found: dict[str, Any] = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        if found.get("kind") != KIND:
            raise UserError(
                f"{self.folder / CONFIG} is of another kind of model.", "Use model=lm for transformers' own."
            )
        return found

    @cached_property
    def words(self) -> Words:
        """The words that it knows."""
        return Words(json.loads((self.folder / WORDS).read_text(encoding="utf-8")))

    @property
    def module(self) -> Any:
        """The network; loaded on the CPU where ``load`` was not called."""
        if self._module is None:
            self.load()
        return self._module

    def sites(self) -> dict[str, Site]:
        """Return the word vectors as layer 0 and each recurrent layer."""
        width = self.config["width"]
        recurrent = {f"language.{n}": Site(width, f"layers.{n - 1}") for n in range(1, self.config["layers"] + 1)}
        return {"language.0": Site(self.config["word_width"], "embedding"), **recurrent}

    def digest(self) -> str:
        """Return the SHA-256 of weights, words and sizes."""
        parts = [file_digest(self.folder / name) for name in (CONFIG, WORDS, WEIGHTS)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights in evaluation mode; ``UserError`` where they do not fit."""
        import torch

        from vlsae.models.weights import load_exactly, read_tensors
        from vlsae.models.word_network import WordNetwork

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        sizes = {name: self.config[name] for name in ("words", "word_width", "width", "layers")}
        module = WordNetwork(**sizes)
        load_exactly(module, read_tensors(self.folder / WEIGHTS), self.folder / WEIGHTS)
        self._module = module.to(device, getattr(torch, dtype)).eval()
        self._device = device

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None) -> Batch:
        """Number the last words of each text; images are not looked at."""
        import torch

        if not texts:
            return TextBatch()
        window = self.config["window"]
        rows = [self.words.numbers(text)[-window:] for text in texts]
        ids = torch.tensor([[0] * (window - len(row)) + row for row in rows])
        filled = torch.tensor([[place < window - len(row) for place in range(window)] for row in rows])
        return TextBatch(language=ids, mask=torch.ones_like(filled), role=filled.long())

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site; by default the last word's.

        Raises:
            UserError: an unknown site or pooling, a batch without texts, or a text without words.
        """
        import torch

        from vlsae.models.hooks import place, read
        from vlsae.models.token_rows import TokenRows, check_selection

        wanted, selection = [sites] if isinstance(sites, str) else list(sites), tokens or TokenSelection()
        check_selection(selection)
        known = self.sites()
        for site in wanted:
            if site not in known:
                raise unknown("site", site, known)
        if batch.language is None:
            raise UserError("A language site is asked for, and the batch has no texts.", "Give texts for it.")
        pooled = TokenRows("language", selection, self._positions(batch), None, text_default="last")
        ordered = [site for site in known if site in wanted]
        rows: dict[str, Rows] = {}
        with torch.no_grad():
            read(
                {site: place(self.module, known[site].module) for site in ordered},
                lambda site, hidden: rows.update({site: pooled(hidden)}),
                lambda: self.module(batch.language.to(self._device)),  # type: ignore[union-attr]
                last=ordered[-1],
            )
        return {site: rows[site] for site in wanted}

    def token_texts(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the word of each number."""
        return {int(one): self.words.words[int(one)] for one in ids}

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them."""
        from vlsae.models.hooks import edited, place

        if site not in self.sites():
            raise unknown("site", site, self.sites())
        return edited(place(self.module, self.sites()[site].module), function)

    def _positions(self, batch: Batch) -> Callable[[int, int], Positions]:
        from vlsae.models.positions import Positions

        ids: Tensor = batch.language  # type: ignore[assignment]
        filled = batch.role.bool()  # type: ignore[attr-defined]
        end = filled.new_full((len(ids),), ids.shape[1] - 1, dtype=ids.dtype)
        # The network has no first position that draws attention: all words count.
        found = Positions(ids, filled.new_ones(filled.shape), filled, end, "text", first=True)
        return lambda items, length: found


def write_word_network(folder: Path, module: Any, words: Words, window: int) -> None:
    """Write a network for ``model=word_lstm model.checkpoint=path:FOLDER``: sizes, words, weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    facts = {"kind": KIND, "window": window, **module.sizes}
    (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (folder / WORDS).write_text(json.dumps(words.words, ensure_ascii=False), encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, folder / WEIGHTS)

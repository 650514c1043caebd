"""Causal language models of transformers: the original modules, read and edited at every block.

Shapes: b texts, s positions, d width, v vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from vlsae.bounds import OneOf, Range, conform
from vlsae.errors import UserError, unknown
from vlsae.models.base import Batch, Model, Rows, Site, TextBatch, TokenSelection
from vlsae.models.model_folder import CAUSAL, ModelFolder, adapter_files, resolve_folder

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.models.positions import Positions
    from vlsae.models.prompts import Prompts

#: The folder of the small language model that ships with the package.
BUNDLED = Path(__file__).parent.parent / "bundled" / "lm-v1"

EMBEDDING = "language.embedding"

#: Tokenizers without a limit of their own say a number beyond this.
NO_LIMIT = 10**9

Template = Annotated[str, OneOf("auto", "always", "never")]
Input = Annotated[str, OneOf("prompt", "prompt_and_answer")]
Truncation = Annotated[str, OneOf("right", "left", "error")]


class LM(Model):
    """A causal language model of transformers, with an adapter of peft where ``adapter`` names its folder.

    ``checkpoint`` is ``bundled``, ``path:FOLDER`` or ``hub:ORG/NAME@REV``. ``chat_template`` puts texts into the
    model's own chat template: ``auto`` where it has one. ``input`` is what is read: the prompt, or with it the answer.
    Inputs longer than ``max_length`` tokens (default: what the model can take) lose content on the side of
    ``truncation``, which is counted, or are an error. ``trust_remote_code`` runs code that comes with a checkpoint.
    """

    quantises = True

    #: Of the classes of transformers' models, which one is loaded.
    auto: ClassVar[str] = CAUSAL

    def __init__(
        self,
        *,
        checkpoint: str = "bundled",
        adapter: str | None = None,
        chat_template: Template = "auto",
        input: Input = "prompt",
        max_length: Annotated[int, Range(2, None)] | None = None,
        truncation: Truncation = "right",
        trust_remote_code: bool = False,
    ) -> None:
        conform("chat_template", chat_template, Template)
        conform("input", input, Input)
        conform("truncation", truncation, Truncation)
        self.checkpoint = checkpoint
        self.adapter = None if adapter is None else Path(adapter).expanduser()
        self.chat_template, self.input = chat_template, input
        self.max_length, self.truncation = max_length, truncation
        self.trust_remote_code = trust_remote_code
        self._module: Any = None
        self._loaded = ("", "", "")
        self._truncated = 0
        self._counting = threading.Lock()

    @property
    def reads_answers(self) -> bool:  # type: ignore[override]
        """Whether ``prepare`` takes answers."""
        return self.input == "prompt_and_answer"

    @cached_property
    def files(self) -> ModelFolder:
        """The checkpoint's files on this machine."""
        return resolve_folder(self.checkpoint, BUNDLED)

    @property
    def module(self) -> Any:
        """The model of transformers; loaded on the CPU in float32 where ``load`` was not called."""
        if self._module is None:
            self.load()
        return self._module

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        from vlsae.models.lm_loading import build_tokenizer

        return build_tokenizer(self.files, self.trust_remote_code)

    @cached_property
    def uses_chat_template(self) -> bool:
        """Whether texts are put into the model's chat template; ``UserError`` where one is asked for and missing."""
        there = bool(self.tokenizer.chat_template)
        if self.chat_template == "always" and not there:
            raise UserError(f"model.chat_template=always, and {self.files.folder} has none.", "Use auto or never.")
        return there and self.chat_template != "never"

    @cached_property
    def limit(self) -> int | None:
        """The most tokens of one input; None where nothing bounds them."""
        from vlsae.models.lm_loading import read_config

        config = read_config(self.files, self.trust_remote_code).get_text_config()
        own = (getattr(config, "max_position_embeddings", None), self.tokenizer.model_max_length)
        bounds = [int(bound) for bound in own if bound is not None and 0 < bound < NO_LIMIT]
        if self.max_length is not None and bounds and self.max_length > min(bounds):
            raise UserError(
                f"model.max_length={self.max_length}, and the model takes {min(bounds)} tokens.",
                f"Use at most {min(bounds)}.",
            )
        return min(bounds, default=None) if self.max_length is None else self.max_length

    @cached_property
    def _prompts(self) -> Prompts:
        from vlsae.models.prompts import Prompts

        return Prompts(
            self.tokenizer,
            chat=self.uses_chat_template,
            answers=self.reads_answers,
            limit=self.limit,
            truncation=self.truncation,
        )

    @cached_property
    def _structure(self) -> Any:
        """The model itself where it is loaded, else without numbers."""
        from vlsae.models.lm_loading import build_skeleton

        return (
            self._module if self._module is not None else build_skeleton(self.files, self.trust_remote_code, self.auto)
        )

    @cached_property
    def _sites(self) -> dict[str, Site]:
        from vlsae.models.blocks import language_sites

        return dict(language_sites(self._structure))

    def sites(self) -> dict[str, Site]:
        """Return every site in the order in which the model reaches them; parts are ``attention`` and ``mlp``."""
        return dict(self._sites)

    def digest(self) -> str:
        """Return the SHA-256 of weights, configuration, tokenizer, adapter and settings; nothing is loaded."""
        names = ("chat_template", "input", "max_length", "truncation", "trust_remote_code")
        more = [] if self.adapter is None else adapter_files(self.adapter)
        return self.files.digest(*more, **{name: getattr(self, name) for name in names})

    def load(self, device: str = "cpu", dtype: str = "float32", quantisation: str = "none") -> None:
        """Load the weights once, in evaluation mode; ``quantisation`` is ``none``, ``8bit`` or ``4bit``.

        Raises:
            UserError: the weights are damaged, hold more than tensors or do not fit the configuration, or what the
                adapter or the quantisation needs is missing.
        """
        import torch

        from vlsae.models.lm_loading import PRECISIONS, QUANTISATIONS, build_module

        if dtype not in PRECISIONS:
            raise unknown("precision", dtype, PRECISIONS)
        if quantisation not in ("none", *QUANTISATIONS):
            raise unknown("quantisation", quantisation, ("none", *QUANTISATIONS))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._module is None or self._loaded != (device, dtype, quantisation):
            self._module = build_module(
                self.files,
                device=device,
                dtype=dtype,
                quantisation=quantisation,
                adapter=self.adapter,
                trust_remote_code=self.trust_remote_code,
                auto=self.auto,
            )
            self._loaded = (device, dtype, quantisation)

    def prepare(
        self, images: Any = None, texts: Sequence[str] | None = None, answers: Sequence[str | None] | None = None
    ) -> Batch:
        """Tokenize texts, with their answers where ``input`` asks for them; images are not looked at."""
        if not texts:
            return TextBatch()
        batch, truncated = self._prompts(texts, answers)
        with self._counting:
            self._truncated += truncated
        return batch

    def input_counts(self) -> dict[str, int]:
        """Return how many inputs were truncated."""
        return {"truncated": self._truncated}

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site, running the model no further than its last one, and never its output head.

        Values lie on the model's device, row numbers on the CPU.

        Raises:
            UserError: an unknown site or pooling, a batch without texts, or a text without content.
        """
        import torch

        from vlsae.models.hooks import place, read
        from vlsae.models.token_rows import TokenRows, check_selection

        wanted = [sites] if isinstance(sites, str) else list(sites)
        selection = tokens or TokenSelection()
        check_selection(selection)
        for site in wanted:
            self._check_site(site)
        module, inputs = self.module, self._inputs(batch)
        pooled = TokenRows("language", selection, self._positions(batch), None, text_default="last")
        inner = [site for site in self._sites if site in wanted and site != EMBEDDING]
        rows: dict[str, Rows] = {}
        with torch.no_grad():
            output = read(
                {site: place(module, self._sites[site].module) for site in inner},
                lambda site, hidden: rows.update({site: pooled(hidden)}),
                lambda: module.base_model(**inputs, use_cache=False),
                last=None if EMBEDDING in wanted else inner[-1],
            )
        if EMBEDDING in wanted:
            rows[EMBEDDING] = pooled(output.last_hidden_state)
        return {site: rows[site] for site in wanted}

    def represent_in_groups(
        self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None
    ) -> dict[str, Rows]:
        """Return the rows of each site, the texts run in groups of like length: the same numbers up to rounding.

        Raises:
            UserError: as :meth:`represent`.
        """
        from vlsae.models.length_groups import joined, length_groups, part_of
        from vlsae.models.token_rows import TokenRows, check_selection

        wanted, selection = [sites] if isinstance(sites, str) else list(sites), tokens or TokenSelection()
        check_selection(selection)
        lengths = self._inputs(batch)["attention_mask"].sum(dim=1).cpu()
        where = self._positions(batch)(0, 0)
        # Before the groups, in which texts have other numbers than in the batch.
        TokenRows("language", selection, lambda items, length: where, None, text_default="last").kept(where)
        parts = [
            (numbers, self.represent(part_of(batch, numbers), wanted, selection)) for numbers in length_groups(lengths)
        ]
        return {site: joined([(numbers, rows[site]) for numbers, rows in parts]) for site in wanted}

    def token_texts(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the piece of text that each token id stands for."""
        from vlsae.models.token_texts import token_texts

        return token_texts(self.tokenizer, ids)

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them.

        Raises:
            UserError: an unknown site, or the embedding, behind which only the output head is left to run.
        """
        from vlsae.models.hooks import edited, place

        self._check_site(site)
        if site == EMBEDDING:
            raise UserError(f"{site} is the model's output; no block runs behind it.", "Edit a block's site.")
        return edited(place(self.module, self._sites[site].module), function)

    def logits(self, batch: Batch) -> Tensor:
        """Return the scores of every next token ``(b, s, v)``, under whatever edits are in force."""
        import torch

        with torch.no_grad():
            return self.module(**self._inputs(batch), use_cache=False).logits

    def losses(self, batch: Batch) -> Tensor:
        """Return −ln p of each token given those before it, ``(b, s)`` in float32.

        NaN at the first position and at padding, where nothing is predicted.
        """
        from vlsae.models.token_losses import token_losses

        inputs = self._inputs(batch)
        return token_losses(self.logits(batch), inputs["input_ids"], inputs["attention_mask"])

    def _check_site(self, site: str) -> None:
        if site not in self._sites:
            raise unknown("site", site, self._sites)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        ids, mask = batch.language, getattr(batch, "mask", None)
        if ids is None or mask is None:
            raise UserError("A language site is asked for, and the batch has no texts.", "Give texts for it.")
        device = self.module.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device, ids.dtype)}

    def _positions(self, batch: Batch) -> Callable[[int, int], Positions]:
        from vlsae.models.positions import Positions
        from vlsae.models.prompts import ANSWER, SPECIAL

        mask, role, ids = (getattr(batch, name).cpu() for name in ("mask", "role", "language"))
        found = Positions(
            token=ids,
            real=mask,
            special=role == SPECIAL,
            end=mask.sum(dim=1) - 1,
            role="text",
            first=False,
            answer=role == ANSWER,
        )
        return lambda items, length: found

"""Answering prompts token by token, a batch at once, with what a second pass says of the same prefix mixed in.

The model's own ``generate`` runs the loop; which token comes next is decided here.
b prompts, v vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlsae.enhancement.hallucination import mix_logits, plausible, vcd_logits

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


#: Which prompts ``(b,)`` have more than one token left to choose from, given the clean logits ``(b, v)``.
Open = Callable[[Tensor], Tensor]


class SecondPass(Protocol):
    """A second look at the prefix that is being answered."""

    #: Whether the loop keeps keys and values from step to step.
    cached: bool

    #: How often each prompt stands in the batch.
    copies: int

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's inputs with whatever the second pass needs in them."""

    def attached(self, module: Any, is_open: Open) -> AbstractContextManager[None]:
        """Within the context, the model's forward passes are followed.

        Where a prompt is not open the other logits decide nothing, and may be left out.
        """

    def logits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean and the other next-token logits ``(b, v)`` of a step, given the loop's own ``scores``."""


@dataclass(frozen=True)
class Rule:
    """How the next token is chosen: by ``sample`` at temperature 1 or the likeliest; with the other pass's logits.

    ``form``: ``mix``, ``(1 - alpha) clean + alpha other``, or ``contrast``, ``(1 + alpha) clean - alpha other``;
    tokens whose clean logit is below ``max + ln beta`` are left out, none at ``beta = 0``.
    """

    sample: bool
    alpha: float = 0.0
    beta: float = 0.0
    form: str = "mix"

    def logits(self, clean: Tensor, other: Tensor) -> Tensor:
        """Return the logits ``(b, v)`` from which the next token is chosen."""
        combine = vcd_logits if self.form == "contrast" else mix_logits
        return combine(clean, other, self.alpha, self.beta)

    def is_open(self, clean: Tensor) -> Tensor:
        """Return which prompts ``(b,)`` have more than one token left; a single one is chosen in any case."""
        return plausible(clean, self.beta).sum(dim=-1) > 1


@dataclass(frozen=True)
class Decoded:
    """The tokens that answer each prompt, without the one that ends it.

    ``chosen``: tokens that were chosen, those that end an answer too; ``open``: those of which more than one was left.
    """

    tokens: list[list[int]]
    chosen: int
    open: int


@torch.no_grad()
def decode(
    module: Any,
    inputs: Mapping[str, Any],
    rule: Rule,
    uniforms: np.ndarray,
    *,
    second: SecondPass | None = None,
    end: Sequence[int],
    padding: int,
) -> Decoded:
    """Return the tokens that answer each left-padded prompt of ``inputs``.

    ``uniforms (b, most)``: the numbers in [0, 1) by which each prompt's tokens are drawn, one a token; there are no
    more tokens than numbers. An answer does not depend on the prompts beside it. ``end``: tokens that end an answer.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    choice = _Choice(rule, uniforms, second, end)
    given = dict(inputs) if second is None else second.inputs(inputs)
    settings = GenerationConfig(
        max_new_tokens=uniforms.shape[1],
        do_sample=False,
        num_beams=1,
        eos_token_id=list(end),
        pad_token_id=padding,
        use_cache=second is None or second.cached,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
    )
    length = given["input_ids"].shape[1]
    with _following(second, module, rule):
        found = module.generate(**given, generation_config=settings, logits_processor=LogitsProcessorList([choice]))
    stops = set(end)
    tokens = [_until(row, stops) for row in found[: len(uniforms), length:].tolist()]
    return Decoded(tokens, choice.chosen, choice.open)


def uniforms_of(ids: Sequence[str], seed: int, most: int) -> np.ndarray:
    """Return each item's own numbers in [0, 1) ``(b, most)``: of its id and the seed, whatever it is answered with."""
    return np.stack([np.random.default_rng([seed, number_of(one)]).random(most) for one in ids])


def drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return the tokens ``(b,)`` that inverting each row's distribution gives for ``uniforms (b,)`` in [0, 1)."""
    below = logits.double().softmax(dim=-1).cumsum(dim=-1)
    return (below <= uniforms.to(below)[:, None] * below[:, -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def number_of(name: str) -> int:
    """Return the number, below 2^64, from which what is drawn for an item is drawn."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


class _Choice:
    """Leaves each row one token: the one that the rule chooses."""

    def __init__(self, rule: Rule, uniforms: np.ndarray, second: SecondPass | None, end: Sequence[int]) -> None:
        self.rule, self.uniforms, self.second = rule, torch.from_numpy(uniforms), second
        self.end, self.ended = torch.tensor(list(end)), torch.zeros(len(uniforms), dtype=torch.bool)
        self.step = self.chosen = self.open = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        clean, other = (scores, scores) if self.second is None else self.second.logits(scores)
        logits = self.rule.logits(clean.float(), other.float())
        if self.rule.sample:
            token = drawn(logits, self.uniforms[:, self.step].to(logits.device))
        else:
            token = logits.argmax(dim=-1)
        self._count(self.rule.is_open(clean.float()).cpu(), token.cpu())
        token = token.repeat(1 if self.second is None else self.second.copies)
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)

    def _count(self, is_open: Tensor, token: Tensor) -> None:
        self.chosen += int((~self.ended).sum())
        self.open += int((is_open & ~self.ended).sum())
        self.ended |= torch.isin(token, self.end)
        self.step += 1


def _following(second: SecondPass | None, module: Any, rule: Rule) -> AbstractContextManager[None]:
    from contextlib import nullcontext

    return nullcontext() if second is None else second.attached(module, rule.is_open)


def _until(tokens: list[int], stops: set[int]) -> list[int]:
    place = next((number for number, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:place]

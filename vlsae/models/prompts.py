"""From prompts and answers to token ids, with the role of each token: text, answer, or what a format puts around them.

Shapes: c texts, l positions. Texts are padded on the right, whatever side a tokenizer prefers: a causal model reads
nothing behind a position, so that a text's numbers do not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from vlsae.errors import UserError
from vlsae.models.base import ROLES, TextBatch

TEXT, SPECIAL, ANSWER = (ROLES.index(role) for role in ("text", "special", "answer"))

#: What parts a prompt from its answer where no chat template does.
SEPARATOR = "\n"

TRUNCATIONS = ("right", "left", "error")

#: Stand for a prompt and an answer while the template's own parts are found; no text holds such characters.
MARKS = ("\ue000\ue001\ue002", "\ue003\ue004\ue005")


@dataclass(frozen=True)
class Rendered:
    """One whole input and where in it the prompt and the answer stand."""

    whole: str
    text: tuple[int, int]
    answer: tuple[int, int] | None = None


@dataclass
class Encoded:
    """Token ids of one input and their roles."""

    ids: list[int]
    roles: list[int]


class Prompts:
    """Encodes texts, and with ``answers`` each text's answer behind it, as one model reads them.

    ``chat`` puts them into the tokenizer's chat template. Inputs of more than ``limit`` tokens lose content at the end
    (``right``) or at the start (``left``), never the template, or are an ``error``; ``truncated`` counts them.
    """

    def __init__(
        self, tokenizer: Any, *, chat: bool, answers: bool, limit: int | None, truncation: str = "right"
    ) -> None:
        self.tokenizer, self.chat, self.answers = tokenizer, chat, answers
        self.limit, self.truncation = limit, truncation
        if (chat or answers) and not tokenizer.is_fast:
            raise UserError(
                "This tokenizer does not say where its tokens stand, which chat templates and answers need.",
                "Use model.chat_template=never and model.input=prompt, or a tokenizer.json.",
            )
        self._special = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def __call__(self, texts: Sequence[str], answers: Sequence[str | None] | None = None) -> tuple[TextBatch, int]:
        """Return the batch of some texts, and how many of them were truncated.

        Raises:
            UserError: an answer is missing, a template changes with its text, or an input is too long.
        """
        if self.answers:
            rendered = [self._with_answer(text, answer) for text, answer in zip(texts, all_there(texts, answers))]
        else:
            rendered = [self._alone(text) for text in texts]
        encoded = self._encode(rendered)
        truncated = sum(self._truncate(number, one) for number, one in enumerate(encoded))
        return self._padded(encoded), truncated

    def _alone(self, text: str) -> Rendered:
        if not self.chat:
            return Rendered(text, (0, len(text)))
        whole = self._template([text])
        before, after = self._frame
        return Rendered(whole, part_spans(whole, [before, after], [text])[0])

    def _with_answer(self, text: str, answer: str) -> Rendered:
        if not self.chat:
            start = len(text) + len(SEPARATOR)
            return Rendered(f"{text}{SEPARATOR}{answer}", (0, len(text)), (start, start + len(answer)))
        whole = self._template([text, answer])
        return Rendered(whole, *part_spans(whole, list(self._answer_frame), [text, answer]))

    def _template(self, turns: Sequence[str]) -> str:
        messages = [{"role": role, "content": turn} for role, turn in zip(("user", "assistant"), turns)]
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(turns) == 1)
            )
        except Exception as error:  # a template is a program of the checkpoint's author, which may fail in any way
            raise UserError(
                f"The model's chat template fails: {(str(error).splitlines() or [type(error).__name__])[0]}",
                "Use model.chat_template=never.",
            ) from error

    @cached_property
    def _frame(self) -> tuple[str, str]:
        before, _, after = self._template(MARKS[:1]).partition(MARKS[0])
        return before, after

    @cached_property
    def _answer_frame(self) -> tuple[str, str, str]:
        before, _, rest = self._template(MARKS).partition(MARKS[0])
        between, _, after = rest.partition(MARKS[1])
        return before, between, after

    def _encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokenize whole inputs at once; a token belongs to where its first character stands."""
        found = self.tokenizer(
            [one.whole for one in rendered],
            add_special_tokens=not self.chat,
            return_offsets_mapping=self.tokenizer.is_fast,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        if not self.tokenizer.is_fast:
            return [Encoded(list(ids), [self._plain_role(token) for token in ids]) for ids in found["input_ids"]]
        return [
            Encoded(list(ids), [role_of(token, span, one, self._special) for token, span in zip(ids, spans)])
            for ids, spans, one in zip(found["input_ids"], found["offset_mapping"], rendered)
        ]

    def _plain_role(self, token: int) -> int:
        return SPECIAL if token in self._special else TEXT

    def _truncate(self, number: int, one: Encoded) -> bool:
        """Shorten an input to the limit: content of the prompt first, then of the answer."""
        excess = len(one.ids) - (self.limit or len(one.ids))
        if excess <= 0:
            return False
        if self.truncation == "error":
            raise UserError(
                f"Text {number} of the batch has {len(one.ids)} tokens; the limit is {self.limit}.",
                "Use model.truncation=right or left, or a larger model.max_length.",
            )
        out: set[int] = set()
        for role in (TEXT, ANSWER):
            own = [place for place, found in enumerate(one.roles) if found == role]
            own = own[::-1] if self.truncation == "right" or role == ANSWER else own
            out.update(own[: excess - len(out)])
        if len(out) < excess:
            raise UserError(
                f"model.max_length={self.limit} is shorter than what the model's format puts around a text.",
                "Use a larger one.",
            )
        one.ids = [token for place, token in enumerate(one.ids) if place not in out]
        one.roles = [role for place, role in enumerate(one.roles) if place not in out]
        return True

    def _padded(self, encoded: Sequence[Encoded]) -> TextBatch:
        length = max((len(one.ids) for one in encoded), default=0)
        padding = next(
            (token for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if token is not None), 0
        )
        ids = torch.tensor([one.ids + [padding] * (length - len(one.ids)) for one in encoded], dtype=torch.long)
        roles = torch.tensor([one.roles + [SPECIAL] * (length - len(one.roles)) for one in encoded], dtype=torch.long)
        lengths = torch.tensor([len(one.ids) for one in encoded])
        return TextBatch(language=ids, mask=torch.arange(length) < lengths[:, None], role=roles)


def role_of(token: int, span: tuple[int, int], one: Rendered, special: frozenset[int]) -> int:
    """Return the role of a token that stands at a span of a whole input."""
    start, end = span
    if token in special or start == end:
        return SPECIAL
    if one.answer is not None and one.answer[0] <= start < one.answer[1]:
        return ANSWER
    # A token may begin with the blank that parts the template from the text.
    return TEXT if start < one.text[1] and end > one.text[0] else SPECIAL


def all_there(texts: Sequence[str], answers: Sequence[str | None] | None) -> list[str]:
    """Return the answers of some texts; ``UserError`` where one is missing."""
    if answers is None:
        raise UserError(
            "model.input=prompt_and_answer, and the dataset has no answers.",
            "Map its column: dataset.columns.answer=NAME, or use model.input=prompt.",
        )
    whole = [answer for answer in answers if answer is not None]
    if len(whole) < len(texts):
        bare = texts[next(number for number, answer in enumerate(answers) if answer is None)]
        raise UserError(
            f"The text {bare[:60]!r} has no answer, and model.input=prompt_and_answer.",
            "Leave it out, or use model.input=prompt.",
        )
    return whole


def part_spans(whole: str, frame: Sequence[str], parts: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the parts stand in a rendered template; templates may strip them.

    Raises:
        UserError: the frame around this text is another than around others.
    """
    for variant in (parts, [part.strip() for part in parts]):
        built = "".join(piece for pair in zip(frame, [*variant, ""]) for piece in pair)
        if built == whole:
            spans, end = [], 0
            for before, part in zip(frame, variant):
                start = end + len(before)
                end = start + len(part)
                spans.append((start, end))
            return spans
    raise UserError(
        "The model's chat template changes with its text, so its own tokens cannot be told from the text's.",
        "Use model.chat_template=never.",
    )

"""From images and texts to joint sequences: where the image stands, and the role of each token.

Shapes: n sequences, s positions. What an image takes is read from the processor's image token in the ids, so that
images of any number of tokens or tiles are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vlsae.errors import UserError
from vlsae.models.base import TextBatch
from vlsae.models.prompts import MARKS, SEPARATOR, SPECIAL, TEXT, Rendered, all_there, part_spans, role_of

#: The conversation that LLaVA 1.5 was trained on, for its checkpoints without a chat template (arXiv 2310.03744).
V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

TEMPLATES = ("chat", "v1", "plain")


@dataclass
class JointBatch(TextBatch):
    """Sequences of image and text: those of the ``texts`` first, in their order, then those of images without one.

    ``inputs`` are the module's own; ``image (n, s)`` and ``words (n, s)`` tell which positions are an image's and which
    count as a text's; ``read (b,)`` is the sequence in which each image is read.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    image: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    words: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    texts: int = 0
    read: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def real(self) -> Tensor:
        """Which positions ``(n, s)`` are no padding."""
        assert isinstance(self.mask, Tensor)
        return self.mask

    @property
    def roles(self) -> Tensor:
        """The role of each token ``(n, s)``."""
        assert isinstance(self.role, Tensor)
        return self.role


@dataclass(frozen=True)
class Joint:
    """What one sequence is made of: a text, maybe its answer, and the number of its image."""

    parts: tuple[str, ...]
    picture: int | None


class JointPrompts:
    """Writes images and texts as one model reads them.

    ``template`` is ``chat`` (the processor's own), ``v1`` (LLaVA's conversation) or ``plain`` (the image, a line break,
    the text). ``span`` says what counts as a text's: everything ``after_image``, or all ``words`` of the sequence.
    ``keys`` are the inputs that the module takes. Longer inputs lose text as :class:`vlsae.models.prompts.Prompts` has
    it.
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_token_id: int,
        keys: frozenset[str],
        template: str = "chat",
        answers: bool = False,
        span: str = "after_image",
        limit: int | None = None,
        truncation: str = "right",
    ) -> None:
        self.processor, self.tokenizer, self.image_token_id = processor, processor.tokenizer, image_token_id
        self.keys, self.template, self.answers, self.span = keys, template, answers, span
        self.limit, self.truncation = limit, truncation
        if not self.tokenizer.is_fast:
            raise UserError(
                "This tokenizer does not say where its tokens stand, which texts beside images need.",
                "Give a folder with a tokenizer.json.",
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self._special = frozenset(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        self._frames: dict[tuple[int, bool], list[str]] = {}

    @cached_property
    def image_token(self) -> str:
        """What stands for an image in a text that the processor reads."""
        own = getattr(self.processor, "image_token", None)
        return own if isinstance(own, str) else str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    def __call__(
        self,
        images: Sequence[Any] | None,
        texts: Sequence[str],
        owners: Sequence[int] | None = None,
        answers: Sequence[str | None] | None = None,
        side: str = "right",
    ) -> tuple[JointBatch, int]:
        """Return the batch of some images and texts, padded on a side, and how many texts were truncated.

        Raises:
            UserError: an answer is missing, a text has no image or holds an image token, a template changes with its
                text or puts the text in front of the image, or an input is too long.
        """
        plan = self._plan(images, texts, owners, answers)
        truncated: set[int] = set()
        while True:
            rendered = [self._rendered(one.parts, one.picture is not None) for one in plan]
            pictures = None if images is None else [images[one.picture or 0] for one in plan]
            batch, spans = self._encode(rendered, pictures, side)
            longer = self._longer(batch)
            if not longer:
                break
            for number, excess in longer.items():
                plan[number] = self._cut(number, plan[number], rendered[number], batch, spans, excess)
                truncated.add(number)
        batch.texts = len(texts)
        batch.read = torch.tensor([self._first(plan, image) for image in range(len(images or ()))], dtype=torch.long)
        return batch, len(truncated)

    def _plan(
        self,
        images: Sequence[Any] | None,
        texts: Sequence[str],
        owners: Sequence[int] | None,
        answers: Sequence[str | None] | None,
    ) -> list[Joint]:
        """Return a sequence for each text, and one for each image that no text belongs to."""
        for text in texts:
            if self.image_token in text:
                raise UserError(
                    f"The text {text[:60]!r} holds {self.image_token}, which stands for an image.", "Take it out."
                )
        whole = all_there(texts, answers) if self.answers and texts else None
        parts = [(text,) if whole is None else (text, whole[number]) for number, text in enumerate(texts)]
        if images is None:
            return [Joint(part, None) for part in parts]
        if owners is None:
            if texts and len(texts) != len(images):
                raise UserError(
                    f"{len(texts)} texts and {len(images)} images: which belong together is not said.",
                    "Give one text an image, or owners: the number of each text's image.",
                )
            owners = range(len(texts))
        alone = sorted(set(range(len(images))) - set(owners))
        return [Joint(part, owner) for part, owner in zip(parts, owners)] + [Joint(("",), i) for i in alone]

    @staticmethod
    def _first(plan: Sequence[Joint], image: int) -> int:
        return next(number for number, one in enumerate(plan) if one.picture == image)

    def _rendered(self, parts: tuple[str, ...], pictured: bool) -> Rendered:
        whole = self._written(parts, pictured)
        frame = self._frames.get((len(parts), pictured))
        if frame is None:
            rest, frame = self._written(MARKS[: len(parts)], pictured), []
            for mark in MARKS[: len(parts)]:
                before, _, rest = rest.partition(mark)
                frame.append(before)
            frame = self._frames[len(parts), pictured] = [*frame, rest]
            if pictured and self.image_token in "".join(frame[1:]):
                raise UserError(
                    "The model's chat template puts the text in front of the image, where it cannot read it.",
                    "Use model.chat_template=never.",
                )
        return Rendered(whole, *part_spans(whole, frame, parts))

    def _written(self, parts: tuple[str, ...], pictured: bool) -> str:
        """Return the whole input of a text, with its answer where there is one."""
        if self.template == "chat":
            return self._chat(parts, pictured)
        text = f"{self.image_token}\n{parts[0]}" if pictured else parts[0]
        if self.template == "plain":
            return SEPARATOR.join((text, *parts[1:]))
        answer = f" {parts[1]}{self.tokenizer.eos_token or ''}" if len(parts) > 1 else ""
        return f"{V1} USER: {text} ASSISTANT:{answer}"

    def _chat(self, parts: tuple[str, ...], pictured: bool) -> str:
        picture = [{"type": "image"}] if pictured else []
        turns = [{"role": "user", "content": [*picture, {"type": "text", "text": parts[0]}]}]
        if len(parts) > 1:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": parts[1]}]})
        try:
            return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=len(parts) == 1))
        except Exception as error:  # a template is a program of the checkpoint's author, which may fail in any way
            raise UserError(
                f"The model's chat template fails: {(str(error).splitlines() or [type(error).__name__])[0]}",
                "Use model.chat_template=never.",
            ) from error

    def _encode(self, rendered: Sequence[Rendered], pictures: Any, side: str) -> tuple[JointBatch, Tensor]:
        """Return the batch, and where in its whole input each token stands ``(n, s, 2)``."""
        bos = self.tokenizer.bos_token
        begun = self.template == "chat" and bos is not None and rendered[0].whole.startswith(bos)
        try:
            found = self.processor(
                **({} if pictures is None else {"images": [[one] for one in pictures]}),
                text=[one.whole for one in rendered],
                padding=True,
                padding_side=side,
                add_special_tokens=not begun,
                return_offsets_mapping=True,
                return_tensors="pt",
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"The model's processor refuses these images and texts: {reason}") from error
        spans, ids, mask = found["offset_mapping"], found["input_ids"], found["attention_mask"].bool()
        image = (ids == self.image_token_id) & mask
        if pictures is not None and not bool(image.any(dim=1).all()):
            raise UserError("The model's processor leaves no place for an image in its input.")
        spans = self._in_whole(rendered, spans, mask, image)
        batch = JointBatch(
            language=ids,
            mask=mask,
            role=self._roles(rendered, ids, spans, mask & ~image),
            inputs={name: value for name, value in found.items() if name in self.keys},
            image=image,
            words=self._words(ids, mask, image),
        )
        return self._checked(rendered, batch), spans

    def _in_whole(self, rendered: Sequence[Rendered], spans: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Return spans as in the input before the processor put an image's tokens in: behind it, counted from the end.

        Processors write more than the image's tokens in its place, so only the distance from the end is certain.
        """
        ends = torch.where(mask, spans[..., 1], 0).amax(dim=1)
        lengths = [len(one.whole.rstrip() if self._drops_blanks else one.whole) for one in rendered]
        shift = (ends - torch.tensor(lengths)).clamp_min(0)
        behind = _behind(image)
        return torch.where(behind[..., None], spans - shift[:, None, None], spans)

    @cached_property
    def _drops_blanks(self) -> bool:
        """Whether no token covers a blank at the end."""
        found = self.tokenizer("a ", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return max((end for _, end in found), default=0) < 2

    def _roles(self, rendered: Sequence[Rendered], ids: Tensor, spans: Tensor, wanted: Tensor) -> Tensor:
        roles = torch.full_like(ids, SPECIAL)
        for number, one in enumerate(rendered):
            places = wanted[number].nonzero()[:, 0].tolist()
            for place, token, (start, end) in zip(
                places, ids[number, wanted[number]].tolist(), spans[number, wanted[number]].tolist()
            ):
                role = role_of(token, (start, end), one, self._special)
                # A special token inside a text's span is one of its own words where only words are asked for.
                roles[number, place] = TEXT if role == SPECIAL and self._is_word(token) else role
        return roles

    def _is_word(self, token: int) -> bool:
        return self.span == "words" and token not in self._special

    def _words(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        if self.span == "words":
            special = torch.tensor(sorted(self._special), dtype=ids.dtype)
            return mask & ~image & ~torch.isin(ids, special)
        return mask & ~image & _behind(image)

    def _checked(self, rendered: Sequence[Rendered], batch: JointBatch) -> JointBatch:
        """Refuse an input whose text does not stand behind its image."""
        own = ((batch.roles == TEXT) & batch.words).any(dim=1)
        for number, one in enumerate(rendered):
            text = one.whole[slice(*one.text)].strip()
            if text and not own[number]:
                raise UserError(
                    f"The text {text[:60]!r} is not found behind its image.",
                    "The model's processor changes its texts; use model.chat_template=never.",
                )
        return batch

    def _longer(self, batch: JointBatch) -> dict[int, int]:
        """Return by how many tokens which sequences exceed the limit."""
        lengths = batch.real.sum(dim=1).tolist()
        return (
            {}
            if self.limit is None
            else {n: found - self.limit for n, found in enumerate(lengths) if found > self.limit}
        )

    def _cut(self, number: int, one: Joint, rendered: Rendered, batch: JointBatch, spans: Tensor, excess: int) -> Joint:
        """Return a sequence whose text is shorter by some tokens at its end, or at its start."""
        own = spans[number, batch.roles[number] == TEXT].tolist()
        if self.truncation == "error":
            raise UserError(
                f"Text {number} of the batch makes an input {excess} tokens longer than the limit of {self.limit}.",
                "Use model.truncation=right or left, or a larger model.max_length.",
            )
        if len(own) <= excess:
            raise UserError(
                f"model.max_length={self.limit} is shorter than an image and what the model's format puts around it.",
                "Use a larger one.",
            )
        text, start = rendered.whole[slice(*rendered.text)], rendered.text[0]
        kept = text[: own[-excess - 1][1] - start] if self.truncation == "right" else text[own[excess][0] - start :]
        return Joint((kept, *one.parts[1:]), one.picture)


def _behind(image: Tensor) -> Tensor:
    """Return which positions ``(n, s)`` lie behind the last of an image's; all where there is none."""
    position = torch.arange(image.shape[1])
    return position > torch.where(image, position, -1).amax(dim=1, keepdim=True)

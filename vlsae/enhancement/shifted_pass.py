"""The second pass of VL-SAE: the same prefix with its text tokens shifted at the input of a layer.

Layers below are untouched by the shift and run once. Tokens before the first shifted one are untouched in the layers
above too, so both passes share their keys and values; only the rows from there on are computed again, since the shift
follows the mean of the growing text. Of the last block's rows only the last is read, the others' keys and values apart.
b sequences, s tokens so far, p of them from the first shifted one on, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlsae.enhancement.hallucination import masked_mean, moved
from vlsae.errors import UserError
from vlsae.models.blocks import PARTS
from vlsae.models.hooks import Place, edited

#: What the text tokens gain ``(b, d)``, given the means ``(b, d)`` of image and text tokens.
Shift = Callable[[Tensor, Tensor], Tensor]

CACHES = ("exact", "off", "frozen_delta")

#: What a block's cache is called, by version of transformers.
_CACHE_NAMES = ("cache", "past_key_values", "past_key_value")

#: What the maps of an attention are called that make its queries, where they have one of their own, and its output.
_MAPS = (("q_proj",), ("o_proj", "out_proj", "dense"))

#: Ways of computing attention that take any mask.
_ATTENTIONS = ("sdpa", "eager")


class ShiftedPass:
    """Follows a decoding and says what it would be with the text tokens shifted at the input of block ``layer``.

    ``blocks``: the decoder's, in order; ``layer`` counts them from 0, and their number stands for the last one's
    output. ``image_mask``, ``text_mask`` ``(b, s)`` of the left-padded prompts; what is answered is text.
    ``frozen`` keeps the shift of the prompt for the whole answer, an approximation that computes one row a step.
    """

    cached = True
    copies = 1

    def __init__(
        self, blocks: Sequence[nn.Module], layer: int, image_mask: Tensor, text_mask: Tensor, shift: Shift, frozen: bool
    ) -> None:
        self.blocks, self.layer, self.shift, self.frozen = list(blocks), layer, shift, frozen
        self.image_mask, self.text_mask = image_mask, text_mask
        self.start = int(text_mask.any(dim=0).nonzero()[0, 0])
        self._within = False
        self._states: Any = None
        self._prefix: Any = None
        self._seen: dict[int, dict[str, Any]] = {}
        self._pair: Any = None

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs as they are, their padding noted."""
        self.valid = inputs["attention_mask"].bool()
        return dict(inputs)

    def logits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean and the shifted next-token logits ``(b, v)`` of the step."""
        return self._pair

    @contextmanager
    def attached(self, module: Any) -> Iterator[None]:
        """Within the context, each forward pass of the model also gives the shifted pass's last row."""
        _check_attention(module)
        with ExitStack() as stack:
            for number in range(self.layer, len(self.blocks)):
                handle = self.blocks[number].register_forward_pre_hook(self._before(number), with_kwargs=True)
                stack.callback(handle.remove)
            stack.callback(self.blocks[-1].register_forward_hook(self._behind).remove)
            stack.callback(module.register_forward_hook(self._read).remove)
            yield

    def _before(self, number: int) -> Any:
        def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._within:
                return
            if number == self.layer:
                self._take(args[0] if args else kwargs["hidden_states"])
            self._seen[number] = self._joined(self._seen.get(number), kwargs)

        return note

    def _behind(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Put the shifted pass's last row behind the clean rows: what follows works on each row alone."""
        if self._within:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if self.layer == len(self.blocks):
            self._take(hidden)
        self._within = True
        try:
            both = torch.cat([hidden, self._shifted_row()], dim=1)
        finally:
            self._within = False
        return (both, *output[1:]) if isinstance(output, tuple) else both

    def _read(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self._pair = output.logits[:, -2].float(), output.logits[:, -1].float()

    def _take(self, hidden: Tensor) -> None:
        """Keep the rows that came in at the layer, and the mean of the image's when the prompt does."""
        if self._states is None:
            self._mean_vision = masked_mean(hidden.float(), self.image_mask)
            self._states, self._prefix = hidden[:, self.start :], None
        else:
            self._states = torch.cat([self._states, hidden], dim=1)
            more = torch.ones_like(self.text_mask[:, :1]).expand(-1, hidden.shape[1])
            self.text_mask = torch.cat([self.text_mask, more], dim=1)
            self.valid = torch.cat([self.valid, more], dim=1)
        self._new = hidden.shape[1]

    def _joined(self, before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
        """Return a block's arguments with the positions of all rows from the first shifted one on."""
        found = dict(now)
        for name, axis in (("position_embeddings", -2), ("position_ids", -1)):
            value = now.get(name)
            if value is not None:
                found[name] = _rows_from(value, axis, self.start) if before is None else _cat(before[name], value, axis)
        return found

    def _shifted_row(self) -> Tensor:
        text = self.text_mask[:, self.start :]
        if not self.frozen or self._prefix is None:
            self._shift = self.shift(self._mean_vision, masked_mean(self._states.float(), text))
        rows = moved(self._states, text, self._shift)
        if self.frozen and self._prefix is not None:
            rows = rows[:, -self._new :]
        kept = rows.shape[1]
        if self.layer < len(self.blocks):
            cache = self._shared() if not self.frozen or self._prefix is None else self._prefix
            mask = self._mask(kept, rows.dtype)
            for number in range(self.layer, len(self.blocks)):
                rows = self._through(number, rows, cache, mask)
            self._prefix = cache if self.frozen else None
        else:
            self._prefix = self.frozen or None
        return rows[:, -1:]

    def _through(self, number: int, rows: Tensor, cache: Any, mask: Tensor) -> Tensor:
        kept = rows.shape[1]
        arguments = {name: value for name, value in self._seen[number].items() if name != "hidden_states"}
        for name, axis in (("position_embeddings", -2), ("position_ids", -1)):
            if arguments.get(name) is not None:
                arguments[name] = _last_rows(arguments[name], axis, kept)
        arguments["attention_mask"] = mask
        arguments |= {name: cache for name in _CACHE_NAMES if name in arguments}
        if arguments.get("cache_position") is not None:
            total = self.valid.shape[1]
            arguments["cache_position"] = torch.arange(total - kept, total, device=rows.device)
        block = self.blocks[number]
        with _last_row_alone(block, kept) if number == len(self.blocks) - 1 else ExitStack():
            output = block(rows, **arguments)
        return output[0] if isinstance(output, tuple) else output

    def _shared(self) -> Any:
        """Return a cache of the keys and values before the first shifted token, which the clean pass computed."""
        from transformers import DynamicCache

        shared = DynamicCache()
        for number in range(self.layer, len(self.blocks)):
            clean = next(self._seen[number][name] for name in _CACHE_NAMES if self._seen[number].get(name) is not None)
            layer = clean.layers[number]
            if layer.keys.shape[-2] != self.valid.shape[1]:
                raise UserError(
                    f"Layer {number} keeps {layer.keys.shape[-2]} of {self.valid.shape[1]} keys, so that none can be "
                    "shared between both passes.",
                    "Use task.cache=off.",
                )
            if self.start:
                shared.update(layer.keys[:, :, : self.start], layer.values[:, :, : self.start], number)
        return shared

    def _mask(self, kept: int, dtype: torch.dtype) -> Tensor:
        """Return the additive mask ``(b, 1, kept, s)`` of the last rows: no padding, nothing that comes later."""
        total, device = self.valid.shape[1], self.valid.device
        query = torch.arange(total - kept, total, device=device)[:, None]
        key = torch.arange(total, device=device)[None]
        # Padding sees itself: a row that sees nothing has no distribution over what it sees.
        allowed = (self.valid[:, None, :] & (key <= query)) | (key == query)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)
        return mask[:, None]


class UncachedPass:
    """The same by a second whole forward pass a step, nothing kept: what the exact way is measured against."""

    cached = False
    copies = 1

    def __init__(
        self, blocks: Sequence[nn.Module], layer: int, image_mask: Tensor, text_mask: Tensor, shift: Shift
    ) -> None:
        last = layer == len(blocks)
        self.place = Place(blocks[-1]) if last else Place(blocks[layer], input=True)
        self.image_mask, self.text_mask, self.shift = image_mask, text_mask, shift
        self._within = False
        self._pair: Any = None

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs as they are."""
        return dict(inputs)

    def logits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean and the shifted next-token logits ``(b, v)`` of the step."""
        return self._pair

    @contextmanager
    def attached(self, module: Any) -> Iterator[None]:
        """Within the context, each forward pass of the model is run again with its text tokens shifted."""
        handle = module.register_forward_hook(self._again, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _again(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._within:
            return
        self._within = True
        try:
            with edited(self.place, self._edit):
                other = module(*args, **kwargs)
        finally:
            self._within = False
        self._pair = output.logits[:, -1].float(), other.logits[:, -1].float()

    def _edit(self, hidden: Tensor) -> Tensor:
        more = hidden.shape[1] - self.text_mask.shape[1]
        image = nn.functional.pad(self.image_mask, (0, more), value=False)
        text = nn.functional.pad(self.text_mask, (0, more), value=True)
        states = hidden.float()
        return moved(hidden, text, self.shift(masked_mean(states, image), masked_mean(states, text)))


def second_pass(
    cache: str, blocks: Sequence[nn.Module], layer: int, image_mask: Tensor, text_mask: Tensor, shift: Shift
) -> ShiftedPass | UncachedPass:
    """Return the shifted pass as ``cache`` says: ``exact``, ``off`` or ``frozen_delta``.

    Raises ``ValueError`` for a layer that the model has not got and for prompts without image or text tokens.
    """
    if not 0 <= layer <= len(blocks):
        raise UserError(f"Layer {layer} is asked for; the model has {len(blocks)}.", f"Use 0…{len(blocks)}.")
    for name, mask in (("image", image_mask), ("text", text_mask)):
        if not mask.any(dim=1).all():
            raise UserError(f"A prompt has no {name} token, so that nothing can be shifted.", "Check the prompts.")
    if cache == "off":
        return UncachedPass(blocks, layer, image_mask, text_mask, shift)
    return ShiftedPass(blocks, layer, image_mask, text_mask, shift, cache == "frozen_delta")


@contextmanager
def _last_row_alone(block: nn.Module, rows: int) -> Iterator[None]:
    """Within the context a block makes keys and values of all ``rows``, and everything else of the last row alone.

    Behind the last block no other row is read. The others gain the last row's outputs in place of their own.
    """
    attention, mlp = (_child(block, names) for names in PARTS.values())
    query, output = (_child(attention, names) for names in _MAPS)
    with ExitStack() as stack:
        for part in (query, output, mlp):
            if part is not None:
                stack.callback(part.register_forward_pre_hook(_of_last_row).remove)
        if query is not None:
            # An attention shapes its queries as its keys are shaped: the last row's stands for all.
            spread = query.register_forward_hook(lambda part, args, found: found.expand(-1, rows, -1))
            stack.callback(spread.remove)
        yield


def _of_last_row(part: nn.Module, args: tuple[Any, ...]) -> Any:
    return (args[0][:, -1:], *args[1:]) if args else None


def _child(module: nn.Module | None, names: Sequence[str]) -> nn.Module | None:
    children = {} if module is None else dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _check_attention(module: Any) -> None:
    found = getattr(module.config.get_text_config(), "_attn_implementation", None)
    if found is not None and found not in _ATTENTIONS:
        raise UserError(
            f"The model computes attention by {found}, which takes no mask of one's own.", "Use task.cache=off."
        )


def _rows_from(value: Any, axis: int, start: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_rows_from(one, axis, start) for one in value)
    return value.narrow(axis, start, value.shape[axis] - start)


def _last_rows(value: Any, axis: int, count: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_last_rows(one, axis, count) for one in value)
    return value.narrow(axis, value.shape[axis] - count, count)


def _cat(first: Any, second: Any, axis: int) -> Any:
    if isinstance(first, tuple):
        return tuple(_cat(one, other, axis) for one, other in zip(first, second))
    return torch.cat([first, second], dim=axis)

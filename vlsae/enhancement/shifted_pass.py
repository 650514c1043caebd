"""The second pass of VL-SAE: the same prefix with its text tokens shifted at the input of a layer.

Layers below are untouched by the shift and run once. Tokens before the first shifted one are untouched in the layers
above too, so both passes share their keys and values; only the rows from there on are computed again, since the shift
follows the mean of the growing text. Of the last block's rows only the last is read, the others' keys and values apart.
Where the clean logits leave one token to choose, the second pass has no say and is not computed.
b sequences, s tokens so far, p of them from the first shifted one on, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlsae.enhancement.decoding import Open
from vlsae.enhancement.hallucination import masked_mean, moved
from vlsae.enhancement.last_row import last_row_alone
from vlsae.enhancement.uncached_pass import Shift, UncachedPass
from vlsae.errors import UserError

CACHES = ("exact", "off", "frozen_delta")

#: What a block's cache is called, by version of transformers.
_CACHE_NAMES = ("cache", "past_key_values", "past_key_value")

#: The arguments of a block that tell of positions, and the axis along which they do; prompts lie along the one before.
_POSITIONS = {"position_embeddings": -2, "position_ids": -1}

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
        self._raw: Any = None
        self._last: Any = None
        self._norm: nn.Module = nn.Identity()
        # Whether what the head says is what the model says: where the model changes it, it cannot be told beforehand
        # which prompts will be open.
        self._plain = False

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs as they are, their padding noted."""
        self.valid = inputs["attention_mask"].bool()
        return dict(inputs)

    def logits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean and the shifted next-token logits ``(b, v)``; where a prompt is not open, twice clean."""
        return self._pair

    @contextmanager
    def attached(self, module: Any, is_open: Open) -> Iterator[None]:
        """Within the context, each forward pass of the model also gives the shifted pass's last row."""
        _check_attention(module)
        head = module.get_output_embeddings()
        if head is None:
            raise UserError(f"{type(module).__name__} names no output head.", "Use task.cache=off.")
        with ExitStack() as stack:
            for number in range(self.layer, len(self.blocks)):
                handle = self.blocks[number].register_forward_pre_hook(self._before(number), with_kwargs=True)
                stack.callback(handle.remove)
            stack.callback(self.blocks[-1].register_forward_hook(self._behind).remove)
            for part in _beside(module, self.blocks):
                stack.callback(part.register_forward_hook(self._normed_by).remove)
            stack.callback(head.register_forward_hook(self._at_head(is_open)).remove)
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

    def _behind(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._within:
            return
        self._last = self._normed = output[0] if isinstance(output, tuple) else output
        if self.layer == len(self.blocks):
            self._take(self._last)

    def _normed_by(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep what is applied to the last block's output."""
        if not self._within and args and args[0] is self._last:
            self._norm, self._normed = part, output

    def _at_head(self, is_open: Open) -> Any:
        def append(head: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            """Put the shifted pass's logits behind the clean ones: what follows works on each row alone."""
            if self._within:
                return None
            self._check_norm(args[0])
            self._raw = output[:, -1]
            some = is_open(self._raw.float()) if self._plain and not self.frozen else torch.ones_like(self.valid[:, 0])
            other = self._raw.clone()
            if some.any():
                self._within = True
                try:
                    other[some] = head(self._norm(self._shifted_row(some.nonzero()[:, 0])))[:, -1]
                finally:
                    self._within = False
            return torch.cat([output, other[:, None]], dim=1)

        return append

    def _check_norm(self, read: Tensor) -> None:
        if not torch.equal(read[:, -1], self._normed[:, -1]):
            raise UserError(
                "What the model makes of its last block's output before the head is no one module's work.",
                "Use task.cache=off.",
            )

    def _read(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._raw is None:
            raise UserError(f"The output head that {type(module).__name__} names is not used.", "Use task.cache=off.")
        self._pair = output.logits[:, -2].float(), output.logits[:, -1].float()
        self._plain = torch.equal(self._raw.float(), self._pair[0])

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
        for name, axis in _POSITIONS.items():
            value = now.get(name)
            if value is not None:
                found[name] = _rows_from(value, axis, self.start) if before is None else _cat(before[name], value, axis)
        return found

    def _shifted_row(self, some: Tensor) -> Tensor:
        """Return the last block's last row ``(m, 1, d)`` of the shifted pass for some prompts ``(m,)``."""
        text = self.text_mask[:, self.start :]
        if not self.frozen or self._prefix is None:
            self._shift = self.shift(self._mean_vision, masked_mean(self._states.float(), text))
        rows = moved(self._states[some], text[some], self._shift[some])
        if self.frozen and self._prefix is not None:
            rows = rows[:, -self._new :]
        kept = rows.shape[1]
        if self.layer < len(self.blocks):
            cache = self._shared(some) if not self.frozen or self._prefix is None else self._prefix
            mask = self._mask(some, kept, rows.dtype)
            for number in range(self.layer, len(self.blocks)):
                rows = self._through(number, rows, some, cache, mask)
            self._prefix = cache if self.frozen else None
        else:
            self._prefix = self.frozen or None
        return rows[:, -1:]

    def _through(self, number: int, rows: Tensor, some: Tensor, cache: Any, mask: Tensor) -> Tensor:
        kept = rows.shape[1]
        arguments = {name: value for name, value in self._seen[number].items() if name != "hidden_states"}
        for name, axis in _POSITIONS.items():
            if arguments.get(name) is not None:
                arguments[name] = _last_rows(_of_prompts(arguments[name], axis - 1, some), axis, kept)
        arguments["attention_mask"] = mask
        arguments |= {name: cache for name in _CACHE_NAMES if name in arguments}
        if arguments.get("cache_position") is not None:
            total = self.valid.shape[1]
            arguments["cache_position"] = torch.arange(total - kept, total, device=rows.device)
        block = self.blocks[number]
        with last_row_alone(block, kept) if number == len(self.blocks) - 1 else ExitStack():
            output = block(rows, **arguments)
        return output[0] if isinstance(output, tuple) else output

    def _shared(self, some: Tensor) -> Any:
        """Return a cache of some prompts' keys and values before the first shifted token, from the clean pass."""
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
                before = slice(None, self.start)
                shared.update(layer.keys[some, :, before], layer.values[some, :, before], number)
        return shared

    def _mask(self, some: Tensor, kept: int, dtype: torch.dtype) -> Tensor:
        """Return the additive mask ``(m, 1, kept, s)`` of some prompts' last rows: no padding, nothing later."""
        total, device = self.valid.shape[1], self.valid.device
        query = torch.arange(total - kept, total, device=device)[:, None]
        key = torch.arange(total, device=device)[None]
        # Padding sees itself: a row that sees nothing has no distribution over what it sees.
        allowed = (self.valid[some][:, None, :] & (key <= query)) | (key == query)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)
        return mask[:, None]


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


def _check_attention(module: Any) -> None:
    found = getattr(module.config.get_text_config(), "_attn_implementation", None)
    if found is not None and found not in _ATTENTIONS:
        raise UserError(
            f"The model computes attention by {found}, which takes no mask of one's own.", "Use task.cache=off."
        )


def _beside(module: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules that stand in the decoder beside the list of its blocks."""
    for parent in module.modules():
        children = list(parent.children())
        if any(isinstance(one, nn.ModuleList) and len(one) and one[-1] is blocks[-1] for one in children):
            return [one for one in children if not isinstance(one, nn.ModuleList)]
    return []


def _of_prompts(value: Any, axis: int, some: Tensor) -> Any:
    """Return some prompts' part of a value; one that stands for all has a single entry along ``axis``."""
    if isinstance(value, tuple):
        return tuple(_of_prompts(one, axis, some) for one in value)
    return value if value.shape[axis] == 1 else value.index_select(axis, some)


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

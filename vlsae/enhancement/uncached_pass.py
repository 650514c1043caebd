"""The second pass of VL-SAE by a whole forward pass of the model a step: what the cached one must equal.

b sequences, s tokens so far, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vlsae.enhancement.decoding import Open
from vlsae.enhancement.hallucination import masked_mean, moved
from vlsae.models.hooks import Place, edited

#: What the text tokens gain ``(b, d)``, given the means ``(b, d)`` of image and text tokens.
Shift = Callable[[Tensor, Tensor], Tensor]


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
    def attached(self, module: Any, is_open: Open) -> Iterator[None]:
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

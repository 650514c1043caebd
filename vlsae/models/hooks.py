"""Reading and editing hidden states at the original modules, by hooks alone.

Shapes: b batch, s sequence, d width. Hidden states are handed on as ``(b, s, d)`` whatever the module's own layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

#: What a place's path ends in where the module's input is meant, not its output.
INPUT = ":input"


class _Reached(Exception):
    """Raised at the last place that is read, so that nothing behind it runs."""


@dataclass(frozen=True)
class Place:
    """A module's output or first input; ``batch_first`` is false where the module works on ``(s, b, d)``."""

    module: nn.Module
    input: bool = False
    batch_first: bool = True


def place(model: nn.Module, path: str) -> Place:
    """Return the place that a path names: a module's output, or with ``:input`` its first input."""
    module = model.get_submodule(path.removesuffix(INPUT))
    parents = [model.get_submodule(path[:end]) for end in range(len(path)) if path[end] == "."]
    batch_first = next((p.batch_first for p in reversed(parents) if hasattr(p, "batch_first")), True)
    return Place(module, path.endswith(INPUT), bool(batch_first))


def read(
    places: Mapping[str, Place],
    consume: Callable[[str, Tensor], None],
    forward: Callable[[], Any],
    *,
    last: str | None = None,
) -> Any:
    """Run ``forward`` and hand each place's hidden states ``(b, s, d)`` on as soon as they are there.

    With ``last`` the forward pass ends when that place is reached, and None is returned; modules behind it do not run.
    """

    def receiver(name: str) -> Callable[[Tensor], None]:
        def receive(hidden: Tensor) -> None:
            consume(name, hidden)
            if name == last:
                raise _Reached

        return receive

    with ExitStack() as stack:
        for name, where in places.items():
            handle = _on(where, receiver(name))
            stack.callback(handle.remove)
        try:
            return forward()
        except _Reached:
            return None


@contextmanager
def edited(where: Place, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, replace hidden states ``(b, s, d)`` by ``function`` of them; the same tensor is no edit."""
    handle = _on(where, function)
    try:
        yield
    finally:
        handle.remove()


def _on(where: Place, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call the function at a place; what it returns, unless None or the same tensor, replaces the hidden states."""

    def applied(hidden: Tensor) -> Tensor | None:
        seen = hidden if where.batch_first else hidden.transpose(0, 1)
        new = function(seen)
        if new is None or new is seen:
            return None
        return new if where.batch_first else new.transpose(0, 1)

    if where.input:

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                new = applied(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = applied(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        return where.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        # A block of transformers and an attention layer return a tuple whose first entry is the hidden states.
        if isinstance(output, tuple):
            new = applied(output[0])
            return None if new is None else (new, *output[1:])
        return applied(output)

    return where.module.register_forward_hook(after)

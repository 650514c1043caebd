"""A block of a decoder that works out its last row alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from vlsae.models.blocks import PARTS

#: What the maps of an attention are called that make its queries, where they have one of their own, and its output.
_MAPS = (("q_proj",), ("o_proj", "out_proj", "dense"))


@contextmanager
def last_row_alone(block: nn.Module, rows: int) -> Iterator[None]:
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

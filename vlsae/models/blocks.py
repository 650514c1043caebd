"""Where the blocks of a language model of transformers are, found by its structure.

Whatever the family calls them (``transformer.h``, ``model.layers``, ``gpt_neox.layers`` …), the blocks are the
shallowest list of modules that has as many entries as the configuration has layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from vlsae.errors import UserError
from vlsae.models.base import Site
from vlsae.models.hooks import INPUT

#: What the parts of a block are called.
PARTS = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
}


def block_path(model: nn.Module, layers: int) -> str:
    """Return the path of the list of a model's blocks; ``UserError`` where it has none."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    fitting = [name for name in lists if len(_list(model, name)) == layers]
    if not fitting:
        raise UserError(
            f"{type(model).__name__} has no list of {layers} blocks, so its layers cannot be found.",
            "Use a model whose blocks are a list of modules, one a layer.",
        )
    return min(fitting, key=lambda name: name.count("."))


def language_sites(model: Any, stream: str = "language", decoder: str = "") -> Iterator[tuple[str, Site]]:
    """Yield the sites of a model of transformers in the order in which a forward pass reaches them.

    The ``embedding`` is what the output head reads: the last block's output after the final norm. ``decoder`` is the
    path of the module within which the blocks are looked for.
    """
    config = model.config.get_text_config()
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    path = block_path(model.get_submodule(decoder), layers)
    path = f"{decoder}.{path}" if decoder else path
    yield f"{stream}.0", Site(width, f"{path}.0{INPUT}")
    for number, block in enumerate(_list(model, path)):
        children = dict(block.named_children())
        for part, names in PARTS.items():
            name = next((name for name in names if name in children), None)
            if name is not None:
                yield f"{stream}.{number + 1}.{part}", Site(width, f"{path}.{number}.{name}")
        yield f"{stream}.{number + 1}", Site(width, f"{path}.{number}")
    yield f"{stream}.embedding", Site(width, str(model.base_model_prefix), tokens=True)


def _list(model: nn.Module, path: str) -> nn.ModuleList:
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)
    return found

"""What codes of learned concepts are compared with: codes that know nothing of what a dictionary learned.

n rows, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.enhancement.zero_shot import Coder

#: Controls that need nothing but the dictionary's size; VL-SAE, section on zero-shot, and the project's own.
PLAIN = ("random_encoder", "random_support", "dense", "lsh")


def sparse_codes(dictionary: Dictionary) -> Coder:
    """Return the coder of a dictionary's own codes."""
    return torch.no_grad()(lambda x, stream: dictionary.encode(x, stream).to_dense())


def coder_of(name: str, dictionary: Dictionary, rivals: Mapping[str, Dictionary], seed: int) -> Coder:
    """Return the coder of a control.

    ``random_encoder``: an untrained VL-SAE of the dictionary's size; ``random_support``: k random concepts a row with
    the activations that the dictionary gives them; ``dense``: all activations, none left out; ``lsh``: signs of h
    random projections; any other name: the codes of the rival of that name, trained alike.
    """
    if name == "random_encoder":
        return sparse_codes(untrained(dictionary, seed))
    if name == "random_support":
        return _random_support(dictionary, seed)
    if name == "dense":
        return torch.no_grad()(dictionary.activations)
    if name == "lsh":
        return _signs(dictionary, seed)
    return sparse_codes(rivals[name])


def untrained(dictionary: Dictionary, seed: int) -> Dictionary:
    """Return a VL-SAE of a dictionary's size as it was drawn."""
    from vlsae.dictionaries.vl_sae import VLSAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VLSAE(dictionary.width, dictionary.n_concepts, dictionary.k).eval()


def _random_support(dictionary: Dictionary, seed: int) -> Coder:
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def code(x: Tensor, stream: str) -> Tensor:
        active = dictionary.activations(x, stream)
        chosen = torch.rand(active.shape, generator=generator).topk(dictionary.k, dim=1).indices.to(active.device)
        return torch.zeros_like(active).scatter(1, chosen, active.gather(1, chosen))

    return code


def _signs(dictionary: Dictionary, seed: int) -> Coder:
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(dictionary.width, dictionary.n_concepts, generator=generator)
    return lambda x, stream: torch.sign(x.to(planes.dtype).cpu() @ planes)

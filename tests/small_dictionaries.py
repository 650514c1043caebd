"""Small dictionaries in float64, away from their starting point, for tests."""

from __future__ import annotations

import torch

D, H, K, N = 6, 16, 3, 10
BOTH = ("vision", "language")


def make(cls, batch=None, **options):
    """Return a dictionary that has measured a batch, its parameters moved a little."""
    torch.manual_seed(0)
    dictionary = cls(D, H, K, **options).double()
    if batch is not None:
        dictionary.initialize(batch)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dictionary

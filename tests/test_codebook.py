"""Snapping to a codebook, beyond the golden numbers."""

from __future__ import annotations

import pytest
import torch

from vlsae.dictionaries import codebook_snap


def test_scale_leaves_the_choice():
    generator = torch.Generator().manual_seed(0)
    x, codebook = torch.randn(30, 6, generator=generator), torch.randn(20, 6, generator=generator)
    indices = codebook_snap(x, codebook, 4)[1]
    scaled = codebook.clone()
    scaled[3] *= 10
    assert torch.equal(codebook_snap(7.3 * x, codebook, 4)[1], indices)
    assert torch.equal(codebook_snap(x, scaled, 4)[1], indices)


def test_every_code_can_be_taken_in_order():
    codebook = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    output, indices = codebook_snap(codebook[:1], codebook, 5, metric="l2")
    assert indices[0, 0] == 0
    assert sorted(indices[0].tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(output[0], codebook.mean(dim=0))


def test_wrong_input_is_named():
    x, codebook = torch.ones(2, 3), torch.ones(4, 3)
    for arguments, message in (
        ({"k": 5}, "k must lie in 1…4"),
        ({"k": 0}, "k must"),
        ({"k": 4, "disabled": [1]}, "k must lie in 1…3"),
        ({"k": 1, "disabled": [4]}, "disabled"),
        ({"k": 1, "metric": "dot"}, "metric"),
        ({"k": 1, "gradient": "none"}, "gradient"),
        ({"k": 1, "beta": float("nan")}, "beta must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            codebook_snap(x, codebook, **arguments)
    with pytest.raises(ValueError, match="codebook"):
        codebook_snap(torch.ones(2, 4), codebook, 1)
    with pytest.raises(ValueError, match="not finite in x, row 0"):
        codebook_snap(torch.tensor([[float("nan"), 0, 0]]), codebook, 1)
    with pytest.raises(ValueError, match=r"x must be a floating-point tensor; got torch\.int64"):
        codebook_snap(torch.ones(2, 3, dtype=torch.int64), codebook, 1)

"""Intra- and Inter-Sim, beyond the golden numbers."""

from __future__ import annotations

import pytest
import torch

from vlsae.dictionaries import intra_inter_similarity


def test_shuffled_texts_average_to_inter():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(9, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    shifted = [intra_inter_similarity(images, texts.roll(shift, 0)).intra for shift in range(1, 9)]
    assert sum(shifted) / 8 == pytest.approx(intra_inter_similarity(images, texts).inter, abs=1e-7)


def test_one_concept_has_no_other():
    result = intra_inter_similarity(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    assert result.intra == pytest.approx(1)
    assert result.inter != result.inter


def test_the_sides_may_hold_different_numbers_of_items():
    result = intra_inter_similarity(torch.ones(2, 2, 3), torch.ones(2, 5, 3))
    assert result.similarity.shape == (2, 2)


def test_wrong_input_is_named():
    features = torch.ones(2, 2, 3)
    with pytest.raises(ValueError, match="mode"):
        intra_inter_similarity(features, features, mode="authors")
    with pytest.raises(ValueError, match="agree"):
        intra_inter_similarity(features, torch.ones(3, 2, 3))
    with pytest.raises(ValueError, match="images"):
        intra_inter_similarity(features[0], features)
    with pytest.raises(ValueError, match="not finite in texts, row 1"):
        intra_inter_similarity(features, features.index_fill(0, torch.tensor([1]), float("nan")))

"""The TopK autoencoder: its constraint, its start and its auxiliary loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlsae.dictionaries import TopK
from vlsae.dictionaries.centered import geometric_median
from vlsae.training import build_optimizer, train_step


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {stream: torch.randn(20, 12, generator=generator) for stream in ("vision", "language")}


def test_columns_stay_at_length_one(batch):
    dictionary = TopK(12, 48, 5)
    assert torch.equal(dictionary.encoder.weight, dictionary.decoder.weight.T)
    optimizer = build_optimizer(dictionary, 1e-2)
    for step in range(5):
        train_step(dictionary, batch, optimizer, step)
        torch.testing.assert_close(dictionary.decoder.weight.norm(dim=0), torch.ones(48))


def test_the_decoder_gradient_is_orthogonal_to_its_columns(batch):
    dictionary = TopK(12, 48, 5)
    dictionary.loss(batch).total.backward()
    along = (dictionary.decoder.weight.grad * dictionary.decoder.weight).sum(dim=0)
    assert along.abs().max() < 1e-6
    assert dictionary.decoder.weight.grad.abs().max() > 1e-4


def test_the_bias_starts_at_the_centre(batch):
    rows = torch.cat(list(batch.values())) + 3
    for center, expected in (("mean", rows.mean(dim=0)), ("median", geometric_median(rows))):
        dictionary = TopK(12, 48, 5, center=center)
        dictionary.initialize({stream: x + 3 for stream, x in batch.items()})
        torch.testing.assert_close(dictionary.decoder.bias.detach(), expected)


def test_the_geometric_median_resists_an_outlier():
    rows = torch.randn(101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[0] = 1e4
    center = geometric_median(rows)
    # At the minimum the unit vectors from it to the rows cancel.
    assert F.normalize(rows - center, dim=1).sum(dim=0).norm() < 1e-3
    assert center.norm() < 0.5


def test_dead_concepts_learn_from_the_residual(batch):
    dictionary = TopK(12, 48, 5, dead_after=60)
    with torch.no_grad():
        dictionary.encoder.bias[10:] = -2
    optimizer = build_optimizer(dictionary, 0.0)
    parts = [train_step(dictionary, batch, optimizer, step).parts["loss/auxiliary"].item() for step in range(3)]
    assert parts[:2] == [0, 0]
    dead = dictionary.silent_for >= 60
    assert 0 < dead.sum() < 48
    with torch.no_grad():
        dictionary.encoder.bias[10:] = 0
    dictionary.encoder.bias.grad = None
    loss = dictionary.loss(batch)
    assert loss.parts["loss/auxiliary"] > 0
    loss.parts["loss/auxiliary"].backward()
    assert (dictionary.encoder.bias.grad[~dead] == 0).all()
    assert dictionary.encoder.bias.grad[dead].abs().sum() > 0


def test_the_auxiliary_loss_by_hand(batch):
    dictionary = TopK(12, 48, 5, dead_after=1)
    dictionary.silent_for[:3] = 1
    part = dictionary.loss(batch).parts["loss/auxiliary"]
    expected, residual = 0.0, 0.0
    for stream, x in batch.items():
        e = x - dictionary.decode(dictionary.encode(x, stream), stream)
        code = dictionary.activations(x, stream)[:, :3]
        expected += (e - code @ dictionary.decoder.weight[:, :3].T).square().sum()
        residual += e.square().sum()
    torch.testing.assert_close(part, expected / residual / 32)


def test_validation_counts_nothing(batch):
    dictionary = TopK(12, 48, 5).eval()
    dictionary.loss(batch)
    dictionary.after_step(0)
    assert (dictionary.silent_for == 0).all()

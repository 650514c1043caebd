"""The TopK autoencoder: its constraint, its start and its auxiliary loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vlsae.dictionaries import TopK, kernels
from vlsae.dictionaries.centered import geometric_median
from vlsae.dictionaries.row_share import evenly_spaced
from vlsae.errors import UserError
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


def with_three_dead(share: float = 1.0, **options: int) -> TopK:
    torch.manual_seed(0)
    dictionary = TopK(12, 48, 5, dead_after=1, auxiliary_rows=share, **options)
    dictionary.silent_for[:3] = 1
    return dictionary


def on_every_row(batch, dictionary: TopK, most: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each stream, by rows: the residual's square, and the square of what the dead concepts leave of it."""
    found = []
    for stream, x in batch.items():
        e = x - dictionary.decode(dictionary.encode(x, stream), stream)
        code = dictionary.activations(x, stream)[:, :3]
        code = code * (code >= code.sort(dim=1, descending=True).values[:, most - 1 : most])
        columns = dictionary.decoder.weight[:, :3].T
        found.append((e.square().sum(dim=1), (e.detach() - code @ columns).square().sum(dim=1)))
    return found


@pytest.mark.parametrize("most", [3, 1])
@pytest.mark.parametrize("sparse", [True, False])
def test_the_auxiliary_loss_by_hand(batch, sparse, most, monkeypatch):
    monkeypatch.setattr(kernels, "SPARSE_SHARE", kernels.SPARSE_SHARE if sparse else 0.0)
    dictionary = with_three_dead(auxiliary_k=most)
    part = dictionary.loss(batch).parts["loss/auxiliary"]
    parts = on_every_row(batch, dictionary, most)
    residual, expected = sum(whole.sum() for whole, _ in parts), sum(own.sum() for _, own in parts)
    torch.testing.assert_close(part, expected / residual / 32)


@pytest.mark.parametrize("sparse", [True, False])
def test_half_of_the_rows_stand_for_all(batch, sparse, monkeypatch):
    monkeypatch.setattr(kernels, "SPARSE_SHARE", kernels.SPARSE_SHARE if sparse else 0.0)
    dictionary = with_three_dead(0.5)
    parts = on_every_row(batch, dictionary)
    residual = sum(whole.sum() for whole, _ in parts)
    for step in range(3):
        # Every second row of each stream, at each step those that were left out at the step before.
        taken = sum(own[(step + 1) % 2 :: 2].sum() for _, own in parts)
        part = dictionary.loss(batch, step).parts["loss/auxiliary"]
        torch.testing.assert_close(part, 2 * taken / residual / 32)
        # The gradient too is that of the rows that were taken, twice.
        own = torch.autograd.grad(part, [dictionary.encoder.weight, dictionary.encoder.bias])
        other = torch.autograd.grad(
            2 * taken / residual.detach() / 32, [dictionary.encoder.weight, dictionary.encoder.bias], retain_graph=True
        )
        for got, wanted in zip(own, other):
            assert got[:3].abs().sum() > 0
            torch.testing.assert_close(got, wanted)


def test_losses_of_shares_of_rows_average_to_that_of_all(batch):
    whole = with_three_dead().loss(batch).parts["loss/auxiliary"]
    for share, steps in ((0.5, 2), (0.25, 4), (0.4, 5)):
        dictionary = with_three_dead(share)
        parts = [dictionary.loss(batch, step).parts["loss/auxiliary"] for step in range(steps)]
        assert max(parts) - min(parts) > 1e-4 * whole
        torch.testing.assert_close(torch.stack(parts).mean(), whole)
        # Validation takes every row.
        torch.testing.assert_close(dictionary.eval().loss(batch, 1).parts["loss/auxiliary"], whole)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=2), st.floats(0.01, 1), st.integers(0, 10**6))
def test_rows_that_stand_for_all_are_evenly_spaced(sizes, share, step):
    taken = evenly_spaced(sizes, share, step)
    if taken is None:
        assert share == 1
        return
    for first, size in zip([0, sizes[0]], sizes):
        own = taken[(taken >= first) & (taken < first + size)]
        assert abs(len(own) - share * size) < 1 + 1e-6
        gaps = own.diff()
        assert ((gaps >= int(1 / share)) & (gaps <= int(1 / share) + 1)).all() or not len(gaps)
    assert (taken.diff() > 0).all()


def test_every_row_by_default_and_never_none():
    assert evenly_spaced([4, 3], TopK(12, 48, 5).auxiliary_rows) is None
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="auxiliary_rows"):
            TopK(12, 48, 5, auxiliary_rows=share)


def test_validation_counts_nothing(batch):
    dictionary = TopK(12, 48, 5).eval()
    dictionary.loss(batch)
    dictionary.after_step(0)
    assert (dictionary.silent_for == 0).all()

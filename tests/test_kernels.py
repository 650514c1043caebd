"""Products with active concepts alone equal the dense ones they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.dictionaries import SAES, VLSAE, TopK, kernels
from vlsae.dictionaries.scratch import Scratch
from vlsae.dictionaries.selection import BLOCK, BLOCKS_PER_KEPT, largest_columns, largest_only, top_k
from vlsae.training import build_optimizer, train_step

N, D, H, K = 7, 5, 12, 3


def example(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(H, D, dtype=torch.float64, generator=generator, requires_grad=True)
    values = torch.randn(N, K, dtype=torch.float64, generator=generator, requires_grad=True)
    indices = torch.stack([torch.randperm(H, generator=generator)[:K] for _ in range(N)])
    return rows, weight, values, indices


def dense(indices, values):
    return values.new_zeros(N, H).scatter(1, indices, values)


def test_the_three_products():
    rows, weight, values, indices = example()
    support = kernels.Support(indices, H)
    torch.testing.assert_close(kernels.weighted_sums(support, values, weight), dense(indices, values) @ weight)
    torch.testing.assert_close(kernels.transposed_sums(support, values, rows), dense(indices, values).T @ rows)
    torch.testing.assert_close(kernels.entries(support, rows, weight), (rows @ weight.T).gather(1, indices))
    torch.testing.assert_close(kernels.concept_sums(support, values), dense(indices, values).sum(dim=0))


def test_concepts_active_nowhere_get_zero():
    rows, _, values, _ = example()
    support = kernels.Support(torch.arange(K).repeat(N, 1), H)
    sums = kernels.transposed_sums(support, values, rows)
    assert (sums[K:] == 0).all()
    assert (sums[:K] != 0).all()


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors)


def test_a_selected_product_has_the_gradients_of_the_whole_one():
    rows, weight, values, indices = example()
    bias = torch.randn(H, dtype=torch.float64, requires_grad=True)
    center = torch.randn(D, dtype=torch.float64, requires_grad=True)
    known = ((rows - center) @ weight.T + bias).gather(1, indices)
    less = rows - center.detach()
    own, _ = kernels.SelectedProduct.apply(kernels.Support(indices, H), less, weight, bias, center, known.detach())
    for got, wanted in zip(
        gradients((own * values.detach()).sum(), (rows, weight, bias, center)),
        gradients((known * values.detach()).sum(), (rows, weight, bias, center)),
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("on_rows", [None, torch.tensor([0, 2, 5])])
def test_a_block_of_concepts_and_rows_has_the_gradients_of_dense_products(on_rows):
    rows, weight, values, indices = example()
    bias = torch.randn(H, dtype=torch.float64, requires_grad=True)
    center = torch.randn(D, dtype=torch.float64, requires_grad=True)
    whole, support = torch.tensor([1, 4, 9]), kernels.Support(indices, H)
    block = kernels.Block(whole, on_rows)
    scores = (rows - center) @ weight.T + bias
    less, chosen = rows - center.detach(), scores.detach().gather(1, indices)
    product, of_block = kernels.SelectedProduct.apply(
        support, less, weight, bias, center, chosen, block, block.of_scores(scores.detach())
    )
    wanted_block = scores[:, whole] if on_rows is None else scores[on_rows][:, whole]
    torch.testing.assert_close(of_block, wanted_block)
    sums, columns = kernels.SparseDecoding.apply(support, values, weight, False, block)
    torch.testing.assert_close(columns, weight[whole])
    own = (product.square().sum() + (of_block @ columns).square().sum(), sums.square().sum() + (columns**3).sum())
    other = (
        scores.gather(1, indices).square().sum() + (wanted_block @ weight[whole]).square().sum(),
        (dense(indices, values) @ weight).square().sum() + (weight[whole] ** 3).sum(),
    )
    for got, wanted in zip(
        gradients(sum(own), (rows, weight, bias, center, values)),
        gradients(sum(other), (rows, weight, bias, center, values)),
    ):
        torch.testing.assert_close(got, wanted)


def test_the_squared_error_has_the_gradients_of_its_definition():
    rows, weight, _, _ = example()
    code = torch.randn(N, H, dtype=torch.float64, requires_grad=True)
    own = kernels.SquaredError.apply(rows.detach(), code, weight)
    other = (rows.detach() - code @ weight).square().sum()
    torch.testing.assert_close(own, other)
    for got, wanted in zip(gradients(3 * own, (code, weight)), gradients(3 * other, (code, weight))):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("unit", [False, True])
def test_rows_given_beside_a_decoding_keep_their_length_where_it_does(unit):
    _, weight, values, indices = example()
    weight = F.normalize(weight.detach(), dim=1).requires_grad_()
    whole = torch.tensor([0, 5])
    block = kernels.Block(whole)
    sums, columns = kernels.SparseDecoding.apply(kernels.Support(indices, H), values.detach(), weight, unit, block)
    (own,) = gradients((columns**3).sum() + 0 * sums.sum(), (weight,))
    kept = F.normalize(weight, dim=1) if unit else weight
    (other,) = gradients((kept[whole] ** 3).sum(), (weight,))
    torch.testing.assert_close(own, other)


def test_a_selected_cosine_has_the_gradients_of_the_whole_one():
    rows, weight, values, indices = example()
    unit_rows = F.normalize(rows, dim=1).detach().requires_grad_()
    known = (unit_rows @ F.normalize(weight, dim=1).T).gather(1, indices)
    norms = weight.detach().norm(dim=1)
    own = kernels.SelectedCosine.apply(kernels.Support(indices, H), unit_rows, weight, norms, known.detach())
    for got, wanted in zip(
        gradients((own * values.detach()).sum(), (unit_rows, weight)),
        gradients((known * values.detach()).sum(), (unit_rows, weight)),
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("unit", [False, True])
def test_sparse_decoding_has_the_gradients_of_the_dense_one(unit):
    _, weight, values, indices = example()
    weight = F.normalize(weight.detach(), dim=1).requires_grad_()
    target = torch.randn(N, D, dtype=torch.float64)
    own, _ = kernels.SparseDecoding.apply(kernels.Support(indices, H), values, weight, unit)
    kept = F.normalize(weight, dim=1) if unit else weight
    other = dense(indices, values) @ kept
    torch.testing.assert_close(own, other)
    for got, wanted in zip(
        gradients((own - target).square().sum(), (values, weight)),
        gradients((other - target).square().sum(), (values, weight)),
    ):
        torch.testing.assert_close(got, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 8), st.booleans(), st.booleans())
def test_blocks_choose_what_sorting_chooses(seed, k, blocks, ties, silent):
    generator = torch.Generator().manual_seed(seed)
    h = BLOCK * BLOCKS_PER_KEPT * blocks
    scores = torch.randn(4, h, generator=generator)
    if ties:
        scores = (scores * 2).round()
    if silent:
        scores = scores.sub(2).relu()
    wanted = scores.sort(dim=1, descending=True, stable=True).indices[:, : min(k, h)]
    assert torch.equal(top_k(scores, min(k, h)), wanted)
    assert torch.equal(largest_columns(scores, min(k, h)), wanted.sort(dim=1).values)


def test_a_choice_among_values_that_are_no_numbers_still_has_k_columns():
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    scores[1, 5:] = float("nan")
    scores[2, 7] = float("-inf")
    columns = largest_columns(scores, 4)
    assert columns.shape == (3, 4)
    assert all(len(set(row.tolist())) == 4 for row in columns)
    assert columns[2].tolist() == scores[2].topk(4).indices.sort().values.tolist()
    assert largest_columns(scores[:0], 4).shape == (0, 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.booleans(), st.floats(-2, 2))
def test_all_but_the_largest_are_silenced_as_sorting_silences_them(seed, k, ties, shift):
    values = torch.randn(6, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = values.add(shift)
    values = (values * 2).round() if ties else values
    values = values.relu().requires_grad_()
    columns = values.detach().sort(dim=1, descending=True, stable=True).indices[:, :k]
    wanted = torch.zeros_like(values).scatter(1, columns, values.gather(1, columns))
    kept = largest_only(values, k)
    assert torch.equal(kept, wanted)
    weights = torch.arange(24.0, dtype=torch.float64)
    (own,), (other,) = (torch.autograd.grad((one * weights).sum(), values) for one in (kept, wanted))
    # Where the value is zero a gradient ends at the ReLU.
    assert torch.equal(own[values > 0], other[values > 0])


def test_scratch_memory_is_kept_while_it_fits_and_given_back_after_training():
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch.of(5, 3, like)
    assert first.shape == (5, 3)
    assert scratch.of(4, 3, like).data_ptr() == first.data_ptr()
    assert scratch.of(6, 3, like).shape == (6, 3)
    assert scratch.of(5, 2, like).shape == (5, 2)
    assert scratch.of(5, 2, like.double()).dtype == torch.float64
    dictionary = TopK(8, 64, 4)
    dictionary.loss({"vision": torch.randn(20, 8)})
    assert dictionary.scratch._kept is not None
    assert copy.deepcopy(dictionary).scratch._kept is None
    dictionary.eval()
    assert dictionary.scratch._kept is None


@pytest.mark.parametrize("kind", [VLSAE, TopK, SAES])
def test_a_second_loss_does_not_disturb_the_gradient_of_the_first(kind):
    torch.manual_seed(0)
    dictionary = kind(8, 64, 4)
    first, second = ({"vision": torch.randn(10, 8), "language": torch.randn(10, 8)} for _ in range(2))
    wanted = torch.autograd.grad(dictionary.loss(first).total, list(dictionary.parameters()))
    loss = dictionary.loss(first).total
    dictionary.loss(second)
    for own, other in zip(torch.autograd.grad(loss, list(dictionary.parameters())), wanted):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def on_some_rows(width: int, n_concepts: int, k: int) -> TopK:
    """The same, whose dead concepts learn from a third of the rows."""
    return with_dead(width, n_concepts, k, 0.3)


def with_dead(width: int, n_concepts: int, k: int, share: float = 1.0) -> TopK:
    """A dictionary whose first concepts are dead, so that its auxiliary loss has work from the first step.

    In double precision: whether one of them fires is a yes or no, which rounding decides sooner or later.
    """
    dictionary = TopK(width, n_concepts, k, dead_after=1280, auxiliary_weight=0.25, auxiliary_rows=share)
    with torch.no_grad():
        dictionary.encoder.bias[:24] = -20.0
        dictionary.encoder.bias[24:40] = -0.5
    dictionary.silent_for[:40] = 10**6
    return dictionary.double()


@pytest.mark.parametrize("kind", [VLSAE, TopK, SAES, with_dead, on_some_rows])
def test_a_training_by_active_concepts_follows_the_dense_one(kind, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(40, 32, generator=generator)
    numbers = torch.randint(40, (200, 2, 64), generator=generator)
    batches = (centres[numbers] + 0.3 * torch.randn(200, 2, 64, 32, generator=generator)).unbind()
    dying = kind in (with_dead, on_some_rows)
    batches = [batch.double() for batch in batches] if dying else batches
    losses = {}
    for name, share in (("sparse", kernels.SPARSE_SHARE), ("dense", 0.0)):
        monkeypatch.setattr(kernels, "SPARSE_SHARE", share)
        torch.manual_seed(0)
        dictionary = kind(32, 256, 8)
        optimizer = build_optimizer(dictionary, 1e-3)
        losses[name] = torch.stack(
            [
                train_step(dictionary, {"vision": batch[0], "language": batch[1]}, optimizer, step).total
                for step, batch in enumerate(batches)
            ]
        )
        dead = getattr(dictionary, "silent_for", torch.zeros(1)) >= getattr(dictionary, "dead_after", 1)
        assert dead.any() == dying
    assert losses["dense"][-1] < 0.8 * losses["dense"][0]
    torch.testing.assert_close(losses["sparse"], losses["dense"], rtol=1e-4, atol=0)


def test_half_precision_and_large_shares_stay_dense():
    weight = torch.zeros(64, 4)
    assert kernels.pays(64, 4, weight)
    assert not kernels.pays(64, 32, weight)
    assert not kernels.pays(64, 4, weight.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not kernels.pays(64, 4, weight)

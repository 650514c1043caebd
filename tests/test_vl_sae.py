"""VL-SAE: selection, invariances, gradients and options, beyond the golden numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlsae.dictionaries import VLSAE, SparseCode
from vlsae.training import build_optimizer, train_step
from vlsae.training.rows import InvalidRows


@pytest.fixture
def generator() -> torch.Generator:
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


def rows(n: int, width: int, generator: torch.Generator, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(n, width, generator=generator, dtype=dtype)


def dictionary_with(directions: torch.Tensor, k: int, **options) -> VLSAE:
    h, d = directions.shape
    dictionary = VLSAE(d, h, k, **options).to(directions.dtype)
    with torch.no_grad():
        dictionary.encoder.copy_(directions)
    return dictionary


def test_defaults_are_eight_times_the_width_and_a_sixteenth_of_the_concepts():
    dictionary = VLSAE(32)
    assert (dictionary.width, dictionary.n_concepts, dictionary.k) == (32, 256, 16)
    assert (VLSAE(4, 8).k, VLSAE(8, expansion=4).n_concepts) == (1, 32)


@pytest.mark.parametrize(("d", "h", "parameters"), [(512, 4096, 6_292_480), (768, 6144, 14_157_312)])
def test_parameter_count(d, h, parameters):
    assert sum(p.numel() for p in VLSAE(d, h, 256).parameters()) == parameters


@pytest.mark.parametrize("k", [1, 8, 127, 128])
def test_exactly_k_concepts_for_random_rows(k, generator):
    code = VLSAE(16, 128, k).encode(rows(50, 16, generator), "vision")
    assert code.offsets.diff().tolist() == [k] * 50
    assert (code.values > 0).all()
    assert all(len(set(own.tolist())) == k for own in code.indices.reshape(50, k))


def test_ties_go_to_the_lowest_concepts(generator):
    directions = rows(128, 16, generator)
    directions[40:60] = directions[40]
    code = dictionary_with(directions, 8).encode(directions[40:41], "language")
    assert code.indices.tolist() == list(range(40, 48))


def test_ties_that_begin_inside_the_selection(generator):
    directions = F.normalize(rows(128, 16, generator), dim=1)
    x = directions[100:101]
    directions[60:80] = F.normalize(x + 0.1 * directions[0], dim=1)
    code = dictionary_with(directions, 8).encode(x, "vision")
    assert code.indices.tolist() == [*range(60, 67), 100]


def test_reference_mode_loses_every_tied_concept(generator):
    directions = rows(128, 16, generator)
    directions[40:60] = directions[40]
    dictionary = dictionary_with(directions, 8, topk_mode="reference")
    code = dictionary.encode(directions[40:41], "vision")
    assert code.offsets.tolist() == [0, 0]
    code = dictionary.encode(rows(30, 16, generator), "vision")
    assert (code.offsets.diff() <= 8).all()
    assert code.offsets[-1] > 0


def test_reference_mode_equals_exact_mode_without_ties(generator):
    directions, x = rows(64, 16, generator), rows(20, 16, generator)
    exact, reference = (dictionary_with(directions, 4, topk_mode=mode) for mode in ("exact", "reference"))
    assert torch.equal(exact.encode(x, "vision").to_dense(), reference.encode(x, "vision").to_dense())


def test_reference_mode_refuses_all_concepts():
    with pytest.raises(ValueError, match="less than n_concepts"):
        VLSAE(16, 128, 128, topk_mode="reference")


def test_permuted_neurons_permute_codes(generator):
    directions, x = rows(64, 16, generator), rows(20, 16, generator)
    order = torch.randperm(64, generator=generator)
    codes = dictionary_with(directions, 5).encode(x, "vision").to_dense()
    permuted = dictionary_with(directions[order], 5).encode(x, "vision").to_dense()
    torch.testing.assert_close(permuted, codes[:, order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_scale_of_rows_and_of_concepts_does_not_matter(factor, generator):
    directions, x = rows(64, 16, generator), rows(20, 16, generator)
    code = dictionary_with(directions, 5).encode(x, "vision").to_dense()
    scaled = dictionary_with(directions, 5).encode(factor * x, "vision").to_dense()
    torch.testing.assert_close(scaled, code, atol=1e-6, rtol=0)
    rescaled = dictionary_with(directions * torch.rand(64, 1, generator=generator).add(0.1), 5)
    torch.testing.assert_close(rescaled.encode(x, "vision").to_dense(), code, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("cosine", "activation"), [(1.0, 2.0), (0.5, 1.0), (0.0, 0.585786), (-1.0, 0.0)])
def test_activation_by_cosine(cosine, activation):
    x = torch.tensor([[cosine, (1 - cosine**2) ** 0.5]])
    own = dictionary_with(torch.tensor([[1.0, 0.0]]), 1).activations(x, "vision").item()
    assert own == pytest.approx(activation, abs=2e-3 if cosine == 1 else 1e-6)


def test_activation_of_a_row_that_is_a_concept(generator):
    directions = rows(64, 48, generator)
    assert dictionary_with(directions, 4).activations(directions, "vision").diagonal().min() >= 1.999


def test_dense_activations_move_no_further_than_their_rows(generator):
    x, y = rows(10_000, 16, generator), rows(10_000, 16, generator)
    dictionary = dictionary_with(rows(32, 16, generator), 4)
    moved = (dictionary.activations(x, "vision") - dictionary.activations(y, "language")).abs().amax(dim=1)
    assert (moved <= (F.normalize(x, dim=1) - F.normalize(y, dim=1)).norm(dim=1) + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_where_a_row_equals_a_concept(dtype, generator):
    directions = rows(64, 16, generator, dtype)
    dictionary = dictionary_with(directions, 4)
    dictionary.loss({"vision": directions[:10], "language": directions[5:15]}).total.backward()
    for parameter in dictionary.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.norm() < 1e7


def test_gradient_by_finite_differences(generator):
    dictionary = dictionary_with(rows(12, 6, generator, torch.float64), 3)
    batch = {"vision": rows(5, 6, generator, torch.float64), "language": rows(5, 6, generator, torch.float64)}
    parameters = dict(dictionary.named_parameters())

    def loss(*values):
        own = {f"inner.{name}": value for name, value in zip(parameters, values)}
        return torch.func.functional_call(_Loss(dictionary), own, batch)

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), eps=1e-6, atol=1e-8, rtol=1e-5)


class _Loss(torch.nn.Module):
    def __init__(self, inner: VLSAE) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return self.inner.loss(batch).total


def test_half_precision_keeps_the_support_of_single_precision(generator):
    x, directions = rows(16, 1024, generator).half(), rows(8192, 1024, generator).half()
    half = VLSAE(1024, 8192, 256).half()
    with torch.no_grad():
        half.encoder.copy_(directions)
    code = half.encode(x, "vision")
    assert code.offsets.diff().tolist() == [256] * 16
    assert code.values.dtype == torch.float16
    single = F.normalize(x.float(), dim=1) @ F.normalize(directions.float(), dim=1).T
    expected = single.topk(256, dim=1).indices.sort(dim=1).values
    assert torch.equal(code.indices.reshape(16, 256), expected)
    assert half.decode(code, "vision").dtype == torch.float16


def test_rows_of_zeros_are_refused_in_training_and_empty_in_inference(generator):
    dictionary, x = VLSAE(16, 64, 4), rows(5, 16, generator)
    x[[1, 3]] = 0
    with pytest.raises(InvalidRows, match=r"zeros.*language, rows 1, 3"):
        dictionary.loss({"vision": rows(5, 16, generator), "language": x})
    code = dictionary.encode(x, "language")
    assert code.offsets.diff().tolist() == [4, 0, 4, 0, 4]
    torch.testing.assert_close(dictionary.decode(code, "language")[1], dictionary.text_decoder.bias)
    assert dictionary.activations(x, "language")[1, 0].item() == pytest.approx(0.585786, abs=1e-6)


def test_pairing_of_rows_does_not_matter(generator):
    dictionary = VLSAE(16, 64, 4)
    batch = {"vision": rows(30, 16, generator), "language": rows(30, 16, generator)}
    losses, gradients = [], []
    for order in (torch.arange(30), torch.randperm(30, generator=generator)):
        dictionary.zero_grad()
        loss = dictionary.loss({**batch, "language": batch["language"][order]})
        loss.total.backward()
        losses.append(loss.total.item())
        gradients.append([p.grad.clone() for p in dictionary.parameters()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_streams_may_have_different_numbers_of_rows_or_come_alone(generator):
    dictionary = VLSAE(16, 64, 4)
    batch = {"vision": rows(7, 16, generator), "language": rows(12, 16, generator)}
    both = dictionary.loss(batch)
    for stream in batch:
        alone = dictionary.loss({stream: batch[stream]})
        torch.testing.assert_close(alone.total, both.parts[f"loss/{stream}"])


def test_author_state_needs_k_and_is_given_back_bit_for_bit():
    state = VLSAE(16, 64, 4).state_dict()
    assert list(state) == [
        "encoder",
        "vision_decoder.weight",
        "vision_decoder.bias",
        "text_decoder.weight",
        "text_decoder.bias",
    ]
    imported = VLSAE.from_author_state(state, 4)
    assert all(torch.equal(value, state[name]) for name, value in imported.state_dict().items())
    with pytest.raises(ValueError, match="Give k"):
        VLSAE.from_author_state(state, None)
    with pytest.raises(ValueError, match="k must lie in"):
        VLSAE.from_author_state(state, 65)
    with pytest.raises(ValueError, match="none of VLSAE"):
        VLSAE.from_author_state({name: value for name, value in state.items() if name != "encoder"}, 4)


def test_unit_input_norm_learns_directions(generator):
    dictionary, x = VLSAE(16, 64, 4, input_norm="unit"), 5 * rows(30, 16, generator)
    decoded = dictionary.decode(dictionary.encode(x, "vision"), "vision")
    target = dictionary.target(x, "vision")
    torch.testing.assert_close(target.norm(dim=1), torch.ones(30))
    torch.testing.assert_close(dictionary.loss({"vision": x}).total, F.mse_loss(decoded, target))


def test_mean_norm_decodes_in_the_rows_own_units(generator, tmp_path):
    dictionary, x = VLSAE(16, 64, 4, input_norm="mean_norm"), 5 * rows(30, 16, generator)
    with pytest.raises(ValueError, match="initialize"):
        dictionary.loss({"vision": x})
    dictionary.initialize({"vision": x})
    scale = x.norm(dim=1).mean()
    decoded = dictionary.decode(dictionary.encode(x, "vision"), "vision")
    expected = F.mse_loss(decoded / scale, x / scale)
    torch.testing.assert_close(dictionary.loss({"vision": x}).total, expected)
    dictionary.save_pretrained(tmp_path)
    again = VLSAE.from_pretrained(tmp_path)
    assert torch.equal(again.decode(again.encode(x, "vision"), "vision"), decoded)


def test_variance_balance_divides_by_each_streams_variance(generator):
    dictionary = VLSAE(16, 64, 4, loss_balance="variance")
    plain = VLSAE(16, 64, 4)
    plain.load_state_dict(dictionary.state_dict(), strict=False)
    batch = {"vision": 10 * rows(40, 16, generator), "language": rows(40, 16, generator)}
    dictionary.initialize(batch)
    for stream, x in batch.items():
        own = dictionary.loss(batch).parts[f"loss/{stream}"]
        expected = plain.loss(batch).parts[f"loss/{stream}"] / x.var(dim=0, correction=0).mean()
        torch.testing.assert_close(own, expected)


def test_training_lowers_the_loss(generator):
    dictionary = VLSAE(16, 128, 8)
    centers = rows(12, 16, generator)
    batch = {stream: centers[torch.randint(12, (256,), generator=generator)] for stream in ("vision", "language")}
    optimizer = build_optimizer(dictionary, 3e-3)
    first = train_step(dictionary, batch, optimizer).total
    for step in range(1, 200):
        last = train_step(dictionary, batch, optimizer, step).total
    assert last < first / 5


def test_sparse_code_of_dense_codes_and_back(generator):
    dense = rows(6, 10, generator).relu()
    dense[2] = 0
    code = SparseCode.from_dense(dense)
    assert torch.equal(code.to_dense(), dense)
    assert code.n_rows == 6
    assert code.offsets[2] == code.offsets[3]

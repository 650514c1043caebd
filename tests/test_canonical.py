"""The canonical dictionary: against a naive implementation, term by term, and on pairs whose shared axes are known."""

from __future__ import annotations

import pytest
import torch
from small_dictionaries import BOTH, D, H, K, N, make
from test_dictionary_family import compare, decoder_of, largest, mse

from vlsae.dictionaries import Canonical, from_pretrained
from vlsae.dictionaries.canonical import canonical_maps
from vlsae.training import build_optimizer, train_step

SHARED, WIDTH = 3, 8


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {stream: torch.randn(N, D, generator=generator).double() * (i + 1) + i for i, stream in enumerate(BOTH)}


def pairs(n: int = 600, noise: float = 0.1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return pairs that share three coordinates, each side turned, shifted, scaled its own way, the rest its own."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, SHARED, generator=generator)
    found = {}
    for number, stream in enumerate(BOTH):
        world = torch.Generator().manual_seed(100 + number)
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=world)).Q
        own = torch.randn(n, WIDTH - SHARED, generator=generator)
        rows = torch.cat([shared + noise * torch.randn(n, SHARED, generator=generator), own], dim=1)
        found[stream] = (rows @ turn) * (1 + 4 * number) + number
    return found


def learned(steps: int = 150, **options) -> Canonical:
    """Return a dictionary trained on the pairs, with their noise."""
    torch.manual_seed(0)
    rows = pairs(noise=0.4)
    dictionary = Canonical(WIDTH, 32, 4, **options)
    dictionary.initialize(rows)
    optimizer = build_optimizer(dictionary, 3e-3)
    for step in range(steps):
        train_step(dictionary, rows, optimizer, step)
    return dictionary.eval()


def difference(agreement: float) -> float:
    """Return how far the activations of the two sides of new pairs differ after a training."""
    dictionary = learned(agreement=agreement)
    with torch.no_grad():
        return float(dictionary.loss(pairs(noise=0.4, seed=1)).parts["loss/agreement"]) / agreement


def test_loss_and_gradients_are_those_of_a_naive_implementation(batch):
    dictionary = make(Canonical, batch, leading=0.7, agreement=1.3, axes=2)

    def oracle(p, batch):
        active, codes = {}, {}
        for index, stream in enumerate(BOTH):
            rows = [(x - dictionary.mean[index]) / dictionary.scale[index] for x in batch[stream]]
            inner = [dictionary.canonical_map[index] @ x for x in rows]
            active[stream] = [(p["encoder.weight"] @ z + p["encoder.bias"]).clamp(min=0) for z in inner]
            codes[stream] = [(x, largest(a, K)) for x, a in zip(rows, active[stream])]
        total = 0.0
        for stream in BOTH:
            weight, bias = decoder_of(p, stream)
            for x, code in codes[stream]:
                total = total + mse(x, weight @ code + bias) / N
                total = total + 0.7 * mse(x, weight[:, :4] @ code[:4] + bias) / N
        for number in range(N):
            either = (codes["vision"][number][1] > 0) | (codes["language"][number][1] > 0)
            difference = active["vision"][number] - active["language"][number]
            total = total + 1.3 * (difference[either] ** 2).sum() / D / N
        return total

    compare(dictionary, batch, oracle)


@pytest.mark.parametrize(
    ("part", "reached"),
    [
        ("loss/vision", {"encoder", "vision_decoder"}),
        ("loss/language", {"encoder", "text_decoder"}),
        ("loss/leading", {"encoder", "vision_decoder", "text_decoder"}),
        ("loss/agreement", {"encoder"}),
    ],
)
def test_each_term_has_a_gradient_where_it_should(batch, part, reached):
    dictionary = make(Canonical, batch, axes=2)
    dictionary.loss(batch).parts[part].backward()
    moved = {name.split(".")[0] for name, p in dictionary.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == reached


def test_weights_of_nothing_leave_their_terms_out(batch):
    loss = make(Canonical, batch, leading=0, agreement=0).loss(batch)
    assert loss.parts["loss/agreement"] == 0
    assert loss.total == loss.parts["loss/vision"] + loss.parts["loss/language"]


def test_canonical_coordinates_are_uncorrelated_but_with_their_own_partner():
    rows = [(x - x.mean(dim=0)).double() for x in pairs().values()]
    maps, correlations = canonical_maps(rows, 0.0)
    first, second = (x @ own for x, own in zip(rows, maps))
    n = len(first)
    torch.testing.assert_close(first.T @ first / n, torch.eye(WIDTH).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(first.T @ second / n, torch.diag(correlations), atol=1e-6, rtol=0)
    assert (correlations[:SHARED] > 0.97).all()
    assert (correlations[SHARED:] < 0.3).all()


def test_leading_concepts_are_the_two_directions_of_the_shared_axes():
    dictionary = Canonical(WIDTH, 32, 4)
    dictionary.initialize(pairs())
    assert int(dictionary.leading_concepts) == 2 * SHARED
    weight = dictionary.encoder.weight.detach()
    torch.testing.assert_close(weight[0 : 2 * SHARED : 2], -weight[1 : 2 * SHARED : 2])
    lengths = weight.norm(dim=1)
    torch.testing.assert_close(lengths[2 * SHARED :], torch.full((32 - 2 * SHARED,), dictionary.remainder))


def test_codes_do_not_depend_on_a_modalitys_place_and_scale():
    codes = []
    for scale, shift in ((1.0, 0.0), (7.0, -30.0)):
        rows = {"vision": scale * pairs()["vision"] + shift, "language": pairs()["language"]}
        torch.manual_seed(0)
        dictionary = Canonical(WIDTH, 32, 4)
        dictionary.initialize(rows)
        codes.append(dictionary.encode(rows["vision"], "vision").to_dense())
        rebuilt = dictionary.decode(dictionary.encode(rows["vision"], "vision"), "vision")
        codes.append((rebuilt - shift) / scale)
    torch.testing.assert_close(codes[0], codes[2], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(codes[1], codes[3], atol=1e-3, rtol=1e-3)


def test_columns_keep_their_size_over_both_modalities():
    dictionary = learned(5)
    squares = dictionary.vision_decoder.weight.square().sum(dim=0) + dictionary.text_decoder.weight.square().sum(dim=0)
    torch.testing.assert_close(squares, torch.full((32,), 2.0))


def test_agreement_brings_the_activations_of_new_pairs_together():
    assert difference(8.0) < 0.8 * difference(1e-3)


def test_one_stream_starts_from_its_principal_axes():
    dictionary = Canonical(WIDTH, 32, 4)
    rows = {"vision": pairs()["vision"]}
    dictionary.initialize(rows)
    assert int(dictionary.leading_concepts) == 2 * WIDTH
    loss = dictionary.loss(rows)
    assert "loss/agreement" not in loss.parts
    assert torch.isfinite(loss.total)


def test_what_was_measured_is_saved(tmp_path):
    dictionary = learned(5)
    dictionary.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    rows = pairs(seed=2)
    for stream in BOTH:
        torch.testing.assert_close(
            again.encode(rows[stream], stream).values, dictionary.encode(rows[stream], stream).values
        )
    torch.testing.assert_close(again.loss(rows).total, dictionary.loss(rows).total)


def test_rows_that_are_no_pairs_are_refused(batch):
    odd = {"vision": batch["vision"], "language": batch["language"][:-1]}
    for call in (Canonical(D, H, K).double().initialize, Canonical(D, H, K).double().loss):
        with pytest.raises(ValueError, match="learns from pairs"):
            call(odd)


def test_too_many_axes_are_refused():
    with pytest.raises(ValueError, match="axes must be at most 6"):
        Canonical(6, 16, 3, axes=7)
    with pytest.raises(ValueError, match="axes must be at most 4"):
        Canonical(6, 8, 3, axes=5)

"""A dictionary's numbers on held-out rows, against hand-made cases, slower ways and known factors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import sparse

from vlsae.dictionaries import VLSAE, SparseCode
from vlsae.dictionaries.alignment import similarity_intervals, top_rows
from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.consistency import cosine, expected_jaccard, jaccard, partners, pessimistic_ranks
from vlsae.dictionaries.evaluation import evaluate
from vlsae.dictionaries.reconstruction import reconstruction
from vlsae.dictionaries.recovery import Factors, recover
from vlsae.dictionaries.usage import usage_measures
from vlsae.training import build_optimizer, train_step


class Given(Dictionary):
    """A dictionary whose codes are the signed rows themselves and whose decoding is set by a test."""

    kind = ""

    def __init__(self, width, decoded=None):
        super().__init__(width, width, width)
        self.decoded = decoded
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def encode(self, x, stream):
        return SparseCode.from_dense(x.double())

    def activations(self, x, stream):
        return x.double()

    def decode(self, code, stream):
        dense = code.to_dense()
        return dense if self.decoded is None else self.decoded(dense, stream)


def pairs(n=300, d=12, noise=0.3, gap=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, d, generator=generator)
    return {
        stream: common + noise * torch.randn(n, d, generator=generator) + shift
        for stream, shift in (("vision", gap), ("language", -gap))
    }


def test_perfect_and_mean_reconstructions_bound_explained_variance():
    x = pairs()["vision"]
    perfect = reconstruction(Given(12), x, "vision")
    assert perfect["explained_variance"].value == pytest.approx(1)
    assert perfect["mse"].value == 0
    assert perfect["cosine"].value == pytest.approx(1)
    mean = x.double().mean(dim=0)
    only_mean = reconstruction(Given(12, lambda dense, stream: mean.expand_as(dense)), x, "vision")
    assert only_mean["explained_variance"].value == pytest.approx(0, abs=1e-9)
    assert only_mean["mse"].value == pytest.approx(float((x.double() - mean).square().mean()))


def test_explained_variance_does_not_see_the_gap_between_streams():
    x = pairs()["language"]

    def noisy(dense, stream):
        return dense + 0.2 * torch.sin(37 * (dense - dense.mean(dim=0)))

    near = reconstruction(Given(12, noisy), x, "language")["explained_variance"].value
    far = reconstruction(Given(12, noisy), x.double() + 100, "language")["explained_variance"].value
    assert far == pytest.approx(near, abs=1e-6)


def test_the_interval_of_explained_variance_is_that_of_resampled_rows():
    x = pairs(n=200)["vision"]
    dictionary = Given(12, lambda dense, stream: 0.8 * dense)
    got = reconstruction(dictionary, x, "vision", resamples=400)["explained_variance"]
    generator = np.random.default_rng(1)

    def explained(rows):
        some = x[torch.from_numpy(rows)].double()
        return 1 - float((0.2 * some).square().sum() / (some - some.mean(dim=0)).square().sum())

    draws = [explained(generator.integers(0, 200, 200)) for _ in range(400)]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert got.value == pytest.approx(explained(np.arange(200)))
    assert got.low == pytest.approx(low, abs=0.25 * (high - low))
    assert got.high == pytest.approx(high, abs=0.25 * (high - low))


def test_usage_on_hand_made_codes():
    vision = sparse.csr_matrix(np.array([[1.0, 0, 0, 0, 2], [3, 0, 0, 0, 2]]))
    language = sparse.csr_matrix(np.array([[0.0, 5, 0, 0, 2], [0, 0, 0, 0, 2]]))
    numbers = usage_measures({"vision": vision, "language": language}, seed=0, resamples=50)
    assert numbers["l0/vision"].value == 2
    assert (numbers["l0_min/language"].value, numbers["l0_max/language"].value) == (1, 2)
    assert numbers["dead/vision"].value == pytest.approx(3 / 5)
    assert numbers["dead/both"].value == pytest.approx(2 / 5)
    assert numbers["bimodal_share"].value == pytest.approx(1 / 3)
    energy = np.array([5, 12.5, 8])
    assert numbers["bimodal_share/energy"].value == pytest.approx(8 / energy.sum())


def test_overlap_of_codes():
    a = sparse.csr_matrix(np.array([[1.0, 2, 0], [0, 0, 0], [1, 0, 1]]))
    b = sparse.csr_matrix(np.array([[0.0, 2, 3], [0, 0, 0], [2, 0, 2]]))
    assert jaccard(a, b).tolist() == pytest.approx([1 / 3, 0, 1])
    assert cosine(a, b).tolist() == pytest.approx([4 / np.sqrt(5 * 13), 0, 1])


def test_expected_jaccard_is_near_random_draws():
    generator = np.random.default_rng(0)
    draws = np.argsort(generator.random((2, 10_000, 256)), axis=2)[:, :, :16]
    dense = np.zeros((2, 10_000, 256))
    np.put_along_axis(dense, draws, 1.0, axis=2)
    measured = jaccard(sparse.csr_matrix(dense[0]), sparse.csr_matrix(dense[1])).mean()
    assert expected_jaccard(256, 16) == pytest.approx(measured, rel=0.05)


def test_partners_are_others():
    for assigned in partners(7, seed=0):
        assert (assigned != np.arange(7)).all()
        assert sorted(assigned) == list(range(7))
    assert partners(1, seed=0) == []


def test_ties_count_against_retrieval():
    similarity = np.array([[1.0, 1.0, 0.0], [0.0, 0.5, 0.1], [0.9, 0.8, 0.7]])
    ranks, ties = pessimistic_ranks(similarity)
    assert ranks.tolist() == [2, 1, 3]
    assert ties.tolist() == [1, 0, 0]


def test_similarity_intervals_follow_their_definition():
    generator = np.random.default_rng(3)
    similarity = generator.normal(size=(20, 20))
    intra, inter, shuffled, contrast = similarity_intervals(similarity, seed=0, resamples=50)
    off = ~np.eye(20, dtype=bool)
    assert intra.estimate == pytest.approx(similarity.diagonal().mean())
    assert inter.estimate == pytest.approx(similarity[off].mean())
    assert contrast.estimate == pytest.approx(intra.estimate - inter.estimate)
    every_shift = [similarity[np.arange(20), (np.arange(20) + k) % 20].mean() for k in range(1, 20)]
    assert np.mean(every_shift) == pytest.approx(inter.estimate)
    assert shuffled.estimate == pytest.approx(every_shift[0])


def test_top_rows_break_ties_by_row():
    column = sparse.csc_matrix(np.array([[1.0], [2], [0], [2], [1]]))
    assert top_rows(column, 3).tolist() == [1, 3, 0]


def test_evaluate_names_what_the_summary_needs():
    values = pairs()
    numbers = evaluate(VLSAE(12, 96, 6).eval(), values, bootstrap=20)
    for stream in values:
        assert numbers[f"l0/{stream}"].value == 6
        assert {f"explained_variance/{stream}", f"dead/{stream}", f"mse/{stream}"} <= set(numbers)
    assert numbers["consistency"].value > numbers["consistency/shuffled"].value
    assert numbers["consistency/excess"].low > 0
    assert numbers["activation_gap"].value <= 2
    for name in ("consistency", "intra_sim", "inter_sim"):
        assert numbers[name].low <= numbers[name].value <= numbers[name].high
    json.dumps({name: measure.to_json() for name, measure in numbers.items()}, allow_nan=False)


def test_evaluate_is_deterministic_and_does_not_depend_on_chunks(monkeypatch):
    values = pairs()
    dictionary = VLSAE(12, 96, 6).eval()
    whole = evaluate(dictionary, values, bootstrap=20)
    monkeypatch.setattr("vlsae.dictionaries.codes.ELEMENTS_AT_ONCE", 96 * 32)
    chunked = evaluate(dictionary, values, bootstrap=20)
    for name, measure in whole.items():
        assert chunked[name].value == pytest.approx(measure.value, abs=1e-6), name
        assert chunked[name].low == pytest.approx(measure.low, abs=1e-6), name


def test_unpaired_rows_have_no_paired_numbers():
    values = pairs()
    values["language"] = values["language"][:50]
    dictionary = VLSAE(12, 96, 6).eval()
    numbers = evaluate(dictionary, values, paired=False, bootstrap=20)
    assert numbers["consistency"].value is None
    assert numbers["intra_sim"].value is not None
    assert "code_retrieval/image_to_text/r1" not in numbers
    alone = evaluate(dictionary, {"vision": values["vision"]}, bootstrap=20)
    assert alone["intra_sim"].value is None
    assert "l0/language" not in alone
    with pytest.raises(ValueError, match="as many rows"):
        evaluate(dictionary, values)
    with pytest.raises(ValueError, match="no held-out rows"):
        evaluate(dictionary, {"vision": values["vision"][:0]})


def known_factors(n, seed, factors=24, width=32, gap=0.7, noise=0.3):
    """The prototype regime: exactly one active factor a row, Zipf frequencies, a constant gap between streams."""
    directions = torch.nn.functional.normalize(
        torch.randn(factors + 2, width, generator=torch.Generator().manual_seed(5)), dim=1
    )
    generator = torch.Generator().manual_seed(seed)
    rates = torch.arange(1, factors + 1) ** -0.5
    active = torch.multinomial(rates, n, replacement=True, generator=generator)
    present = torch.nn.functional.one_hot(active, factors).bool()
    strength = present * (0.5 + torch.rand(n, factors, generator=generator))
    values = {
        stream: strength @ directions[:factors]
        + gap * directions[factors + number]
        + noise * torch.randn(n, width, generator=generator) / width**0.5
        for number, stream in enumerate(("vision", "language"))
    }
    return values, present.numpy()


def test_known_factors_are_recovered_where_each_row_holds_one():
    torch.manual_seed(0)
    train, _ = known_factors(4096, seed=100)
    held_out, present = known_factors(4000, seed=999)
    dictionary = VLSAE(32, 128, 4)
    optimizer = build_optimizer(dictionary, 3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(320):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 40)
        rows = torch.randint(0, 4096, (512,), generator=generator)
        train_step(dictionary, {stream: x[rows] for stream, x in train.items()}, optimizer, step)
    dictionary.eval()
    numbers = evaluate(dictionary, held_out, bootstrap=20)
    names = [f"factor {i}" for i in range(24)]
    table = recover(dictionary, held_out, Factors(names, ["all"] * 24, present), resamples=20)
    scores = table.metrics()
    assert scores["recovery/auroc"].value > 0.98
    assert scores["recovery/coverage"].value > 0.95
    assert scores["recovery/auroc"].value > scores["recovery_random/auroc"].value + 0.1
    assert numbers["consistency"].value > 0.4
    assert numbers["consistency"].value > 5 * numbers["consistency/shuffled"].value
    assert numbers["explained_variance/vision"].value > 0.8

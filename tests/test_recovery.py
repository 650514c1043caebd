"""Concept recovery: exact AUROC with ties, no choosing on the scored half, and the baselines beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import f1_score, roc_auc_score

from vlsae.dictionaries import VLSAE
from vlsae.dictionaries.auroc import auroc, influences
from vlsae.dictionaries.factor_scores import best_threshold, halves
from vlsae.dictionaries.recovery import Factors, recover, recovery
from vlsae.statistics import multinomial_weights


def tied_scores(n=200, h=7, seed=0):
    generator = np.random.default_rng(seed)
    dense = np.round(generator.normal(size=(n, h)), 1) * (generator.random((n, h)) < 0.3)
    dense[:, 0] = 0
    dense[:, 1] = np.abs(dense[:, 1])
    return dense, generator.random((n, 4)) < [0.5, 0.1, 0.02, 0.9]


def test_auroc_equals_scikit_learn_with_ties_signs_and_silent_concepts():
    dense, factors = tied_scores()
    expected = [[roc_auc_score(y, x) for x in dense.T] for y in factors.T]
    np.testing.assert_allclose(auroc(dense, factors), expected, atol=1e-12)
    for form in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix):
        np.testing.assert_allclose(auroc(form(dense), factors), expected, atol=1e-12)


def test_auroc_of_a_factor_that_is_always_there_is_undefined():
    dense, _ = tied_scores()
    assert np.isnan(auroc(sparse.csr_matrix(dense), np.ones((200, 1), bool))).all()
    assert auroc(sparse.csr_matrix((200, 3)), dense[:, 2:3] > 0).tolist() == [[0.5, 0.5, 0.5]]


def test_influence_predicts_what_resampling_does():
    generator = np.random.default_rng(1)
    present = generator.random(800) < 0.3
    scores = np.round(generator.normal(size=800) + present, 1)
    value, influence = influences(scores, present)
    assert value == pytest.approx(roc_auc_score(present, scores))
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    weights = np.concatenate(list(multinomial_weights(800, 200)))
    exact = np.array([roc_auc_score(present, scores, sample_weight=w) for w in weights])
    first_order = value + (weights - 1) @ influence / 800
    assert np.corrcoef(exact, first_order)[0, 1] > 0.99
    assert first_order.std() == pytest.approx(exact.std(), rel=0.05)


def test_threshold_gives_the_best_f1():
    generator = np.random.default_rng(2)
    present = generator.random(100) < 0.3
    values = np.round(generator.normal(size=100) + present, 1)
    threshold = best_threshold(values, present)
    best = max(f1_score(present, values >= t) for t in np.unique(values))
    assert f1_score(present, values >= threshold) == pytest.approx(best)


def planted(n=1200, h=30, seed=0):
    """Concept 5 holds factor 0 in both streams; factor 1 sits in different concepts of the two streams."""
    generator = np.random.default_rng(seed)
    factors = generator.random((n, 4)) < [0.3, 0.3, 0.3, 0.002]
    scores = {stream: generator.random((n, h)) for stream in ("vision", "language")}
    for x in scores.values():
        x[:, 5] = factors[:, 0] + 0.2 * generator.random(n)
    scores["vision"][:, 7] = factors[:, 1] + 0.2 * generator.random(n)
    scores["language"][:, 8] = factors[:, 1] + 0.2 * generator.random(n)
    scores["language"][:, 9] = factors[:, 2] + 0.2 * generator.random(n)
    return scores, Factors(list("abcd"), ["g"] * 4, factors)


def test_one_concept_must_serve_both_streams():
    scores, factors = planted()
    result = recovery(scores, factors)
    table = {score.factor: score for score in result.factors}
    assert (table["a"].concept, table["a"].auroc) == (5, 1.0)
    assert table["a"].f1 == 1.0
    assert table["b"].auroc < 0.7
    assert result.skipped == ["d"]
    assert result.coverage.value == pytest.approx(1 / 3)
    assert result.auroc.low <= result.auroc.value <= result.auroc.high
    assert result.auroc.value == pytest.approx(np.mean([table[name].auroc for name in "abc"]))


def test_a_factor_of_one_stream_is_scored_there_and_left_out_of_the_joint_numbers():
    scores, factors = planted()
    result = recovery(scores, factors._replace(only={"c": "language"}))
    table = {score.factor: score for score in result.factors}
    assert (table["c"].concept, table["c"].auroc, list(table["c"].by_stream)) == (9, 1.0, ["language"])
    assert result.one_stream == ["c"]
    assert result.coverage.value == 0.5
    by_group = recovery(scores, factors._replace(groups=["g", "g", "style", "g"], only={"style": "language"}))
    assert by_group.one_stream == ["c"]


def test_choosing_on_one_half_gives_noise_no_advantage():
    generator = np.random.default_rng(3)
    scores = {stream: generator.random((400, 500)) for stream in ("vision", "language")}
    factors = Factors([str(i) for i in range(20)], ["g"] * 20, generator.random((400, 20)) < 0.5)
    assert recovery(scores, factors).auroc.value < 0.53
    everywhere = [np.minimum(*(auroc(x, factors.matrix[:, [i]]) for x in scores.values())).max() for i in range(20)]
    assert np.mean(everywhere) > 0.55


def test_halves_are_disjoint_and_seeded():
    first, second = halves(11, seed=4)
    assert sorted([*first, *second]) == list(range(11))
    assert (halves(11, seed=4)[0] == first).all()


def test_signed_units_serve_by_their_negative():
    scores, factors = planted()
    negative = {stream: -x for stream, x in scores.items()}
    assert recovery(negative, factors).factors[0].auroc < 0.6
    signed = recovery(negative, factors, signed=True).factors[0]
    assert (signed.auroc, signed.f1) == (1.0, 1.0)


def test_sparse_and_dense_scores_agree():
    scores, factors = planted(400)
    for x in scores.values():
        x[x < 0.5] = 0
    dense = recovery(scores, factors)
    thin = recovery({stream: sparse.csr_matrix(x) for stream, x in scores.items()}, factors)
    assert [s.row() for s in dense.factors] == [s.row() for s in thin.factors]


def test_recover_puts_the_dictionary_beside_its_baselines(tmp_path):
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 24, generator=generator), dim=1)
    active = torch.rand(1500, 12, generator=generator) < 0.15
    values = {
        stream: active * 1.0 @ directions + 0.05 * torch.randn(1500, 24, generator=generator) + shift
        for stream, shift in (("vision", 0.1), ("language", -0.1))
    }
    oracle = VLSAE(24, 48, 4)
    with torch.no_grad():
        oracle.encoder[:12] = directions
    factors = Factors([f"f{i}" for i in range(12)], ["all"] * 12, active.numpy())
    table = recover(oracle.eval(), values, factors, seed=1, resamples=50)
    metrics = table.metrics()
    assert metrics["recovery_ceiling/auroc"].value > 0.99
    assert metrics["recovery_dense/auroc"].value > metrics["recovery_random_dense/auroc"].value + 0.05
    assert metrics["recovery/auroc"].value > metrics["recovery_random/auroc"].value + 0.05
    for method in ("units", "pca"):
        assert 0.5 < metrics[f"recovery_{method}/auroc"].value < metrics["recovery_ceiling/auroc"].value
    assert metrics["recovery/factors"].value == 12
    table.write(tmp_path / "tables")
    lines = (tmp_path / "tables" / "recovery.csv").read_text().splitlines()
    assert len(lines) == 1 + 12 * 7


def test_rows_must_match():
    with pytest.raises(ValueError, match="10 rows"):
        recovery({"vision": np.zeros((10, 2))}, (["a"], ["g"], np.zeros((9, 1), bool)))
    with pytest.raises(ValueError, match="does not fit"):
        recovery({"vision": np.zeros((10, 2))}, (["a", "b"], ["g"], np.zeros((10, 1), bool)))

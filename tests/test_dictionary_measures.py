"""What is measured of a dictionary, against slower ways, hand-made codes and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from vlsae.dictionaries import LinearBasis, TopK
from vlsae.dictionaries.comparison import Compared, comparison, matched
from vlsae.dictionaries.evaluation_cost import evaluation_cost
from vlsae.dictionaries.factor_scores import Factors
from vlsae.dictionaries.hierarchy import absorption, families, hierarchy_measures, splitting
from vlsae.dictionaries.loss_recovered import contrastive_losses, contrastive_recovery, spliced_recovery
from vlsae.dictionaries.monosemanticity import cross_monosemanticity, monosemanticity, monosemanticity_measures
from vlsae.dictionaries.removal import removal_measures, targeted_removal
from vlsae.dictionaries.sparse_probing import mean_differences, sparse_probing, strongest
from vlsae.dictionaries.stability import directions, matched_cosines, stability
from vlsae.runs.metrics import Measure


def codes_of(n=50, h=9, seed=0, signed=False):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, h)) if signed else generator.random((n, h))
    dense = values * (generator.random((n, h)) < 0.3)
    dense[:, 0] = 0
    dense[:, 1] = 0
    dense[3, 1] = 1.0
    return dense


@pytest.mark.parametrize("signed", [False, True])
def test_monosemanticity_is_the_sum_over_pairs(signed):
    generator = np.random.default_rng(1)
    features = generator.normal(size=(50, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    dense = codes_of(signed=signed)
    score = monosemanticity(sparse.csr_matrix(dense), features)
    assert np.isnan(score[:2]).all()
    for concept in range(2, 9):
        a = dense[:, concept]
        a = (a - a.min()) / (a.max() - a.min())
        pairs = [(n, m) for n in range(50) for m in range(n)]
        top = sum(a[n] * a[m] * (unit[n] @ unit[m]) for n, m in pairs)
        assert score[concept] == pytest.approx(top / sum(a[n] * a[m] for n, m in pairs), abs=1e-9)
    same = monosemanticity(sparse.csr_matrix(dense), np.ones((50, 3)))
    np.testing.assert_allclose(same[2:], 1)
    other = np.abs(codes_of(seed=5))
    cross = cross_monosemanticity((sparse.csr_matrix(np.abs(dense)), sparse.csr_matrix(other)), (features, features))
    a, b = np.abs(dense)[:, 3], other[:, 3]
    a, b = ((v - v.min()) / (v.max() - v.min()) for v in (a, b))
    assert cross[3] == pytest.approx((a @ unit) @ (b @ unit) / (a.sum() * b.sum()))
    numbers = monosemanticity_measures({"vision": sparse.csr_matrix(dense)}, {"vision": features}, seed=0, resamples=20)
    table = unit @ unit.T
    assert numbers["monosemanticity/vision/chance"].value == pytest.approx((table.sum() - 50) / (50 * 49))
    assert numbers["monosemanticity/vision/concepts"].value == 7


def world(n=600, seed=0):
    """A hierarchy of one family: warm is red or orange; cool is blue or green."""
    generator = np.random.default_rng(seed)
    color = generator.integers(0, 4, n)
    shown = np.stack([color == c for c in range(4)] + [color < 2, color >= 2], axis=1)
    names = ["color=red", "color=orange", "color=blue", "color=green", "color_family=warm", "color_family=cool"]
    return Factors(names, ["color"] * 4 + ["color_family"] * 2, shown)


def test_families_are_read_off_the_rows():
    assert families(world()) == {
        "color_family=warm": ["color=red", "color=orange"],
        "color_family=cool": ["color=blue", "color=green"],
    }


def test_absorption_counts_members_that_fire_in_place_of_the_general_concept():
    factors = world()
    red, warm, cool = (factors.matrix[:, i] for i in (0, 4, 5))
    generator = np.random.default_rng(3)
    swallowed = red & (generator.random(len(red)) < 0.6)
    # Concept 0 is warm but silent where red's own concept 1 took over; concept 2 is cool, whole.
    dense = np.stack([warm & ~swallowed, red, cool, factors.matrix[:, 1], factors.matrix[:, 2]], axis=1).astype(float)
    found = {one.parent: one for one in absorption({"vision": sparse.csr_matrix(dense)}, factors)}
    one = found["color_family=warm"]
    assert one.concept == 0
    assert one.missed == one.absorbed == pytest.approx(0.3, abs=0.06)
    assert found["color_family=cool"].missed == 0
    assert found["color_family=cool"].absorbed == 0
    numbers, table = hierarchy_measures({"vision": sparse.csr_matrix(dense)}, factors, seed=0, resamples=10)
    assert numbers["absorption"].value == pytest.approx(one.absorbed / 2)
    assert len(table) == 2


def test_a_general_factor_held_by_its_members_alone_is_split_into_them():
    factors = world()
    members = factors.matrix[:, :4].astype(float)
    assert splitting({"vision": sparse.csr_matrix(members)}, factors) == {
        "color_family=warm": 2,
        "color_family=cool": 2,
    }
    whole = np.concatenate([members, factors.matrix[:, 4:].astype(float)], axis=1)
    assert set(splitting({"vision": sparse.csr_matrix(whole)}, factors).values()) == {1}


def test_sparse_probes_read_the_concepts_that_move_most():
    factors = world()
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(600, 20))
    dense = np.concatenate([noise, factors.matrix[:, [0]] + 0.1 * noise[:, :1], factors.matrix[:, [1]] * 2.0], axis=1)
    moved = mean_differences(dense, factors.matrix)
    expected = [[abs(x[y].mean() - x[~y].mean()) / x.std() for x in dense.T] for y in factors.matrix.T]
    np.testing.assert_allclose(moved, expected, atol=1e-9)
    np.testing.assert_allclose(mean_differences(sparse.csr_matrix(dense), factors.matrix), expected, atol=1e-9)
    assert set(strongest(dense, factors.matrix, 2)[4].tolist()) == {20, 21}
    by_k = [sparse_probing({"vision": dense}, factors, k, resamples=10) for k in (1, 2)]
    warm = [next(one.auroc for one in found.factors if one.factor == "color_family=warm") for found in by_k]
    assert warm[1] > 0.99 > warm[0] + 0.1


def test_removal_blinds_the_factors_own_probe_and_no_other():
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(800, 4, generator=generator) < 0.4
    x = present.float() + 0.05 * torch.randn(800, 4, generator=generator)
    factors = Factors([f"f{i}" for i in range(4)], ["f"] * 4, present.numpy())
    falls = targeted_removal(LinearBasis(4), {"vision": x}, factors, concepts=1)
    assert len(falls) == 4
    assert min(one.own for one in falls) > 0.4
    assert max(abs(one.others) for one in falls) < 0.02
    numbers = removal_measures(falls, seed=0, resamples=10)
    assert numbers["removal"].value == pytest.approx(numbers["removal/own"].value - numbers["removal/others"].value)


def pairs(n=300, d=12):
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(n, d, generator=generator)
    return {s: common + 0.2 * torch.randn(n, d, generator=generator) + i for i, s in enumerate(("vision", "language"))}


def test_loss_recovered_is_one_for_perfect_rows_and_zero_for_means():
    rows = pairs()
    perfect = contrastive_recovery(LinearBasis(12), rows, resamples=20)
    assert perfect["loss_recovered/mean"].value == pytest.approx(1, abs=1e-6)
    assert perfect["loss_recovered/zero"].value == pytest.approx(1, abs=1e-6)
    assert perfect["task_loss/zero"].value == pytest.approx(np.log(256) * 256 / 300 + np.log(44) * 44 / 300, abs=1e-9)
    basis = LinearBasis(12)
    basis.offset.copy_(torch.stack([x.mean(dim=0) for x in rows.values()]))
    basis.synthesis.data.zero_()
    assert contrastive_recovery(basis, rows, resamples=20)["loss_recovered/mean"].value == pytest.approx(0, abs=1e-9)
    losses = contrastive_losses(rows["vision"][:3], rows["language"][:3], scale=2.0)
    v, t = (torch.nn.functional.normalize(rows[s][:3].double(), dim=1) for s in rows)
    table = 2 * v @ t.T
    by_hand = [
        -(table[i, i] - table[i].logsumexp(0) + table[i, i] - table[:, i].logsumexp(0)).item() / 2 for i in range(3)
    ]
    np.testing.assert_allclose(losses, by_hand)


def test_reconstructions_go_into_the_model_by_an_edit():
    hidden = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))

    def loss_of(edit):
        seen = hidden if edit is None else edit(hidden)
        return (seen - hidden).square().sum(dim=-1).numpy().ravel() + 1

    mean = hidden.reshape(-1, 4).mean(dim=0)
    whole = spliced_recovery(loss_of, LinearBasis(4), "language", mean, resamples=20)
    assert whole["loss_recovered/mean"].value == pytest.approx(1, abs=1e-6)
    none = LinearBasis(4)
    none.synthesis.data.zero_()
    assert spliced_recovery(loss_of, none, "language", mean, resamples=20)["loss_recovered/zero"].value == 0


def test_stability_finds_a_permuted_copy_and_random_directions_stay_below():
    torch.manual_seed(0)
    first, second, other = TopK(16, 40, 4), TopK(16, 40, 4), TopK(16, 40, 4)
    order = torch.randperm(40)
    second.decoder.weight.data.copy_(first.decoder.weight.data[:, order])
    np.testing.assert_allclose(directions(first, "vision").T, first.decoder.weight.data.numpy(), atol=1e-5)
    assert matched_cosines(directions(first, "vision"), directions(second, "vision")).min() == pytest.approx(
        1, abs=1e-5
    )
    found = stability([first, second, other], "vision")
    assert len(found["cosine"]) == 3
    assert found["cosine"][0] == pytest.approx(1, abs=1e-5)
    assert found["cosine"][1] == pytest.approx(found["random_cosine"][1], abs=0.08)
    with pytest.raises(ValueError, match="two"):
        stability([first], "vision")


def test_comparison_matches_by_l0_and_shows_each_seed():
    def one(run, l0, ev, seed):
        metrics = {"l0/vision": Measure(l0, ""), "explained_variance/vision": Measure(ev, "", ev - 0.01, ev + 0.01)}
        return Compared(run, run[0], seed, metrics)

    found = [one("a1", 32.0, 0.9, 0), one("b1", 33.0, 0.8, 0), one("c1", 64.0, 0.95, 0), one("a2", 31.9, 0.91, 1)]
    groups = matched(found)
    assert [[other.run for other in group] for group in groups] == [["a2", "a1", "b1"]]
    result = comparison(found)
    tables = {table.name: table for table in result.tables}
    assert len(tables["comparison"].rows) == 4
    assert [row[1] for row in tables["matched_l0"].rows] == ["a2", "a1", "b1"]
    assert result.plots[0].series[0].y == [0.91, 0.9]
    assert "this checkpoint" in result.notes[0]


def test_the_cost_grows_with_rows_and_is_said_in_minutes_and_memory():
    dictionary = TopK(16, 64, 4)
    small = evaluation_cost(dictionary, {"vision": torch.randn(300, 16)})
    large = evaluation_cost(dictionary, {"vision": torch.randn(30_000, 16)}, factors=10)
    assert 0 < small.seconds < large.seconds
    assert small.bytes < large.bytes
    assert "minutes" in str(large)
    assert "GB" in str(large)

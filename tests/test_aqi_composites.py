"""Composites of indices: golden numbers, limits, and weights and values out of range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlsae.aqi import indices
from vlsae.aqi.composites import NAMES, code_chi_xbi, composite, composite_status

GOLDEN = Path(__file__).parent / "golden" / "aqi"
INF, NAN = float("inf"), float("nan")
PUBLISHED = ("paper_sum", "paper_product", "code_dbs_dunn", "code_sil_chi", "code_sil_xbi")
FOUR_POINTS = {"chi": 8.0, "xbi": 0.0625, "dbs": 0.5, "dunn": 2.0, "silhouette": 0.527864}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("indices_*.npz")), ids=lambda path: path.stem)
def test_golden(path):
    with np.load(path) as golden:
        values = {name: float(golden[name]) for name in ("chi", "xbi", "dbs", "dunn", "silhouette")}
        weights = {"lam": float(golden["lam"]), "gamma": float(golden["gamma"]), "chi_max": float(golden["chi_max"])}
        for name in PUBLISHED:
            found = composite(name, values, **weights)
            np.testing.assert_allclose(found, golden[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_four_points_by_hand():
    expected = {
        "paper_sum": 12,
        "paper_product": np.sqrt(8 / 16) * np.exp(-0.0625 / 2),
        "code_dbs_dunn": 0.666667,
        "code_sil_chi": 0.826410,
        "code_sil_xbi": 0.852554,
    }
    found = {name: composite(name, FOUR_POINTS, chi_max=16) for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("paper_sum", {"xbi": 0.0, "chi": 3.0}, INF),
        ("paper_sum", {"xbi": INF, "chi": 3.0}, 1.5),
        ("paper_sum", {"xbi": NAN, "chi": 3.0}, NAN),
        ("paper_product", {"xbi": 0.0, "chi": 4.0}, 0.5),
        ("paper_product", {"xbi": INF, "chi": 4.0}, 0),
        ("paper_product", {"xbi": 0.0, "chi": INF}, NAN),
        ("paper_product", {"xbi": NAN, "chi": 0.0}, NAN),
        ("code_dbs_dunn", {"dbs": INF, "dunn": INF}, 0.5),
        ("code_sil_chi", {"silhouette": -1.0, "chi": INF}, 0.5),
        ("code_sil_xbi", {"silhouette": 1.0, "xbi": INF}, 0.5),
        ("delta2", {"delta2": -0.25}, -0.25),
    ],
)
def test_limits(name, values, expected):
    np.testing.assert_allclose(composite(name, values, chi_max=16), expected, rtol=1e-12)


def test_a_weight_of_zero_drops_its_term():
    assert composite("paper_sum", {"xbi": 0.0, "chi": 3.0}, lam=0) == 3
    assert composite("paper_sum", {"xbi": 0.5, "chi": NAN}, lam=1) == 2
    assert composite("paper_product", {"chi": INF, "xbi": 0.0}, lam=0, chi_max=2) == 1
    assert composite("paper_product", {"chi": 1.0, "xbi": INF}, lam=1, chi_max=2) == 0.5
    assert composite("code_sil_xbi", {"silhouette": NAN, "xbi": 1.0}, gamma=0) == 0.5
    assert composite("code_dbs_dunn", {"dbs": 1.0, "dunn": NAN}, gamma=1) == 0.5


def test_chi_above_its_largest_is_not_clipped_but_said():
    values = {"chi": 32.0, "xbi": 0.0}
    assert composite("paper_product", values, lam=1, chi_max=16) == 2
    assert composite_status("paper_product", values, chi_max=16) == "chi_above_max"
    assert composite_status("paper_product", values, chi_max=64) == "ok"
    assert composite_status("paper_product", {"chi": INF, "xbi": 0.0}, chi_max=64) == "chi_infinite"
    assert composite_status("paper_sum", values) == "ok"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("weight", [-0.01, 1.01, NAN, INF])
def test_weights_out_of_range_are_refused(name, weight):
    with pytest.raises(ValueError, match="AQI-C01: lam"):
        composite(name, FOUR_POINTS, lam=weight, chi_max=16)
    with pytest.raises(ValueError, match="AQI-C01: gamma"):
        composite(name, FOUR_POINTS, gamma=weight, chi_max=16)


@pytest.mark.parametrize("chi_max", [None, 0.0, -1.0, NAN, INF])
def test_the_product_needs_its_largest_chi(chi_max):
    with pytest.raises(ValueError, match="AQI-C02"):
        composite("paper_product", FOUR_POINTS, chi_max=chi_max)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"no composite 'paper_sums'.*\n.*paper_sum"):
        composite("paper_sums", FOUR_POINTS)
    with pytest.raises(ValueError, match=r"code_chi_xbi\(chi, xbi, gamma\)"):
        composite("code_chi_xbi", FOUR_POINTS)
    with pytest.raises(ValueError, match="delta2 reads delta2, which indices lack; they hold chi"):
        composite("delta2", FOUR_POINTS)
    with pytest.raises(ValueError, match=r"chi must lie in \[0, inf\]"):
        composite("paper_sum", {**FOUR_POINTS, "chi": -1.0})
    with pytest.raises(ValueError, match=r"silhouette must lie in \[-1, 1\]"):
        composite("code_sil_xbi", {**FOUR_POINTS, "silhouette": 1.5})
    assert "delta2" in NAMES


@pytest.mark.parametrize("case", ["noise", "mixed", "gamma03", "all_equal", "iqr0", "two"])
def test_marks_of_cells_golden(case):
    with np.load(GOLDEN / "code_normaliser.npz") as golden:
        golden = {key.split("__")[1]: golden[key] for key in golden.files if key.startswith(f"{case}__")}
    chi, xbi = golden["chi"], golden["xbi"]
    if "X" in golden:
        cells = [(golden["axiom"] == cell) | (cell == "overall") for cell in golden["cells"]]
        chi = np.array([indices.calinski_harabasz(golden["X"][rows], golden["y"][rows]) for rows in cells])
        xbi = np.array([indices.xie_beni(golden["X"][rows], golden["y"][rows]) for rows in cells])
        np.testing.assert_allclose(chi, golden["chi"], rtol=1e-9)
        np.testing.assert_allclose(xbi, golden["xbi"], rtol=1e-9)
    marks = code_chi_xbi(chi, xbi, float(golden["gamma"]))
    for found, key in zip(marks, ("C", "Xn", "aqi")):
        np.testing.assert_allclose(found, golden[key], atol=1e-9)
        if f"official_{key}" in golden:
            np.testing.assert_allclose(found, golden[f"official_{key}"], atol=1e-9)
    scaled = code_chi_xbi(chi * 7, xbi / 3, float(golden["gamma"]))
    if case not in ("all_equal", "iqr0"):
        np.testing.assert_allclose(scaled.aqi, marks.aqi, atol=1e-5)


def test_cells_that_are_not_finite_count_in_no_mark():
    marks = code_chi_xbi([1.0, NAN, 3.0, 9.0], [0.5, 1.0, 0.1, INF])
    expected = code_chi_xbi([1.0, 3.0], [0.5, 0.1])
    assert np.isnan(marks.aqi).tolist() == [False, True, False, True]
    assert marks.aqi[[0, 2]].tolist() == expected.aqi.tolist()
    assert np.isnan(code_chi_xbi([NAN], [1.0]).aqi).all()
    assert code_chi_xbi([0.0, 0.0], [1.0, 1.0]).chi.tolist() == [0, 0]
    with pytest.raises(ValueError, match="one value a cell"):
        code_chi_xbi([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="AQI-C01"):
        code_chi_xbi([1.0], [1.0], gamma=2)

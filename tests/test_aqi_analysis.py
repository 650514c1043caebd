"""The whole index on drawn rows: what one pass gives, the headline, learned pooling, comparison, and its state."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from test_aqi_labelling import many

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.analysis import Settings, Source, analyse
from vlsae.aqi.comparison import compare_states
from vlsae.aqi.design import Design, design_of
from vlsae.aqi.headline import headline
from vlsae.aqi.held_out import learned_pooling
from vlsae.aqi.kept import KeptRows, kept_places
from vlsae.aqi.labelling import label_samples
from vlsae.aqi.layer import layer_of, measure
from vlsae.aqi.onepass import OnePass
from vlsae.aqi.projection import project
from vlsae.aqi.report import result_of
from vlsae.aqi.state import State, facts_of, load, merge, save
from vlsae.errors import UserError

WIDTH, LAYERS = 8, 3


def drawn(seed=0, n=40, strata=2, effects=(0.0, 0.4, 1.0), width=WIDTH):
    """Rows of layers whose classes lie ``effect`` standard deviations apart along one coordinate."""
    texts = [f"prompt {number}" for number in range(2 * n * strata)]
    labelling = label_samples(many(n=n, strata=strata, texts=texts))
    generator = np.random.default_rng(seed)
    rows = [generator.normal(size=(len(labelling.rows), width)) for _ in effects]
    for x, effect in zip(rows, effects):
        x[:, 0] += np.where(labelling.codes == 0, effect, -effect) + labelling.strata
    return labelling, design_of(labelling, 20), rows


def source_of(rows, control=False) -> Source:
    return Source(
        [f"language.{number}" for number in range(len(rows))],
        [x.shape[1] for x in rows],
        lambda place, chosen: rows[place][chosen],
        (lambda chosen: rows[0][chosen]) if control else None,
    )


def state_of(labelling, design, rows) -> State:
    layers = [measure(f"language.{number}", x, design) for number, x in enumerate(rows)]
    widths = {layer.site: layer.cells.width for layer in layers}
    facts = facts_of(labelling.classes, labelling.strata_names, design, widths, labelling.digest)
    return State({one.site: one.cells for one in layers}, design, {one.site: one.auroc.scores for one in layers}, facts)


def test_the_whole_index_finds_the_layer_and_says_what_it_must():
    labelling, design, rows = drawn()
    settings = Settings(permutations=99, composites=("paper_sum", "code_chi_xbi"), length_match=True)
    found = analyse(source_of(rows, control=True), labelling, design, settings, lambda layers: None)
    assert found.headline.layer == 2
    assert found.headline.delta_squared.low > 0
    assert found.headline.auroc.auroc > 0.8
    assert found.headline.p_value == 0.01
    assert found.gains[2].p_value < 0.01
    assert found.gains[0].difference.estimate == 0
    result = result_of(found)
    assert "not alignment" in result.notes[0]
    for name in ("delta2", "auroc", "auroc/lexical", "auroc/length", "p/language.2/a1", "composite/code_chi_xbi/a0"):
        assert name in result.metrics, name
    assert result.metrics["dunn/language.2"].value > 0
    assert {table.name for table in result.tables} == {"layers", "axioms", "axiom_indices", "pooling"}
    assert {plot.name for plot in result.plots} == {"curve", "auroc", "axioms", "projection"}


def test_one_pass_gives_the_moments_of_the_rows():
    _, design, rows = drawn()
    passes = OnePass({f"language.{i}": WIDTH for i in range(LAYERS)}, design)
    order = passes.order
    for at in range(0, len(order), 7):
        places = order[at : at + 7]
        passes.add(places, {f"language.{i}": x[places] for i, x in enumerate(rows)})
    for found, x in zip(passes.layers(), rows):
        whole = layer_of(found.site, measure(found.site, x, design).cells, design)
        np.testing.assert_allclose(found.cells.m2, whole.cells.m2, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.effect.delta_squared, whole.effect.delta_squared, rtol=1e-10)
        interval, other = (one.intervals["stratified_delta_squared"] for one in (found, whole))
        assert interval.low == pytest.approx(other.low, rel=1e-10)
    assert found.auroc.auroc > 0.75
    assert found.permutation is None


def test_one_pass_refuses_blocks_out_of_order_rows_that_are_not_finite_and_too_much_memory():
    _, design, rows = drawn()
    passes = OnePass({"language.0": WIDTH}, design)
    last = np.flatnonzero(design.blocks == 5)
    passes.add(last, {"language.0": rows[0][last]})
    with pytest.raises(UserError, match="block 0 came after those of block 5"):
        passes.add(np.flatnonzero(design.blocks == 0)[:1], {"language.0": rows[0][:1]})
    with pytest.raises(UserError, match=r"AQI-D12: .*language\.0, row 1"):
        passes.add(last[:2], {"language.0": np.array([[0.0] * WIDTH, [np.nan] * WIDTH])})
    with pytest.raises(UserError, match=r"(?s)AQI-M01.*Use at most 5 blocks"):
        OnePass({"language.0": WIDTH}, design, memory_bytes=1000)


def test_one_passs_memory_does_not_grow_with_the_rows():
    def peak(n: int) -> int:
        codes, strata = np.arange(n) % 2, np.arange(n) // 2 % 7
        blocks = np.arange(n) * 20 // n
        design = Design(codes, strata, blocks, blocks % 5, 2, 7, 20, 5)
        passes = OnePass({f"language.{i}": 64 for i in range(3)}, design)
        generator = np.random.default_rng(0)
        tracemalloc.start()
        for at in range(0, n, 250):
            x = generator.normal(size=(250, 64))
            passes.add(np.arange(at, at + 250), {f"language.{i}": x for i in range(3)})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(1_000), peak(5_000)
    # A row of its cells, 8 bytes, is looked up by the design; nothing of its values is kept.
    assert large - small < 5_000 * 64


def test_rows_are_kept_evenly_whatever_their_order():
    labelling, design, rows = drawn(n=60)
    places = kept_places(design, labelling.ids, 160)
    assert len(places) == 160
    counts = np.bincount(design.cells[places], minlength=design.n_cells)
    assert set(counts.tolist()) == {2}
    turned = np.arange(len(labelling.rows))[::-1]
    mirrored = kept_places(design.take(turned), labelling.take(turned).ids, 160)
    assert {labelling.ids[i] for i in places} == {labelling.ids[turned[i]] for i in mirrored}
    kept = KeptRows({"language.2": WIDTH}, places)
    for at in range(0, 240, 7):
        batch = turned[at : at + 7]
        kept.add(batch, {"language.2": rows[2][batch]})
    found = kept.source(None).fetch(0, np.arange(160))
    np.testing.assert_array_equal(found, rows[2][places].astype(np.float32))
    assert kept.bytes == 160 * WIDTH * 4
    with pytest.raises(UserError, match=r"(?s)AQI-M01.*aqi\.live_rows=31"):
        KeptRows({"language.2": WIDTH}, places, memory_bytes=1000)


def test_the_headlines_interval_covers_the_true_effect():
    """Cross-fitted over two layers, one of them noise; benchmarks/aqi_coverage.py has more draws and populations."""
    truth, covered, draws = 2 * 0.8**2 / WIDTH * 2, 0, 40
    labelling, design, _ = drawn(n=40, strata=1)
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        layers = []
        for effect in (0.0, 0.8):
            x = generator.normal(size=(80, WIDTH))
            x[:, 0] += np.where(labelling.codes == 0, effect, -effect)
            cells = ClassMoments(design.n_cells, WIDTH).update(x, design.cells)
            layers.append(layer_of("language.0", cells, design))
        interval = headline(layers, design).delta_squared
        covered += interval.low <= truth <= interval.high
    assert covered / draws >= 0.85


def test_learned_pooling_beats_uniform_weights_on_rows_not_seen():
    labelling, design, rows = drawn(n=100, effects=(0.0, 0.0, 0.0, 0.0, 1.0))
    found = learned_pooling(source_of(rows).fetch, [WIDTH] * 5, design, labelling.ids, kind="sparsemax", loss="fisher")
    assert found.weights.argmax(axis=1).tolist() == [4, 4]
    assert found.learned.delta_squared > 2 * found.uniform.delta_squared
    assert found.learned.auroc > 0.8
    assert found.chosen.tolist() == [4, 4]
    with pytest.raises(UserError, match="AQI-L01"):
        learned_pooling(source_of(rows).fetch, [WIDTH, 9], design, labelling.ids)


def test_a_state_comes_back_and_parts_of_a_pass_merge(tmp_path):
    labelling, design, rows = drawn()
    whole = state_of(labelling, design, rows)
    save(whole, tmp_path)
    again = load(tmp_path)
    assert again.facts == whole.facts
    np.testing.assert_array_equal(again.cells["language.1"].m2, whole.cells["language.1"].m2)
    np.testing.assert_array_equal(again.scores["language.2"], whole.scores["language.2"])
    parts = []
    for half in range(2):
        passes = OnePass({f"language.{i}": WIDTH for i in range(LAYERS)}, design)
        places = passes.order[np.isin(design.blocks[passes.order], np.arange(half, 20, 2))]
        passes.add(places, {f"language.{i}": x[places] for i, x in enumerate(rows)})
        parts.append(State(passes.cells, design, {}, whole.facts))
    merged = merge(parts)
    np.testing.assert_allclose(merged["language.2"].m2, whole.cells["language.2"].m2, rtol=1e-10)
    np.testing.assert_allclose(merged["language.2"].mean, whole.cells["language.2"].mean, rtol=1e-10)
    with pytest.raises(UserError, match="AQI-S02: block 0 comes twice"):
        merge([parts[0], parts[0]])
    other = State(parts[1].cells, design, {}, {**whole.facts, "rows_sha256": "x"})
    with pytest.raises(UserError, match="AQI-S01: part 1 differs from part 0 in rows_sha256"):
        merge([parts[0], other])
    (tmp_path / "moments.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path)


def test_a_comparison_is_zero_for_itself_and_sees_a_collapse():
    labelling, design, rows = drawn()
    before = state_of(labelling, design, rows)
    same = compare_states(before, before).metrics
    assert same["delta2/difference"].value == 0
    assert same["delta2/p"].value == 1
    assert same["auroc/language.1/difference"].value == 0
    collapsed = [x.copy() for x in rows]
    unsafe = np.flatnonzero(labelling.codes == 1)
    for x in collapsed:
        x[unsafe] = x[unsafe - 1] + 0.1 * np.random.default_rng(1).normal(size=(len(unsafe), WIDTH))
    result = compare_states(before, state_of(labelling, design, collapsed), ["first of all"])
    assert result.notes[0] == "first of all"
    assert "not alignment" in result.notes[1]
    found = result.metrics
    assert found["delta2/language.2/difference"].low > 0
    assert found["delta2/language.2/a1/p"].value < 0.01
    assert found["auroc/language.2/p"].value < 0.01
    assert abs(found["delta2/language.0/difference"].value) < 0.1


def test_models_of_other_depth_and_width_are_compared_and_other_rows_refused():
    labelling, design, rows = drawn()
    before = state_of(labelling, design, rows)
    _, _, deeper = drawn(effects=(0.0, 0.2, 0.4, 0.7, 1.0), width=5)
    found = compare_states(before, state_of(labelling, design, deeper))
    assert len(found.tables[0].rows) == 5
    assert found.tables[0].rows[-1][:2] == ["language.2", "language.4"]
    other_labels, other_design, other_rows = drawn(n=42)
    with pytest.raises(UserError, match="AQI-X01: the runs differ in the rows scored"):
        compare_states(before, state_of(other_labels, other_design, other_rows))


def test_a_projection_keeps_its_signs_and_explains_its_axes():
    x = np.random.default_rng(0).normal(size=(30, 4)) * [5, 1, 1, 1]
    plane, turned = project(x), project(-x)
    assert plane.places.shape == (30, 2)
    assert "of variance" in plane.axes[0]
    np.testing.assert_allclose(plane.places, -turned.places, atol=1e-9)

"""Labels, strata, blocks: every wrong input answered by its code, every division by hashes of ids."""

from __future__ import annotations

import numpy as np
import pytest

from vlsae.aqi.confounds import confound_notes, cramers_v, length_control, length_matched
from vlsae.aqi.design import design_of, permuted_labels
from vlsae.aqi.labelling import Rules, Samples, field_of, label_samples
from vlsae.errors import UserError


def samples(labels, strata=None, texts=None, sources=None, groups=None) -> Samples:
    n = len(labels)
    ids = [f"i{number}" for number in range(n)]
    return Samples(
        ids=ids,
        labels=labels,
        strata=strata or ["all"] * n,
        sources=sources or ["s"] * n,
        groups=groups or ids,
        texts=texts,
    )


def many(n=40, strata=2, **more) -> Samples:
    """n safe and n unsafe rows in each stratum."""
    labels = ["safe", "unsafe"] * (n * strata)
    names = [f"a{number // (2 * n)}" for number in range(2 * n * strata)]
    return samples(labels, names, **more)


def few(**changes) -> Rules:
    return Rules(**{"min_per_cell": 2, **changes})


@pytest.mark.parametrize(
    "labels",
    [
        ["safe", "Safe ", "UNSAFE", "unsafe"],
        ["yes", "Yes", "no", "NO"],
        ["1", "1", "0", "0"],
        [True, True, False, False],
    ],
)
def test_each_family_of_words_is_read(labels):
    assert label_samples(samples(labels), rules=few()).codes.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("given", "rules", "words"),
    [
        (
            samples(["safe", "unsafe", "harmless", "safe"]),
            few(),
            r"AQI-D02: unknown labels 'harmless' \(1 times\).*row 2",
        ),
        (samples(["safe", "no", "unsafe", "safe"]), few(), "AQI-D02: the labels mix several ways.*no, safe, unsafe"),
        (samples(["safe", None, "unsafe", " "]), few(), "AQI-D03: 2 samples have no label, first in row 1"),
        (
            samples(["safe", "safe", "unsafe", "unsafe"], texts=["a", "b", "a ", "c"]),
            few(),
            "AQI-D06: rows 0 and 2 hold the same text under both labels",
        ),
        (
            samples(["safe", "safe", "unsafe", "unsafe"], texts=["a", "a", "b", "c"]),
            few(on_duplicate="error"),
            "AQI-D05: row 1 repeats row 0",
        ),
        (samples(["safe", "safe", "SAFE"]), few(), "AQI-D07: two classes at least are needed; the samples hold safe"),
        (
            samples(["safe", "unsafe", "unsafe"]),
            Rules(),
            r"AQI-D08: no stratum holds at least 10.*all: 1 safe, 2 unsafe",
        ),
    ],
)
def test_wrong_samples_are_named(given, rules, words):
    with pytest.raises(UserError, match=f"(?s){words}"):
        label_samples(given, rules=rules)


def test_what_is_left_out_is_counted():
    labels = ["safe", "unsafe", "strange", None, "safe", "unsafe", "safe", "unsafe", "safe", "unsafe"]
    texts = ["a", "b", "c", "d", "a", "e", "f", "f", "g", "h"]
    rules = few(on_unknown_label="drop", on_null_label="drop", on_conflict="drop_both")
    found = label_samples(samples(labels, texts=texts), rules=rules)
    assert found.rows.tolist() == [0, 1, 5, 8, 9]
    assert found.dropped == {"unknown label": 1, "no label": 1, "same text under both labels": 2, "duplicate": 1}
    assert "AQI-D05" in found.notes[0]


def test_a_stratum_with_too_few_rows_is_left_out_and_told():
    given = many(n=12, strata=3)
    strata = [name if name != "a2" or number % 12 == 0 else "a0" for number, name in enumerate(given.strata)]
    found = label_samples(samples(given.labels, strata))
    assert found.strata_names == ("a0", "a1")
    assert list(found.too_few) == ["a2"]
    assert sum(found.too_few["a2"]) == 2
    assert set(found.strata.tolist()) == {0, 1}
    assert "AQI-D08: too few rows" in found.notes[0]


def test_named_classes_and_a_cap_that_does_not_depend_on_order():
    labels = ["red", "blue", "green"] * 30
    given = samples(labels)
    found = label_samples(given, ["green", "red", "blue"], Rules(max_per_cell=12))
    assert found.counts.tolist() == [[12, 12, 12]]
    turned = samples(labels[::-1])
    turned = Samples(given.ids[::-1], turned.labels, turned.strata, turned.sources, given.ids[::-1])
    assert set(label_samples(turned, ["green", "red", "blue"], Rules(max_per_cell=12)).ids) == set(found.ids)


def test_a_label_that_is_not_there_is_named():
    assert field_of([{"axiom": "a", "label": "x"}], None) == "label"
    with pytest.raises(UserError, match=r"(?s)AQI-D01.*no label 'colour'.*axiom, color.*Did you mean color"):
        field_of([{"axiom": "a", "color": "x"}], "colour")


def test_blocks_are_even_keep_groups_and_do_not_depend_on_order():
    found = label_samples(many())
    design = design_of(found, 20)
    assert (design.n_blocks, design.n_folds) == (20, 5)
    table = np.zeros((4, 20), dtype=int)
    np.add.at(table, (design.strata * 2 + design.codes, design.blocks), 1)
    assert set(table.ravel().tolist()) == {2}
    grouped = many(groups=[f"g{number // 4}" for number in range(160)])
    blocks = design_of(label_samples(grouped), 20).blocks.reshape(-1, 4)
    assert (blocks == blocks[:, :1]).all()
    turned = design_of(found.take(np.arange(160)[::-1]), 20)
    assert turned.blocks[::-1].tolist() == design.blocks.tolist()


def test_few_rows_give_fewer_blocks_and_then_no_interval():
    assert design_of(label_samples(many(n=16, strata=1)), 20).n_blocks == 8
    assert design_of(label_samples(many(n=9, strata=1), rules=few()), 20).n_blocks == 0


def test_permutations_keep_each_stratum():
    design = design_of(label_samples(many(n=10, strata=3)), 20)
    table = permuted_labels(design, 30)
    for stratum in range(3):
        assert (table[:, design.strata == stratum].sum(axis=1) == 10).all()
    assert len({row.tobytes() for row in table}) == 30


def test_cramers_v_and_the_warnings():
    assert cramers_v(["a", "b"] * 10, [0, 1] * 10) == pytest.approx(1)
    assert cramers_v(["a", "a", "b", "b"] * 5, [0, 1] * 10) == pytest.approx(0)
    # By hand: counts 3, 1, 1, 3 differ from 2 by 1 each, so chi² = 4 · 1/2 = 2, V = √(2/8).
    assert cramers_v(list("aaaabbbb"), [0, 0, 0, 1, 1, 1, 1, 0]) == pytest.approx(0.5)
    sources = ["s", "t"] * 80
    texts = [("long " * (1 + number % 2)) + str(number) for number in range(160)]
    found = label_samples(many(texts=texts, sources=sources))
    length = length_control(found, design_of(found, 20))
    assert length.auroc.auroc < 0.1
    _, notes = confound_notes(found, length)
    assert len(notes) == 2
    assert "Class and source are confounded" in notes[0]
    assert "Length alone" in notes[1]


def test_rows_matched_in_length_are_as_long():
    generator = np.random.default_rng(0)
    texts = ["w" * (20 + number % 2 * 5 + int(generator.integers(0, 20))) + f" {number:04d}" for number in range(1600)]
    found = label_samples(many(n=400, texts=texts))
    matched = found.take(length_matched(found))
    before = length_control(found, design_of(found, 20)).auroc.auroc
    after = length_control(matched, design_of(matched, 20)).auroc.auroc
    assert before < 0.4
    assert abs(after - 0.5) < 0.03

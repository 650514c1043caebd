"""probe=linear: targets and their types, controls, intervals, directions, and what it refuses."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pytest

from vlsae.errors import UserError
from vlsae.probes.base import Representations
from vlsae.probes.entities import MANY, repeated
from vlsae.probes.linear import Linear
from vlsae.probes.targets import Targets, targets_of

QUICK = {"penalties": [1.0, 100.0], "resamples": 200, "code_length": 0, "words": False}


def data(n=120, d=6, groups=None, labels=None, texts=None, seed=0):
    """Return random rows at two sites and their samples; the second site holds ``label`` in its first column."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, n) if labels is None else labels
    noise = generator.normal(size=(2, n, d))
    noise[1, :, 0] += 4 * np.asarray(label, dtype=float)
    columns = {
        "sample_id": [f"s{row}" for row in range(n)],
        "labels": [{"label": one} for one in np.asarray(label).tolist()],
    }
    columns["group"] = [f"g{row}" for row in (range(n) if groups is None else groups)]
    if texts is not None:
        columns["texts"] = [[text] for text in texts]
    samples = pa.table(columns)
    return Representations.of_arrays({"language.1": noise[0], "language.2": noise[1]}, samples), Targets(samples)


def test_a_layer_that_holds_the_label_is_told_from_one_that_does_not():
    result = Linear(**QUICK).measure(*data())
    nothing, held = result.metrics["accuracy/label/language.1"], result.metrics["accuracy/label/language.2"]
    assert nothing.low < 0.5 < nothing.high
    assert held.low > 0.85
    assert result.metrics["selectivity/label/language.2"].low > 0.2
    assert result.metrics["selectivity/label/language.1"].low < 0 < result.metrics["selectivity/label/language.1"].high
    assert result.metrics["best/label"].value > 0.9
    assert any("can only be guessed" in note for note in result.notes)


def test_directions_are_those_of_raw_rows():
    representations, targets = data()
    result = Linear(**QUICK).measure(representations, targets)
    weight, bias = (result.arrays["directions"][f"language.2/label/{part}"] for part in ("weight", "bias"))
    assert weight.shape == (1, 6)
    scores = representations.rows("language.2").read().numpy() @ weight[0] + bias[0]
    truth = targets.select()[0].values
    assert ((scores > 0) == truth).mean() > 0.95
    assert np.abs(weight[0, 1:]).max() < 0.6 * weight[0, 0]


def test_labels_that_carry_nothing_give_nothing():
    """Over 20 draws, wide and tall: the mean accuracy is that of guessing."""
    found = []
    for seed in range(10):
        for n, d in ((60, 8), (40, 80)):
            representations, targets = data(n, d, seed=seed)
            chance = Representations.of_arrays(
                {"language.1": representations.rows("language.1").read()}, targets.samples
            )
            result = Linear(**{**QUICK, "control": False}).measure(chance, targets)
            found.append(result.metrics["accuracy/label/language.1"].value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_the_control_task_is_learnt_by_heart_where_types_repeat():
    generator = np.random.default_rng(0)
    token = generator.integers(0, 12, 200)
    label = token % 2
    representations, targets = data(200, 12, labels=label)
    site = representations.rows("language.1")
    table = site.table.append_column("token", pa.array(token))
    codes = np.eye(12, dtype=np.float32)[token]
    from dataclasses import replace

    import torch

    row = replace(site, table=table, read=lambda: torch.from_numpy(codes))
    result = Linear(**QUICK).measure(replace(representations, sites={"language.1": row}), targets)
    assert result.metrics["accuracy/label/language.1"].value > 0.98
    # Word identity alone: the probe learns any labels of words by heart, so that the task shows nothing of the layer.
    assert abs(result.metrics["selectivity/label/language.1"].value) < 0.05


def test_groups_are_kept_together_so_that_entities_are_not_known_again():
    groups = np.repeat(np.arange(60), 2)
    label = np.tile([0, 1], 60)
    targets = data(120, 4, groups=groups, labels=label)[1]
    codes = np.eye(60)[groups]
    one = Representations.of_arrays({"language.1": codes}, targets.samples)
    kept = Linear(**QUICK).measure(one, targets).metrics["accuracy/label/language.1"].value
    alone = targets.samples.drop_columns(["group"])
    split = Linear(**QUICK).measure(Representations.of_arrays({"language.1": codes}, alone), Targets(alone))
    assert kept == pytest.approx(0.5, abs=0.1)
    assert split.metrics["accuracy/label/language.1"].value < 0.3


def test_numbers_and_classes_have_their_own_scores():
    generator = np.random.default_rng(1)
    size = generator.normal(size=100)
    representations, targets = data(100, 4, labels=size)
    result = Linear(**QUICK).measure(representations, targets)
    assert result.metrics["r2/label/language.2"].low > 0.8
    assert abs(result.metrics["r2/label/language.1"].value) < 0.25
    kind = np.array(["red", "green", "blue"])[generator.integers(0, 3, 100)]
    representations, targets = data(100, 4, labels=np.arange(100) % 3)
    samples = targets.samples.set_column(1, "labels", pa.array([{"kind": one} for one in kind]))
    codes = np.eye(4)[[["red", "green", "blue"].index(one) for one in kind]]
    result = Linear(**QUICK).measure(Representations.of_arrays({"vision.1": codes}, samples), Targets(samples))
    assert result.metrics["accuracy/kind/vision.1"].value == 1


def test_missing_labels_count_for_nothing():
    label = [None if row % 3 == 0 else row % 2 for row in range(90)]
    samples = pa.table({"sample_id": [str(row) for row in range(90)], "labels": [{"label": one} for one in label]})
    x = np.random.default_rng(0).normal(size=(90, 3))
    x[:, 0] += np.arange(90) % 2 * 6
    result = Linear(**QUICK).measure(Representations.of_arrays({"language.1": x}, samples), Targets(samples))
    row = dict(zip(result.tables[1].columns, result.tables[1].rows[0]))
    assert row["rows"] == 60
    assert row["score"] > 0.95


def test_words_alone_may_tell_the_label():
    label = np.arange(100) % 2
    texts = [f"{'warm' if one else 'cold'} thing number {row}" for row, one in enumerate(label)]
    representations, targets = data(100, 4, labels=label, texts=texts)
    result = Linear(**{**QUICK, "words": True}).measure(representations, targets)
    assert result.metrics["accuracy/label/words"].value == 1
    assert not any(name.startswith("words") for name in result.arrays["directions"])


def test_nothing_depends_on_the_order_of_sites():
    representations, targets = data(80)
    from dataclasses import replace

    turned = replace(representations, sites=dict(reversed(list(representations.sites.items()))))
    left, right = (Linear(**QUICK).measure(one, targets).metrics for one in (representations, turned))
    assert left == {name: right[name] for name in left}


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([0, 1, None, 1], ["binary"]),
        ([True, False], ["binary"]),
        (["a", "b", "a", "b"], ["binary"]),
        (["a", "b", "c"] * 3, ["classes"]),
        ([1, 2, 3, 4, 5], ["classes"]),
        ([0.5, 1.5, 2.25], ["number"]),
        (list(range(30)), ["number"]),
        ([["a"], ["a", "b"], ["c"], None], ["binary", "binary", "binary"]),
    ],
)
def test_the_type_of_a_column_is_inferred(values, kinds):
    assert [one.kind for one in targets_of("label", values)] == kinds


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, 1, None], None, "has one class only: it holds only 1"),
        ([None], None, "it holds nothing"),
        ([f"name{row}" for row in range(200)], None, "names rather than classes"),
        (["a", "b"], "number", "holds words"),
        ([1, 2, 3], "binary", "cannot be binary"),
        ([1, 2], "float", "Use one of binary, classes, number"),
    ],
)
def test_columns_that_say_nothing_are_refused(values, kind, message):
    with pytest.raises(UserError, match=message):
        targets_of("label", values, kind)


def test_mistakes_are_named():
    targets = data(4)[1]
    with pytest.raises(UserError, match="4 groups of samples for 5 folds"):
        Linear(**QUICK).check(targets)
    targets = data(60, labels=np.arange(60) < 2)[1]
    with pytest.raises(UserError, match="the class True has 2 samples, none of them where two folds are left out"):
        Linear(targets=["label"], **QUICK).check(targets)
    with pytest.raises(UserError, match="There is no target 'lable'"):
        Linear(targets=["lable"], **QUICK).check(targets)
    with pytest.raises(UserError, match="must have shape"):
        Representations.of_arrays({"language.1": np.zeros((3, 2))}, targets.samples)


def test_repeated_entities_without_a_group_column_are_told_of():
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(400)]
    texts = [f"The city of {words[row // 2]} is in {generator.choice(words)}." for row in range(120)]
    result = Linear(**QUICK).measure(*data(120, texts=texts))
    assert any("no group column" in note for note in result.notes)
    result = Linear(**QUICK).measure(*data(120, texts=texts, groups=np.arange(120) // 2))
    assert not any("no group column" in note for note in result.notes)


@pytest.mark.shared_data
def test_repeats_are_found_in_real_texts_that_have_them_alone(shared_data):
    def texts(name):
        with (shared_data / "concept_tasks" / f"{name}.csv").open(newline="") as file:
            return [row["text"][:300] for row in csv.DictReader(file)][:1500]

    assert repeated(texts("cities")) > 0.9
    assert all(repeated(texts(name)) < MANY for name in ("stsa", "hateeval", "sarcasm", "coinflip"))


def test_the_online_code_is_measured_at_the_best_site_or_at_all():
    settings = {**QUICK, "code_length": 1, "targets": ["label"]}
    found = {}
    for where in ("best", "all"):
        result = Linear(**settings, code_sites=where).measure(*data())
        found[where] = {row[0]: dict(zip(result.tables[1].columns, row)) for row in result.tables[1].rows}
    assert found["best"]["language.1"]["code_bits"] is None
    assert found["all"]["language.1"]["compression"] < 1.2 < found["all"]["language.2"]["compression"]
    assert found["best"]["language.2"]["code_bits"] == found["all"]["language.2"]["code_bits"]

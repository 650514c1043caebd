"""The enhance stage: what a task is lent, how before and after are compared, and mistakes in its settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_clip import write_clip

from vlsae.cli import main
from vlsae.commands.stage import Request
from vlsae.config import compose
from vlsae.datasets import Shapes
from vlsae.datasets.base import sample_splits
from vlsae.dictionaries import VLSAE
from vlsae.enhancement.comparison import compare
from vlsae.enhancement.items import Items
from vlsae.enhancement.prompts import (
    bundled_names,
    check_classes,
    class_texts,
    classes_in,
    read_classes,
    read_prompts,
)
from vlsae.enhancement.rows import TaskRows, halves
from vlsae.enhancement.task import Evaluation, Work
from vlsae.enhancement.tasks.zero_shot import ZeroShot
from vlsae.enhancement.zero_shot import Prompts, feature_cosines, sharpened_cosines, zero_shot_scores
from vlsae.errors import UserError
from vlsae.models import CLIP
from vlsae.result import Measure
from vlsae.stages.dictionary_run import FittedDictionary
from vlsae.statistics import mcnemar

pytestmark = pytest.mark.slow

ITEM = {"input": "x", "answer": "a", "label": "b"}
SMALL = [
    "dataset.n=600", "train.epochs=2", "train.batch_size=64", "objective.k=4", "hardware.threads=1",
    "train.evaluate.bootstrap=20", "enhance.resamples=50",
]  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> CLIP:
    return CLIP(checkpoint=f"path:{write_clip(tmp_path_factory.mktemp('clip'))}")


def found(**settings) -> ZeroShot:
    settings = {"data": Shapes(n=120, max_objects=1, hard=True), "prompts": "shapes", **settings}
    task = ZeroShot(**settings)
    task.work = Work(resamples=50)
    return task


# Items


def test_items_go_on_after_the_last_whole_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    items, asked = Items(path), []

    def answer(numbers):
        asked.extend(numbers)
        return [{**ITEM, "answer": str(n)} for n in numbers]

    items.complete(["a", "b", "c"], "m", 0, answer, batch=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Items(path)
    assert len(again) == 2
    asked.clear()
    done = again.complete(["c", "a", "b"], "m", 0, answer)
    assert asked == [0]
    assert [one["id"] for one in done] == ["c", "a", "b"]
    assert len(path.read_text().splitlines()) == 3
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_items_of_another_method_or_seed_are_others():
    items = Items()
    items.add([{**ITEM, "id": "a", "method": m, "seed": s} for m in ("x", "y") for s in (0, 1)])
    items.add([{**ITEM, "id": "a", "method": "x", "seed": 0, "answer": "later"}])
    assert len(items) == 4
    assert items.of("x", 0)["a"]["answer"] == "a"


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', "NaN"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "samples.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1"):
        Items(path)


# Before and after


def test_mcnemar_is_the_binomial_test():
    a = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4)
    b = np.array([0] * 9 + [1] * 2 + [1] * 5 + [0] * 4)
    test = mcnemar(a, b)
    assert (test.only_a, test.only_b) == (9, 2)
    assert test.p_value == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert mcnemar(a, a).p_value == 1
    with pytest.raises(ValueError, match="1 for right"):
        mcnemar(a * 0.5, b)


def test_a_difference_of_the_same_items_is_narrower_than_of_others():
    rng = np.random.default_rng(0)
    one = (rng.random(400) < 0.6).astype(float)
    two = np.where(rng.random(400) < 0.1, 1.0, one)
    make = lambda s, extra: Evaluation(  # noqa: E731
        {"accuracy": Measure(s.mean(), "share"), **extra}, headline=["accuracy"], scores={"accuracy": s}
    )
    result = compare(make(one, {"before_only": Measure(1.0)}), make(two, {"alpha": Measure(0.5)}))
    gain = result.metrics["difference/accuracy"]
    assert gain.value == pytest.approx(two.mean() - one.mean())
    assert 0 < gain.low <= gain.value <= gain.high < 0.06
    assert set(result.metrics) == {"before/accuracy", "after/accuracy", "difference/accuracy", "before_only", "alpha"}
    assert result.headline == ("before/accuracy", "after/accuracy", "difference/accuracy")
    row = dict(zip(result.tables[0].columns, result.tables[0].rows[0]))
    assert row["p (McNemar)"] == pytest.approx(mcnemar(one, two).p_value)


def test_numbers_resampled_alike_have_a_paired_interval():
    draws = np.linspace(0.1, 0.9, 50)
    results = [
        Evaluation({"f1": Measure(value)}, replicates={"f1": draws + shift}) for value, shift in ((0.5, 0), (0.6, 0.1))
    ]
    gain = compare(*results).metrics["difference/f1"]
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))


# Prompts


def test_templates_hold_names_with_and_without_article():
    assert class_texts({"x": "owl", "y": "cat"}, ["{a}.", "the {}"], {}) == [
        ["an owl.", "the owl"],
        ["a cat.", "the cat"],
    ]
    assert class_texts({"x": "owl"}, [], {"x": ["big eyes", "flies"]}) == [["big eyes", "flies"]]


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ([""], "empty"),
        (["a photo"], "no place"),
        (["{name}"], "no place"),
        (["{"], "cannot be read"),
        ([], "no template"),
    ],
)
def test_templates_without_a_name_are_refused(templates, words):
    with pytest.raises(UserError, match=words):
        class_texts({"x": "owl"}, templates, {})


def test_every_bundled_file_of_prompts_reads():
    for name in bundled_names():
        read = read_prompts(name)
        labels = list(read.names) or ["apple_pie", "owl"]
        texts = class_texts(classes_in(labels, read.names), read.templates, {})
        assert all(len(one) == len(read.templates) for one in texts)
    assert classes_in(["apple_pie", "SeaLake"], read_prompts("eurosat").names) == {
        "SeaLake": "a lake or sea",
        "apple_pie": "apple pie",
    }


def test_classes_and_labels_must_agree():
    with pytest.raises(UserError, match=r"not in the data, the first 'catt'.*\n.*cat"):
        check_classes({"catt": "cat", "dog": "dog"}, ["cat", "dog"])
    with pytest.raises(UserError, match="1 labels of the data are no class, the first 'dog'"):
        check_classes({"cat": "cat"}, ["cat", "dog"])
    with pytest.raises(UserError, match="at least two"):
        check_classes({"cat": "cat"}, ["cat"])
    with pytest.raises(UserError, match="names the class 'a' twice"):
        read_classes(["a", "a"])
    with pytest.raises(UserError, match="Did you mean shapes"):
        read_prompts("shape")


def test_descriptions_come_from_a_file(tmp_path):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps({"templates": ["{}!"], "classes": {"0": "zero"}, "descriptions": {"0": ["round"]}}))
    read = read_prompts(str(file))
    assert (read.classes, list(read.templates), read.descriptions) == ({"0": "zero"}, ["{}!"], {"0": ["round"]})
    file.write_text(json.dumps({"clases": []}))
    with pytest.raises(UserError, match="no file of prompts"):
        read_prompts(str(file))


# Zero-shot


def test_ragged_prompts_equal_even_ones():
    torch.manual_seed(0)
    images, prompts = torch.randn(5, 6), torch.randn(3, 2, 6)
    even = Prompts.of(prompts)
    shuffled = torch.tensor([3, 0, 5, 2, 1, 4])
    ragged = Prompts(even.values[shuffled], even.owner[shuffled], 3)
    torch.testing.assert_close(feature_cosines(images, even), feature_cosines(images, ragged))


def test_sharpening_one_prompt_a_class_changes_no_answer():
    torch.manual_seed(0)
    images, texts = torch.randn(200, 8), torch.randn(5, 8)
    one = Prompts(texts, torch.arange(5), 5)
    plain = feature_cosines(images, one)
    for alpha in (0.5, 5.0):
        assert torch.equal((plain + alpha * sharpened_cosines(images, one, 3.0)).argmax(1), plain.argmax(1))
    several = Prompts.of(torch.randn(5, 4, 8))
    sharp = feature_cosines(images, several) + 5 * sharpened_cosines(images, several, 3.0)
    assert not torch.equal(sharp.argmax(1), feature_cosines(images, several).argmax(1))


def test_alpha_is_chosen_on_rows_that_are_not_scored(clip):
    task = found(controls=["random_support"])
    torch.manual_seed(0)
    after = task.evaluate(clip, VLSAE(16, 64, 8).eval())
    setup = task._held
    assert not set(setup.choosing) & set(setup.scored)
    scored = {item["id"] for item in task.work.items}
    assert scored == {setup.rows.ids[row] for row in setup.scored}
    curve = after.plots[0].series[0].y
    assert after.metrics["alpha"].value == sorted(task.alphas)[int(np.argmax(curve))]
    assert after.metrics["accuracy/oracle"].value >= after.metrics["accuracy"].value


def test_the_tasks_accuracy_is_that_of_the_scores(clip):
    task = found(alpha=0.7, controls=[])
    torch.manual_seed(0)
    dictionary = VLSAE(16, 64, 8).eval()
    after = task.evaluate(clip, dictionary)
    setup = task._held
    scores = zero_shot_scores(dictionary, setup.rows.values["vision"], setup.prompts.values.reshape(8, 1, -1), 0.7)
    right = (scores.argmax(1).numpy() == setup.truth)[setup.scored]
    assert after.metrics["accuracy"].value == pytest.approx(right.mean())
    before = task.evaluate(clip, None)
    wide = {n: m.value for n, m in compare(before, after).metrics.items()}
    assert wide["difference/accuracy"] == pytest.approx(wide["after/accuracy"] - wide["before/accuracy"])


def test_wrong_label_and_classes_are_named(clip):
    with pytest.raises(UserError, match=r"label in the task's data 'shap'.*\n.*shape"):
        found(label="shap").evaluate(clip, None)
    with pytest.raises(UserError, match="not in the data"):
        found(classes=["circle", "sqare"]).evaluate(clip, None)
    with pytest.raises(UserError, match="no place"):
        found(templates=["a thing"]).evaluate(clip, None)


# The stage


@pytest.mark.parametrize("text", ["a cat", "a cat, on the owner's mat", "red,blue", "[1]", "x=y", "ends with \\\\"])
def test_a_users_own_words_arrive_as_typed(text):
    request = Request("enhance", {}, ["task=explain", f"text={text}", "image=a b.png", "seed=3"])
    config = compose("enhance", request.overrides)
    assert config.text == text
    assert config.task.text == text
    assert config.task.image == "a b.png"
    assert config.seed == 3


def test_enhance_trains_what_it_needs_and_compares(clip, runs_dir, tmp_path, capsys):
    model = f"model.checkpoint={clip.checkpoint}"
    words = ["enhance", model, *SMALL, "task.data.n=200", "task.alphas=[0,0.5,1]"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Before and after" in shown
    run = runs_dir / "enhance/clip-shapes-zero_shot/v0001"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["parents"] == [
        "extract/clip-shapes/v0001",
        "train/clip-shapes-top_k/v0001",
        "train/clip-shapes-vl_sae/v0001",
    ]
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert {"before/accuracy", "after/accuracy", "difference/accuracy", "accuracy/top_k", "alpha"} <= set(metrics)
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} >= {"clip", "concepts", "top_k", "random_encoder"}
    page = (run / "report.html").read_text()
    assert "Answers that changed" in page
    # A second time nothing upstream is made, and the numbers are the same.
    assert main([*words, "--run", "train/clip-shapes-vl_sae/latest"]) == 0
    again = json.loads((run.parent / "v0002" / "summary.json").read_text())["metrics"]
    assert all(again[name] == value for name, value in metrics.items() if "time" not in name)
    assert len(list((runs_dir / "train").iterdir())) == 2
    # A dictionary of another model is refused with both digests, before anything is made.
    other = CLIP(checkpoint=f"path:{write_clip(tmp_path / 'other', seed=1)}")
    named = ["enhance", f"model.checkpoint={other.checkpoint}", "--run", "train/clip-shapes-vl_sae/latest"]
    capsys.readouterr()
    assert main(named) == 2
    shown = capsys.readouterr().err
    assert clip.digest()[:12] in shown
    assert other.digest()[:12] in shown
    assert len(list(run.parent.glob("v*"))) == 2


def test_a_dictionary_of_other_sites_is_refused(clip):
    task = found()
    task.work = Work(sites={"vision": "vision.2", "language": "language.2"}, resamples=20)
    with pytest.raises(UserError, match=r"trained on vision\.2 and language\.2; this task works on vision\.embedding"):
        task.evaluate(clip, VLSAE(16, 64, 8))


def test_validation_rows_are_halved_whatever_seed_split_them():
    data = Shapes(n=400)
    splits = np.array(sample_splits(data, 400, {"seed": 0, "validation": 0.2, "test": 0.0}))
    rows = TaskRows({}, data.table.with_format("arrow")[:], splits)
    choosing, scored = halves(rows)
    assert sorted([*choosing, *scored]) == np.flatnonzero(splits == "validation").tolist()
    assert 0.3 < len(choosing) / (splits == "validation").sum() < 0.7
    with pytest.raises(UserError, match=r"enhance\.split"):
        halves(TaskRows({}, rows.samples, np.full(400, "train")))


def test_names_of_a_file_reach_the_task(tmp_path):
    names = tmp_path / "names.csv"
    names.write_text("concept,name\n1,red things\n")
    concepts = [{"id": 0, "name": "kept"}, {"id": 1, "name": None}]
    found = FittedDictionary(VLSAE(4, 2, 1), {"vision": "vision.embedding"}, concepts, None, None)
    work = Work()
    found.lend(work, str(names))
    assert [concept["name"] for concept in work.concepts] == ["kept", "red things"]
    names.write_text("concept,name\n7,lost\n")
    with pytest.raises(UserError, match="names concept 7, which the dictionary has not got"):
        found.lend(work, str(names))

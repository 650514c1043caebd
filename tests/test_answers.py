"""Answers that are there already: POPE's and CHAIR's files, COCO's layout, and scores against the published metric."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlsae.cli import main
from vlsae.datasets import Coco, Shapes
from vlsae.datasets.coco import asked_object, image_id, question_after
from vlsae.datasets.object_questions import SETTINGS, ask
from vlsae.enhancement import chair_mentions, chair_scores, pope_scores
from vlsae.enhancement.answer_files import read_answers, read_synonyms
from vlsae.enhancement.chair_results import chair_columns, chair_resampled
from vlsae.enhancement.pope_results import pope_columns, pope_resampled, unparsed_words
from vlsae.enhancement.resampled import Resampled, gain
from vlsae.errors import MissingFile, UserError
from vlsae.result import Measure

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LABELS = ["yes", "yes", "no", "no", "no", "yes"]
ANSWERS = ["Yes", "No, there is not", "I don't know", "Yes.", "no", "maybe"]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def questions(folder: Path, setting: str = "random", labels=LABELS) -> Path:
    rows = [{"question_id": n, "image": f"COCO_val2014_{n // 2:012d}.jpg", "text": f"Is there a dog{n} in the image?",
             "label": label} for n, label in enumerate(labels, 1)]  # fmt: skip
    return lines(folder / f"coco_pope_{setting}.json", rows)


# Numbers


@pytest.mark.parametrize("parser", ["word", "reference"])
def test_figures_are_those_of_the_scores(parser):
    """The worked example of the specification, once in one setting and once in two."""
    expected = pope_scores(ANSWERS, LABELS, parser)
    items = [{"answer": a, "label": label, "setting": s, "image": str(n // 2)} for s in ("random", "popular")
             for n, (a, label) in enumerate(zip(ANSWERS, LABELS))]  # fmt: skip
    columns = pope_columns(items, ["random", "popular"], {"0": 0, "1": 1, "2": 2}, parser)
    found = pope_resampled([columns, columns], ["random", "popular"], resamples=50, seed=0)
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        for setting in ("random", "popular", "mean"):
            measure = found.measures[f"{name}/{setting}"]
            assert measure.value == pytest.approx(expected[name])
            assert measure.low <= measure.value <= measure.high
    assert found.measures["unparsed/mean"].value == pytest.approx(2 / 6)
    said = unparsed_words({"a": found, "b": found}, parser)
    assert len(said) == 1
    assert said[0].endswith("33.3 % of a, 33.3 % of b.")
    assert ("as misses where the label is yes" in said[0]) == (parser == "word")
    assert found.by_seed["f1/random"] == pytest.approx([0.4, 0.4])


def test_numbers_of_captions_are_those_of_the_scores_and_undefined_ones_none():
    mentions, truth = [["dog", "dog", "cat"], ["car"], []], [{"dog", "frisbee"}, {"car"}, {"person", "bench"}]
    expected = chair_scores(mentions, truth)
    found = chair_resampled([chair_columns(mentions, truth, [5, 1, 3])], resamples=50, seed=0).measures
    for name, other in (("chair_i", "chair_i"), ("chair_s", "chair_s"), ("chair_recall", "recall")):
        assert found[name].value == pytest.approx(expected[other])
    assert found["caption_length"].value == 3
    assert found["caption_mentions"].value == pytest.approx(expected["mean_mentions"])
    nothing = chair_resampled([chair_columns([[], []], [{"dog"}, {"cat"}], [2, 2])], resamples=20, seed=0).measures
    assert nothing["chair_i"].value is None
    assert nothing["chair_s"].value == 0


def test_a_gain_is_sure_only_beyond_pictures_and_seeds():
    def one(value: float, seeds: list[float], spread: float = 0.01) -> Resampled:
        draws = value + spread * np.linspace(-1, 1, 101)
        return Resampled({"f1": Measure(value)}, {"f1": draws}, {"f1": seeds})

    low, high = one(0.5, [0.49, 0.51]), one(0.6, [0.59, 0.61], 0.02)
    assert gain(high, low, "f1").sure
    assert not gain(low, high, "f1").sure
    assert gain(low, high, "f1", -1).sure
    assert not gain(one(0.6, [0.5, 0.7], 0.02), low, "f1").sure
    assert not gain(one(0.505, [0.6], 0.05), one(0.5, [0.4]), "f1").sure
    undefined = Resampled({"f1": Measure(None)}, {"f1": np.full(101, np.nan)}, {"f1": [float("nan")]})
    assert gain(undefined, low, "f1").difference is None


# Files of answers


def test_answers_to_questions_in_every_format(tmp_path):
    truth = questions(tmp_path)
    rows = [{"question_id": n, "answer": answer} for n, answer in enumerate(ANSWERS, 1)]
    lines(tmp_path / "a.jsonl", rows[::-1])
    lines(tmp_path / "b.json", [{"question": "", "answer": row["answer"]} for row in rows])
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["response", "label", "model"])
        writer.writeheader()
        writer.writerows({"response": a, "label": label, "model": "m"} for a, label in zip(ANSWERS, LABELS))
    for name in ("a.jsonl", "c.json", "d.csv"):
        (found,) = read_answers(tmp_path / name, None if name == "d.csv" else truth)
        (items,) = found.groups.values()
        assert found.measure == "pope"
        scores = pope_scores([one["answer"] for one in items], [one["label"] for one in items])
        assert scores == pope_scores(ANSWERS, LABELS)
        assert {one["setting"] for one in items} == {"all" if name == "d.csv" else "random"}
    with pytest.raises(UserError, match=r"row 1 answers ''; coco_pope_random\.json asks"):
        read_answers(tmp_path / "b.json", truth)


@pytest.mark.parametrize(
    ("content", "truth", "said"),
    [
        ('{"answer": "yes"}\n{"answer"', None, "line 2 is not JSON"),
        ('{"said": "yes"}\n', None, "neither an answer nor a caption: it has said"),
        ('{"answer": "yes"}\n', None, "row 1 has no label"),
        ('{"answer": 3, "label": "no"}\n', None, "row 1 has the answer 3"),
        ('{"answer": "yes"}\n', "questions", "1 answers without question_id, coco_pope_random.json 6 questions"),
        ('{"answer": "yes", "question_id": 99}\n', "questions", "has no question 99"),
        ('{"caption": "a dog", "image_id": 1}\n', None, "nothing says which objects"),
        ('{"caption": "a dog"}\n', "objects", "row 1 lacks its image_id"),
        ('{"caption": "a dog", "image_id": 7}\n', "objects", "does not know image 7"),
        ('{"caption": "a", "image_id": 1}\n{"caption": "b", "image_id": 1}\n', "objects", "answers 1 twice"),
        ('{"caption": "a", "image_id": 1}\n', "missing", "no file .*missing.json of the truth"),
        ("", None, "holds no answers"),
    ],
)
def test_mistakes_in_a_file_of_answers_are_named(tmp_path, content, truth, said):
    questions(tmp_path)
    (tmp_path / "objects.json").write_text('{"1": ["dog"]}')
    (tmp_path / "answers.json").write_text(content)
    names = {"questions": "coco_pope_random.json", "objects": "objects.json", "missing": "missing.json"}
    with pytest.raises(UserError, match=said):
        read_answers(tmp_path / "answers.json", None if truth is None else tmp_path / names[truth])


def test_synonyms_of_both_forms_and_others_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("dog, puppy,  big dog\ncell phone, phone\n")
    assert read_synonyms(tmp_path / "words.txt")["big dog"] == "dog"
    maps = {"inverse_synonyms": {"dog": "dog", "puppy": "dog"}, "double_words": {"baby dog": "dog", "stop light": "x"}}
    (tmp_path / "maps.json").write_text(json.dumps(maps))
    assert read_synonyms(tmp_path / "maps.json") == {"dog": "dog", "puppy": "dog", "baby dog": "dog"}
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="JSON of another form"):
        read_synonyms(tmp_path / "list.json")
    with pytest.raises(MissingFile, match="no file of synonyms"):
        read_synonyms(tmp_path / "none.txt")


def test_the_command_scores_answers_by_whose_they_are_and_needs_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    rows = [{"model": model, "image_id": n, "caption": "a puppy and a cat" if model == "good" else "a horse"}
            for model in ("good", "bad") for n in (1, 2)]  # fmt: skip
    file = lines(tmp_path / "captions.jsonl", rows)
    (tmp_path / "objects.json").write_text('{"1": ["dog", "cat"], "2": ["dog"]}')
    (tmp_path / "words.txt").write_text("dog, puppy\ncat\nhorse\n")
    command = ["enhance", "task=hallucination", f"answers={file}", f"task.truth={tmp_path / 'objects.json'}",
               "enhance.resamples=20"]  # fmt: skip
    assert main(command) == 2
    assert "task.synonyms=FILE" in capsys.readouterr().err
    assert main([*command, f"task.synonyms={tmp_path / 'words.txt'}"]) == 0
    runs = sorted((tmp_path / "runs" / "enhance").glob("*/v*/summary.json"))
    metrics = json.loads(runs[-1].read_text())["metrics"]
    assert metrics["chair_i/good"]["value"] == pytest.approx(1 / 4)
    assert metrics["chair_i/bad"]["value"] == 1
    assert metrics["chair_recall/good"]["value"] == 1
    assert not (tmp_path / "runs" / "train").exists()


# COCO's layout


@pytest.fixture
def coco(tmp_path) -> Path:
    folder = tmp_path / "val2014"
    folder.mkdir()
    names = {n: f"COCO_val2014_{n:012d}.jpg" for n in range(1, 7)}
    for n, name in names.items():
        Image.fromarray(np.full((8, 8, 3), 20 * n, np.uint8)).save(folder / name)
    kinds = {1: "dog", 2: "cat", 3: "traffic light", 4: "apple"}
    present = {1: [1, 1, 2], 2: [1, 2], 3: [3], 4: [1], 5: [2, 4], 6: [1]}
    instances = {
        "images": [{"id": n, "file_name": name} for n, name in names.items()],
        "categories": [{"id": n, "name": name} for n, name in kinds.items()],
        "annotations": [{"image_id": n, "category_id": kind} for n, several in present.items() for kind in several],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    captions = {"images": instances["images"], "annotations": [{"image_id": 3, "caption": " an apple under a light "}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path


def test_coco_gives_pictures_objects_and_captions(coco):
    data = Coco(
        path=str(coco / "val2014"), instances=str(coco / "instances.json"), captions=str(coco / "captions.json")
    )
    assert data.table["sample_id"] == ["1", "2", "3", "4", "5", "6"]
    assert data.table["texts"][2] == ["an apple under a light"]
    assert data.present_objects([0, 4]) == [{"dog", "cat"}, {"cat", "apple"}]
    assert set(data.object_words) == {"dog", "cat", "traffic light", "apple"}
    assert np.asarray(data.images([1])[0]).mean() == pytest.approx(40, abs=2)
    (coco / "ids.json").write_text("[5, 1]")
    some = Coco(path=str(coco / "val2014"), instances=str(coco / "instances.json"), images=str(coco / "ids.json"))
    assert some.table["sample_id"] == ["5", "1"]
    assert some.present_objects([0]) == [{"cat", "apple"}]
    assert some.digest() != data.digest()
    table = data.questions("adversarial", 4)
    for one in table.to_pylist():
        assert one["question"] == question_after(one["object"])
        assert (one["object"] in data.present_objects([one["row"]])[0]) == (one["answer"] == "yes")


def test_published_questions_find_their_pictures_and_objects(coco):
    rows = [
        {"image": f"COCO_val2014_{n:012d}.jpg", "text": f"Is there {name} in the image?", "label": label}
        for n, name, label in ((2, "an apple", "no"), (1, "a traffic light", "yes"))
    ]
    lines(coco / "coco_pope_popular.json", rows)
    data = Coco(path=str(coco / "val2014"), questions=str(coco))
    asked = data.questions("popular").to_pylist()
    assert [(data.table["sample_id"][one["row"]], one["object"], one["answer"]) for one in asked] == [
        ("2", "apple", "no"), ("1", "traffic light", "yes"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="no file of the setting random"):
        data.questions("random")
    with pytest.raises(UserError, match=r"instances=FILE"):
        data.present_objects([0])


def test_coco_names_what_is_missing(coco):
    (coco / "val2014" / "COCO_val2014_000000000004.jpg").unlink()
    settings = {"path": str(coco / "val2014"), "instances": str(coco / "instances.json")}
    with pytest.raises(UserError, match="image 4"):
        len(Coco(**settings))
    assert len(Coco(**settings, on_error="skip")) == 5
    with pytest.raises(UserError, match="Nothing says which pictures"):
        Coco(path=str(coco))
    with pytest.raises(UserError, match="both name the objects"):
        Coco(**settings, objects="x")
    (coco / "wrong.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="no list of annotations"):
        len(Coco(path=str(coco / "val2014"), captions=str(coco / "wrong.json")))
    lines(coco / "x_random.json", [{"image": "1.jpg", "text": "?", "label": "maybe"}])
    with pytest.raises(UserError, match="question 1 has the label 'maybe'"):
        len(Coco(path=str(coco / "val2014"), questions=str(coco / "x_random.json")))


def test_settings_of_questions_ask_after_what_their_names_say():
    present = np.zeros((40, 4), bool)
    present[:30, 0] = True
    present[30:, 3] = True
    present[:5, 1] = present[30:38, 2] = True
    names = ["often", "beside often", "beside rare", "rare"]
    for setting, first in (("popular", "often"), ("adversarial", "beside rare")):
        table = ask(present, names, setting, str, 2).to_pylist()
        noes = [one["object"] for one in table if one["answer"] == "no" and one["row"] >= 38]
        assert set(noes) == {first}
        counts = Counter(one["answer"] for one in table)
        assert counts["yes"] == counts["no"]
    random = {one["object"] for one in ask(present, names, "random", str, 2).to_pylist() if one["answer"] == "no"}
    assert len(random) > 2
    assert {tuple(Shapes(n=3).questions(setting).column_names) for setting in SETTINGS} == {tuple(table[0])}


def test_ids_and_objects_are_read_from_names_and_questions():
    assert image_id("COCO_val2014_000000310196.jpg") == "310196"
    assert image_id("2405722.jpg") == "2405722"
    assert image_id("cat.jpg") == "cat"
    assert asked_object("Is there a dining table in the image?") == "dining table"
    assert asked_object("Are there any Cars in the picture?") == "cars"
    assert asked_object("What is it?") == "What is it?"


# The published data


@pytest.mark.shared_data
@pytest.mark.parametrize("words", ["word_maps.json", "synonyms.txt"])
def test_mentions_and_scores_are_those_that_the_published_metric_printed(words):
    reference = json.loads((SHARED / "chair" / "reference_outputs.json").read_text())
    synonyms = read_synonyms(SHARED / "chair" / words)
    mentions = [chair_mentions(one["caption"], synonyms) for one in reference["sentences"]]
    assert mentions == [one["mscoco_generated_words"] for one in reference["sentences"]]
    scores = chair_scores(mentions, [one["mscoco_gt_words"] for one in reference["sentences"]])
    overall = reference["overall_metrics"]
    assert [scores[name] for name in ("chair_s", "chair_i", "recall")] == pytest.approx(
        [overall[name] for name in ("CHAIRs", "CHAIRi", "Recall")]
    )


@pytest.mark.shared_data
def test_captions_of_five_models_rank_as_their_authors_report(tmp_path, monkeypatch):
    """Long captions name more that is not there; InstructBLIP's short ones least, mPLUG-Owl's long ones most."""
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    chair = SHARED / "chair"
    assert main(["enhance", "task=hallucination", f"answers={chair / 'vlm_captions.csv'}",
                 f"task.truth={chair / 'ground_truth_objects.json'}", f"task.synonyms={chair / 'word_maps.json'}",
                 "enhance.resamples=100"]) == 0  # fmt: skip
    run = next((tmp_path / "runs" / "enhance").glob("*/v0001"))
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    shares = {name.removeprefix("chair_i/"): one for name, one in metrics.items() if name.startswith("chair_i/")}
    assert len(shares) == 10
    assert min(shares, key=lambda name: shares[name]["value"]).startswith("instructblip")
    assert max(shares, key=lambda name: shares[name]["value"]) == "mplug 1"
    for name, one in shares.items():
        assert one["low"] < one["value"] < one["high"], name
        assert metrics[f"caption_length/{name}"]["value"] > 5


@pytest.mark.shared_data
@pytest.mark.parametrize("source", ["coco", "aokvqa", "gqa"])
def test_published_questions_are_read_and_their_labels_score_full_marks(source, tmp_path):
    for setting in SETTINGS:
        truth = SHARED / "pope" / f"{source}_pope_{setting}.json"
        asked = [json.loads(line) for line in truth.read_text().splitlines()]
        answers = [{"question_id": one["question_id"], "answer": one["label"].title() + "."} for one in asked]
        (found,) = read_answers(lines(tmp_path / f"{setting}.jsonl", answers), truth)
        items = next(iter(found.groups.values()))
        scores = pope_scores([one["answer"] for one in items], [one["label"] for one in items])
        assert scores["f1"] == scores["accuracy"] == 1
        assert scores["n"] == 3000
        assert scores["yes_ratio"] == 0.5
        assert all(one["setting"] == setting and "?" not in one["object"] for one in items)


@pytest.mark.shared_data
def test_the_objects_of_published_questions_agree_with_the_objects_of_their_pictures():
    truth = json.loads((SHARED / "chair" / "ground_truth_objects.json").read_text())
    asked = [json.loads(one) for one in (SHARED / "pope" / "coco_pope_random.json").read_text().splitlines()]
    agreed = [(asked_object(one["text"]) in truth[image_id(one["image"])]) == (one["label"] == "yes") for one in asked]
    assert np.mean(agreed) > 0.98


@pytest.mark.shared_data
def test_real_photographs_in_cocos_layout(tmp_path):
    photos = SHARED / "coco_photos"
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("photos_open.zip", "photos_restricted.zip"):
        (folder / name).symlink_to(photos / name)
    data = Coco(path=str(folder), instances=str(photos / "instances.json"), captions=str(photos / "captions.json"))
    assert len(data) == 243
    assert len(data.object_words) > 60
    known = json.loads((SHARED / "chair" / "ground_truth_objects.json").read_text())
    ids = data.table["sample_id"]
    shared = [row for row, one in enumerate(ids) if one in known]
    agreed = [objects <= set(known[ids[row]]) for row, objects in zip(shared, data.present_objects(shared))]
    assert np.mean(agreed) > 0.98
    for setting in SETTINGS:
        table = data.questions(setting)
        counts = Counter(table.column("answer").to_pylist())
        assert counts["yes"] == counts["no"] > 300
    assert np.asarray(data.images([0])[0]).shape[2] == 3

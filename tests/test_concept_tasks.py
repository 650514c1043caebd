"""dataset=concept_tasks: layouts of the nine tasks, one prompt for all, whole groups, and the probe of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.datasets.concept_tasks import LAYOUTS, ConceptTasks
from vlsae.errors import MissingFile, UserError
from vlsae.probes.targets import Targets
from vlsae.runs import input_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of small tables of three tasks; cities come in pairs of one group."""
    folder = tmp_path_factory.mktemp("tasks")
    for task in ("cities", "stsa", "strategyqa"):
        with (folder / f"{task}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text", "label", "group", "question"])
            for number in range(24):
                truth = number % 2
                writer.writerow(
                    [
                        f"{task}-{number}",
                        f"{'yes' if truth else 'no'} {number} why",
                        truth,
                        f"g{number // 2}",
                        f"q {number}",
                    ]
                )
    return folder


def texts_of(dataset: ConceptTasks) -> dict[str, str]:
    return {name: texts[0] for name, texts in zip(dataset.table["sample_id"], dataset.table["texts"])}


def test_each_task_has_its_own_layout(folder):
    texts = texts_of(ConceptTasks(path=str(folder)))
    assert texts["cities/cities-1"] == "Is this statement about a city true or false? yes 1 why"
    assert texts["stsa/stsa-0"].startswith("no 0 why Is the feeling")
    assert texts["strategyqa/strategyqa-2"] == "Answer this question with yes or no. q 2 The answer is"
    assert all(text.count("{text}") == 1 for text in LAYOUTS.values())


def test_one_prompt_for_all_takes_each_tasks_place_and_texts_can_stay_as_they_are(folder):
    texts = texts_of(ConceptTasks(path=str(folder), prompt="How does this feel?", explanation=True))
    assert texts["cities/cities-1"] == "How does this feel? yes 1 why"
    assert texts["stsa/stsa-0"] == "no 0 why How does this feel?"
    assert texts["strategyqa/strategyqa-0"] == "How does this feel? no 0 why"
    assert texts_of(ConceptTasks(path=str(folder), layout="text"))["stsa/stsa-0"] == "no 0 why"


def test_groups_are_drawn_whole_and_tasks_stay_apart(folder):
    dataset = ConceptTasks(path=str(folder), samples=8, tasks=["stsa", "cities"], seed=3)
    assert dataset.table["source"] == ["stsa"] * 8 + ["cities"] * 8
    groups = list(dataset.table["group"])
    assert all(groups.count(group) == 2 for group in groups)
    assert len(set(groups)) == 8
    targets = Targets(dataset.table.data.table)
    assert [one.kind for one in targets.select(["label"])] == ["binary"]
    digests = {ConceptTasks(path=str(folder), samples=8, seed=seed).digest() for seed in (3, 3, 4)}
    assert len(digests) == 2


def test_what_is_missing_is_named(folder):
    with pytest.raises(MissingFile, match=r"holds no imdb\.csv"):
        ConceptTasks(path=str(folder), tasks=["imdb"]).digest()
    with pytest.raises(UserError, match="city"):
        ConceptTasks(path=str(folder), tasks=["city"])
    with pytest.raises(MissingFile, match="no table of a task"):
        len(ConceptTasks(path=str(folder / "none")))


def test_the_experiment_probes_every_task_of_the_folder(folder, tmp_path):
    words = [
        "probe",
        "experiment=concept_depth",
        f"dataset.path={folder}",
        f"model.checkpoint=path:{write_lm(tmp_path)}",
    ]
    assert main([*words, "probe.resamples=100", "probe.folds=3", f"runs_dir={tmp_path}", "--name", "depth"]) == 0
    found = json.loads((input_run("probe/depth/latest", tmp_path).path / "summary.json").read_text())["metrics"]
    assert {name.split("/")[1] for name in found if name.startswith("best_accuracy/")} == {
        "cities",
        "stsa",
        "strategyqa",
    }

"""objective=word_lstm and model=word_lstm: windows alone are read, and classes of words emerge by training alone."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.datasets import Text
from vlsae.errors import UserError
from vlsae.learners.word_lstm import WordLSTM
from vlsae.models import LM
from vlsae.models.base import TokenSelection
from vlsae.models.untrained import Untrained
from vlsae.models.word_lstm import WordLSTM as Network
from vlsae.models.words import Words, words_of
from vlsae.runs import input_run
from vlsae.training.series import series_of

WORDS = {
    "DET": ["the", "a", "this"],
    "ADJ": [f"adj{k}" for k in range(6)],
    "NOUN": [f"noun{k}" for k in range(14)],
    "VERB": [f"verb{k}" for k in range(10)],
    "ADP": ["in", "on", "under"],
}


def sentence(draw: random.Random) -> list[tuple[str, str]]:
    """Return words with classes by a small grammar, the common ones of a class more often."""

    def word(kind: str) -> tuple[str, str]:
        known = WORDS[kind]
        return draw.choices(known, [1 / (rank + 1) for rank in range(len(known))])[0], kind

    def phrase() -> list[tuple[str, str]]:
        return [word("DET"), *([word("ADJ")] if draw.random() < 0.4 else []), word("NOUN")]

    found = [*phrase(), word("VERB")]
    found += phrase() if draw.random() < 0.7 else []
    return found + ([word("ADP"), *phrase()] if draw.random() < 0.35 else [])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Return the runs' folder with a network trained on drawn sentences, and a table of tagged windows."""
    folder = tmp_path_factory.mktemp("words")
    draw = random.Random(0)
    stream = [pair for _ in range(2400) for pair in sentence(draw)]
    lines = [" ".join(word for word, _ in stream[k : k + 60]) for k in range(0, len(stream), 60)]
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    stream = [pair for _ in range(800) for pair in sentence(draw)]
    with (folder / "windows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "next_class"])
        for end in range(9, len(stream) - 1, 7):
            writer.writerow([" ".join(word for word, _ in stream[end - 9 : end]), stream[end][1]])
    words = ["objective=word_lstm", "objective.word_width=24", "objective.width=32", "dataset=text", "train.keep=2"]
    words += [f"dataset.path={folder / 'train.txt'}", "train.batch_size=4", "train.epochs=2", "train.lr=6e-3"]
    assert main(["train", "model=lm", *words, f"runs_dir={folder}", "--name", "words"]) == 0
    return folder, folder / "windows.csv"


def test_words_are_split_as_tagged_text_splits_them():
    assert words_of("Do n't go, it 's Anne’s dog-house!") == [
        "do",
        "n't",
        "go",
        ",",
        "it",
        "'s",
        "anne’s",
        "dog-house",
        "!",
    ]
    words = Words.commonest(["b a a", "c b a d"], 4)
    assert words.words == ["<start>", "<unknown>", "a", "b"]
    assert words.numbers("A b z") == [2, 3, 1]


def test_each_word_is_predicted_from_its_window_alone():
    torch.manual_seed(0)
    learner = WordLSTM(dataset=Text(), words=50, window=3, word_width=4, width=5, layers=2)
    batch = learner.prepare(texts=["one two three four five six", "one two"])
    scores, words = learner._predicted(batch)
    assert len(words) == 8
    ids = batch.language[0]
    alone = learner.module(ids[None, 2:5])
    torch.testing.assert_close(scores[5], alone[0])
    torch.testing.assert_close(scores[0], learner.module(torch.zeros(1, 3, dtype=torch.long))[0])


def test_a_model_reads_the_last_words_and_fills_short_texts_up(trained):
    folder, _ = trained
    model = Network(checkpoint=f"path:{input_run('train/words/latest', folder).path / 'model'}")
    assert list(model.sites()) == ["language.0", "language.1", "language.2"]
    long = " ".join(["noun1", *["the", "noun0", "verb0"] * 3])
    rows = model.represent(model.prepare(texts=[long, long.split(" ", 1)[1], "the"]), list(model.sites()))
    torch.testing.assert_close(rows["language.2"].values[0], rows["language.2"].values[1])
    assert rows["language.0"].values.shape == (3, 24)
    torch.testing.assert_close(
        rows["language.0"].values[2], model.module.embedding.weight[model.words.numbers("the")[0]]
    )
    tokens = model.represent(model.prepare(texts=["the noun0"]), "language.1", TokenSelection("tokens"))["language.1"]
    assert tokens.position.tolist() == [7, 8]
    assert list(model.token_texts(tokens.token.tolist()).values()) == ["the", "noun0"]


def test_classes_of_the_next_word_emerge_with_depth_and_not_without_training(trained, capsys):
    folder, windows = trained
    run = input_run("train/words/latest", folder).path
    numbers = json.loads((run / "summary.json").read_text())["metrics"]
    assert numbers["word_accuracy"]["low"] > 0.15
    assert numbers["cross_entropy"]["value"] < 3.2
    words = ["model=word_lstm", f"model.checkpoint=path:{run / 'model'}", "dataset=text", f"dataset.path={windows}"]
    words += ["dataset.columns.label=next_class", "probe=word_class", "probe.rows=300", "probe.permutations=19"]
    assert main(["probe", *words, f"runs_dir={folder}", "--name", "classes"]) == 0, capsys.readouterr().err
    found = json.loads((input_run("probe/classes/latest", folder).path / "summary.json").read_text())["metrics"]
    value = {name: one["value"] for name, one in found.items()}
    assert value["gdv/next_class/language.2"] < value["gdv/next_class/language.1"] < value["gdv/next_class/language.0"]
    assert value["gdv/next_class/language.2"] < value["untrained/next_class/language.2"] - 0.1
    assert abs(value["shuffled/next_class/language.2"]) < 0.01
    assert abs(value["untrained/next_class/language.2"]) < 0.1


def test_the_first_of_a_series_is_the_network_before_training(trained):
    folder, _ = trained
    run = input_run("train/words/latest", folder).path
    first = Network(checkpoint=f"path:{next(iter(series_of(run).values()))}")
    last = Network(checkpoint=f"path:{run / 'model'}")
    assert first.digest() != last.digest()
    assert abs(float(first.module.embedding.weight.detach().std()) - 1) < 0.1


def test_untrained_weights_follow_the_seed_and_forget_the_training(tmp_path, trained):
    folder, _ = trained
    run = input_run("train/words/latest", folder).path
    exact = lambda: Network(checkpoint=f"path:{run / 'model'}")  # noqa: E731
    models = [Untrained(exact=exact(), seed=seed) for seed in (0, 0, 1)]
    for model in models:
        model.load()
    rows = [one.represent(one.prepare(texts=["the noun0"]), ["language.2"])["language.2"].values for one in models]
    torch.testing.assert_close(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2])
    assert models[0].digest() == models[1].digest() != models[2].digest()
    lm = Untrained(exact=LM(checkpoint=f"path:{write_lm(tmp_path)}"))
    lm.load()
    gains = [value for name, value in lm.module.named_parameters() if name.endswith("norm.weight")]
    assert gains
    assert all(bool((one == 1).all()) for one in gains)
    assert torch.isfinite(lm.represent(lm.prepare(texts=["The cat."]), ["language.1"])["language.1"].values).all()


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of a word network"):
        Network(checkpoint="path:nowhere").sites()
    (tmp_path / "config.json").write_text('{"kind": "llama"}')
    with pytest.raises(UserError, match="another kind"):
        Network(checkpoint=f"path:{tmp_path}").sites()

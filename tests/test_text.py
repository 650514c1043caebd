"""dataset=text: every kind of file, labels in their types, and what bad input is answered."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsae.config import build, compose
from vlsae.datasets import Text
from vlsae.datasets.base import sample_splits
from vlsae.datasets.chunks import chunks
from vlsae.datasets.label_values import typed
from vlsae.errors import MissingFile, UserError

RECORDS = [
    {"id": "a", "text": "The cat sat.", "mood": "calm", "stars": 3},
    {"id": "b", "text": "Rain, again", "mood": "sad", "stars": 1},
    {"id": "c", "text": "“Curiouser”", "mood": None, "stars": 5},
]


def write(folder, suffix, records=RECORDS):
    path = folder / f"texts{suffix}"
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    elif suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
    elif suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_each_table_gives_the_same_samples(tmp_path, suffix):
    dataset = Text(path=write(tmp_path, suffix), columns={"label": ["mood", "stars"]})
    table = dataset.table
    assert table["sample_id"] == ["a", "b", "c"]
    assert table["texts"] == [["The cat sat."], ["Rain, again"], ["“Curiouser”"]]
    assert table["labels"] == [
        {"mood": "calm", "stars": 3},
        {"mood": "sad", "stars": 1},
        {"mood": None, "stars": 5},
    ]
    assert dataset.skipped == []
    assert not dataset.has_images


def test_one_label_column_keeps_its_name_and_no_label_is_none(tmp_path):
    path = write(tmp_path, ".csv")
    assert Text(path=path, columns={"label": "stars"}).table["labels"][1] == {"stars": 1}
    assert Text(path=path).table["labels"][0] == {"label": None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", None], [0, 1, None]),
        ([1, 2.5, "3"], [1.0, 2.5, 3.0]),
        (["007", "1"], ["007", "1"]),
        (["1", "one"], ["1", "one"]),
        ([True, False, None], [True, False, None]),
        ([True, 1], ["True", "1"]),
        (["1e999"], ["1e999"]),
        ([None, None], [None, None]),
    ],
)
def test_labels_have_one_type_a_column(values, expected):
    found = typed(values)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_plain_text_by_lines_paragraphs_and_files(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text("One line\nand its next.\n\n\n  \nA second\nparagraph.", encoding="utf-8")
    lines = Text(path=str(path))
    assert lines.table["texts"] == [["One line"], ["and its next."], ["A second"], ["paragraph."]]
    assert lines.table["sample_id"] == ["0", "1", "2", "3"]
    paragraphs = Text(path=str(path), unit="paragraph")
    assert paragraphs.table["texts"] == [["One line\nand its next."], ["A second\nparagraph."]]
    assert paragraphs._content[0][1].place == "novel.txt line 6"
    assert Text(path=str(path), unit="file").table["sample_id"] == ["novel.txt"]


def test_a_folder_is_read_whole_and_its_files_may_be_splits(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n{name} two\n")
    dataset = Text(path=str(tmp_path))
    assert dataset.table["sample_id"] == ["test.txt:0", "test.txt:1", "train.txt:0", "train.txt:1"]
    assert sample_splits(dataset, 4, {"validation": 0.0}) == ["test", "test", "train", "train"]
    (tmp_path / "more.csv").write_text("text\nx\n")
    with pytest.raises(UserError, match="both plain texts and tables"):
        Text(path=str(tmp_path)).digest()


def test_answers_groups_sources_and_splits_are_mapped(tmp_path):
    records = [
        {"prompt": "Hi?", "reply": "Hello.", "topic": "t", "part": "dev", "from": "x"},
        {"prompt": "Bye?", "reply": "", "topic": "t", "part": "train", "from": ""},
    ]
    columns = {"answer": "reply", "group": "topic", "split": "part", "source": "from"}
    table = Text(path=write(tmp_path, ".csv", records), columns=columns).table
    assert table["answer"] == ["Hello.", None]
    assert table["group"] == ["t", "t"]
    assert table["split"] == ["validation", "train"]
    assert table["source"] == ["x", "texts.csv"]


def test_equal_texts_share_a_split_and_may_be_dropped(tmp_path):
    records = [{"text": "same", "label": 1}, {"text": "other", "label": 0}, {"text": "same", "label": 1}]
    path = write(tmp_path, ".jsonl", records)
    assert Text(path=path).table["group"] == ["0", "1", "0"]
    dropped = Text(path=path, duplicates="drop")
    assert dropped.table["sample_id"] == ["0", "1"]
    assert [(one.row, one.reason) for one in dropped.skipped] == [
        ("texts.jsonl line 3", "the same as texts.jsonl line 1")
    ]


@given(st.text(), st.integers(4, 40))
def test_chunks_make_up_the_text_within_the_size(text, size):
    pieces = chunks(text, size)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode("utf-8", "surrogatepass")) <= size for piece in pieces)


def test_long_texts_are_cut_between_words(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("word " * 100)
    table = Text(path=str(path), unit="file", chunk=32).table
    assert set(map(len, table["texts"])) == {1}
    assert all(set(texts[0].split()) == {"word"} and len(texts[0]) <= 32 for texts in table["texts"])
    assert table["sample_id"][:2] == ["long.txt#0", "long.txt#1"]


BAD = [
    ({"text": "  "}, "empty text"),
    ({"text": 5}, "text 5 is int; expected text"),
    ({"text": "x", "label": [1]}, r"label 'label' \[1\] is list"),
    ({"text": "x", "label": float("nan")}, "label 'label' is nan"),
    ({"text": "x", "id": "a"}, "duplicate id 'a', first at texts.jsonl line 1"),
    ({"text": "x", "id": None}, "no id, and other rows have one"),
    ({"text": "x\ud800", "id": "z"}, "half a surrogate pair"),
    ({"text": "x", "id": "z", "answer": 3}, "answer 3 is int"),
    ({"text": "x", "id": "z", "split": "evening"}, "split 'evening'"),
    ([], "list; expected an object"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_bad_row_is_named_or_left_out(tmp_path, record, reason):
    good = {"id": "a", "text": "fine"}
    record = {"id": "b", **record} if isinstance(record, dict) else record
    path = write(tmp_path, ".jsonl", [good, record])
    with pytest.raises(UserError, match=f"texts.jsonl line 2: .*{reason}") as caught:
        Text(path=path).table  # noqa: B018
    assert "dataset.on_error=skip" in str(caught.value)
    left = Text(path=path, on_error="skip")
    assert left.table["sample_id"] == ["a"]
    assert [one.row for one in left.skipped] == ["texts.jsonl line 2"]


def test_files_and_columns_that_are_not_there_are_named(tmp_path):
    path = write(tmp_path, ".csv")
    with pytest.raises(MissingFile, match=r"Did you mean .*texts.csv"):
        Text(path=str(tmp_path / "text.csv")).digest()
    with pytest.raises(UserError, match=r"no column 'mod' \(dataset.columns.label\)[\s\S]*Did you mean mood"):
        Text(path=path, columns={"label": ["mod"]}).table  # noqa: B018
    with pytest.raises(UserError, match=r"dataset.columns.*'txt'"):
        Text(path=path, columns={"txt": "text"}).table  # noqa: B018
    with pytest.raises(UserError, match="Only label may name several"):
        Text(path=path, columns={"text": ["text", "id"]}).table  # noqa: B018
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(UserError, match="holds no text that can be used"):
        Text(path=str(tmp_path / "empty.csv")).table  # noqa: B018
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match="no known format"):
        Text(path=str(tmp_path / "notes.pdf")).digest()
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt line 1 is not UTF-8"):
        Text(path=str(tmp_path / "latin.txt")).table  # noqa: B018


def test_the_digest_is_of_content_and_settings(tmp_path):
    path = write(tmp_path, ".csv")
    digest = Text(path=path).digest()
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert Text(path=write(other, ".csv")).digest() == digest
    assert Text(path=path, columns={"label": "mood"}).digest() != digest
    write(tmp_path, ".csv", RECORDS[:2])
    assert Text(path=path).digest() != digest


def test_the_bundled_sentences_have_independent_labels():
    table = build(compose("extract", ["dataset=text"]).dataset).table
    assert len(table) == 384
    labels = table["labels"]
    assert all(isinstance(one["words"], int) for one in labels)
    combinations = [(one["tense"], one["number"], one["mood"], one["place"]) for one in labels]
    assert {combinations.count(one) for one in combinations} == {24}
    assert len(set(map(tuple, table["texts"]))) == 384


def test_several_labels_can_be_asked_for_on_the_command_line(tmp_path):
    path = write(tmp_path, ".csv")
    words = [f"dataset.path={path}", "dataset.columns.label=[mood,stars]"]
    assert build(compose("extract", ["dataset=text", *words]).dataset).table["labels"][0] == {
        "mood": "calm",
        "stars": 3,
    }


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "settings", "rows", "labels"),
    [
        ("uci_sentiment/sentences.csv", {}, 3000, {"label": 0}),
        ("concept_tasks/counterfact.csv", {}, 6362, {"label": 1}),
        (
            "safety_prompts/safety_combined.csv",
            {"columns": {"text": "input", "label": ["axiom", "safety_label"], "answer": "target"}},
            4105,
            {"axiom": "homonyms", "safety_label": "safe"},
        ),
        ("flickr8k_captions/captions.csv", {"columns": {"text": "caption", "split": ""}}, 40460, {"label": None}),
        ("novels", {"unit": "paragraph"}, None, {"label": None}),
    ],
)
def test_real_texts(shared_data, name, settings, rows, labels):
    dataset = Text(path=str(shared_data / name), **settings)
    assert rows is None or len(dataset) + len(dataset.skipped) == rows
    assert len(dataset) > 100
    assert dataset.table[0]["labels"] == labels
    assert len(set(dataset.table["sample_id"])) == len(dataset)

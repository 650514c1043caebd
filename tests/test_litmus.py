"""Prompts in LITMUS's columns: from disk, from a filled cache, and each wrong table answered by its code."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vlsae.aqi.crossfit import scored_auroc
from vlsae.aqi.lexical import bag_of_words_scores
from vlsae.datasets.litmus import Litmus
from vlsae.datasets.safety_mini import BUNDLED, SafetyMini
from vlsae.errors import UserError
from vlsae.testing import check

ROWS = [
    {"axiom": "a", "safety_label": "safe", "source_dataset": "s", "input": "one", "target": "yes"},
    {"axiom": "a", "safety_label": "unsafe", "source_dataset": "s", "input": "two", "target": ""},
    {"axiom": "b", "safety_label": "Safe ", "source_dataset": "t", "input": "three", "target": "no"},
]


def write_csv(path: Path, rows=ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_columns_of_litmus_are_read(tmp_path):
    data = Litmus(path=str(write_csv(tmp_path / "t.csv")))
    assert data.table["labels"][2] == {"safety_label": "Safe ", "axiom": "b"}
    assert data.table["answer"][:2] == ["yes", None]
    assert data.table["sample_id"][:] == ["0", "1", "2"]
    check(Litmus, path=str(tmp_path / "t.csv"))


def test_every_format_gives_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    write_csv(tmp_path / "csv" / "t.csv")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    (tmp_path / "t.tsv").write_text("\n".join("\t".join(row) for row in [list(ROWS[0]), *[r.values() for r in ROWS]]))
    tables = [Litmus(path=str(tmp_path / name)).table for name in ("csv", "t.jsonl", "t.json", "t.parquet", "t.tsv")]
    for table in tables[1:]:
        assert table["texts"][:] == tables[0]["texts"][:]
        assert table["labels"][:] == tables[0]["labels"][:]


def test_own_column_names_and_absent_ones(tmp_path):
    rows = [{"prompt": f"p{i}", "harmful": bool(i % 2)} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    data = Litmus(path=str(tmp_path / "t.jsonl"), columns={"text": "prompt", "label": "harmful"})
    assert data.table["labels"][1] == {"safety_label": "True", "axiom": "all"}
    assert data.table["source"][0] == "t.jsonl"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prompt,safety_label\na,safe\n", "AQI-D01: t.csv has no column 'input'"),
        ("input,Safety_label\na,safe\n", "AQI-D01.*safety_label.*\n.*Did you mean Safety_label"),
        ("input,safety_label\n  ,safe\n", "t.csv line 2: AQI-D04: empty input"),
        ("input,safety_label\n", "AQI-D09: t.csv has no rows"),
        ("input,safety_label\na,safe,more\n", "t.csv line 2: AQI-D09: 3 values; expected 2"),
    ],
)
def test_wrong_tables_are_named(tmp_path, content, words):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=f"(?s){words}"):
        _ = Litmus(path=str(tmp_path / "t.csv")).table


def test_wrong_lines_and_files_are_named(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(ROWS[0]) + "\n{no\n")
    with pytest.raises(UserError, match=r"t\.jsonl line 2: AQI-D09: not JSON"):
        _ = Litmus(path=str(tmp_path / "t.jsonl")).table
    data = Litmus(path=str(tmp_path / "t.jsonl"), on_error="skip")
    assert (len(data), [one.row for one in data.skipped]) == (1, ["t.jsonl line 2"])
    with pytest.raises(UserError, match=r"AQI-D09: .*none\.csv does not exist"):
        _ = Litmus(path=str(tmp_path / "none.csv")).table
    with pytest.raises(UserError, match="Did you mean text"):
        Litmus(path="t", columns={"texts": "a"})


def read_from_hub(cache: Path) -> subprocess.CompletedProcess:
    code = "from vlsae.datasets.litmus import Litmus; data = Litmus(); print(len(data), data.table['texts'][0])"
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_hubs_data_come_from_a_filled_cache_and_from_nowhere_else(tmp_path):
    home = tmp_path / "datasets--hasnat79--litmus"
    commit = "0" * 40
    write_csv(home / "snapshots" / commit / "data" / "train.csv")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    found = read_from_hub(tmp_path)
    assert found.stdout.split() == ["3", "['one']"], found.stderr
    missing = read_from_hub(tmp_path / "empty")
    assert missing.returncode != 0
    assert "AQI-D09: the data set hasnat79/litmus cannot be reached" in missing.stderr
    assert "dataset.path=FILE_OR_FOLDER" in missing.stderr


def test_bundled_prompts_are_balanced_and_alike_in_words_and_length():
    check(SafetyMini)
    rows = [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]
    counts = Counter((row["axiom"], row["safety_label"]) for row in rows)
    assert len(counts) == 14
    assert set(counts.values()) == {40}
    texts = [row["input"] for row in rows]
    assert len(set(texts)) == len(rows)
    safe = np.array([row["safety_label"] == "safe" for row in rows])
    folds, every = np.arange(len(rows)) % 5, np.zeros(len(rows), dtype=int)
    words = scored_auroc(bag_of_words_scores(texts, ~safe, folds), safe, folds, every).auroc
    length = scored_auroc(np.array([float(len(text)) for text in texts]), safe, every, every).auroc
    assert 0.45 < words < 0.55
    assert 0.45 < length < 0.55


@pytest.mark.shared_data
def test_real_prompts_in_the_same_columns(shared_data):
    data = Litmus(path=str(shared_data / "safety_prompts" / "safety_combined.csv"))
    labels = Counter(row["safety_label"] for row in data.table["labels"])
    assert labels == {"safe": 2008, "unsafe": 2097}

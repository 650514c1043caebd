"""probe=word_class: classes that lie apart are told from shuffled ones, on rows and on tagged text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.probes import gdv
from vlsae.probes.base import Representations
from vlsae.probes.targets import Targets
from vlsae.probes.word_class import WordClass
from vlsae.runs import input_run

ROOT = Path(__file__).resolve().parent.parent


def world(n=150, repeated=0):
    generator = np.random.default_rng(0)
    classes = np.arange(n) % 3
    apart = generator.normal(size=(n, 6)) + 4 * np.eye(6)[classes]
    texts = [[f"text {row if row >= repeated else 0}"] for row in range(n)]
    labels = [{"word": ("NOUN", "VERB", "ADJ")[one], "length": row * 1.5} for row, one in enumerate(classes)]
    samples = pa.table({"sample_id": [f"s{row}" for row in range(n)], "texts": texts, "labels": labels})
    sites = {"language.0": generator.normal(size=(n, 6)), "language.1": apart}
    return Representations.of_arrays(sites, samples), Targets(samples), apart, classes


def test_classes_that_lie_apart_are_told_from_shuffled_ones():
    representations, targets, apart, classes = world()
    result = WordClass(permutations=19).measure(representations, targets)
    rows = {row[0]: dict(zip(result.tables[0].columns, row)) for row in result.tables[0].rows}
    assert rows["language.1"]["GDV"] == pytest.approx(gdv(apart.astype(np.float32), classes).value, abs=1e-6)
    assert rows["language.1"]["high"] < rows["language.1"]["shuffled low"]
    assert rows["language.1"]["p"] == pytest.approx(1 / 20)
    assert rows["language.0"]["low"] < 0.01
    assert abs(rows["language.0"]["shuffled"]) < 0.01
    assert {one.label for one in result.plots[1].series} == {"NOUN", "VERB", "ADJ"}


def test_repeated_texts_count_once():
    representations, targets, *_ = world(repeated=60)
    result = WordClass(permutations=19, map="none").measure(representations, targets)
    assert result.notes[0].startswith("word: 91 samples")


def test_mistakes_are_named():
    _, targets, *_ = world()
    with pytest.raises(UserError, match="holds numbers"):
        WordClass(targets=["length"]).check(targets)
    with pytest.raises(UserError, match="0 classes of word have 60"):
        WordClass(fewest=60).check(targets)


def test_tagged_text_is_probed_through_a_language_model(tmp_path):
    """Words in a fixed order of classes; the joined word's parts do not count."""
    lines = []
    for number in range(60):
        lines += ["# sent", f"1-2\tit's{number}\t_\t_"]
        lines += [
            f"{place}\tw{number % 7}{place}\t_\t{tag}" for place, tag in enumerate(["DET", "NOUN", "VERB"] * 2, 1)
        ]
        lines.append("")
    (tmp_path / "tagged.conllu").write_text("\n".join(lines), encoding="utf-8")
    table = tmp_path / "windows.csv"
    script = [sys.executable, str(ROOT / "scripts" / "tagged_windows.py"), str(tmp_path / "tagged.conllu"), str(table)]
    subprocess.run([*script, "--words", "3"], check=True)
    assert table.read_text().splitlines()[1] == "w01 w02 w03,VERB,DET,sentence 0"
    words = ["model=lm", f"model.checkpoint=path:{write_lm(tmp_path)}", "dataset=text", f"dataset.path={table}"]
    words += ["dataset.columns.label=[last_class,next_class]", "extract.tokens.pooling=last", "--layer", "1"]
    small = ["probe.permutations=19", "probe.fewest=3", "probe.targets=[next_class]", "probe.map=none"]
    assert main(["probe", "probe=word_class", *words, *small, f"runs_dir={tmp_path / 'runs'}", "--name", "tags"]) == 0
    summary = json.loads((input_run("probe/tags/latest", tmp_path / "runs").path / "summary.json").read_text())
    assert "gdv/next_class/language.1" in summary["metrics"]

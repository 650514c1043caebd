"""docs/tutorial.md, executed block by block in small sizes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from vlsae import plugins
from vlsae.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What makes a stage's command small; it takes the place of the reader's own sizes.
TRAINING = ["train.epochs=2", "train.evaluate.bootstrap=10"]
SMALL = {
    "train": ["--limit", "150", *TRAINING],
    "probe": ["--limit", "150", "probe.code_length=0", "probe.resamples=100"],
    "enhance": ["--limit", "150", "enhance.resamples=20", *TRAINING],
    "aqi": ["--limit", "120", "aqi.permutations=9", "aqi.blocks=5"],
}


def blocks() -> list[tuple[str, str]]:
    """Return the language and the text of each executed block."""
    return BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8"))


def small(words: list[str]) -> list[str]:
    """Return the words after ``vlsae``, in small sizes."""
    changes = SMALL.get(words[0], [])
    replaced = {change.split("=")[0] for change in changes if "=" in change}
    return [*(word for word in words if word.split("=")[0] not in replaced), *changes]


@pytest.mark.slow
def test_every_block_of_the_tutorial_works(tmp_path, runs_dir, monkeypatch, capfd):
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks()
    assert {language for language, _ in found} == {"sh", "python"}
    with plugins.loaded():
        for language, text in found:
            if language == "python":
                exec(compile(text, "tutorial.md", "exec"), names)
                continue
            for line in text.splitlines():
                command, *words = shlex.split(line)
                assert command == "vlsae", line
                assert main(small(words)) == 0, f"{line}\n{capfd.readouterr().err}"
    stages = {path.name for path in runs_dir.iterdir()}
    assert {"extract", "train", "probe", "enhance", "aqi"} <= stages
    assert all((run / "report.html").is_file() for stage in SMALL for run in runs_dir.glob(f"{stage}/*/v*"))
    assert all(list(runs_dir.glob(f"{stage}/*/v*/figures/*.csv")) for stage in SMALL)
    assert list((runs_dir / "reports").rglob("*.html")), "the page of two runs side by side"

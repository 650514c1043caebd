"""The examples of own parts in docs/examples: each keeps its contract and runs as its first command says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vlsae import open_run, plugins
from vlsae.cli import main
from vlsae.testing import check

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
NAMES = ("own_dataset", "own_model", "own_objective", "own_probe")

#: What makes a command small; the runs are otherwise as a reader starts them.
SMALL = {
    "train": ["--limit", "120", "train.epochs=2", "train.evaluate.bootstrap=10", "train.evaluate.names=false"],
    "extract": ["--limit", "120"],
    "probe": ["--limit", "120"],
}


@pytest.fixture(autouse=True)
def forgotten():
    """Forget the classes that a test registers."""
    with plugins.loaded():
        yield


def test_every_example_is_tested():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_the_contract(name):
    before = set(plugins.registered)
    plugins.load([str(EXAMPLES / f"{name}.py")])
    own = [cls for key, cls in plugins.registered.items() if key not in before]
    assert own
    for cls in own:
        check(cls)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_as_its_first_command_says(name, runs_dir, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("    vlsae ")))[1:]
    assert main([*words, *SMALL[words[0]]]) == 0
    run = open_run(next((runs_dir / words[0]).glob("*/v0001")))
    assert run.status == "done"
    assert run.summary["metrics"]

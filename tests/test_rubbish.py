"""The corpus of bad input: each is answered in a few lines that name what is wrong, and nothing is made of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rubbish import Case, World, build, make_runs

from vlsae import plugins
from vlsae.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

#: Seconds after which an answer counts as none.
PATIENCE = 120

KINDS = (
    *("words of the command line", "overrides that are none", "names that nothing has", "settings of a wrong kind"),
    *("parameters out of bounds", "plug-ins and own configurations", "captions and pictures", "arrays", "texts"),
    *("archives", "models and dictionaries", "damaged stores", "damaged runs"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rubbish")
    found = World(folder, folder / "runs")
    before, place = os.environ.get("VLSAE_RUNS"), Path.cwd()
    os.environ["VLSAE_RUNS"] = str(found.runs)
    os.chdir(folder)
    with plugins.loaded():
        make_runs(found, main)
        yield found
    os.chdir(place)
    os.environ.pop("VLSAE_RUNS") if before is None else os.environ.update(VLSAE_RUNS=before)


@pytest.fixture(scope="module")
def corpus(world) -> dict[str, list[Case]]:
    return build(world)


class Hung(Exception):
    """No answer in time."""


def answer(case: Case, capsys) -> tuple[int, str]:
    def give_up(number, frame):
        raise Hung

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with plugins.loaded():
            code = main(list(case.words))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def fault(case: Case, code: int, text: str) -> str | None:
    """What is wrong with an answer."""
    words = "".join(text.split())
    if "Traceback" in text:
        return "a traceback"
    if code not in case.codes:
        return f"exit code {code}"
    if "".join(case.names.split()) not in words:
        return f"{case.names!r} is not named"
    return None


def test_the_corpus_is_large(corpus):
    assert set(corpus) == set(KINDS)
    assert sum(map(len, corpus.values())) >= 200


@pytest.mark.parametrize("share", [2, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_named(kind, share, corpus, world, capsys):
    """Every other case of each kind; all of them where time allows."""
    faults = []
    for case in corpus[kind][::share]:
        code, text = answer(case, capsys)
        wrong = fault(case, code, text)
        if wrong is not None:
            faults.append(f"{case}\n    {wrong}: {text.strip()[-600:]}")
    assert not faults, f"{len(faults)} of {len(corpus[kind])}:\n" + "\n".join(faults)
    assert not list(world.folder.rglob("OWNED")), "a file ran code"


def test_the_same_in_processes_of_their_own(corpus, world):
    for kind in KINDS[:10]:
        case = corpus[kind][len(corpus[kind]) // 2]
        done = subprocess.run(
            [sys.executable, "-m", "vlsae", *case.words], capture_output=True, text=True, timeout=PATIENCE
        )
        assert fault(case, done.returncode, done.stdout + done.stderr) is None, (case, done.stdout, done.stderr)

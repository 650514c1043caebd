"""The command line through real processes: surface, help, messages, exit codes, one run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from vlsae import plugins
from vlsae.cli import SUMMARIES, app, main
from vlsae.commands.failures import exit_code
from vlsae.commands.help import EXAMPLES, default_choices
from vlsae.commands.stage import Request
from vlsae.composition import parse
from vlsae.config import compose_with_choices
from vlsae.errors import MissingFile, UserError
from vlsae.groups import groups

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "cli.txt"
PLUGIN = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py")]
TINY = [*PLUGIN, "model=tiny", "dataset.n=24"]


def vlsae(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vlsae.cli", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def surface() -> str:
    """Return the command line's surface, one line a parameter, from the parameters themselves."""
    lines = []
    root = typer.main.get_command(app)
    named = {f"vlsae {name}": root.get_command(None, name) for name in sorted(root.list_commands(None))}
    inner = {f"{name} {one}": sub for name in named for one, sub in getattr(named[name], "commands", {}).items()}
    for name, command in {"vlsae": root, **named, **inner}.items():
        lines.append(f"{name}: {command.help}")
        for one in command.params:
            options = ", ".join(one.opts) if one.param_type_name == "option" else f"{one.name}..."
            lines.append(f"  {options}: {getattr(one, 'help', None)}")
    return "\n".join(lines) + "\n"


def test_surface_is_as_frozen():
    """A change of the surface is a decision: write tests/golden/cli.txt anew (VLSAE_WRITE_GOLDEN=1) and say so."""
    if os.environ.get("VLSAE_WRITE_GOLDEN"):
        GOLDEN.write_text(surface())
    assert surface() == GOLDEN.read_text()


@pytest.mark.parametrize("stage", SUMMARIES)
def test_help_of_a_stage_shows_options_groups_and_examples(stage):
    shown = vlsae(stage, "--help")
    assert shown.returncode == 0
    known = groups()
    for group, default in default_choices(stage).items():
        assert group in shown.stdout
        assert not default or f"[{default}]" in shown.stdout
        assert set(known[group]) <= set(shown.stdout.replace("[", " ").replace("]", " ").split())
    assert shown.stdout.count(f"vlsae {stage}") == 4
    assert "--dry-run" in shown.stdout


@pytest.mark.parametrize("stage", SUMMARIES)
def test_defaults_in_help_are_those_of_hydra(stage):
    shown = {group: choice for group, choice in default_choices(stage).items() if choice}
    # Parts of a task, such as its own data, are no groups that help lists.
    assert shown == {group: made for group, made in compose_with_choices(stage, []).choices.items() if "@" not in group}


def test_examples_in_help_are_valid_commands():
    for stage, examples in EXAMPLES.items():
        assert len(examples) == 3
        for example in examples:
            words = shlex.split(example)
            assert words[:2] == ["vlsae", stage]
            command = typer.main.get_command(app).commands[stage]
            with command.make_context(stage, words[2:]) as context:
                overrides = context.params["overrides"] or []
            parsed = parse(overrides, sweeps=True)
            plain = [one.input_line for one in parsed if not one.is_sweep_override()]
            compose_with_choices(stage, plain)


def test_help_imports_nothing_heavy_and_is_fast():
    code = (
        "import sys, time; start = time.process_time(); from vlsae.cli import main; main(['--help']);"
        "main(['train', '--help']); spent = time.process_time() - start;"
        "heavy = {'torch', 'hydra', 'omegaconf', 'transformers', 'open_clip', 'numpy', 'pyarrow'} & set(sys.modules);"
        "print(heavy, spent, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, spent = shown.stderr.rsplit(maxsplit=1)
    assert heavy == "set()"
    # CPU seconds, since the machine may be busy; the promise is half a second of wall time for one of the two.
    assert float(spent) < 0.5


def test_version_and_bare_command():
    assert vlsae("--version").stdout.strip().count(".") == 2
    assert "Usage: vlsae" in vlsae().stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--sede", "3"], "There is no option '--sede'.\nDid you mean --seed?"),
        (["train", "-seed", "3"], "There is no option '-seed'.\nDid you mean --seed?"),
        (["train", "--modle=clip"], "There is no option '--modle'.\nDid you mean --model?"),
        (["train", "model=clip", "--dryrun"], "Did you mean --dry-run?"),
        (["train", "--", "--sede"], "There is no option '--sede'.\nDid you mean --seed?"),
        (["train", "--seed"], "'--seed' requires an argument"),
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--seed", "x"], "seed is 'x', expected an integer."),
        (["train", "--seed", "1", "seed=2"], "seed is given twice"),
        (["train", "--model", "clpi"], "There is no choice for model 'clpi'.\nDid you mean clip"),
        (["train", "objective.k=1,2"], "Add -m to run each of them"),
        (["train", "--plugin", "nowhere.py"], "There is no plug-in file"),
        (["train", "--config-dir", "nowhere"], "There is no configuration folder"),
        (["train", "-m", "modle=clip,clip_b32"], "has no setting 'modle'"),
        (["train", "-m", "objective.k=range(1,"], "cannot be read as an override"),
        (["train", "-m", "objective.k=interval(1,9)"], "choose a sweeper"),
        (["report", "train/nothing/latest"], "There is no run 'train/nothing/latest'"),
    ],
)
def test_mistakes_exit_with_2_a_mend_and_no_traceback(words, message, runs_dir, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("vlsae: ")
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 4
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--sede", "3"], "There is no option '--sede'.\nDid you mean --seed?"),
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--model", "clpi"], "There is no choice for model 'clpi'.\nDid you mean clip"),
        (["report", "train/nothing/latest"], "There is no run 'train/nothing/latest'"),
    ],
)
def test_mistakes_end_a_process_with_2(words, message, runs_dir):
    done = vlsae(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"vlsae: {message}")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "hardware=multi_cpu", "objective=prototype"], "learns from whole batches"),
        (["train", "-m", "objective.k=1,0"], "objective.k is 0, expected an integer at least 1"),
        (["enhance", "task.alphas=[-1]"], "task.alphas is [-1]"),
        (["aqi", "dataset=litmus", "dataset.path=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_later_mistakes_exit_with_2_too(words, message, runs_dir, capsys):
    """In this process, since these import torch before they are found."""
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not runs_dir.exists()


def test_debug_shows_the_traceback():
    done = vlsae("train", "seed=x", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("seed is 'x', expected an integer.")


def test_a_reader_that_leaves_gets_no_traceback():
    words = shlex.join(["extract", *TINY, "--dry-run"])
    command = f"{sys.executable} -m vlsae.cli {words} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "model:\n"
    assert "Traceback" not in done.stderr


def test_exit_codes_of_errors():
    assert exit_code(UserError("wrong")) == 2
    assert exit_code(MissingFile("gone")) == 2
    assert exit_code(OSError(28, "No space left on device")) == 2
    assert exit_code(MemoryError()) == 2
    assert exit_code(ValueError("a bug")) == 1
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(SystemExit(3)) == 3


def test_options_are_overrides():
    request = Request("train", {"model": "clip", "seed": "1", "force": True, "verify": False, "name": None}, ["x=1"])
    assert request.overrides == ["model=clip", "seed=1", "force=true", "x=1"]


@pytest.mark.parametrize(
    "value", ["a b", "it's", "~/runs/x", "a=b", "runs/train/a/v0001", "", "a\\b c", "c:\\x'y", "(1)", r"c:\x", "é/名"]
)
def test_option_values_arrive_as_typed(value):
    override = parse(Request("train", {"run": value}, []).overrides, sweeps=False)[0]
    assert override.value() == value


def test_a_folder_that_is_gone_is_the_reason(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["extract", *TINY, "--dry-run"]) == 2
    assert "started in is gone" in capsys.readouterr().err


def test_a_run_its_plan_and_its_report(runs_dir, tmp_path, capsys):
    with plugins.loaded():
        assert main(["extract", *TINY, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "_target_: tiny_parts.TinyModel" in planned
    assert "extract/tiny-shapes" in planned
    assert "24" in planned
    assert not runs_dir.exists()
    done = vlsae("extract", *TINY, "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = runs_dir / "extract" / "tiny-shapes" / "v0001"
    assert str(folder) in done.stdout
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["command"][:3] == ["vlsae", "extract", "--plugin"]
    assert manifest["choices"]["model"] == "tiny"
    assert manifest["seeds"]["seed"] == 3
    report = vlsae("report", "extract/tiny-shapes/latest")
    assert report.returncode == 0, report.stderr
    assert report.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").is_file()


def test_a_bug_exits_with_1_and_a_traceback(tmp_path, runs_dir):
    (tmp_path / "buggy.py").write_text(
        "from vlsae.plugins import register\nfrom vlsae.datasets.shapes import Shapes\n"
        "@register('dataset', 'buggy')\nclass Buggy(Shapes):\n    '''Buggy.'''\n"
        "    def digest(self):\n        raise ZeroDivisionError('oops')\n"
    )
    done = vlsae("extract", *TINY[:3], "--plugin", str(tmp_path / "buggy.py"), "dataset=buggy")
    assert done.returncode == 1
    assert "ZeroDivisionError: oops" in done.stderr
    assert "This is a bug" in done.stderr


def test_an_interruption_exits_with_130(tmp_path, runs_dir):
    (tmp_path / "slow_part.py").write_text(
        "import time\nfrom vlsae.plugins import register\nfrom vlsae.datasets.shapes import Shapes\n"
        "@register('dataset', 'slow')\nclass Slow(Shapes):\n    '''Slow.'''\n"
        "    def images(self, indices):\n        time.sleep(0.2)\n        return super().images(indices)\n"
    )
    words = [*PLUGIN, "model=tiny", "--plugin", str(tmp_path / "slow_part.py"), "dataset=slow", "extract.batch_size=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vlsae.cli", "extract", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = runs_dir / "extract" / "tiny-slow" / "v0001" / "log.txt"
    for _ in range(300):
        if log.exists() and "starts" in log.read_text():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    manifest = json.loads((log.parent / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given, found, monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be undone")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == found

"""The worker: every way a stage ends."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from run_factory import new_run, python, wait_for, write_stage

from vlsae.errors import UserError
from vlsae.runs import open_run, read_manifest
from vlsae.runs.manifest import effective_status
from vlsae.stages import STAGES
from vlsae.worker import _log_file, _sigterm_interrupts, _undisturbed, main, run_stage

MAIN = "from vlsae.worker import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Register the tiny stage in this process."""
    write_stage(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(STAGES, "tiny", "tiny_stage")
    return tmp_path


def config(mode: str) -> str:
    return f"steps: 5\nmode: {mode}\n"


def test_a_log_that_cannot_be_written_hides_nothing(capsys):
    with _log_file(Path("/dev/full")) as log:
        log.handle(logging.LogRecord("vlsae", logging.ERROR, __file__, 0, "the reason", None, None))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_that_a_finalizer_swallows_comes_again(number):
    class Dropping:
        def __del__(self):
            signal.raise_signal(number)

    def work():
        with _sigterm_interrupts():
            Dropping()
            time.sleep(20)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_cut_off_the_record_of_the_first():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with _undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


class TestRunStage:
    def test_done(self, stage, runs_dir):
        run = run_stage(new_run(runs_dir))
        opened = open_run(run.id)
        assert opened.status == "done"
        assert opened.changed_files() == []
        assert opened.summary is not None
        assert opened.summary["metrics"]["steps"]["value"] == 5
        paths = {entry["path"] for entry in opened.manifest["files"]}
        assert paths == {"config.yaml", "overrides.yaml", "metrics.jsonl", "summary.json", "log.txt", "step.txt"}

    def test_a_path_is_taken_too(self, stage, runs_dir):
        run = new_run(runs_dir)
        run.release()
        assert run_stage(str(run.path)).id == run.id
        assert read_manifest(run.path)["status"] == "done"

    @pytest.mark.parametrize(("mode", "kind"), [("mistake", UserError), ("bug", KeyError)])
    def test_failed(self, stage, runs_dir, mode, kind):
        run = new_run(runs_dir, config=config(mode))
        with pytest.raises(kind):
            run_stage(run)
        manifest = read_manifest(run.path)
        assert manifest["status"] == "failed"
        assert not run.held
        assert "\n" not in manifest["error"]
        log = (run.path / "log.txt").read_text()
        assert "failed: " in log
        assert ("Traceback" in log) == (mode == "bug")
        assert not (runs_dir / "tiny/one/latest").exists()

    def test_failed_and_resumed_goes_on(self, stage, runs_dir):
        run = new_run(runs_dir, config=config("bug"))
        with pytest.raises(KeyError):
            run_stage(run)
        (run.path / "config.yaml").write_text(config("plain"))
        run_stage(run.path)
        assert [line["step"] for line in open_run(run.path).metrics()] == [0, 1, 2, 3, 4]
        assert (run.path / "log.txt").read_text().count(" starts") == 2

    def test_an_unknown_stage_fails_with_the_nearest(self, stage, runs_dir):
        run = new_run(runs_dir, stage="tinyy")
        with pytest.raises(UserError, match="tiny"):
            run_stage(run)
        assert read_manifest(run.path)["status"] == "failed"

    def test_a_damaged_config_fails(self, stage, runs_dir):
        run = new_run(runs_dir)
        (run.path / "config.yaml").write_text("a: [")
        with pytest.raises(UserError, match="damaged"):
            run_stage(run)
        assert read_manifest(run.path)["status"] == "failed"

    def test_leaves_signals_and_logging_as_they_were(self, stage, runs_dir):
        package = logging.getLogger("vlsae")
        before = signal.getsignal(signal.SIGTERM), package.level, list(package.handlers)
        run_stage(new_run(runs_dir))
        assert (signal.getsignal(signal.SIGTERM), package.level, list(package.handlers)) == before

    def test_works_outside_the_main_thread(self, stage, runs_dir):
        run = new_run(runs_dir)
        thread = threading.Thread(target=run_stage, args=(run,))
        thread.start()
        thread.join()
        assert read_manifest(run.path)["status"] == "done"

    def test_log_lines_have_the_time_in_utc(self, stage, runs_dir):
        run = run_stage(new_run(runs_dir))
        for line in (run.path / "log.txt").read_text().splitlines():
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO vlsae", line)


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_interrupts(self, stage, runs_dir, number):
        run = new_run(runs_dir, config=config("wait"))
        run.release()
        process = python(stage, MAIN, str(run.path))
        wait_for(run.path / "waiting", process)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert "Traceback" not in error
        manifest = json.loads((run.path / "manifest.json").read_text())
        assert (manifest["status"], manifest["error"]) == ("interrupted", None)
        assert manifest["end"]
        assert f"vlsae runs resume {run.id}" in (run.path / "log.txt").read_text()
        assert effective_status(run.path, manifest) == "interrupted"

    @pytest.mark.parametrize(("mode", "code"), [("plain", 0), ("mistake", 2), ("bug", 1)])
    def test_exit_codes(self, stage, runs_dir, capsys, mode, code):
        run = new_run(runs_dir, config=config(mode))
        run.release()
        assert main([str(run.path)]) == code
        error = capsys.readouterr().err
        assert ("Traceback" in error) == (mode == "bug")
        assert ("Name a folder." in error) == (mode == "mistake")

    def test_no_run(self, tmp_path, capsys):
        assert main([str(tmp_path)]) == 2
        assert "is no run" in capsys.readouterr().err

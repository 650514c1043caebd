"""``vlsae runs``, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from run_factory import done_run, new_run, write_stage

from vlsae.cli import main
from vlsae.runs import read_manifest
from vlsae.stages import STAGES
from vlsae.sweep_record import claim_sweep, read_sweep, record_job


@pytest.fixture
def call(runs_dir, capsys):
    """Return a function that runs a ``vlsae runs`` command and gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["runs", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Register the tiny stage in this process."""
    write_stage(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(STAGES, "tiny", "tiny_stage")


class TestList:
    def test_a_partial_run_says_so_wherever_it_shows(self, call, runs_dir):
        whole, part = done_run(runs_dir, "a"), done_run(runs_dir, "b", identity={"limit": 40})
        listed = {line.split()[0]: line for line in call("list")[1].splitlines() if line.strip()}
        assert "partial" in listed[part.id]
        assert "partial" not in listed[whole.id]
        assert "done (partial)" in call("show", part.id)[1]

    def test_what_the_user_typed_tells_runs_apart(self, call, runs_dir):
        done_run(runs_dir, "a", overrides=["objective.k=16", "seed=3"])
        out = call("list")[1]
        assert "objective.k=16 seed=3" in out

    def test_json(self, call, runs_dir):
        first, second = done_run(runs_dir, "a"), new_run(runs_dir, "b")
        broken = done_run(runs_dir, "c")
        (broken.path / "manifest.json").write_text("{")
        code, out, err = call("list", "--json")
        lines = {line["run_id"]: line for line in json.loads(out)}
        assert code == 0
        assert err == ""
        assert lines[first.id] == {
            "run_id": first.id,
            "stage": "tiny",
            "name": "a",
            "version": 1,
            "status": "done",
            "start": first.manifest["start"],
            "end": first.manifest["end"],
            "path": str(first.path),
            "choices": {"model": "clip"},
        }
        assert lines[second.id]["status"] == "running"
        assert lines[second.id]["end"] is None
        assert lines[broken.id]["status"] == "damaged"
        assert "manifest.json" in lines[broken.id]["fault"]

    def test_newest_first_and_filtered(self, call, runs_dir):
        ids = [done_run(runs_dir, name).id for name in ("b", "a", "b")]
        new_run(runs_dir, "b").fail("no")
        assert [line["run_id"] for line in json.loads(call("list", "--json")[1])][1:] == ids[::-1]
        assert len(json.loads(call("list", "--json", "--name", "b", "--status", "done")[1])) == 2
        assert len(json.loads(call("list", "--json", "--limit", 1)[1])) == 1
        assert json.loads(call("list", "--json", "--stage", "train")[1]) == []
        code, _, err = call("list", "--status", "don")
        assert code == 2
        assert "done" in err

    def test_table(self, call, runs_dir):
        done_run(runs_dir, "a", overrides=["model=[bold]x[/nonsense]"])
        new_run(runs_dir, "b").fail("KeyError: [/oops]")
        code, out, _ = call("list")
        assert code == 0
        for text in ("tiny/a/v0001", "done", "failed", "model=[bold]x[/nonsense]", "KeyError: [/oops]"):
            assert text in out

    def test_nothing_yet(self, call, runs_dir):
        assert call("list", "--json")[:2] == (0, "[]\n")
        assert "No runs" in call("list")[1]
        assert not runs_dir.exists()

    def test_another_folder(self, call, tmp_path):
        run = done_run(tmp_path / "other")
        assert json.loads(call("list", "--json", "--runs-dir", tmp_path / "other")[1])[0]["path"] == str(run.path)


class TestShow:
    def test_json(self, call, runs_dir):
        run = new_run(runs_dir, config="a: 1\nb: ${a}\n")
        run.write_summary({"x": float("nan")})
        run.finish()
        code, out, err = call("show", run.id, "--json")
        shown = json.loads(out)
        assert (code, err) == (0, "")
        assert shown["path"] == str(run.path)
        assert shown["config"] == {"a": 1, "b": "${a}"}
        assert shown["manifest"] == read_manifest(run.path)
        assert shown["summary"] == json.loads((run.path / "summary.json").read_text())

    def test_without_a_summary_and_interrupted(self, call, runs_dir):
        run = new_run(runs_dir)
        run.release()
        shown = json.loads(call("show", run.id, "--json")[1])
        assert shown["summary"] is None
        assert shown["manifest"]["status"] == "interrupted"

    def test_page(self, call, runs_dir):
        parent = done_run(runs_dir, "a")
        run = new_run(runs_dir, "b", parents=[parent.id, "tiny/gone/v0001"])
        run.write_summary({"score": 0.123456})
        run.finish()
        code, out, _ = call("show", "b")
        assert code == 0
        for text in ("tiny/a/v0001 (done)", "tiny/gone/v0001 (missing)", "0.1235", "steps: 5"):
            assert text in out

    def test_wrong_names(self, call, runs_dir):
        run = done_run(runs_dir, "clip-shapes")
        code, out, err = call("show", "tiny/clip-shape/v0001", "--json")
        assert (code, out) == (2, "")
        assert run.id in err
        assert "Traceback" not in err
        (run.path / "manifest.json").write_text("{")
        code, out, err = call("show", run.id, "--json")
        assert (code, out) == (2, "")
        assert "damaged" in err


class TestDiff:
    @pytest.fixture
    def pair(self, runs_dir):
        ids = []
        for value in (1, 2):
            run = new_run(runs_dir, config=f"objective: {{k: {value}, h: 8}}\n")
            run.write_summary({"score": value / 2, "same": 1})
            run.finish()
            ids.append(run.id)
        return ids

    def test_json(self, call, pair):
        code, out, _ = call("diff", *pair, "--json")
        assert code == 0
        found = json.loads(out)
        assert found["runs"] == pair
        assert found["config"] == {"objective.k": [1, 2]}
        assert found["metrics"] == {"score": [0.5, 1.0]}
        assert found["packages"] == {}

    def test_tables(self, call, pair):
        out = call("diff", *pair)[1]
        assert "objective.k" in out
        assert "score" in out
        assert "objective.h" not in out
        assert "do not differ" in call("diff", pair[0], pair[0])[1]


def test_path_prints_the_path_alone(call, runs_dir):
    run = done_run(runs_dir)
    assert call("path", "tiny/one/latest") == (0, f"{run.path}\n", "")
    code, out, err = call("path", "tiny/two/latest")
    assert (code, out) == (2, "")
    assert "tiny/one" in err


class TestLogs:
    def test_prints(self, call, runs_dir):
        run = done_run(runs_dir)
        assert call("logs", run.id)[0] == 2
        (run.path / "log.txt").write_text("one\ntwo [/x]\nthree\n")
        assert call("logs", run.id) == (0, "one\ntwo [/x]\nthree\n", "")
        assert call("logs", run.id, "-n", 1) == (0, "three\n", "")

    def test_the_half_line_of_a_killed_run_is_shown(self, call, runs_dir):
        run = new_run(runs_dir)
        run.release()
        (run.path / "log.txt").write_text("one\ntwo, and th")
        for options in ((), ("--follow",)):
            assert call("logs", run.id, *options) == (0, "one\ntwo, and th", "")

    def test_follows_until_the_run_ends(self, call, runs_dir):
        run = new_run(runs_dir)
        (run.path / "log.txt").write_text("one\n")

        def work():
            with (run.path / "log.txt").open("a") as stream:
                for word in ("two\n", "thr", "ee\n"):
                    time.sleep(0.2)
                    stream.write(word)
                    stream.flush()
            run.finish()

        thread = threading.Thread(target=work)
        thread.start()
        assert call("logs", run.id, "--follow")[:2] == (0, "one\ntwo\nthree\n")
        thread.join()


class TestRemove:
    def test_removes_and_says_so(self, call, runs_dir):
        first, second = done_run(runs_dir, "a"), done_run(runs_dir, "b")
        code, out, _ = call("rm", first.id, second.id)
        assert code == 0
        assert f"removed {first.id}" in out
        assert f"removed {second.id}" in out
        assert not first.path.exists()
        assert not second.path.exists()

    def test_refusals_exit_with_2(self, call, runs_dir, tmp_path):
        parent = done_run(runs_dir, "a")
        child = new_run(runs_dir, "b", parents=[parent.id])
        outside = done_run(tmp_path / "other")
        for reference, word in ((parent.id, child.id), (child.id, "running"), (outside.path, "no run of")):
            code, out, err = call("rm", reference)
            assert (code, out) == (2, "")
            assert word in err
        assert parent.path.exists()
        assert child.path.exists()
        assert outside.path.exists()

    def test_one_refusal_removes_nothing(self, call, runs_dir):
        alone, parent = done_run(runs_dir, "x"), done_run(runs_dir, "a")
        child = done_run(runs_dir, "b", parents=[parent.id])
        code, out, err = call("rm", alone.id, parent.id)
        assert (code, out) == (2, "")
        assert child.id in err
        assert alone.path.exists()
        working = new_run(runs_dir, "y")
        assert call("rm", alone.id, working.id)[:2] == (2, "")
        assert alone.path.exists()

    def test_a_parent_goes_after_a_child_that_is_named_too(self, call, runs_dir):
        parent = done_run(runs_dir, "a")
        child = done_run(runs_dir, "b", parents=[parent.id])
        code, out, _ = call("rm", parent.id, child.id, "--yes")
        assert code == 0
        assert [line.split()[1] for line in out.splitlines()] == [child.id, parent.id]
        assert call("list", "--json")[1] == "[]\n"

    def test_a_wrong_name_removes_nothing(self, call, runs_dir):
        run = done_run(runs_dir)
        assert call("rm", run.id, "tiny/nothing/v0001")[0] == 2
        assert run.path.exists()


class TestResume:
    def test_a_run(self, call, runs_dir, stage):
        run = new_run(runs_dir)
        run.interrupt()
        code, out, _ = call("resume", run.id)
        assert code == 0
        assert str(run.path) in out.replace("\n", "")
        assert read_manifest(run.path)["status"] == "done"

    @pytest.mark.parametrize(
        "reference", ["tiny/one/latest", "tiny/one", "one", "{runs}/tiny/one/latest", "{runs}/tiny/one"]
    )
    def test_a_name_means_its_only_unfinished_version(self, call, runs_dir, stage, reference):
        done_run(runs_dir)
        cut = new_run(runs_dir)
        cut.interrupt()
        done_run(runs_dir)
        code, out, _ = call("resume", reference.format(runs=runs_dir))
        assert code == 0, out
        assert read_manifest(cut.path)["status"] == "done"
        code, _, err = call("resume", reference.format(runs=runs_dir))
        assert code == 2
        assert "No version of tiny/one is interrupted or failed: v0001 (done), v0002 (done), v0003 (done)" in err

    def test_several_unfinished_versions_are_asked_about(self, call, runs_dir, stage):
        new_run(runs_dir).interrupt()
        new_run(runs_dir).fail("no")
        at_work = new_run(runs_dir)
        code, _, err = call("resume", "tiny/one/latest")
        assert code == 2
        assert "Several versions of tiny/one are unfinished: v0001 (interrupted), v0002 (failed)." in err
        assert "Name one of them." in err
        at_work.release()

    def test_refusals(self, call, runs_dir, stage):
        done, running = done_run(runs_dir, "a"), new_run(runs_dir, "b")
        assert call("resume", done.id)[0] == 2
        code, _, err = call("resume", running.id)
        assert code == 2
        assert "is running" in err
        code, _, err = call("resume", "sweeps/none/v0001")
        assert code == 2
        assert "no sweep" in err

    def test_a_sweep_goes_on_with_what_is_not_done(self, call, runs_dir, stage):
        folder = claim_sweep(
            runs_dir, "s", stage="tiny", command=[], overrides=[], jobs=[["x=0"], ["x=1"], ["x=2"]], launcher="local"
        )
        sweep = read_sweep(folder)["sweep_id"]
        facts = {"sweep": sweep, "choices": {}}
        done = done_run(runs_dir, job=0, **facts)
        cut = new_run(runs_dir, job=1, **facts)
        cut.interrupt()
        broken = new_run(runs_dir, job=2, config="steps: 5\nmode: mistake\n", **facts)
        broken.release()
        record_job(folder, 0, status="done", run_id=done.id, exit_code=0)

        code, out, _ = call("resume", sweep)
        assert code == 2
        assert "dataset.path" in out
        jobs = read_sweep(folder)["jobs"]
        assert [(job["status"], job["run_id"]) for job in jobs] == [
            ("done", done.id),
            ("done", cut.id),
            ("failed", broken.id),
        ]
        assert read_manifest(cut.path)["status"] == "done"
        assert read_manifest(broken.path)["status"] == "failed"

        (broken.path / "config.yaml").write_text("steps: 5\nmode: plain\n")
        assert call("resume", folder)[0] == 0
        assert read_sweep(folder)["status"] == "done"
        assert len(list((runs_dir / "tiny/one").glob("v*"))) == 3

    def test_a_sweep_at_work_is_refused(self, call, runs_dir, stage):
        folder = claim_sweep(runs_dir, "s", stage="tiny", command=[], overrides=[], jobs=[["x=0"]], launcher="local")
        run = new_run(runs_dir, sweep=read_sweep(folder)["sweep_id"], job=0)
        code, _, err = call("resume", folder)
        assert code == 2
        assert run.id in err

    def test_a_job_not_begun_is_started(self, call, runs_dir):
        folder = claim_sweep(
            runs_dir,
            "s",
            stage="probe",
            command=[],
            overrides=[],
            jobs=[["probe.nonsense=1"]],
            launcher="local",
        )
        code, out, _ = call("resume", folder)
        assert code == 2
        assert "nonsense" in out
        assert read_sweep(folder)["jobs"][0]["status"] == "failed"


def test_as_a_process_with_strict_json_alone_on_stdout(tmp_path):
    root = tmp_path / "runs"
    run = done_run(root)
    command = [str(Path(sys.executable).with_name("vlsae")), "runs", "show", run.id, "--json"]
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "VLSAE_RUNS": "runs"}, check=True
    )
    assert json.loads(answer.stdout)["config"] == yaml.safe_load((run.path / "config.yaml").read_text())
    assert answer.stderr == ""

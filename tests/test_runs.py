"""Run directories: claims, manifests, numbers, references, removal."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from run_factory import done_run, new_run

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.runs import (
    DamagedRun,
    Measure,
    Run,
    effective_status,
    entries_of,
    open_run,
    read_manifest,
    resolve,
)
from vlsae.runs.environment import mask_arguments, mask_config
from vlsae.runs.files import plain, sha256
from vlsae.runs.metrics import read_metrics
from vlsae.runs.removal import remove

FIELDS = {
    "run_id": str,
    "stage": str,
    "name": str,
    "status": str,
    "device": str,
    "fingerprint": str,
    "version": int,
    "threads": int,
    "seeds": dict,
    "command": list,
    "parents": list,
    "start": str,
    "packages": dict,
    "reproducible": bool,
    "files": list,
}


def test_importing_runs_is_light():
    code = "import sys, vlsae.runs; print([m for m in ('torch', 'hydra', 'omegaconf', 'pyarrow') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


class TestClaim:
    def test_holds_what_the_contract_says(self, tmp_path):
        run = new_run(
            tmp_path, overrides=["objective.k=32"], parents=["extract/a/v0001"], sweep="sweeps/s/v0001", job=3
        )
        manifest = json.loads((run.path / "manifest.json").read_text())
        for field, kind in FIELDS.items():
            assert type(manifest[field]) is kind, field
        assert manifest["run_id"] == "tiny/one/v0001" == run.id
        assert (manifest["status"], manifest["sweep"], manifest["job"]) == ("running", "sweeps/s/v0001", 3)
        assert manifest["end"] is None
        assert manifest["error"] is None
        assert datetime.fromisoformat(manifest["start"]).utcoffset() == timedelta(0)
        assert manifest["packages"]["torch"]
        assert manifest["packages"]["vlsae"]
        assert yaml.safe_load((run.path / "overrides.yaml").read_text()) == ["objective.k=32"]
        assert (run.path / "config.yaml").read_text() == "steps: 5\nmode: plain\n"
        assert run.path == tmp_path / "tiny/one/v0001"
        assert run.root == tmp_path

    def test_versions_are_never_used_again(self, tmp_path):
        for _ in range(3):
            done_run(tmp_path)
        remove(tmp_path / "tiny/one/v0003", tmp_path)
        assert new_run(tmp_path).id == "tiny/one/v0004"

    def test_a_directory_in_the_place_of_the_link_is_named_before_any_work(self, tmp_path):
        (tmp_path / "tiny/one/latest").mkdir(parents=True)
        with pytest.raises(UserError, match="latest is a directory"):
            new_run(tmp_path)
        assert not list(tmp_path.glob("tiny/one/v*"))

    def test_goes_past_a_directory_that_something_else_made(self, tmp_path):
        (tmp_path / "tiny/one/v0007").mkdir(parents=True)
        assert new_run(tmp_path).id == "tiny/one/v0008"

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "a b", "-a", ".a", "latest", "v0001", "é", "x" * 201, "a\n"]
    )
    def test_refuses_names_that_are_no_folder_names(self, tmp_path, name):
        with pytest.raises(UserError, match="no valid run name"):
            new_run(tmp_path, name)
        assert not list(tmp_path.iterdir())

    def test_refuses_the_stage_that_is_the_folder_of_sweeps(self, tmp_path):
        with pytest.raises(UserError, match="no valid stage"):
            new_run(tmp_path, stage="sweeps")

    def test_names_a_root_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="VLSAE_RUNS"):
            new_run(tmp_path / "file")

    def test_hides_secrets(self, tmp_path):
        run = new_run(
            tmp_path,
            config="logger:\n  api_key: abc\n  entity: me\n  token: ${oc.env:TOKEN}\n",
            overrides=["logger.api_key=abc"],
            command=["vlsae", "train", "logger.api_key=abc", "--token", "abc"],
        )
        for file in run.path.iterdir():
            assert "abc" not in file.read_text(), file
        assert "${oc.env:TOKEN}" in (run.path / "config.yaml").read_text()


def test_secrets_are_masked_and_nothing_else():
    assert mask_arguments(["a.password=x", "+b.token=", "k=3", "c.max_tokens=9", "~d", "a.key=${oc.env:K}"]) == [
        "a.password=***",
        "+b.token=",
        "k=3",
        "c.max_tokens=9",
        "~d",
        "a.key=${oc.env:K}",
    ]
    text = "# a comment stays\nextract: {tokens: {include: all}}\nkey: null\n"
    assert mask_config(text) == text


class TestStatus:
    def test_done(self, tmp_path):
        run = new_run(tmp_path)
        (run.path / "tables").mkdir()
        (run.path / "tables/a.csv").write_text("x\n1\n")
        run.finish()
        manifest = read_manifest(run.path)
        assert manifest["status"] == "done"
        assert manifest["end"] >= manifest["start"]
        files = {entry["path"]: entry for entry in manifest["files"]}
        assert list(files) == ["config.yaml", "overrides.yaml", "tables/a.csv"]
        assert files["tables/a.csv"] == {
            "path": "tables/a.csv",
            "bytes": 4,
            "sha256": sha256(run.path / "tables/a.csv"),
        }
        assert not run.held

    def test_a_changed_byte_is_named(self, tmp_path):
        run = done_run(tmp_path)
        opened = open_run(run.path)
        assert opened.changed_files() == []
        content = bytearray((run.path / "config.yaml").read_bytes())
        content[3] ^= 1
        (run.path / "config.yaml").write_bytes(content)
        assert opened.changed_files() == ["config.yaml"]

    def test_known_digests_are_used_while_the_file_stays(self, tmp_path):
        run = new_run(tmp_path)
        for name in ("same", "changed"):
            (run.path / name).write_text(name)
        run.know_digests({"same": "0" * 64, "changed": "0" * 64})
        (run.path / "changed").write_text("another length")
        run.finish()
        digests = {entry["path"]: entry["sha256"] for entry in run.manifest["files"]}
        assert digests["same"] == "0" * 64
        assert digests["changed"] == sha256(run.path / "changed")

    def test_failed_holds_one_line(self, tmp_path):
        run = new_run(tmp_path)
        run.fail(KeyError("a\nb"))
        assert read_manifest(run.path)["status"] == "failed"
        assert read_manifest(run.path)["error"] == "KeyError: 'a\\nb'"
        again = new_run(tmp_path)
        again.fail(UserError("No file.", "Name one."))
        assert read_manifest(again.path)["error"] == "No file. Name one."

    def test_running_with_a_free_lock_is_interrupted(self, tmp_path):
        run = new_run(tmp_path)
        assert effective_status(run.path, read_manifest(run.path)) == "running"
        run.release()
        assert effective_status(run.path, read_manifest(run.path)) == "interrupted"
        assert read_manifest(run.path)["status"] == "running"

    def test_latest_is_a_relative_link_to_the_newest_done(self, tmp_path):
        first, second = new_run(tmp_path), new_run(tmp_path)
        link = tmp_path / "tiny/one/latest"
        second.finish()
        assert link.is_symlink()
        assert str(link.readlink()) == "v0002"
        first.finish()
        assert str(link.readlink()) == "v0002"
        third = new_run(tmp_path)
        third.fail("no")
        assert str(link.readlink()) == "v0002"
        remove(second.path, tmp_path)
        assert str(link.readlink()) == "v0001"
        remove(first.path, tmp_path)
        assert not link.is_symlink()

    def test_a_partial_run_is_the_latest_only_without_a_whole_one(self, tmp_path):
        link = tmp_path / "tiny/one/latest"
        done_run(tmp_path, identity={"limit": 40})
        assert str(link.readlink()) == "v0001"
        whole = done_run(tmp_path)
        done_run(tmp_path, identity={"limit": 40})
        assert str(link.readlink()) == "v0002"
        remove(whole.path, tmp_path)
        assert str(link.readlink()) == "v0003"

    def test_whoever_writes_holds_the_lock(self, tmp_path):
        run = Run.load(done_run(tmp_path).path)
        with pytest.raises(RuntimeError, match="without its lock"):
            run.log_metrics(0, 0, "train", loss=1)
        with pytest.raises(RuntimeError, match="without its lock"):
            run.fail("x")

    def test_facts_are_recorded(self, tmp_path):
        run = new_run(tmp_path)
        run.set_device("cpu", 2)
        run.add_parent("extract/a/v0001")
        run.add_parent("extract/a/v0001")
        run.set_fingerprint("0" * 64, {"k": 1})
        manifest = read_manifest(run.path)
        assert (manifest["device"], manifest["threads"], manifest["reproducible"]) == ("cpu", 2, True)
        assert manifest["parents"] == ["extract/a/v0001"]
        assert (manifest["fingerprint"], manifest["identity"]) == ("0" * 64, {"k": 1})
        run.set_device("cuda", 2)
        assert read_manifest(run.path)["reproducible"] is False


class TestOpen:
    def test_continues(self, tmp_path):
        run = new_run(tmp_path)
        run.fail("broken")
        again = Run.open(run.path)
        assert again.held
        assert read_manifest(run.path)["status"] == "running"
        assert read_manifest(run.path)["error"] is None
        assert read_manifest(run.path)["end"] is None
        again.finish()

    def test_refuses_a_run_at_work(self, tmp_path):
        run = new_run(tmp_path)
        with pytest.raises(UserError, match="is running"):
            Run.open(run.path)
        run.finish()

    def test_refuses_a_done_run_and_frees_its_lock(self, tmp_path):
        run = done_run(tmp_path)
        for _ in range(2):
            with pytest.raises(UserError, match="nothing is left to resume"):
                Run.open(run.path)

    def test_says_that_packages_changed(self, tmp_path, caplog):
        run = new_run(tmp_path)
        run.manifest["packages"]["torch"] = "0.1"
        run.interrupt()
        with caplog.at_level("WARNING"):
            Run.open(run.path)
        assert "torch 0.1 →" in caplog.text


DAMAGE = {
    "half": '{"run_id": "tiny/one/v0001", ',
    "list": "[]",
    "nan": '{"run_id": NaN}',
    "bytes": "\x00\x01",
    "empty": "",
}


class TestDamage:
    @pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
    def test_is_named_in_the_list(self, tmp_path, text):
        whole, broken = done_run(tmp_path), done_run(tmp_path)
        (broken.path / "manifest.json").write_text(text)
        entries = {str(entry.id): entry for entry in entries_of(tmp_path)}
        assert entries[whole.id].status == "done"
        assert entries[broken.id].status == "damaged"
        assert "manifest.json" in (entries[broken.id].fault or "")
        with pytest.raises(DamagedRun):
            read_manifest(broken.path)

    @pytest.mark.parametrize("field", FIELDS)
    def test_of_one_field_is_named(self, tmp_path, field):
        run = done_run(tmp_path)
        manifest = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != field}))
        with pytest.raises(DamagedRun, match=f"lacks '{field}'"):
            read_manifest(run.path)
        (run.path / "manifest.json").write_text(json.dumps({**manifest, field: None}))
        with pytest.raises(DamagedRun, match=field):
            read_manifest(run.path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("start", "yesterday"), ("start", "2026-01-01"), ("end", "x"), ("files", [3]), ("files", [{"path": "a"}]),
         ("parents", [None]), ("command", [1])],
    )  # fmt: skip
    def test_inside_a_field_is_named(self, tmp_path, field, value):
        run = done_run(tmp_path)
        manifest = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps({**manifest, field: value}))
        with pytest.raises(DamagedRun, match=field):
            read_manifest(run.path)

    @pytest.mark.parametrize("measure", [3, {"value": 1}, {"value": "1", "unit": "", "low": None, "high": None}])
    def test_of_a_summary_is_named(self, tmp_path, measure):
        run = done_run(tmp_path)
        (run.path / "summary.json").write_text(json.dumps({"run_id": run.id, "metrics": {"score": measure}}))
        with pytest.raises(UserError, match="'score'"):
            _ = open_run(run.path).summary

    def test_a_copied_run_is_not_two_runs(self, tmp_path):
        run = done_run(tmp_path)
        subprocess.run(["cp", "-r", run.path, run.path.with_name("v0009")], check=True)
        assert [entry.status for entry in entries_of(tmp_path)].count("damaged") == 1

    def test_newer_schema_is_refused(self, tmp_path):
        run = done_run(tmp_path)
        manifest = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
        with pytest.raises(DamagedRun, match="newer vlsae"):
            read_manifest(run.path)

    def test_a_lost_manifest_is_listed_and_removable(self, tmp_path):
        run = done_run(tmp_path)
        (run.path / "manifest.json").unlink()
        assert entries_of(tmp_path)[0].status == "damaged"
        remove(resolve(run.id, tmp_path), tmp_path)
        assert entries_of(tmp_path) == []

    def test_what_is_left_of_a_removal_that_was_cut_short_goes_with_the_next(self, tmp_path):
        root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
        left, stays = root / "tiny/one/.removed-v0001-77", elsewhere / "one/.removed-v0001-77"
        for folder in (left, stays):
            folder.mkdir(parents=True)
            (folder / "rows.bin").write_bytes(b"rows")
        (root / "linked").symlink_to(elsewhere)
        assert main(["runs", "rm", str(done_run(root).id), "--runs-dir", str(root)]) == 0
        assert not left.exists()
        assert (stays / "rows.bin").exists()
        assert entries_of(root) == []


class TestMetrics:
    def test_lines_are_strict_json(self, tmp_path):
        run = new_run(tmp_path)
        run.log_metrics(1, 0.5, "train", **{"loss/vision": np.float32(0.25), "bad": math.nan, "worse": -math.inf})
        (line,) = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert line.pop("time") >= 0
        assert line == {"step": 1, "epoch": 0.5, "split": "train", "loss/vision": 0.25, "bad": None, "worse": None}

    def test_truncate_drops_later_steps_and_half_a_line(self, tmp_path):
        run = new_run(tmp_path)
        for step in range(5):
            run.log_metrics(step, step, "train", loss=step)
        with (run.path / "metrics.jsonl").open("a") as stream:
            stream.write('{"step": 5, "lo')
        run.interrupt()
        again = Run.open(run.path)
        again.truncate_metrics(2)
        again.log_metrics(3, 3, "train", loss=33)
        lines = read_metrics(run.path)
        assert [(line["step"], line["loss"]) for line in lines] == [(0, 0), (1, 1), (2, 2), (3, 33)]
        assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(lines))

    def test_truncate_of_one_training_keeps_the_lines_of_another(self, tmp_path):
        run = new_run(tmp_path)
        for step in (1, 2, 3):
            run.log_metrics(step, 1, "train", **{"auxiliary/loss": step})
        for step in (1, 2):
            run.log_metrics(step, 1, "train", loss=step)
        run.truncate_metrics(1, "loss")
        assert [line["step"] for line in read_metrics(run.path)] == [1, 2, 3, 1]
        run.truncate_metrics(0, "loss")
        assert [line.get("auxiliary/loss") for line in read_metrics(run.path)] == [1, 2, 3]

    def test_half_a_line_is_dropped_without_truncate_too(self, tmp_path):
        run = new_run(tmp_path)
        (run.path / "metrics.jsonl").write_text('{"step": 0, "time": 9.5}\n{"st')
        assert [line["step"] for line in read_metrics(run.path)] == [0]
        run.log_metrics(1, 1, "train")
        assert [line["step"] for line in read_metrics(run.path)] == [0, 1]
        assert read_metrics(run.path)[1]["time"] >= 9.5

    def test_damage_is_named_by_its_line(self, tmp_path):
        run = new_run(tmp_path)
        (run.path / "metrics.jsonl").write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
        with pytest.raises(UserError, match="line 2"):
            read_metrics(run.path)

    def test_summary(self, tmp_path):
        run = new_run(tmp_path)
        run.write_summary({"a": Measure(1.5, "bits", 1.0, math.inf), "b": math.nan, "c": np.float64(2)}, partial=True)
        assert json.loads((run.path / "summary.json").read_text()) == {
            "run_id": run.id,
            "metrics": {
                "a": {"value": 1.5, "unit": "bits", "low": 1.0, "high": None},
                "b": {"value": None, "unit": "", "low": None, "high": None},
                "c": {"value": 2.0, "unit": "", "low": None, "high": None},
            },
            "partial": True,
        }

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
    def test_every_value_becomes_strict_json(self, value):
        json.loads(json.dumps(plain(value), allow_nan=False))

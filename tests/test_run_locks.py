"""Several processes at once: claims, fingerprint locks, a killed holder."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from run_factory import new_run, python, wait_for, write_stage

from vlsae.runs import effective_status, entries_of, read_manifest
from vlsae.runs.locks import is_held, lock_file

CLAIM = """
import pathlib, sys
from vlsae.runs import claim
root = pathlib.Path(sys.argv[1])
(root / sys.argv[2]).touch()
while not (root / "go").exists():
    pass
for _ in range(int(sys.argv[3])):
    run = claim(root, "tiny", "one", command=[], overrides=[], seeds={}, config="a: 1\\n", identity={}, fingerprint="f",
                parents=[], choices={})
    run.finish()
    print(run.id)
"""

ASK = """
import pathlib, sys
from vlsae.runs import entries_of
root = pathlib.Path(sys.argv[1])
(root / sys.argv[2]).touch()
while not (root / "go").exists():
    pass
print(*{entry.status for _ in range(500) for entry in entries_of(root)})
"""

MAKE_ONCE = """
import pathlib, sys, time
from vlsae.runs import fingerprint_lock
root = pathlib.Path(sys.argv[1])
(root / sys.argv[2]).touch()
while not (root / "go").exists():
    pass
with fingerprint_lock(root, "abc"):
    if (root / "made").exists():
        print("reused")
    else:
        time.sleep(0.3)
        (root / "made").touch()
        print("made")
"""


def run_together(folder: Path, code: str, processes: int, *arguments: str) -> list[str]:
    """Start processes that wait for each other, and return what each printed."""
    started = [python(folder, code, str(folder), f"ready{number}", *arguments) for number in range(processes)]
    for number, process in enumerate(started):
        wait_for(folder / f"ready{number}", process)
    (folder / "go").touch()
    answers = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * processes, [answer[1] for answer in answers]
    return [answer[0] for answer in answers]


def test_claims_at_once_get_distinct_versions(tmp_path):
    claimed = "".join(run_together(tmp_path, CLAIM, 4, "5")).split()
    assert sorted(claimed) == [f"tiny/one/v{number:04d}" for number in range(1, 21)]
    assert {entry.status for entry in entries_of(tmp_path)} == {"done"}
    assert (tmp_path / "tiny/one/latest").resolve().name == "v0020"


def test_a_list_beside_claims_sees_whole_runs_only(tmp_path):
    process = python(tmp_path, CLAIM, str(tmp_path), "ready", "15")
    wait_for(tmp_path / "ready", process)
    (tmp_path / "go").touch()
    seen = set()
    while process.poll() is None:
        seen |= {entry.status for entry in entries_of(tmp_path)}
    assert process.returncode == 0
    assert seen <= {"running", "done"}


def test_one_process_makes_and_the_others_find(tmp_path):
    assert sorted(run_together(tmp_path, MAKE_ONCE, 3)) == ["made\n", "reused\n", "reused\n"]


def test_a_killed_holder_leaves_an_interrupted_run_that_can_be_resumed(tmp_path):
    write_stage(tmp_path)
    root = tmp_path / "runs"
    run = new_run(root, config="steps: 5\nmode: wait\n")
    run.release()
    code = "from vlsae.worker import main; sys.exit(main(sys.argv[1:]))"
    process = python(tmp_path, code, str(run.path))
    wait_for(run.path / "waiting", process)
    assert effective_status(run.path, read_manifest(run.path)) == "running"
    second = python(tmp_path, code, str(run.path))
    assert second.communicate(timeout=60)[1].count("is running") == 1
    assert second.returncode == 2

    process.kill()
    process.wait()
    assert effective_status(run.path, read_manifest(run.path)) == "interrupted"
    assert entries_of(root)[0].status == "interrupted"

    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "half')
    last = python(tmp_path, code, str(run.path))
    assert last.communicate(timeout=60)
    assert last.returncode == 0
    assert read_manifest(run.path)["status"] == "done"
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"step": {step}' for step in range(5)]


def test_a_killed_run_is_finished_by_runs_resume(tmp_path):
    write_stage(tmp_path)
    root = tmp_path / "runs"
    run = new_run(root, config="steps: 5\nmode: wait\n")
    run.release()
    process = python(tmp_path, "from vlsae.worker import main; sys.exit(main(sys.argv[1:]))", str(run.path))
    wait_for(run.path / "waiting", process)
    process.kill()
    process.wait()
    resume = "from vlsae.cli import main; sys.exit(main(['runs', 'resume', *sys.argv[1:]]))"
    last = python(tmp_path, resume, run.id, "--runs-dir", str(root))
    out, error = last.communicate(timeout=60)
    assert last.returncode == 0, error
    assert str(run.path) in out.replace("\n", "")
    manifest = read_manifest(run.path)
    assert (manifest["status"], manifest["run_id"], manifest["version"]) == ("done", run.id, 1)
    assert (root / "tiny/one/latest").resolve() == run.path
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4]


def test_two_who_ask_at_once_do_not_take_each_other_for_a_holder(tmp_path):
    new_run(tmp_path).release()
    (tmp_path / "tiny/one/v0001/run.lock").touch()
    assert set("".join(run_together(tmp_path, ASK, 2)).split()) == {"interrupted"}


def test_a_folder_that_may_only_be_read_can_be_asked(tmp_path):
    run = new_run(tmp_path)
    run.path.chmod(0o555)
    (run.path / "run.lock").chmod(0o444)
    try:
        assert is_held(run.path / "run.lock")
        run.release()
        assert not is_held(run.path / "run.lock")
    finally:
        run.path.chmod(0o755)


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    run = new_run(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True)
    child.start()
    try:
        run.release()
        assert not is_held(run.path / "run.lock")
    finally:
        child.kill()


def test_asking_does_not_make_a_lock_file(tmp_path):
    assert not is_held(tmp_path / "run.lock")
    assert not list(tmp_path.iterdir())
    lock = lock_file(tmp_path / "run.lock")
    with lock:
        assert is_held(tmp_path / "run.lock")
    assert not is_held(tmp_path / "run.lock")


@pytest.mark.parametrize("end", ["finish", "interrupt", "fail"])
def test_every_end_frees_the_lock(tmp_path, end):
    run = new_run(tmp_path)
    run.fail("x") if end == "fail" else getattr(run, end)()
    assert not is_held(run.path / "run.lock")


NO_LOCKS = """
import fcntl, pathlib, sys
from vlsae.errors import UserError
from vlsae.runs import Run, claim

def refuse(descriptor, operation):
    raise OSError(37, "No locks available")

def made(name):
    facts = dict(command=[], overrides=[], seeds={}, config="a: 1", identity={}, fingerprint="f", parents=[])
    facts["choices"] = {}
    return claim(pathlib.Path(sys.argv[1]), "tiny", name, **facts)

held = made("held")
held.release()
for fault in (refuse, lambda descriptor, operation: None):
    fcntl.flock = fault
    for start in (lambda: made("one"), lambda: Run.open(held.path)):
        try:
            start()
        except UserError as error:
            print(error.message, error.mend)
        else:
            print("started")
"""


def test_a_file_system_without_working_locks_is_refused(tmp_path):
    process = python(tmp_path, NO_LOCKS, str(tmp_path / "runs"))
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = printed.splitlines()
    assert len(lines) == 4
    for line, reason in zip(lines, ["No locks available"] * 2 + ["two holders have the same lock"] * 2):
        assert reason in line
        assert "Set VLSAE_RUNS" in line
    assert not list(tmp_path.glob("runs/tiny/one/v*"))


TRAINING = """
import os, sys, time
from vlsae.cli import main
from vlsae.stages import launch, train, extract
import vlsae.training.loop, vlsae.dictionaries.evaluation, vlsae.reporting, hydra, datasets

children = []
start = time.time() + 1.0
for number in range(int(sys.argv.pop(1))):
    pid = os.fork()
    if pid == 0:
        time.sleep(max(0.0, start - time.time()))
        os._exit(main(sys.argv[1:]))
    children.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [8])
def test_trainings_at_once_share_one_extraction_and_are_runs_of_their_own(count, tmp_path, runs_dir):
    plugin = Path(__file__).parent / "plugin_files" / "tiny_parts.py"
    words = ["train", "--plugin", str(plugin), "model=tiny", "dataset.n=24", "objective=my_sae"]
    quick = ["train.epochs=1", "train.batch_size=8", "train.evaluate.bootstrap=2", "train.evaluate.concepts=1"]
    process = python(tmp_path, TRAINING, str(count), *words, *quick, "train.evaluate.names=false")
    errors = process.communicate(timeout=880)[1]
    assert process.returncode == 0, errors[-3000:]
    entries = list(entries_of(runs_dir, "train"))
    assert sorted(entry.id.version for entry in entries) == list(range(1, count + 1))
    assert {entry.status for entry in entries} == {"done"}
    assert {tuple(entry.manifest["parents"]) for entry in entries} == {("extract/tiny-shapes/v0001",)}
    assert len(list(runs_dir.glob("extract/*/v*"))) == 1

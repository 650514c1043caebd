"""What comes from elsewhere runs no code, leaves its folder nowhere, and secrets are written nowhere."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import acted, needs_chromium
from rubbish import Touch
from run_factory import done_run, new_run
from test_report_browser import ATTACK, seen_in

from vlsae.config import compose, load
from vlsae.dictionaries import TopK, from_pretrained
from vlsae.dictionaries.references import load_dictionary
from vlsae.errors import UserError
from vlsae.models.weights import read_tensors
from vlsae.reporting import write_report
from vlsae.reporting.comparison import write_comparison
from vlsae.representations import Store
from vlsae.representations.files import DamagedStore
from vlsae.runs.results import read_table, write_result_file, write_table
from vlsae.training import build_optimizer, weight_files
from vlsae.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*sorted((ROOT / "vlsae").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]

#: Calls that make objects or code of bytes, by their last two names; True where it is the answer of a child.
LOADERS = {
    *("pickle.loads", "pickle.load", "pickle.Unpickler", "joblib.load", "dill.load", "dill.loads", "marshal.loads"),
    *("shelve.open", "cloudpickle.load", "cloudpickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pd.read_pickle", "pandas.read_pickle", "eval", "exec", "os.system"),
}
#: What a child process of ours wrote into a pipe of ours is the one thing that is unpickled.
ALLOWED = {("vlsae/representations/workers.py", "pickle.loads")}


def called(node: ast.Call) -> str:
    """The last two names of what is called."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return f"{owner.id if isinstance(owner, ast.Name) else getattr(owner, 'attr', '')}.{node.func.attr}"
    return node.func.id if isinstance(node.func, ast.Name) else ""


def keyword(node: ast.Call, name: str):
    return next((k.value.value for k in node.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def test_nothing_is_unpickled_or_evaluated_anywhere():
    found = set()
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = called(node)
            unsafe = name in LOADERS
            unsafe |= name == "torch.load" and keyword(node, "weights_only") is not True
            unsafe |= name in ("np.load", "numpy.load") and keyword(node, "allow_pickle") is not False
            unsafe |= keyword(node, "trust_remote_code") is True or keyword(node, "shell") is True
            if unsafe:
                found.add((where, name))
    assert found == ALLOWED


def evil(path: Path, mark: Path) -> Path:
    """Write a pickle that leaves a mark where somebody unpickles it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"weight": Touch(mark)}))
    return path


def as_torch(path: Path, mark: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Touch(mark)}, path)
    return path


def in_array(path: Path, mark: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=np.array([Touch(mark)], dtype=object))
    return path


def checkpoint(path: Path) -> None:
    model = TopK(4, 8, 2)
    Checkpoints(path.parent, model, build_optimizer(model, 1e-3)).restore()


PLACES = {
    "weights .bin": ("model.bin", evil, read_tensors),
    "weights .pt of torch": ("model.pt", as_torch, read_tensors),
    "weights that say safetensors": ("model.safetensors", evil, read_tensors),
    "a dictionary's .pth": ("dictionary.pth", as_torch, lambda path: load_dictionary({"path": str(path), "k": 2})),
    "a dictionary's .pt": ("dictionary.pt", evil, lambda path: load_dictionary(str(path))),
    "a saved file": ("saved.safetensors", evil, weight_files.read),
    "a checkpoint": ("step-00000001.safetensors", evil, checkpoint),
    "a store": ("samples.arrow", evil, lambda path: Store.open(path.parent)),
    "a table": ("names.parquet", evil, lambda path: read_table(path.parent, "names")),
    "arrays .npz": ("images.npz", in_array, lambda path: _images(path)),
    "arrays .npy": ("images.npy", evil, lambda path: _images(path)),
}


def _images(path: Path) -> None:
    from vlsae.datasets.image_arrays import ImageArrays

    len(ImageArrays(path=str(path)))


@pytest.mark.parametrize("place", list(PLACES))
def test_a_foreign_pickle_is_refused_wherever_a_file_is_taken(place, tmp_path):
    name, write, read = PLACES[place]
    mark = tmp_path / "OWNED"
    path = write(tmp_path / "given" / name, mark)
    with pytest.raises((UserError, weight_files.DamagedFile, FileNotFoundError)):
        read(path)
    assert not mark.exists()


def test_the_pickle_of_these_tests_would_have_run(tmp_path):
    pickle.loads(evil(tmp_path / "x", tmp_path / "OWNED").read_bytes())
    assert (tmp_path / "OWNED").exists()


def test_a_pickle_in_the_place_of_a_dictionarys_weights(tmp_path):
    TopK(4, 8, 2).save_pretrained(tmp_path)
    evil(tmp_path / "model.safetensors", tmp_path / "OWNED")
    with pytest.raises(ValueError, match="damaged or no file of vlsae"):
        from_pretrained(tmp_path)
    assert not (tmp_path / "OWNED").exists()


def test_remote_code_is_off_unless_the_user_writes_it():
    from vlsae.models.lm import LM

    assert LM().trust_remote_code is False
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert "trust_remote_code: true" not in file.read_text(encoding="utf-8").lower(), file


@pytest.mark.parametrize(
    "config",
    [
        "model: {_target_: os.system, command: ls}",
        "model: {_target_: vlsae.models.CLIP, checkpoint: {_target_: subprocess.Popen}}",
        "a: {b: [{c: {_target_: builtins.exec}}]}",
        "text: '{_target_: os.system}'\nnode: ${oc.decode:${text}}",
        "name: os.system\nmodel: {_target_: '${name}'}",
        "one: os\ntwo: system\nmodel: {_target_: '${one}.${two}'}",
        "model: ${oc.create:{_target_:os.system}}",
        "key: _target_\nmodel: ${oc.decode:'{${key}: os.system}'}",
        "model: {_target_: vlsae.models.CLIP, _args_: [1]}",
        "model: {_target_: vlsae.models.CLIP, _partial_: true}",
        "model: {_target_: vlsae.plugins.load, references: [evil.py]}",
        "plugins: {_target_: evil.Evil}",
        "model: !!python/name:os.system",
        "base: &a {_target_: os.system}\nmodel: *a",
        "base: &a {_target_: os.system}\nmodel: {<<: *a, x: 1}",
    ],
)
def test_the_configuration_of_a_run_from_elsewhere_reaches_no_callable(config, tmp_path):
    (tmp_path / "config.yaml").write_text(f"stage: train\n{config}\n")
    before = set(sys.modules)
    with pytest.raises(UserError, match=r"target|_args_|_partial_|damaged"):
        load(tmp_path)
    assert "evil" not in set(sys.modules) - before


def test_a_plug_ins_own_configuration_gets_the_walk(tmp_path):
    folder = tmp_path / "objective"
    folder.mkdir()
    (folder / "mine.yaml").write_text("_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: {_target_: os.getcwd}\n")
    with pytest.raises(UserError, match=r"os\.getcwd"):
        compose("train", ["objective=mine"], tmp_path)


class TestLinks:
    """`runs rm` removes what lies in the run, and nothing that a link leads to."""

    def test_links_within_a_run_are_not_followed(self, tmp_path):
        from vlsae.runs.removal import remove

        treasure = tmp_path / "treasure"
        (treasure / "deep").mkdir(parents=True)
        (treasure / "deep/kept.txt").write_text("kept")
        run = done_run(tmp_path / "runs")
        (run.path / "linked").symlink_to(treasure, target_is_directory=True)
        (run.path / "file").symlink_to(treasure / "deep/kept.txt")
        remove(run.path, tmp_path / "runs")
        assert not run.path.exists()
        assert (treasure / "deep/kept.txt").read_text() == "kept"

    def test_a_run_that_is_a_link_is_not_removed(self, tmp_path):
        from vlsae.runs.removal import remove

        elsewhere = done_run(tmp_path / "other")
        folder = tmp_path / "runs/tiny/one"
        folder.mkdir(parents=True)
        (folder / "v0001").symlink_to(elsewhere.path, target_is_directory=True)
        with pytest.raises(UserError, match="is not removed"):
            remove(folder / "v0001", tmp_path / "runs")
        assert elsewhere.path.is_dir()

    def test_links_are_no_files_of_a_run(self, tmp_path):
        run = new_run(tmp_path / "runs")
        (run.path / "passwd").symlink_to("/etc/passwd")
        run.finish()
        assert "passwd" not in {entry["path"] for entry in run.manifest["files"]}


@pytest.mark.slow
def test_no_secret_is_written_anywhere_of_a_run_and_its_weights_and_biases_log(tmp_path):
    """The command line, nested settings and the environment hold secrets; no file and no line of output does."""
    secrets = {"api_token": "SECRETONE", "password": "SECRETTWO", "private_key": "SECRETTHREE"}
    key = "0123456789abcdef0123456789abcdef01234567"
    parts = str(ROOT / "tests/plugin_files/tiny_parts.py")
    words = ["extract", "--plugin", parts, "model=tiny", "dataset.n=20", "logger=wandb", "+api_token=SECRETONE"]
    words += ["+service={password: SECRETTWO}", "+note.private_key=SECRETTHREE"]
    environment = {**os.environ, "VLSAE_RUNS": str(tmp_path / "runs"), "WANDB_API_KEY": key, "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "vlsae", *words], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert b"api_token" in b"".join(path.read_bytes() for path in files), "its name stays, its value goes"
    for secret in (*secrets.values(), key):
        assert secret not in done.stdout + done.stderr
        holding = [path for path in files if secret.encode() in path.read_bytes()]
        assert holding == [], secret


#: What a page would show of markup that had become one, and whether its script had run.
LOOK = """
setTimeout(() => {
  const seen = { elements: document.querySelectorAll("img[src=x], [onerror]").length, title: document.title };
  seen.text = document.body.textContent.includes("onerror=");
  seen.outside = [...document.querySelectorAll("[src], [href]")].map((one) => one.src || one.href)
    .filter((one) => /^(https?:|ftp:|javascript:)/.test(one) || one.startsWith("//"));
  document.body.dataset.seen = JSON.stringify(seen);
}, 300);
"""


def attacked(root: Path, name: str) -> Path:
    """A run whose configuration, notes, tables, figures, error and choices are markup."""
    config = json.dumps({"stage": "probe", "note": ATTACK, ATTACK: {"javascript:alert(1)": ATTACK}, "model": {}})
    run = new_run(root, name, "probe", config=config, choices={"model": ATTACK}, overrides=[f"note={ATTACK}"])
    write_table(run.path / "tables", "found", ["layer", ATTACK], [[ATTACK, 1.0], ["</script>", 2.0]])
    points = {"label": ATTACK, "x": [0.0, 1.0], "y": [0.1, 0.2], "low": None, "high": None}
    plot = {"name": "curve", "title": ATTACK, "x_label": ATTACK, "y_label": "]]>", "series": [points]}
    table = {"name": "found", "title": ATTACK, "description": ATTACK, "shown": True}
    content = {"notes": [ATTACK, "[bold]markup[/nothing]"], "headline": [], "tables": [table], "plots": []}
    del plot
    write_result_file(run.path, content)
    run.write_summary({ATTACK: 0.5, "plain": 1.0})
    run.finish()
    return run.path


@needs_chromium
@pytest.mark.slow
def test_the_page_of_a_run_whose_every_word_is_a_script(tmp_path):
    page = write_report(attacked(tmp_path / "runs", "evil"))
    assert "default-src 'none'" in page.read_text(encoding="utf-8")
    seen = seen_in(acted(page, LOOK, tmp_path))
    assert seen["elements"] == 0
    assert "hacked" not in seen["title"]
    assert seen["text"], "the words themselves are shown"
    assert seen["outside"] == []


@needs_chromium
@pytest.mark.slow
def test_the_page_that_compares_such_runs(tmp_path):
    runs = [attacked(tmp_path / "runs", name) for name in ("evil", "worse")]
    page = write_comparison(runs, tmp_path / "compared")
    seen = seen_in(acted(page, LOOK, tmp_path))
    assert seen["elements"] == 0
    assert "hacked" not in seen["title"]
    assert seen["outside"] == []


def test_markup_of_the_terminal_is_shown_as_it_stands(tmp_path, monkeypatch, capsys):
    from vlsae.cli import main

    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    attacked(tmp_path / "runs", "evil")
    other = new_run(tmp_path / "runs", "other", "probe")
    other.fail(UserError("[/red] no [link=x]markup[/link] \x1b[2J"))
    for words in (["runs", "list"], ["runs", "show", "probe/evil/v0001"], ["runs", "show", "probe/other/v0001"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert "\x1b[2J" not in shown
    assert main(["runs", "diff", "probe/evil/v0001", "probe/other/v0001"]) == 0


def test_a_store_whose_index_names_files_elsewhere_is_refused(tmp_path):
    from stores import write

    write(tmp_path / "store")
    file = tmp_path / "store/index.json"
    body = json.loads(file.read_text())
    body["files"]["../../../etc/passwd"] = {"bytes": 1, "sha256": "0" * 64}
    file.write_text(json.dumps(body, indent=1))
    with pytest.raises(DamagedStore, match="was changed"):
        Store.open(tmp_path / "store")

"""Values and files that nobody should give, and what a user is told who gives them."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image
from run_factory import new_run
from tiny_clip import write_clip

from vlsae.bounds import Matches, misfit
from vlsae.cli import main
from vlsae.commands.failures import exit_code
from vlsae.errors import MissingFile, UserError
from vlsae.models import checkpoints
from vlsae.models.loading import build_tokenizer
from vlsae.runs import open_run


def told(capsys, *words: str) -> str:
    """What a command says that the user can mend."""
    code = main(list(words))
    shown = capsys.readouterr().err
    assert code == 2, shown
    assert "Traceback" not in shown
    return shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=99999999999999999999"], "seed is 99999999999999999999, expected an integer from 0 to 4294967295."),
        (["split.seed=99999999999999999999"], "split.seed is 99999999999999999999"),
        (["--device", "quantum"], "hardware.device is 'quantum', expected auto | cpu | mps | cuda | cuda:N."),
        (["--device", ""], "hardware.device is ''"),
        (["train.lr=inf"], "train.lr is inf, expected a finite number."),
        (["train.evaluate.bootstrap=0"], "train.evaluate.bootstrap is 0, expected an integer at least 2."),
        (["--layer", " "], "train.sites is ' ', expected a text that is not empty"),
        (["train.sites=[vision.1,'']"], "a list of a text that is not empty or an integer each"),
        (["--run", ""], "run is '', expected a text that is not empty or null."),
        (["model.checkpoint="], "model.checkpoint= means nothing."),
        (["split.validation=0"], "split.validation=0 and split.test=0.0: a dictionary needs rows"),
        (["train.sites=[]"], "train.sites is empty"),
        (["objective.k=20", "objective.n_concepts=16"], "objective.k=20 is above objective.n_concepts=16"),
        (["split.validation=0.6", "split.test=0.4"], "a share for training"),
        (["-m", "launcher=joblib", "launcher.jobs=0", "seed=1,2"], "launcher.jobs is 0, expected -1 or an integer"),
        (["~train"], "The configuration lacks train.source."),
        (["train=null"], "The configuration lacks train.source."),
        (["~train.lr"], "The configuration lacks train.lr."),
        (["~objective"], "The configuration's objective names no class."),
    ],
)
def test_nonsense_is_named_before_anything_starts(words, message, runs_dir, capsys):
    assert message in told(capsys, "train", *words)
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The configuration's objective names no class."),
        (b"- 1", "The configuration's objective names no class."),
        (b"_target_: os.system", "the target 'os.system', which lies outside"),
        (b"a: 1\nb: [2", "mine.yaml, line 2: expected ',' or ']'"),
        (b"\xff\xfe", "cannot be composed with objective=mine: 'utf-8' codec can't decode"),
    ],
)
def test_an_own_configuration_that_is_no_good(content, message, tmp_path, runs_dir, capsys):
    folder = tmp_path / "own" / "objective"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_bytes(content)
    shown = told(capsys, "train", "--config-dir", str(folder.parent), "objective=mine")
    assert message in shown
    assert not runs_dir.exists()


def test_a_plug_in_that_leaves_the_process_is_named(tmp_path, capsys):
    plugin = tmp_path / "leaving.py"
    plugin.write_text("import sys\nsys.exit(0)\n")
    assert "leaving.py cannot be imported: SystemExit: 0" in told(capsys, "train", "--plugin", str(plugin))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def folder(whole, tmp_path):
    for file in whole.iterdir():
        os.link(file, tmp_path / file.name)
    return tmp_path


def test_a_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text("{bad")
    with pytest.raises(UserError, match=r"The tokenizer of .* cannot be read: .*\nPut its files"):
        build_tokenizer(checkpoints.resolve(f"path:{folder}"))


def test_a_folder_in_the_place_of_the_weights_is_no_weights(folder):
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_model.safetensors").mkdir()
    with pytest.raises(MissingFile, match="holds no weights"):
        checkpoints.resolve(f"path:{folder}")


def test_too_little_memory_on_the_cpu_is_told_as_such(whole, runs_dir, capsys):
    words = ["train", f"model.checkpoint=path:{whole}", "dataset.n=40", "objective.expansion=99999999999"]
    assert "Use a smaller" in told(capsys, *words)


def test_without_held_out_rows_no_training_begins(whole, runs_dir, capsys):
    shown = told(capsys, "train", f"model.checkpoint=path:{whole}", "dataset.n=1", "train.epochs=1")
    assert "holds no row out to score the dictionary on" in shown
    (run,) = (runs_dir / "train" / "clip-shapes-vl_sae").glob("v*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    assert not (run / "checkpoints").exists()


def test_a_dataset_with_a_split_of_its_own_needs_no_shares(tmp_path):
    from vlsae.stages.train import _check_split

    pixels = Image.new("RGB", (8, 8))
    for number, split in enumerate(("train", "validation")):
        pixels.save(tmp_path / f"{number}.png")
        line = {"image": f"{number}.png", "caption": "red", "split": split}
        with (tmp_path / "captions.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    node = {"_target_": "vlsae.datasets.captions.Captions", "path": str(tmp_path)}
    _check_split({"split": {"validation": 0, "test": 0}, "dataset": node})


@pytest.mark.parametrize("number", ["EFBIG", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EIO", "EMFILE"])
def test_what_the_system_refuses_is_no_bug(number):
    import errno

    assert exit_code(OSError(getattr(errno, number), "refused")) == 2


def test_a_rule_of_form():
    rule = Matches(r"a\d", "a and a digit")
    assert rule.holds("a1")
    assert not rule.holds("a12")
    assert str(rule) == "a and a digit"
    assert misfit(float("inf"), float) == "a finite number"
    assert misfit(10**400, float) is None


def test_a_page_written_again_leaves_the_record_of_a_done_run_whole(runs_dir, capsys):
    run = new_run(runs_dir)
    (run.path / "kept.txt").write_text("as it was")
    run.finish()
    (run.path / "kept.txt").write_text("not as it was")
    assert main(["report", run.id]) == 0
    opened = open_run(run.id)
    assert "report.html" in {entry["path"] for entry in opened.manifest["files"]}
    assert opened.changed_files() == ["kept.txt"]

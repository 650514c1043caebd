"""The probe stage: from a command to a run, its upstream, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_clip import write_clip

from vlsae.cli import main
from vlsae.enhancement.concept_reference import read_directions
from vlsae.runs import input_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return f"model.checkpoint=path:{write_clip(tmp_path_factory.mktemp('clip'))}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clip):
    """Return a runs folder with a probe of a tiny CLIP, and the extraction that it made."""
    folder = tmp_path_factory.mktemp("runs")
    code = main(["probe", clip, "dataset.n=60", "probe.targets=[background]", f"runs_dir={folder}", "--layer", "1"])
    assert code == 0
    return folder


def test_a_probe_makes_its_extraction_and_writes_its_result(runs):
    run = input_run("probe/clip-shapes-linear/latest", runs)
    metrics = json.loads((run.path / "summary.json").read_text())["metrics"]
    assert any(name.endswith("vision.1") for name in metrics)
    assert not any("vision.2" in name or "embedding" in name for name in metrics)
    assert run.manifest["parents"] == ["extract/clip-shapes/v0001"]
    assert (run.path / "report.html").is_file()


def test_the_extraction_is_reused_and_the_probe_runs_anew(runs, clip):
    words = [clip, "dataset.n=60", "probe.targets=[background]", f"runs_dir={runs}", "--layer", "1"]
    assert main(["probe", *words, "--name", "again"]) == 0
    assert main(["probe", f"runs_dir={runs}", "--run", "extract/clip-shapes/latest", "--name", "named"]) == 0
    assert not (runs / "extract" / "clip-shapes" / "v0002").exists()
    assert input_run("probe/named/latest", runs).manifest["parents"] == ["extract/clip-shapes/v0001"]


def test_a_dictionary_s_run_is_probed_beside_the_rows_it_reads(runs, clip):
    assert main(["train", clip, "dataset.n=60", "train.epochs=1", f"runs_dir={runs}", "--name", "dictionary"]) == 0
    words = [f"runs_dir={runs}", "--run", "train/dictionary/latest", "probe.targets=[background]"]
    assert main(["probe", *words, "--name", "concepts"]) == 0
    metrics = json.loads((input_run("probe/concepts/latest", runs).path / "summary.json").read_text())["metrics"]
    sites = {name.rsplit("/", 1)[1] for name in metrics if "/" in name}
    own = {"vision.embedding", "language.embedding"}
    assert own | {f"{site}.concepts" for site in own} <= sites


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "99"], "vision has layers 0…"),
        (["probe.targets=[colour]"], "There is no target 'colour'"),
        (["probe.folds=99"], "60 groups of samples for 99 folds"),
        (["--run", "probe/clip-shapes-linear/latest"], "reads a run of extract or train"),
        (["--run", "extract/clip-shapes/latest", "--layer", "2"], "There is no site 'vision.2'"),
    ],
)
def test_mistakes_are_named_before_a_run_is_claimed(runs, clip, words, message, capsys):
    before = len(list((runs / "probe").rglob("manifest.json")))
    assert main(["probe", clip, f"runs_dir={runs}", "dataset.n=60", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(list((runs / "probe").rglob("manifest.json"))) == before or "--layer" in words


def test_variants_are_extractions_of_their_own_that_are_found_again(runs, clip):
    words = [clip, "dataset.n=60", f"runs_dir={runs}", "--layer", "[1,2]", "probe=concept_depth", "probe.folds=3"]
    words += ["probe.noise=prefix", "probe.bits=[8]", "dataset.detail=lone", "probe.targets=[background]"]
    assert main(["probe", *words, "probe.penalties=[10]", "--name", "depth"]) == 0
    run = input_run("probe/depth/latest", runs)
    metrics = json.loads((run.path / "summary.json").read_text())["metrics"]
    for version in ("", "/prefix noise", "/8 bits"):
        assert f"best_accuracy/background=white/language{version}" in metrics
    assert len(run.manifest["parents"]) == 3
    before = len(list((runs / "extract").rglob("manifest.json")))
    assert main(["probe", *words, "probe.penalties=[1]", "--name", "depth"]) == 0
    assert len(list((runs / "extract").rglob("manifest.json"))) == before


def test_directions_lie_in_the_run_for_steering(runs):
    from safetensors.numpy import load_file

    run = input_run("probe/clip-shapes-linear/latest", runs)
    tensors = load_file(run.path / "directions.safetensors")
    name = next(name for name in tensors if name.startswith("vision.1/") and name.endswith("/weight"))
    assert tensors[name].shape[1] > 1
    assert tensors[name.replace("/weight", "/bias")].shape == (len(tensors[name]),)
    assert "directions.safetensors" in {file["path"] for file in run.manifest["files"]}
    target = name.removesuffix("/weight")
    one = read_directions([f"{run.path / 'directions.safetensors'}#{target}/0"], "vision.1", tensors[name].shape[1])
    np.testing.assert_allclose(one.vectors[0], tensors[name][0] / np.linalg.norm(tensors[name][0]), atol=1e-6)


def test_a_type_is_overruled_on_the_command_line_and_a_single_class_is_told(tmp_path, capsys):
    (tmp_path / "stars.csv").write_text("text,stars,same\n" + "".join(f"a text {n},{n % 3},1\n" for n in range(30)))
    words = ["probe", "model=lm", "dataset=text", f"dataset.path={tmp_path / 'stars.csv'}", f"runs_dir={tmp_path}"]
    types = ["dataset.columns.label=stars", "probe.types={stars: number}"]
    assert main([*words, *types, "--dry-run"]) == 0
    assert "stars: number" in capsys.readouterr().out
    assert main([*words, "dataset.columns.label=same"]) == 2
    assert "one class only: it holds only 1.\n" in capsys.readouterr().err

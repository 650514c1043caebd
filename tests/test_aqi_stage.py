"""vlsae aqi from end to end on tiny models: stored, in one pass, compared, on pictures, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_clip import write_clip
from tiny_lm import write_lm

from vlsae.cli import main

pytestmark = pytest.mark.slow

GOOD, BAD = ("calm", "kind", "warm"), ("cruel", "harsh", "cold")


def write_prompts(path: Path, rows: int = 20, label: str = "safety_label") -> Path:
    """Two axioms; unsafe prompts hold other words, and come from another source."""
    generator = np.random.default_rng(0)
    table = []
    for number in range(4 * rows):
        unsafe, axiom = number % 2, "ab"[number // 2 % 2]
        word = (GOOD, BAD)[unsafe][int(generator.integers(3))]
        text = f"tell me of a {word} one, {word} {axiom} {number:03d}"
        table.append({"axiom": axiom, label: ("safe", "unsafe")[unsafe], "source_dataset": f"s{unsafe}", "input": text})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("aqi")
    write_lm(folder / "lm", "gpt2")
    write_lm(folder / "other", "gpt2", seed=1)
    write_prompts(folder / "prompts.csv")
    return folder


@pytest.fixture(scope="module")
def command(place):
    """Run vlsae aqi on the prompts in one runs folder; return the exit code."""

    def run(*words: str, model: str = "lm", prompts: str = "prompts.csv") -> int:
        return main(
            [
                "aqi",
                f"model.checkpoint=path:{place / model}",
                "dataset=litmus",
                f"dataset.path={place / prompts}",
                f"runs_dir={place / 'runs'}",
                "aqi.permutations=19",
                "hardware.device=cpu",
                *words,
            ]
        )

    return run


@pytest.fixture(scope="module")
def scored(command, place) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLSAE_FIGURES", "drawn")
        assert command("--name", "first") == 0
    return summary(place, "first")


def summary(place: Path, name: str) -> dict:
    return json.loads((place / "runs" / "aqi" / name / "latest" / "summary.json").read_text())


def notes(place: Path, name: str) -> list[str]:
    return json.loads((place / "runs" / "aqi" / name / "latest" / "result.json").read_text())["notes"]


def test_a_run_holds_every_number_with_its_baselines(scored, place):
    metrics = scored["metrics"]
    # Folds choose layers of different spread, so that the headline's interval is wide; each layer's own is not.
    assert metrics["delta2"]["value"] > 0.5
    assert metrics["delta2/language.3"]["low"] > 0
    assert metrics["auroc"]["low"] > 0.9
    assert metrics["auroc/lexical"]["value"] > 0.95
    assert metrics["delta2/token_embeddings"]["value"] == metrics["delta2/language.0"]["value"]
    for slot in range(4):
        for name in (
            "delta2",
            "auroc",
            "chi",
            "xbi",
            "dbs",
            "dunn",
            "silhouette",
            "omega2",
            "p",
            "delta2_scaled",
            "gain",
        ):
            assert metrics[f"{name}/language.{slot}"]["value"] is not None, name
    assert metrics["delta2/language.3/a"]["low"] is not None
    run = place / "runs" / "aqi" / "first" / "v0001"
    assert len((run / "rows.txt").read_text().split()) == 80
    assert {path.name for path in (run / "figures").glob("*.svg")} >= {"curve.svg", "axioms.svg", "projection.svg"}
    told = notes(place, "first")
    assert "Separation is not alignment" in told[0]
    assert any("Class and source are confounded" in note for note in told)
    assert "tell me of a" not in (run / "report.html").read_text()


def test_one_pass_beside_the_model_gives_the_stored_numbers(scored, command, place):
    assert command("--name", "live", "aqi.source=live", "extract.batch_size=16") == 0
    live = summary(place, "live")["metrics"]
    for slot in range(4):
        for name in ("delta2", "chi", "xbi", "omega2", "delta2_scaled"):
            key = f"{name}/language.{slot}"
            assert live[key]["value"] == pytest.approx(scored["metrics"][key]["value"], rel=1e-3, abs=1e-5)
        for name in ("auroc", "p", "dunn", "silhouette", "dbs"):
            key = f"{name}/language.{slot}"
            assert live[key]["value"] == pytest.approx(scored["metrics"][key]["value"], rel=1e-3, abs=0.06), key
    assert any("all 80 rows were kept" in note for note in notes(place, "live"))
    assert not (place / "runs" / "extract" / "live").exists()


def test_one_pass_keeps_as_many_rows_as_it_may(scored, command, place):
    assert command("--name", "some", "aqi.source=live", "aqi.live_rows=40", "aqi.length_match=true") == 0
    found = summary(place, "some")["metrics"]
    for name in ("delta2", "chi"):
        key = f"{name}/language.3"
        assert found[key]["value"] == pytest.approx(scored["metrics"][key]["value"], rel=1e-3)
    assert found["dunn_subsampled/language.3"]["value"] > 0
    assert "dunn/language.3" not in found
    assert found["p"]["value"] == pytest.approx(0.05)
    assert found["auroc/language.3"]["value"] > 0.9
    assert any("40 of 80 rows were kept" in note for note in notes(place, "some"))
    assert command("--name", "rowless", "aqi.source=live", "aqi.live_rows=0") == 0
    assert summary(place, "rowless")["metrics"].get("p/language.3") is None
    assert any("needs_vectors" in note for note in notes(place, "rowless"))


def test_two_runs_are_compared_block_by_block(scored, command, place):
    assert command("--name", "second", "aqi.learned.loss=null", model="other") == 0
    assert command("--name", "pair", "--compare", "aqi/first/latest", "aqi/second/v0001") == 0
    told = notes(place, "pair")
    assert told[0] == "a is aqi/first/v0001, b is aqi/second/v0001."
    assert "model.checkpoint" in told[1]
    assert any("Separation is not alignment" in note for note in told)
    found = summary(place, "pair")["metrics"]
    apart = found["delta2/language.3/a"]["value"] - found["delta2/language.3/b"]["value"]
    assert found["delta2/language.3/difference"]["value"] == pytest.approx(apart)
    assert found["delta2/language.3/difference"]["low"] < apart
    manifest = json.loads((place / "runs" / "aqi" / "pair" / "v0001" / "manifest.json").read_text())
    assert manifest["parents"] == ["aqi/first/v0001", "aqi/second/v0001"]


def test_other_pooling_has_the_bag_of_tokens_as_control(command, place, scored, capsys):
    assert command("--name", "last", "extract.tokens.pooling=last", "aqi.learned.loss=null") == 0
    found = summary(place, "last")["metrics"]
    assert found["delta2/token_embeddings"]["value"] == pytest.approx(
        scored["metrics"]["delta2/token_embeddings"]["value"], rel=1e-3
    )
    assert found["delta2/language.0"]["value"] != pytest.approx(found["delta2/token_embeddings"]["value"], rel=0.1)
    capsys.readouterr()
    assert command("--compare", "aqi/first/latest", "aqi/last/latest", "--name", "unlike") == 2
    assert "AQI-X01: the runs differ in extract.tokens.pooling" in capsys.readouterr().err
    assert not (place / "runs" / "aqi" / "unlike").exists()


def test_prompts_that_are_not_there_are_named(command, place, capsys):
    assert command("--name", "wrong", prompts="nowhere.csv") == 2
    assert "nowhere.csv does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["aqi.label=colour"], "AQI-D01: There is no label 'colour'"),
        (["aqi.classes=[good, bad]"], "AQI-D02: unknown labels"),
        (["aqi.rows.min_per_cell=50"], "AQI-D08: no stratum holds at least 50 rows"),
        (["aqi.composites.names=[paper_product]"], "AQI-C02"),
        (["aqi.composites.gamma=2"], "AQI-C01"),
        (["aqi.strata=[axion]"], "Did you mean axiom"),
        (["aqi.stream=vision"], "do not both have vision"),
        (["extract.tokens.pooling=tokens"], "the index needs one row an input"),
        (["aqi.source=live", "aqi.memory_gb=0.00001"], "AQI-M01: 80 rows"),
        (["aqi.source=live", "aqi.live_rows=0", "aqi.memory_gb=0.00001"], "AQI-M01: the moments"),
        (["aqi.projection=tsne"], "aqi.projection is 'tsne'"),
        (["--compare", "aqi/none/v0001", "aqi/none/v0001"], "There is no run 'aqi/none/v0001'"),
    ],
)
def test_what_a_user_can_mend_is_said_at_once(command, place, capsys, words, message):
    before = sorted((place / "runs").rglob("summary.json")) if (place / "runs").exists() else []
    assert command("--name", "wrong", *words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    after = sorted((place / "runs").rglob("summary.json")) if (place / "runs").exists() else []
    assert before == after


def test_pictures_and_both_streams_are_scored_with_shapes_labels(place, capsys):
    clip = write_clip(place / "clip")
    words = ["aqi", "model=clip", f"model.checkpoint=path:{clip}", "dataset=shapes", "dataset.n=90"]
    words += [f"runs_dir={place / 'runs'}", "aqi.label=background", "aqi.rows.on_unknown_label=drop"]
    words += ["aqi.permutations=19", "aqi.strata=none", "hardware.device=cpu"]
    two = "aqi.classes=[white, black]"
    assert main([*words, "aqi.stream=vision", two, "--name", "pictures"]) == 0, capsys.readouterr().err
    found = summary(place, "pictures")["metrics"]
    assert found["auroc/vision.3"]["value"] > 0.9
    assert "auroc/lexical" not in found
    assert main([*words, "aqi.stream=joint", two, "--name", "joint"]) == 0
    assert summary(place, "joint")["metrics"]["auroc/joint.3"]["value"] > 0.9
    three = "aqi.classes=[white, black, grey]"
    assert main([*words, "aqi.stream=vision", three, "--name", "three"]) == 0, capsys.readouterr().err
    many = summary(place, "three")["metrics"]
    assert many["omega2/vision.3"]["low"] > 0
    assert many["delta2/vision.3/white-black"]["value"] is not None

"""`vlsae report`: one run, several side by side, a sweep, everything in a folder, and what is left out of it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from chromium import acted, needs_chromium
from concept_files import write_run
from run_factory import done_run, new_run

from vlsae.cli import main
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.report import write_report
from vlsae.reporting.sweep_report import group_of, write_sweep_report
from vlsae.representations import SiteInfo, StoreWriter
from vlsae.runs import Measure
from vlsae.runs.inventory import changed_files
from vlsae.runs.results import read_table
from vlsae.sweep_record import claim_sweep, finish_sweep, record_job

SECRET = "patient Miller"
IDS = [f"ward-{number:03d}" for number in range(40)]


def extraction(root: Path) -> str:
    """A finished extraction with a picture for each of the ids."""
    import numpy as np
    import torch

    from vlsae.representations.thumbnails import thumbnails

    run = new_run(root, "pictures", "extract")
    n = len(IDS)
    images = np.random.default_rng(0).integers(0, 255, (n, 8, 8, 3)).astype(np.uint8)
    samples = pa.table(
        {"sample_id": IDS, "texts": [[SECRET]] * n, "split": ["train"] * n, "thumbnail": thumbnails(images)}
    )
    rows = pa.table({"sample": range(n), "item": [0] * n, "position": [-1] * n, "split": ["train"] * n})
    writer = StoreWriter(run.path / "representations", sites={"vision.embedding": SiteInfo(2)}, shard_samples=n)
    writer.write_shard(0, samples=samples, rows={"vision": rows}, values={"vision.embedding": torch.ones(n, 2)})
    writer.finish()
    run.finish()
    return run.id


@pytest.fixture
def trained(runs_dir):
    parent = extraction(runs_dir)
    return write_run(
        runs_dir,
        230,
        extraction=parent,
        pair_ids=IDS,
        text=lambda number: f"{SECRET}, case {number}",
        name=lambda n: SECRET,
    )


def test_what_is_private_is_left_out(runs_dir, trained, capsys):
    page = trained / "report.html"
    assert main(["report", "train/concepts/latest"]) == 0
    whole = page.read_text()
    assert whole.count("<img") > 500
    assert SECRET in whole
    assert main(["report", "train/concepts/latest", "--no-media"]) == 0
    no_media = page.read_text()
    assert "<img" not in no_media
    assert "data:image" not in no_media
    assert SECRET in no_media
    assert "Pictures are left out" in no_media
    assert main(["report", "train/concepts/latest", "--redact"]) == 0
    redacted = page.read_text()
    assert "<img" not in redacted
    assert "Miller" not in redacted
    assert "ward-" not in redacted
    assert "[4 words]" in redacted
    assert changed_files(trained, json.loads((trained / "manifest.json").read_text())["files"]) == []


def test_paths_are_redacted_in_settings_and_commands():
    privacy = Privacy(redact=True)
    root = "/" + "srv/private"
    assert (
        privacy.paths(f"vlsae train dataset.path={root}/scans --name a") == "vlsae train dataset.path=[path] --name a"
    )
    assert privacy.paths(f"checkpoint: path:{root}/w.pt\nlr: 1/2") == "checkpoint: [path]\nlr: 1/2"
    assert privacy.paths("train/clip-shapes/v0001") == "train/clip-shapes/v0001"
    assert Privacy().paths(root) == root
    assert privacy.cell("caption", "a b") == "[2 words]"
    assert privacy.cell("layer", "vision.3") == "vision.3"


def test_everything_lies_in_one_folder(runs_dir, trained):
    assert main(["report", "train/concepts/latest", "--full"]) == 0
    folder = trained / "report"
    assert [path.name for path in sorted((folder / "concepts").iterdir())] == ["0001.html", "0002.html", "0003.html"]
    assert len(list((folder / "pictures").iterdir())) == len(IDS)
    last = (folder / "concepts/0003.html").read_text()
    assert last.count('class="card"') == 30
    assert 'href="0002.html"' in last
    assert "0004.html" not in last
    index = (folder / "index.html").read_text()
    for page, place in [(index, folder), (last, folder / "concepts")]:
        for target in re.findall(r'(?:href|src)="([^"#]+)"', page):
            assert target.startswith("data:") or (place / target).exists(), target
    assert (folder / "concepts.jsonl").read_bytes() == (trained / "concepts.jsonl").read_bytes()
    assert main(["report", "train/concepts/latest", "--full", "--redact"]) == 0
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"Miller" not in path.read_bytes(), path
    assert not (folder / "pictures").exists()
    assert changed_files(trained, json.loads((trained / "manifest.json").read_text())["files"]) == []


@needs_chromium
@pytest.mark.slow
def test_pictures_beside_the_pages_are_shown(runs_dir, trained):
    assert main(["report", "train/concepts/latest", "--full"]) == 0
    page = trained / "report/concepts/0001.html"
    page.write_text(page.read_text().replace("script-src 'none'", "script-src ''"))
    look = "setTimeout(() => { document.body.dataset.seen = document.images[0].naturalWidth; }, 500);"
    assert 'data-seen="8"' in acted(page, look, page.parent)


def test_names_of_another_file_are_shown(runs_dir, trained, tmp_path):
    names = tmp_path / "mine.csv"
    names.write_text("concept,name,score\n3,my own name,0.99\n")
    assert main(["report", "train/concepts/latest", "--names", str(names)]) == 0
    page = (trained / "report.html").read_text()
    assert "my own name" in page
    assert page.index('id="concept-3"') < page.index('id="concept-4"')
    assert main(["report", "train/concepts/latest", "train/concepts/latest", "--names", str(names)]) == 2


def side(root: Path, k: int, value: float) -> str:
    run = new_run(root, "side", "train", config=f"objective:\n  k: {k}\nsite: <b>x</b>\n")
    for step in range(1, 30):
        run.log_metrics(step, step / 10, "train", loss=value / step)
    run.write_summary({"consistency": Measure(value, "Jaccard", value - 0.1, value + 0.1), "only": Measure(None)})
    run.finish()
    return run.id


def test_runs_side_by_side(runs_dir, capsys):
    ids = [side(runs_dir, 16, 0.4), side(runs_dir, 32, 0.6), done_run(runs_dir, "side", "train").id]
    assert main(["report", *ids]) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 4
    page = Path(printed[-1])
    assert page.parent.parent == runs_dir / "reports"
    text = page.read_text()
    assert re.search(r"<code>objective.k</code></th><td>16</td><td>32</td><td>–</td>", text)
    assert "0.4000" in text
    assert "0.5000 – 0.7000" in text
    assert "<script>" not in text
    for target in re.findall(r'href="([^"#]+)"', text):
        assert (page.parent / target).exists(), target
    with (page.parent / "figures/comparison-curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["series"], row["panel"]) for row in rows} == {("A", "loss"), ("B", "loss")}
    assert main(["report", *ids]) == 0
    assert Path(capsys.readouterr().out.split()[-1]) == page


def sweep(root: Path) -> Path:
    """Two values of k with three seeds each; one job failed."""
    jobs = [["model=clip", f"objective.k={k}", f"seed={seed}"] for k in (16, 4) for seed in range(3)]
    facts = {"stage": "train", "command": ["vlsae", "train", "-m"], "overrides": [], "launcher": "local"}
    folder = claim_sweep(root, "train-k", jobs=jobs, **facts)
    for number, overrides in enumerate(jobs):
        run = new_run(root, "one", "train", sweep="sweeps/train-k/v0001", job=number)
        if number == 4:
            run.fail("the <disk> was full")
            record_job(folder, number, status="failed", error="the <disk> was full", run_id=run.id, overrides=overrides)
            continue
        run.write_summary({"consistency": Measure(number / 10, "Jaccard"), "odd": Measure(1)})
        run.finish()
        record_job(folder, number, status="done", run_id=run.id, overrides=overrides, exit_code=0)
    finish_sweep(folder)
    return folder


def test_a_sweep_is_grouped_by_all_but_its_seeds(runs_dir, figures_drawn, capsys):
    folder = sweep(runs_dir)
    assert main(["report", "sweeps/train-k/v0001"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    columns, rows = read_table(folder / "tables", "sweep")
    found = {(row[0], row[1]): row[2:6] for row in rows}
    assert columns == ["group", "metric", "mean", "lowest", "highest", "runs", "unit"]
    assert found["objective.k=16", "consistency"] == pytest.approx([0.1, 0.0, 0.2, 3])
    assert found["objective.k=4", "consistency"] == pytest.approx([0.4, 0.3, 0.5, 2])
    text = (folder / "report.html").read_text()
    assert "1 of 6 jobs are not done" in text
    assert "the &lt;disk&gt; was full" in text
    assert 'href="../../../train/one/v0001/manifest.json"' in text
    with (folder / "figures/sweep.csv").open() as stream:
        points = [row for row in csv.DictReader(stream) if row["series"] == "each run"]
    assert [float(row["y"]) for row in points] == [0.0, 0.1, 0.2, 0.3, 0.5]
    assert (folder / "figures/sweep.png").read_bytes().startswith(b"\x89PNG")


def test_groups_leave_seeds_and_what_all_share_out():
    assert (
        group_of(["model=clip", "objective.k=4", "seed=1", "+dataset.seed=2", "split.seed=3"], {"model=clip"})
        == "objective.k=4"
    )
    assert group_of(["seed=1"], set()) == "all"
    assert group_of(["data.seedling=3"], set()) == "data.seedling=3"


def test_a_sweep_of_which_nothing_is_done_has_a_page(runs_dir):
    facts = {"stage": "train", "command": ["vlsae"], "overrides": [], "launcher": "local"}
    folder = claim_sweep(runs_dir, "none", jobs=[["seed=1"]], **facts)
    finish_sweep(folder, interrupted=True)
    assert "1 of 1 jobs are not done" in write_sweep_report(folder).read_text()


def test_a_page_of_many_concepts_stays_small(runs_dir):
    run = write_run(runs_dir, 4096)
    page = write_report(run)
    assert page.stat().st_size < 2 << 20
    assert "4,096 concepts" in page.read_text()

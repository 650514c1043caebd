"""The report of a run: made from files alone, safe to open, readable, and small."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
import torch

from vlsae.cli import main
from vlsae.dictionaries import VLSAE
from vlsae.dictionaries.concepts import top_items
from vlsae.dictionaries.evaluation import evaluate
from vlsae.dictionaries.recovery import Factors, recover
from vlsae.reporting import report as report_module
from vlsae.reporting import write_report
from vlsae.representations import SiteInfo, Store, StoreWriter
from vlsae.representations.thumbnails import thumbnails
from vlsae.runs import claim

pytestmark = pytest.mark.usefixtures("figures_drawn_here")

SITES = {"vision": "vision.embedding", "language": "language.embedding"}
SCRIPT = '<script>alert("caption")</script> & "quotes"'
CONFIG = "model:\n  _target_: vlsae.models.CLIP\n  checkpoint: {checkpoint}\nlimit: {limit}\nnote: </pre><b>bold</b>\n"


def start(root, stage, name, parents=(), checkpoint="bundled", limit="null"):
    return claim(
        root,
        stage,
        name,
        command=["vlsae", stage, "model=clip"],
        overrides=["model=clip"],
        seeds={"seed": 0, "split": 1},
        config=CONFIG.format(checkpoint=checkpoint, limit=limit),
        identity={},
        fingerprint="f" * 64,
        parents=list(parents),
        choices={"model": "clip", "dataset": "shapes"},
    )


def extraction(root, n=240, width=16):
    """A finished extraction of drawn squares, three factors deep, with their thumbnails."""
    run = start(root, "extract", "clip-shapes")
    generator = np.random.default_rng(0)
    factors = generator.random((n, 6)) < 0.3
    directions = generator.normal(size=(6, width))
    images = np.zeros((n, 16, 16, 3), np.uint8)
    images[:, 4:12, 4:12] = factors[:, None, None, :3] * 200 + 40
    images[:, 0, 0] = generator.integers(0, 255, (n, 3))
    texts = [
        SCRIPT + str(i) if i % 2 else f"a square of factors {np.flatnonzero(row)}, number {i}"
        for i, row in enumerate(factors)
    ]
    values = {
        site: torch.from_numpy(
            (factors @ directions + 0.2 * generator.normal(size=(n, width)) + shift).astype(np.float32)
        )
        for site, shift in zip(SITES.values(), (0.3, -0.3))
    }
    samples = pa.table(
        {
            "sample_id": [f"s{i:04d}" for i in range(n)],
            "texts": [[text] for text in texts],
            "split": ["train"] * n,
            "thumbnail": thumbnails(images),
        }
    )
    rows = pa.table(
        {"sample": np.arange(n), "item": np.zeros(n, int), "position": np.full(n, -1), "split": ["train"] * n}
    )
    infos = {site: SiteInfo(width) for site in SITES.values()}
    writer = StoreWriter(run.path / "representations", sites=infos, shard_samples=n, dtype="float32")
    writer.write_shard(0, samples=samples, rows=dict.fromkeys(SITES, rows), values=values)
    writer.finish()
    run.finish()
    return run, factors


def training(root, parent, factors, limit="null", checkpoint="bundled"):
    """A training with every file that a report reads, not yet finished."""
    run = start(root, "train", "clip-shapes-vl_sae", [parent.id], checkpoint, limit)
    store = Store.open(parent.path / "representations")
    values = {stream: store.read(site) for stream, site in SITES.items()}
    torch.manual_seed(0)
    dictionary = VLSAE(16, 128, 8).eval()
    for step in range(1, 201):
        run.log_metrics(step, step / 50, "train", loss=900 / step, **{"loss/vision": 5 / step, "lr": 1e-3})
        if step % 50 == 0:
            run.log_metrics(step, step / 50, "validation", loss=10 / step, **{"loss/vision": 6 / step})
    metrics = dict(evaluate(dictionary, values, bootstrap=20))
    names = [f"factor {number}" for number in range(6)]
    table = recover(dictionary, values, Factors(names, ["all"] * 6, factors), resamples=20)
    table.write(run.path / "tables")
    run.write_summary(metrics | table.metrics())
    with (run.path / "concepts.jsonl").open("w", encoding="utf-8") as file:
        for concept in top_items(dictionary, store, SITES):
            file.write(json.dumps(concept) + "\n")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    parent, factors = extraction(root)
    write_report(parent.path)
    run = training(root, parent, factors)
    page = write_report(run.path)
    run.finish()
    return run, parent, page.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every tag with its attributes, and the text outside of styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def test_the_page_tells_what_the_run_was_and_what_came_out(whole):
    run, parent, page = whole
    text = " ".join(" ".join(Elements(page).text).split())
    for expected in (run.id, parent.id, "vlsae train model=clip", "explained_variance/vision", "Concept recovery"):
        assert expected in text
    summary = json.loads((run.path / "summary.json").read_text())["metrics"]
    assert f"{summary['consistency']['value']:.4f}" in text
    assert f"{summary['recovery/auroc']['value']:.4f}" in text
    assert "Demonstration." in text
    assert "Partial." not in text
    assert "interrupted" not in text.lower()


def test_captions_are_text_and_nothing_runs_or_is_fetched(whole):
    elements = Elements(whole[2])
    assert SCRIPT in "".join(elements.text)
    policy = next(a["content"] for t, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    # The only script that the policy lets run is the page's own, by its hash; the other holds data.
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", whole[2], re.DOTALL)
    assert [kind for kind, _ in scripts] == [' type="application/json" id="concept-data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", scripts[1][1])
    table = json.loads(scripts[0][1])
    assert len(table["rows"]) == 128
    assert any(SCRIPT[:20] in row[7] for row in table["rows"])
    for _, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not re.match(r"(https?:)?//", attributes.get("href") or "")


def test_pictures_come_from_the_parent(whole):
    elements = Elements(whole[2])
    sources = [a["src"] for tag, a in elements.tags if tag == "img"]
    assert len(sources) > 20
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(a["alt"].startswith("s0") for tag, a in elements.tags if tag == "img")
    text = " ".join(elements.text)
    assert all(level in text for level in ("top", "median", "low"))


def test_links_lead_to_files_and_ids_are_unique(whole):
    run, _, page = whole
    elements = Elements(page)
    identifiers = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in elements.tags:
        target = attributes.get("href") if tag == "a" else None
        if target and target.startswith("#"):
            assert target[1:] in identifiers
        elif target:
            assert (run.path / target).is_file(), target
    for reference in re.findall(r'(?:xlink:href="|url\()#([^")]+)', page):
        assert reference in identifiers


def test_figures_lie_beside_their_data(whole):
    run = whole[0]
    drawn = {path.stem for path in (run.path / "figures").glob("*.svg")}
    assert {"curve-loss", "recovery", "concept-frequency", "concept-modality"} <= drawn
    for ending in ("csv", "png"):
        assert drawn == {path.stem for path in (run.path / "figures").glob(f"*.{ending}")}
    with (run.path / "figures" / "curve-loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 200 + 2 * 4
    assert rows[0] == {"metric": "loss", "split": "train", "step": "1", "value": "900.0"}


def test_a_limited_run_is_partial_and_other_models_are_no_demonstration(tmp_path):
    run = start(tmp_path, "train", "a-b-c", checkpoint="path:weights", limit="50")
    text = "".join(Elements(write_report(run.path).read_text()).text)
    assert "limited to 50 samples" in text
    assert "Demonstration" not in text
    run.finish()


def test_a_failed_run_with_lost_parents_still_has_a_page(tmp_path):
    run = start(tmp_path, "train", "a-b-c", parents=["extract/gone/v0001"])
    run.fail("the disk was full")
    text = "".join(Elements(write_report(run.path).read_text()).text)
    assert "Failed." in text
    assert "the disk was full" in text
    assert "extract/gone/v0001" in text
    assert "(not found)" in text


def test_a_page_that_would_be_too_large_leaves_its_pictures_out(whole, monkeypatch):
    run, _, page = whole
    monkeypatch.setattr(report_module, "MOST_BYTES", len(page) // 2)
    small = write_report(run.path).read_text()
    assert "<img" not in small
    assert len(small) < len(page)


def test_the_same_run_gives_the_same_figures(whole):
    run = whole[0]
    before = {path.name: path.read_bytes() for path in (run.path / "figures").iterdir()}
    write_report(run.path)
    assert before == {path.name: path.read_bytes() for path in (run.path / "figures").iterdir()}


def test_figures_may_be_left_as_data_and_are_drawn_later(tmp_path, monkeypatch):
    run = start(tmp_path, "train", "a-b-c")
    run.log_metrics(1, 1.0, "train", loss=0.5)
    run.finish()
    monkeypatch.setenv("VLSAE_FIGURES", "data")
    page = write_report(run.path).read_text()
    assert {path.suffix for path in (run.path / "figures").iterdir()} == {".csv"}
    assert "Not drawn (VLSAE_FIGURES=data)" in page
    assert 'href="figures/curve-loss.csv"' in page
    assert ".svg" not in page
    assert ".png" not in page
    monkeypatch.setenv("VLSAE_FIGURES", "drawn")
    assert "Not drawn" not in write_report(run.path).read_text()
    assert (run.path / "figures" / "curve-loss.svg").is_file()
    monkeypatch.setenv("VLSAE_FIGURES", "data")
    write_report(run.path)
    assert {path.suffix for path in (run.path / "figures").iterdir()} == {".csv"}, "nothing of an earlier time"


def test_another_word_for_figures_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("VLSAE_FIGURES", "none")
    assert main(["extract", "--limit", "2"]) == 2
    assert "VLSAE_FIGURES is 'none', expected drawn or data" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_importing_reporting_is_light():
    import subprocess
    import sys

    code = "import sys, vlsae.reporting; print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

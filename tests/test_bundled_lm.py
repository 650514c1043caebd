"""The language model and the sentences that ship with the package."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vlsae.cli import main
from vlsae.models import LM, TokenSelection
from vlsae.models.lm import BUNDLED
from vlsae.reporting.lineage import configuration, is_demonstration
from vlsae.runs import resolve

LINE = "It was a great pleasure to her mother, and she spoke of it with all the civility in her power."


@pytest.fixture(scope="module")
def model():
    return LM()


def bits_per_byte(model, text):
    return float(model.losses(model.prepare(texts=[text])).nansum()) / math.log(2) / len(text.encode())


def test_it_is_small_and_has_twelve_layers(model):
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 4_000_000
    assert "language.12" in model.sites()
    assert "language.13" not in model.sites()


def test_its_tokenizer_knows_every_byte(model):
    text = "Ünïcödé, 猫 and \U0001f600\tno\x00 unknown\n"
    ids = model.tokenizer(text)["input_ids"]
    assert model.tokenizer.unk_token_id not in ids
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_it_predicts_words_of_its_time_better_than_their_mirror_image(model):
    assert bits_per_byte(model, LINE) < 1.5
    assert bits_per_byte(model, LINE) < 0.6 * bits_per_byte(model, LINE[::-1])


def test_half_precision_on_disk_is_whole_precision_in_use(model):
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


@pytest.mark.shared_data
def test_held_out_sections_of_its_novels(model, shared_data):
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "make_bundled_lm", Path(__file__).parent.parent / "scripts" / "make_bundled_lm.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    _, held_out = script.sections(shared_data / "novels")
    pieces = [held_out[start : start + 500] for start in range(0, 16_000, 500)]
    losses = model.losses(model.prepare(texts=pieces))
    found = float(losses.nansum()) / math.log(2) / sum(len(piece.encode()) for piece in pieces)
    assert found < 1.85


def test_layers_differ_on_the_bundled_sentences(model):
    rows = model.represent(model.prepare(texts=[LINE]), ["language.1", "language.12"], TokenSelection("tokens"))
    first, last = (one.values for one in rows.values())
    assert (torch.nn.functional.cosine_similarity(first, last) < 0.9).float().mean() > 0.5


def test_the_default_extraction_is_a_demonstration(runs_dir):
    assert main(["extract", "model=lm", "dataset=text", "limit=40", "extract.sites=all"]) == 0
    run = resolve("extract/lm-text/latest", runs_dir)
    assert is_demonstration(configuration(run))
    summary = json.loads((run / "summary.json").read_text())["metrics"]
    assert summary["rows/language"]["value"] == 40
    assert summary["truncated"]["value"] == 0

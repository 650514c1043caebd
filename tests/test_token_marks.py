"""Tokens and patches marked in the report, from a CLIP whose rows are tokens to the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_clip import write_clip

import vlsae
from vlsae.cli import main
from vlsae.models.token_texts import token_texts


class Joining:
    """A tokenizer that writes words apart, and one sign per token of a word."""

    words = ("red", "circle", "##s")

    def decode(self, ids):
        text = ""
        for number in ids:
            word = self.words[number]
            text += word[2:] if word.startswith("##") else f" {word}" if text else word
        return text


def test_a_tokens_text_is_what_it_adds():
    assert token_texts(Joining(), [0, 1, 2]) == {0: " red", 1: " circle", 2: "s"}


@pytest.mark.slow
def test_tokens_and_patches_are_marked_on_the_page(runs_dir, tmp_path):
    clip = f"model.checkpoint=path:{write_clip(tmp_path / 'clip')}"
    words = ["extract.tokens.pooling=tokens", "train.sites=1", "train.unpaired=true", "objective=top_k"]
    quick = ["train.epochs=1", "train.evaluate.bootstrap=2", "objective.n_concepts=16", "objective.k=3"]
    for stream in ("vision", "language"):
        sites = [f"train.sites={stream}.1", f"extract.sites={stream}.1"]
        assert main(["train", clip, "dataset.n=60", *words[:1], *words[2:], *quick, *sites, "--name", stream]) == 0
        run = runs_dir / f"train/{stream}/v0001"
        marks = [json.loads(line) for line in (run / "concept_tokens.jsonl").read_text().splitlines()]
        assert marks
        page = (run / "report.html").read_text()
        opened = vlsae.open_run(f"train/{stream}/latest", runs_dir=runs_dir)
        concepts = {
            concept["id"]: concept for concept in map(json.loads, (run / "concepts.jsonl").read_text().splitlines())
        }
        assert opened.status == "done"
        for one in marks:
            for text in one["texts"]:
                listed = [item for item in concepts[one["id"]]["texts"] if item["text"] == text["text"]]
                assert len(text["tokens"]) > 1
                said = {piece.strip() for piece, _ in text["tokens"]} - {"<unk>"}
                assert all(piece in text["text"].lower() for piece in said)
                if listed:
                    assert max(value for _, value in text["tokens"]) == pytest.approx(listed[0]["act"], abs=1e-4)
            for picture in one["images"]:
                listed = [item for item in concepts[one["id"]]["images"] if item["pair_id"] == picture["pair_id"]]
                if listed:
                    assert np.max(picture["patches"]) == pytest.approx(listed[0]["act"], abs=1e-4)
        for concept in concepts.values():
            for kind, name in (("images", "pair_id"), ("texts", "text")):
                listed = [item[name] for ending in ("", "_median", "_low") for item in concept[f"{kind}{ending}"]]
                assert len(set(listed)) == len(listed), "an item is listed once, however many of its tokens fire"
        seen = [one.get("framing", {}) for one in marks]
        assert all(one.get("cut", False) == (one.get("share", 0) > 0.95) == (stream == "vision") for one in seen)
        assert ('class="strongest"' in page) == (stream == "language")
        assert ('class="heat"' in page) == ('class="peak"' in page) == ('class="cut"' in page) == (stream == "vision")

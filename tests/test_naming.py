"""Names of concepts: proposed from training rows, tested on others, checked against the truth, edited and read back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score
from tiny_lm import CHAT, original, write_lm
from transformers import AutoTokenizer

from vlsae.dictionaries.detection import detection, rates
from vlsae.dictionaries.language_namer import LanguageNamer, local_model, name_in, numbers_in, served_model
from vlsae.dictionaries.naming import NamingRows, gather_evidence, name_concepts, read_names, scored
from vlsae.dictionaries.phrases import phrase_matrix, phrases_of, words_of
from vlsae.errors import MissingFile, UserError
from vlsae.probes.naming import Naming
from vlsae.probes.naming_truth import by_truth
from vlsae.probes.targets import Targets

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "star")


def world(n=1200, seed=0, noise=0.02):
    """Scenes of one coloured shape in words; concepts follow a colour, colour and shape, nothing, or are dead."""
    generator = np.random.default_rng(seed)
    color, shape = generator.integers(0, 4, n), generator.integers(0, 3, n)
    documents = [(f"a {COLORS[c]} {SHAPES[s]} on a table",) for c, s in zip(color, shape)]
    active = np.stack(
        [color == 0, color == 1, (color == 2) & (shape == 1), generator.random(n) < 0.2, np.zeros(n, bool)], axis=1
    )
    flipped = generator.random((n, 4)) < noise
    active[:, :4] ^= flipped
    codes = sparse.csr_matrix(active * (0.1 + generator.random((n, 5))).astype(np.float32))
    split = generator.random(n) < 0.6
    rows = NamingRows(codes, documents, np.arange(n), split, ~split)
    factors = np.concatenate([color[:, None] == np.arange(4), shape[:, None] == np.arange(3)], axis=1)
    return {"vision": rows, "language": rows}, factors


def test_words_and_phrases_of_any_script():
    assert words_of("A red-hot Circle, the cat's tail; 3_4") == [
        "a",
        "red-hot",
        "circle",
        "the",
        "cat's",
        "tail",
        "3",
        "4",
    ]
    assert words_of("Grüße, 猫と犬") == ["grüsse", "猫", "と", "犬"]
    assert phrases_of(("a b c",), longest=2) == {"a", "b", "c", "a b", "b c"}
    matrix, vocabulary = phrase_matrix([("red circle",), ("red",), ("red circle",)])
    assert matrix.toarray()[:, vocabulary["red circle"]].tolist() == [1, 0, 1]
    fixed, _ = phrase_matrix([("a red square",)], {"square": 0, "circle": 1})
    assert fixed.toarray().tolist() == [[1, 0]]


def test_detection_is_the_auroc_of_names_and_of_graded_predictions():
    generator = np.random.default_rng(0)
    active = sparse.csr_matrix((generator.random((300, 6)) < 0.3) * generator.random((300, 6)))
    called = sparse.csr_matrix((generator.random((300, 4)) < 0.4).astype(np.float32))
    graded = generator.random((300, 4)).round(1)
    for predicted in (called, graded):
        found = detection(active, predicted)
        dense = predicted.toarray() if sparse.issparse(predicted) else predicted
        for concept in range(6):
            for name in range(4):
                fires = active[:, [concept]].toarray().ravel() > 0
                assert found[concept, name] == pytest.approx(roc_auc_score(fires, dense[:, name]))
    few = active.copy().tolil()
    few[:, 0] = 0
    few[:9, 0] = 1
    assert np.isnan(detection(few.tocsr(), called)[0]).all()


def test_rates_by_fifths_are_counted_by_hand():
    n = 60
    codes = np.zeros((n, 1))
    codes[:20, 0] = np.arange(1, 21)
    matches = np.zeros((n, 2))
    matches[12:30, 1] = 1
    found = rates(sparse.csr_matrix(codes), sparse.csr_matrix(matches), np.array([1]))
    assert found[0].tolist() == pytest.approx([10 / 40, 0, 0, 0, 1, 1])


def test_names_say_what_concepts_follow_and_a_concept_of_nothing_stays_unnamed():
    rows, factors = world()
    names = scored(name_concepts(rows), rows)
    assert [one.proposed for one in names[:3]] == ["red", "green", "blue square"]
    assert names[4].proposed is None
    assert names[4].score is None
    for one in names[:3]:
        assert one.score > 0.9
        assert one.shuffled < 0.55
        assert one.passes(0.6, 1.0)
    assert not names[3].passes(0.6, 0.05)
    assert set(names[0].by_stream) == {"vision", "language"}
    targets = Targets(pa.table({"sample_id": ["s"] * len(factors)}), factors_of(factors))
    owners = {stream: np.arange(len(factors)) for stream in rows}
    metrics, columns = by_truth(names, [0, 1], rows, owners, targets, 0)
    assert metrics["naming/truth"].value == 1
    assert metrics["naming/truth/shuffled"].value == 0.5
    assert columns["factor"][:2] == columns["name_says"][:2] == ["color=red", "color=green"]


def factors_of(factors):
    names = [f"color={one}" for one in COLORS] + [f"shape={one}" for one in SHAPES]
    return names, [name.split("=")[0] for name in names], factors


def test_names_are_made_from_the_rows_to_choose_alone_and_tested_on_the_others():
    rows, _ = world()
    one = rows["vision"]
    blind = one.codes.copy().tolil()
    blind[np.flatnonzero(one.score)] = 0
    hidden = {stream: one._replace(codes=blind.tocsr()) for stream in rows}
    assert [name.proposed for name in name_concepts(hidden)] == [name.proposed for name in name_concepts(rows)]
    assert all(name.score is None for name in scored(name_concepts(hidden), hidden))
    swapped = {stream: one._replace(choose=one.score, score=one.choose) for stream in rows}
    assert scored(name_concepts(swapped), swapped)[0].score != scored(name_concepts(rows), rows)[0].score


def test_a_name_must_serve_both_streams():
    rows, _ = world()
    generator = np.random.default_rng(1)
    n = len(rows["vision"].documents)
    lost = rows["language"].codes.toarray()[generator.permutation(n)]
    torn = {**rows, "language": rows["language"]._replace(codes=sparse.csr_matrix(lost))}
    names = scored(name_concepts(torn), torn)
    assert names[0].score < 0.6
    assert names[0].by_stream["vision"] > 0.9


def test_names_of_shuffled_words_score_by_chance():
    rows, _ = world(n=3000)
    generator = np.random.default_rng(2)
    one = rows["vision"]
    documents = [one.documents[place] for place in generator.permutation(len(one.documents))]
    mixed = {"vision": one._replace(documents=documents)}
    scores = [
        name.score for name in scored(name_concepts(mixed, smallest_contrast=0.0), mixed) if name.score is not None
    ]
    assert scores
    assert np.abs(np.array(scores) - 0.5).max() < 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concept,title\n1,red\n", "has the columns concept, title"),
        ("concept,name\none,red\n", "line 2: concept is 'one'"),
        ("concept,name\n1,red\n1,blue\n", "line 3: concept 1 is there twice"),
        ("concept,name,score\n1,red,high\n", "line 2: score is 'high'"),
    ],
)
def test_an_edited_file_that_is_wrong_is_named(tmp_path, text, words):
    file = tmp_path / "names.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_names(file)


def test_edited_names_are_read_back(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "names.csv").write_text('concept,name,score\n3,"red, <b>hot</b>",0.7\n4,unnamed,\n5,,0.5\n')
    names = read_names(tmp_path)
    assert (names[3].name, names[3].score) == ("red, <b>hot</b>", 0.7)
    assert names[4].name is None
    assert names[5].name is None
    with pytest.raises(MissingFile, match="no names of concepts"):
        read_names(tmp_path / "tables" / "none.csv")


class Words(BaseHTTPRequestHandler):
    """A chat service that names the word most texts share and judges by whether a text holds the name."""

    asked: ClassVar[list[dict]] = []

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Words.asked.append({**content, "path": self.path, "key": self.headers["Authorization"]})
        prompt = content["messages"][0]["content"]
        if content["model"] != "good":
            self.send_error(404, "no such model")
            return
        if prompt.startswith("Which"):
            name = prompt.split('"')[1]
            lines = [line for line in prompt.splitlines() if line[0].isdigit()]
            reply = ", ".join(line.split(".")[0] for line in lines if f" {name} " in line) or "none"
        else:
            words = [set(line[2:].split()) - {"a", "on", "table"} for line in prompt.splitlines() if line[0] == "-"]
            common = set.intersection(*words)
            reply = f'"{min(common)}"\nbecause.' if common else "nothing"
        body = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = HTTPServer(("", 0), Words)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host, port = server.server_address
    Words.asked.clear()
    yield f"http://{host}:{port}/v1"
    server.shutdown()
    server.server_close()


def test_a_served_model_proposes_and_judges(service, monkeypatch):
    monkeypatch.setenv("VLSAE_NAMER_KEY", "a-secret")
    rows, _ = world(noise=0.0)
    namer = LanguageNamer(served_model(service, "good"), most=3)
    names = namer.scored(name_concepts(rows, namer=namer), rows)
    assert [one.proposed for one in names[:2]] == ["red", "green"]
    assert names[2].proposed in ("blue", "square")
    assert [one.proposed for one in names[3:]] == [None, None]
    assert [one.score for one in names[:2]] == [1.0, 1.0]
    assert names[0].shuffled < 0.6
    assert {one["key"] for one in Words.asked} == {"Bearer a-secret"}
    assert {one["path"] for one in Words.asked} == {"/v1/chat/completions"}


def test_a_service_that_does_not_answer_is_named(service):
    with pytest.raises(UserError, match="404 no such model"):
        served_model(service, "bad")("hello")
    with pytest.raises(UserError, match="cannot be reached"):
        served_model(service.rsplit(":", 1)[0] + ":1/v1", "good")("hello")
    with pytest.raises(UserError, match="begins with http"):
        served_model("nowhere", "good")


def test_replies_are_read_with_care():
    assert name_in('\n "Red things."\nmore') == "Red things"
    assert name_in("   ") is None
    assert numbers_in("Texts 2 and 3, not 99.", 4).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"namer": "served", "language_model": "m"}, "address is None"),
        ({"namer": "transformers"}, "needs probe.language_model"),
        ({"address": "nowhere"}, "An address goes with namer=served"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Naming(**settings)


def test_an_encoder_that_is_the_model_itself_is_refused():
    with pytest.raises(UserError, match="must be independent"):
        Naming(encoder="bundled").variants({"checkpoint": "bundled"}, {})


def test_evidence_holds_the_texts_of_top_items_once_each():
    rows, _ = world()
    one = rows["vision"]
    keyed = {"vision": one._replace(keys=np.unique(one.documents, return_inverse=True)[1].ravel())}
    evidence = gather_evidence(keyed, items=10, seed=0)[0]
    assert len(set(evidence.texts["vision"])) == len(evidence.texts["vision"]) <= 12
    top = one.codes[:, [0]].toarray().ravel() * one.choose
    assert evidence.texts["vision"][0] == one.documents[int(np.argmax(top))]
    assert stats.rankdata(top)[int(np.argmax(top))] == len(top)


def test_a_local_model_answers_in_its_template(tmp_path, caplog):
    folder = write_lm(tmp_path / "chat", "llama", chat=CHAT)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), original(folder)
    answer = local_model(str(folder))
    ids = tokenizer("<s>[user] Who?</s>\n[assistant] ", return_tensors="pt", add_special_tokens=False)["input_ids"]
    made = model.generate(ids, max_new_tokens=64, do_sample=False, pad_token_id=2)
    assert answer("Who?") == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert not caplog.records
    with pytest.raises(UserError, match=r"chat reads 64 tokens beside its answer, and this request has \d+"):
        answer(f"A {'and then ' * 60}x")


def test_a_local_model_that_was_not_made_to_answer_is_told_of(tmp_path, caplog):
    local_model(str(write_lm(tmp_path / "plain", "llama")))
    assert "plain has no chat template" in caplog.text


def test_a_model_that_transformers_cannot_load_is_named(tmp_path):
    with pytest.raises(UserError, match="which transformers cannot load"):
        local_model(str(tmp_path))

"""Top items of concepts over a stream of codes, and the explanation of a pair."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from vlsae.dictionaries import VLSAE
from vlsae.dictionaries.concepts import top_items
from vlsae.dictionaries.explanation import explain
from vlsae.dictionaries.running_sample import RunningSample
from vlsae.dictionaries.running_top import RunningTop


def tied_codes(n=5000, h=256, seed=0):
    """Sparse codes with many ties, a dead concept and one that fires twice."""
    generator = np.random.default_rng(seed)
    dense = np.round(generator.random((n, h)), 2) * (generator.random((n, h)) < 0.05)
    dense[:, 17] = 0
    dense[:, 18] = 0
    dense[[40, 30], 18] = 0.5
    return dense.astype(np.float32)


def brute_force(column, keys, items):
    listed, seen = [], set()
    for row in sorted(np.flatnonzero(column), key=lambda row: (-column[row], row)):
        if keys[row] not in seen:
            seen.add(keys[row])
            listed.append(row)
    return listed[:items]


@pytest.mark.parametrize("duplicates", [False, True])
def test_running_top_of_seven_shards_is_brute_force(duplicates):
    dense = tied_codes()
    keys = np.random.default_rng(1).integers(-300, 300, 5000) if duplicates else np.arange(5000)
    top = RunningTop(256, 10)
    for rows in np.array_split(np.arange(5000), 7):
        top.add(sparse.csr_matrix(dense[rows]), rows, keys[rows])
    for concept in range(256):
        rows, values = top.of(concept)
        assert rows.tolist() == brute_force(dense[:, concept], keys, 10)
        assert values.tolist() == dense[rows, concept].tolist()
    assert top.of(17)[0].tolist() == []
    np.testing.assert_array_equal(top.counts, (dense != 0).sum(axis=0))
    np.testing.assert_allclose(top.sums, dense.sum(axis=0, dtype=np.float64), rtol=1e-6)


def test_running_top_does_not_depend_on_the_order_of_chunks():
    dense = tied_codes(n=600, h=32)
    chunks = np.array_split(np.arange(600), 5)
    lists = []
    for order in (range(5), [3, 0, 4, 1, 2]):
        top = RunningTop(32, 4)
        for number in order:
            rows = chunks[number]
            top.add(sparse.csr_matrix(dense[rows]), rows, rows % 50)
        lists.append([top.of(concept)[0].tolist() for concept in range(32)])
    assert lists[0] == lists[1]


class Rows:
    """A store in memory with two captions a sample."""

    def __init__(self, vision, language, thumbnails=None, texts=None):
        n = len(vision)
        self.values = {"vision.embedding": vision, "language.embedding": language}
        texts = texts or [[f"caption {i}", f"other {i}"] for i in range(n)]
        columns = {"sample_id": [f"s{i:03d}" for i in range(n)], "texts": texts, "path": [f"{i}.png" for i in range(n)]}
        if thumbnails:
            columns["thumbnail"] = thumbnails
        self.samples = pa.table(columns)
        self.tables = {
            "vision": pa.table({"sample": range(n), "item": [0] * n}),
            "language": pa.table({"sample": [i // 2 for i in range(2 * n)], "item": [i % 2 for i in range(2 * n)]}),
        }

    def row_table(self, stream):
        return self.tables[stream]

    def read(self, site, rows):
        return self.values[site][torch.from_numpy(rows)]


SITES = {"vision": "vision.embedding", "language": "language.embedding"}


def make(n=40, seed=0, **columns):
    generator = torch.Generator().manual_seed(seed)
    vision = torch.randn(n, 8, generator=generator)
    store = Rows(
        vision, vision.repeat_interleave(2, dim=0) + 0.1 * torch.randn(2 * n, 8, generator=generator), **columns
    )
    dictionary = VLSAE(8, 32, 2).eval()
    with torch.no_grad():
        # Of three equal concepts two are active for every row or none: ties go to the lowest, so 7 is dead.
        dictionary.encoder[5] = dictionary.encoder[6] = dictionary.encoder[7]
    return dictionary, store


def test_concepts_are_listed_as_the_file_holds_them():
    dictionary, store = make()
    concepts = list(top_items(dictionary, store, SITES, items=3))
    assert [concept["id"] for concept in concepts] == list(range(32))
    vision = dictionary.encode(store.values[SITES["vision"]], "vision").to_dense().detach()
    language = dictionary.encode(store.values[SITES["language"]], "language").to_dense().detach()
    for concept in concepts:
        column = vision[:, concept["id"]]
        expected = sorted(torch.nonzero(column).flatten().tolist(), key=lambda row: (-float(column[row]), row))[:3]
        assert [image["pair_id"] for image in concept["images"]] == [f"s{row:03d}" for row in expected]
        assert concept["freq_v"] == pytest.approx(float((column != 0).float().mean()))
        assert concept["mean_l"] == pytest.approx(float(language[:, concept["id"]].mean()), abs=1e-6)
        assert concept["mean_activation"] == pytest.approx((concept["mean_v"] + concept["mean_l"]) / 2)
        assert concept["dead_v"] == (concept["images"] == [])
        for item in concept["texts"]:
            assert item["text"].split()[1] == str(int(item["pair_id"][1:]))
    assert concepts[0]["images"] == [] or concepts[0]["images"][0]["path"].endswith(".png")
    assert concepts[7]["dead_v"]
    assert concepts[7]["dead_l"]
    assert (concepts[7]["images"], concepts[7]["texts"]) == ([], [])
    assert json.loads(json.dumps(concepts, allow_nan=False)) == concepts


def test_equal_captions_and_equal_pictures_are_listed_once():
    pictures = [b"same"] * 10 + [None] * 30
    dictionary, store = make(thumbnails=pictures, texts=[["one text", f"text {i}"] for i in range(40)])
    for concept in top_items(dictionary, store, SITES, items=10):
        texts = [item["text"] for item in concept["texts"]]
        assert len(texts) == len(set(texts))
        assert sum(int(image["pair_id"][1:]) < 10 for image in concept["images"]) <= 1


def test_one_stream_alone_leaves_the_other_undefined():
    dictionary, store = make()
    concept = next(iter(top_items(dictionary, store, {"language": SITES["language"]})))
    assert (concept["freq_v"], concept["mean_v"], concept["dead_v"], concept["images"]) == (None, None, None, [])
    assert concept["mean_activation"] == concept["mean_l"]


def test_rows_go_through_the_auxiliary_encoder():
    dictionary, store = make()
    plain = list(top_items(dictionary, store, SITES))
    scaled = list(top_items(dictionary, store, SITES, encode=lambda x, stream: -x))
    assert [c["freq_v"] for c in plain] != [c["freq_v"] for c in scaled]


@pytest.mark.parametrize("weight", ["none", "idf", "inv_mean"])
def test_contributions_sum_to_the_cosine_and_the_lists_partition_the_concepts(weight):
    dictionary = VLSAE(8, 64, 8).eval()
    image, text = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    text = text + 2 * image
    statistics = {"counts": np.arange(64), "rows": 200, "means": np.linspace(0.1, 1, 64)}
    result = explain(dictionary, image, text, weight=weight, **statistics)
    h_v = dictionary.encode(image[None], "vision").to_dense()[0].double().detach()
    h_l = dictionary.encode(text[None], "language").to_dense()[0].double().detach()
    expected = float(torch.nn.functional.cosine_similarity(h_v, h_l, dim=0))
    assert sum(share.contribution for share in result.shared) == pytest.approx(expected, abs=1e-6)
    assert result.cosine == pytest.approx(expected, abs=1e-6)
    lists = [{share.concept for share in part} for part in (result.shared, result.vision_only, result.language_only)]
    assert set.union(*lists) == set(torch.nonzero((h_v != 0) | (h_l != 0)).flatten().tolist())
    assert sum(map(len, lists)) == len(set.union(*lists))
    assert result.jaccard == pytest.approx(len(lists[0]) / sum(map(len, lists)))
    scores = [share.score for share in result.shared]
    assert scores == sorted(scores, reverse=True)
    if weight == "none":
        assert scores == [share.contribution for share in result.shared]


def test_explanation_refuses_a_weight_without_its_statistics():
    dictionary = VLSAE(8, 64, 8).eval()
    with pytest.raises(ValueError, match="counts and rows"):
        explain(dictionary, torch.ones(8), torch.ones(8), weight="idf")
    with pytest.raises(ValueError, match="weight"):
        explain(dictionary, torch.ones(8), torch.ones(8), weight="tfidf")


def test_concepts_that_fire_for_everything_are_ranked_down_where_their_counts_are_known():
    dictionary = VLSAE(8, 64, 8).eval()
    image, text = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    statistics = {"counts": np.arange(64), "rows": 200}
    assert explain(dictionary, image, text, **statistics) == explain(
        dictionary, image, text, weight="idf", **statistics
    )
    assert explain(dictionary, image, text) == explain(dictionary, image, text, weight="none")


def test_running_sample_is_fair_and_does_not_depend_on_chunks():
    dense = tied_codes(n=4000, h=64)
    samples = []
    for chunks in (np.array_split(np.arange(4000), 3), np.array_split(np.arange(4000), 17)[::-1]):
        sample = RunningSample(64, 32)
        for rows in chunks:
            sample.add(sparse.csr_matrix(dense[rows]), rows)
        samples.append([sample.of(concept) for concept in range(64)])
    for (rows, values), (again, _) in zip(*samples, strict=True):
        assert rows.tolist() == again.tolist()
        assert np.all(np.diff(values) >= 0)
    assert len(samples[0][17][0]) == 0
    assert sorted(samples[0][18][0].tolist()) == [30, 40]
    # Over all concepts the sampled rows lie evenly: their mean is that of the active rows, within five errors.
    drawn = np.concatenate([rows for rows, _ in samples[0]])
    assert abs(drawn.mean() - 2000) < 5 * 4000 / np.sqrt(12 * len(drawn))


def test_median_and_low_items_are_active_and_none_of_the_top():
    dictionary, store = make(n=200)
    for concept in top_items(dictionary, store, SITES, items=3):
        top = [(item["pair_id"], item["act"]) for item in concept["images"]]
        middle = [(item["pair_id"], item["act"]) for item in concept["images_median"]]
        low = [(item["pair_id"], item["act"]) for item in concept["images_low"]]
        assert not set(top) & set(middle + low)
        assert not set(middle) & set(low)
        assert all(act > 0 for _, act in middle + low)
        if middle and low:
            assert max(act for _, act in low) <= min(act for _, act in middle) <= top[-1][1]
        assert sum(concept["density_v"]) == min(32, round(concept["freq_v"] * 200))

"""The embedded world: same bytes for the same seed, held-out combinations, twins, captions, questions, masks, speed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vlsae.datasets import Shapes
from vlsae.datasets.shapes import factors
from vlsae.datasets.shapes_captions import WORDS, prompts
from vlsae.datasets.shapes_world import COLORS, SHAPES, TWIN_FACTORS, allowed
from vlsae.errors import UserError

OBJECT_FACTORS = ("shape", "color", "size", "texture", "place")


def test_same_seed_same_bytes_and_a_longer_dataset_begins_alike() -> None:
    one, two, longer = Shapes(n=300), Shapes(n=300), Shapes(n=5000)
    assert np.array_equal(one.images(range(300)), two.images(range(300)))
    assert one.captions == two.captions == longer.captions[:300]
    assert np.array_equal(one.images([7, 3]), longer.images([7, 3]))
    assert not np.array_equal(one.images([0]), Shapes(n=300, seed=1).images([0]))


def test_pixels_do_not_depend_on_the_batch() -> None:
    dataset = Shapes(n=64, hard=True)
    whole = dataset.images(range(64))
    assert whole.shape == (64, 64, 64, 3)
    assert whole.dtype == np.uint8
    for row in (0, 31, 63):
        assert np.array_equal(dataset.images([row])[0], whole[row])


def test_digest_tells_content_apart() -> None:
    settings = [{}, {"seed": 1}, {"n": 11}, {"hard": True}, {"part": "all"}, {"size": 32}, {"detail": "mixed"}]
    digests = {Shapes(**{"n": 10, **setting}).digest() for setting in settings}
    assert len(digests) == len(settings)
    assert Shapes(n=10).digest() == Shapes(n=10).digest()


@pytest.mark.parametrize("part", ["seen", "unseen"])
def test_parts_hold_their_combinations_alone(part: str) -> None:
    rows = Shapes(n=3000, part=part).table["objects"]
    found = {(SHAPES.index(o["shape"]), COLORS.index(o["color"])) for row in rows for o in row}
    assert found == set(zip(*np.nonzero(allowed(part))))


def test_unseen_combinations_use_every_shape_and_colour_once() -> None:
    unseen = allowed("unseen")
    assert unseen.sum(0).tolist() == unseen.sum(1).tolist() == [1] * 8


@pytest.mark.parametrize("max_objects", [1, 4])
def test_crossed_blocks_cross_four_shapes_with_the_four_colours_that_go_with_them(max_objects: int) -> None:
    dataset = Shapes(n=5000, crossed=100, max_objects=max_objects)  # a block spans two of the chunks that are drawn
    assert dataset.block == 100
    told: Counter[tuple[int, int]] = Counter()
    blocks = set()
    for start in range(0, 5000, 100):
        scenes = dataset.scenes.take(slice(start, start + 100))
        there = np.arange(4) < scenes.count[:, None]
        pairs = set(zip(scenes.shape[there].tolist(), scenes.color[there].tolist()))
        shapes, colors = {shape for shape, _ in pairs}, {color for _, color in pairs}
        assert len(shapes) == len(colors) == 4
        assert allowed("seen")[np.ix_(sorted(shapes), sorted(colors))].all()
        blocks.add(frozenset(shapes))
        told.update(pairs)
    assert len(blocks) > 20
    assert set(told) == set(zip(*np.nonzero(allowed("seen"))))
    longer = Shapes(n=6000, crossed=100, max_objects=max_objects)
    assert np.array_equal(longer.images(range(4050, 4110)), dataset.images(range(4050, 4110)))
    assert len(set(dataset.table["group"])) == 50


def test_each_caption_of_a_scene_names_its_part_of_it() -> None:
    dataset = Shapes(n=40, detail="each")
    for row, texts in zip(dataset.table, dataset.table["texts"]):
        assert len(texts) == 8
        assert texts[0] == dataset.captions[int(row["sample_id"][-7:])] == row["texts"][0]
        for item in row["objects"]:
            for text, factors_ in zip(texts[1:7], (("color", "shape"), *((f,) for f in OBJECT_FACTORS))):
                assert all(item[factor] in text for factor in factors_)
        assert texts[7].endswith(row["labels"]["background"])


def test_what_crossed_blocks_exclude_is_named() -> None:
    for settings in ({"part": "all"}, {"twins": True}, {"cooccurrence": 0.5}, {"n": 150}):
        with pytest.raises(UserError, match="crossed=100"):
            Shapes(**{"n": 200, "crossed": 100, **settings})


def test_table_has_the_columns_of_every_dataset() -> None:
    table = Shapes(n=50).table
    assert table.column_names == ["sample_id", "texts", "labels", "objects", "source", "group"]
    assert len(set(table["sample_id"])) == 50
    for labels, objects in zip(table["labels"], table["objects"]):
        assert labels["count"] == len(objects)
        assert labels["shape"] == objects[0]["shape"]
        assert len({o["place"] for o in objects}) == len(objects)


def test_hugging_face_rows_decode_their_image() -> None:
    dataset = Shapes(n=8)
    row = dataset.hugging_face()[3]
    assert np.array_equal(np.asarray(row["image"]), dataset.images([3])[0])


def test_full_captions_are_sufficient() -> None:
    table = Shapes(n=4000, max_objects=2).table
    by_caption: dict[str, set[str]] = {}
    for texts, labels, objects in zip(table["texts"], table["labels"], table["objects"]):
        facts = str((labels["background"], labels["style"], objects))
        by_caption.setdefault(texts[0], set()).add(facts)
    assert all(len(facts) == 1 for facts in by_caption.values())


def test_captions_use_the_vocabulary_alone() -> None:
    assert len(set(WORDS)) == len(WORDS) <= 100
    for settings in ({"detail": "full"}, {"detail": "short"}, {"detail": "mixed"}, {"hard": True}, {"twins": True}):
        for text in Shapes(n=400, **settings).captions:
            assert set(text.split()) <= set(WORDS), text
    for factor in (*OBJECT_FACTORS, "background"):
        # A single object's caption of one factor is the prompt of its value.
        assert set(Shapes(n=300, max_objects=1, detail=factor).captions) == set(prompts(factor))
        assert all(set(prompt.split()) <= set(WORDS) for prompt in prompts(factor))


@pytest.mark.parametrize("part", ["seen", "unseen", "all"])
def test_twins_differ_in_exactly_one_factor(part: str) -> None:
    dataset = Shapes(n=2000, twins=True, part=part)
    assert dataset.block == 2
    table = dataset.table.to_list()
    seen: Counter[str] = Counter()
    for first, second in zip(table[::2], table[1::2]):
        factor = first["labels"]["twin"]
        seen[factor] += 1
        assert factor == second["labels"]["twin"]
        assert first["group"] == second["group"]
        assert _difference(first, second) == factor
        assert first["texts"] != second["texts"]
    expected = set(TWIN_FACTORS) if part != "unseen" else set(TWIN_FACTORS) - {"shape", "color", "binding"}
    assert set(seen) == expected


def test_twins_of_single_objects_and_their_mixed_captions_differ_too() -> None:
    for detail in ("mixed", "full"):
        captions = Shapes(n=1000, twins=True, max_objects=1, detail=detail).captions
        assert all(a != b for a, b in zip(captions[::2], captions[1::2]))
    captions = Shapes(n=4000, twins=True, detail="mixed").captions
    assert all(a != b for a, b in zip(captions[::2], captions[1::2]))


def _difference(first: dict, second: dict) -> str:
    """Name the one factor in which two rows differ."""
    a, b = first["objects"], second["objects"]
    if first["labels"]["background"] != second["labels"]["background"]:
        assert a == b
        return "background"
    if len(a) != len(b):
        assert all(o in a for o in b)
        return "count"
    if {o["place"] for o in a} != {o["place"] for o in b}:
        strip = [sorted(str({k: v for k, v in o.items() if k != "place"}) for o in row) for row in (a, b)]
        assert strip[0] == strip[1]
        return "place"
    changed = [(name, i) for i, (o, p) in enumerate(zip(a, b)) for name in OBJECT_FACTORS if o[name] != p[name]]
    if len(changed) == 2:
        assert [name for name, _ in changed] == ["shape", "shape"]
        assert (a[0]["shape"], a[1]["shape"]) == (b[1]["shape"], b[0]["shape"])
        return "binding"
    assert len(changed) == 1
    return changed[0][0]


def test_factors_read_arrow_and_hugging_face_tables() -> None:
    dataset = Shapes(n=500)
    names, groups, matrix = factors(dataset.table)
    assert matrix.shape == (500, len(names))
    assert matrix.dtype == bool
    assert len(groups) == len(names) == len(set(names))
    arrow = pa.concat_tables([dataset.table.data.table.slice(0, 100), dataset.table.data.table.slice(100)])
    assert np.array_equal(factors(arrow)[2], matrix)
    row = dataset.table[42]
    shown = {name for name, value in zip(names, matrix[42]) if value}
    assert shown >= {f"color={o['color']}" for o in row["objects"]} | {f"count={len(row['objects'])}"}
    for factor in ("background", "gradient", "style", "count"):
        assert (matrix[:, [g == factor for g in groups]].sum(1) == 1).all()
    warm = matrix[:, names.index("color_family=warm")]
    assert np.array_equal(
        warm, matrix[:, [names.index(f"color={c}") for c in COLORS[:3]] + [names.index("color=pink")]].any(1)
    )
    with pytest.raises(UserError, match="objects"):
        factors(dataset.table.remove_columns("objects"))


def test_factors_survive_a_file(tmp_path: Path) -> None:
    dataset = Shapes(n=200)
    with (
        pa.OSFile(str(tmp_path / "samples.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, dataset.table.data.table.schema) as w,
    ):
        w.write_table(dataset.table.data.table)
    table = pa.ipc.open_file(tmp_path / "samples.arrow").read_all()
    assert np.array_equal(factors(table)[2], factors(dataset.table)[2])


@pytest.mark.parametrize("hard", [False, True])
def test_masks_show_each_object_where_it_is_seen(hard: bool) -> None:
    dataset = Shapes(n=100, hard=hard)
    masks = dataset.masks(range(100))
    assert masks.shape == (100, 4, 64, 64)
    assert (masks.sum(1) <= 1).all()
    counts = dataset.scenes.count
    for row in range(100):
        assert not masks[row, counts[row] :].any()
        if not hard:
            assert (masks[row, : counts[row]].sum((1, 2)) > 20).all()


def test_gradient_shows_in_the_image_alone_and_style_in_the_caption_alone() -> None:
    dataset = Shapes(n=2000)
    images, scenes = dataset.images(range(2000)).astype(float), dataset.scenes
    tilt = images[:, :6].mean((1, 2, 3)) - images[:, -6:].mean((1, 2, 3))
    level = [np.median(tilt[(scenes.gradient == g) & (scenes.background == 1)]) for g in range(3)]
    assert level[1] > level[0] + 20 > level[2] + 40
    by_style = [np.mean(["wow" in c for c in np.array(dataset.captions)[scenes.style == s]]) for s in range(3)]
    assert by_style == [0.0, 0.0, 1.0]


def test_imbalance_and_cooccurrence_bend_the_distribution() -> None:
    plain, bent = Shapes(n=5000), Shapes(n=5000, imbalance=1.0, cooccurrence=0.8)
    assert np.bincount(plain.scenes.shape[:, 0], minlength=8).min() > 450
    share = np.bincount(bent.scenes.shape[:, 0], minlength=8) / 5000
    assert share[0] > 3 * share[5]
    several = bent.scenes.count > 1
    pairs = bent.scenes.shape[several, 0] ^ bent.scenes.shape[several, 1]
    assert np.mean(pairs <= 1) > 0.6


@pytest.mark.parametrize("setting", ["random", "popular", "adversarial"])
def test_questions_are_balanced_and_true(setting: str) -> None:
    dataset = Shapes(n=500, imbalance=1.0, cooccurrence=0.7)
    table = dataset.questions(setting)
    answers = Counter(table["answer"].to_pylist())
    assert answers["yes"] == answers["no"] > 500
    objects = dataset.table["objects"]
    for row in table.to_pylist():
        there = {o["shape"] for o in objects[row["row"]]}
        assert (row["object"] in there) == (row["answer"] == "yes")
        assert row["object"] in row["question"]
    assert table.equals(dataset.questions(setting))


def test_settings_of_questions_ask_after_what_their_names_say() -> None:
    dataset = Shapes(n=2000, imbalance=1.0, cooccurrence=0.9)
    asked = {}
    for setting in ("random", "popular", "adversarial"):
        rows = dataset.questions(setting, per_image=2).to_pylist()
        asked[setting] = [row for row in rows if row["answer"] == "no"]
    frequency = np.bincount(dataset.scenes.shape[:, 0], minlength=8)
    popularity = {s: np.mean([frequency[SHAPES.index(r["object"])] for r in rows]) for s, rows in asked.items()}
    assert popularity["popular"] > popularity["random"]
    objects = dataset.table["objects"]

    def partners(rows: list[dict]) -> float:
        near = [{SHAPES[SHAPES.index(o["shape"]) ^ 1] for o in objects[r["row"]]} for r in rows]
        return float(np.mean([r["object"] in there for r, there in zip(rows, near)]))

    assert partners(asked["adversarial"]) > partners(asked["popular"])
    assert partners(asked["adversarial"]) > partners(asked["random"])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="even"):
        Shapes(n=3, twins=True)
    with pytest.raises(UserError, match="exclude"):
        Shapes(n=4, twins=True, simple=True)
    with pytest.raises(UserError, match=r"0…9"):
        Shapes(n=10).images([10])
    with pytest.raises(UserError, match="adversarial"):
        Shapes(n=10).questions("adverserial")


def test_three_thousand_scenes_a_second() -> None:
    dataset = Shapes(n=2048)
    dataset.images(range(256))
    best = 0.0
    for start in range(0, 2048, 256):
        before = time.process_time()
        dataset.images(range(start, start + 256))
        best = max(best, 256 / (time.process_time() - before))
    assert best > 1500, f"{best:.0f} scenes a second"

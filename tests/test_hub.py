"""Datasets of the Hub: from a server, from the cache that it filled, and as copies; and the ways out where none is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_hub import write_repository

from vlsae.datasets import Hub
from vlsae.errors import MissingFile, UserError

HERE = Path(__file__).parent

#: Runs in a process of its own: the address of the Hub and the place of the cache are read when the client is imported.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from tiny_hub import COMMIT, NAME, TinyHub, write_repository
folder = Path(sys.argv[1]) / "repository"
folder.mkdir()
hub = TinyHub(folder)
os.environ["HF_ENDPOINT"] = hub.address
write_repository(folder)
from vlsae.datasets import Hub
from vlsae.errors import UserError
found = {}

def note(key, function):
    start = time.monotonic()
    try:
        value = function()
    except UserError as error:
        value = str(error)
    found[key] = value
    found[key + " seconds"] = time.monotonic() - start

def rows(**settings):
    dataset = Hub(**settings)
    pixels = [image.getpixel((0, 0))[0] for image in dataset.images(range(len(dataset)))]
    return {"table": dataset.table.to_dict(), "pixels": pixels, "digest": dataset.digest()}

def bytes_asked():
    return sum("GET" in one and one.endswith(".parquet") for one in hub.requests)

note("streamed", lambda: rows(name=NAME, streaming=True, limit=2))
found["streamed first"] = before = bytes_asked()
note("streamed again", lambda: rows(name=NAME, streaming=True, limit=2))
found["streamed anew"] = bytes_asked() - before
note("online", lambda: rows(name=NAME))
note("commit", lambda: Hub(name=NAME, revision=COMMIT).digest())
note("wrong split", lambda: rows(name=NAME, split="tain"))
note("wrong config", lambda: rows(name=NAME, config="other"))
note("wrong name", lambda: rows(name="zoo/photo"))
note("wrong revision", lambda: rows(name=NAME, revision="dev"))
hub.close()
note("cached", lambda: rows(name=NAME))
note("cached commit", lambda: rows(name=NAME, revision=COMMIT))
note("cached limit", lambda: rows(name=NAME, streaming=True, limit=2))
note("cached wrong revision", lambda: rows(name=NAME, revision="dev"))
note("unreachable", lambda: rows(name="zoo/more"))
from datasets import config
config.HF_HUB_OFFLINE = True
note("offline", lambda: rows(name=NAME))
note("offline unreachable", lambda: rows(name="zoo/more"))
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a process saw of a Hub that answered, and then did not."""
    folder = tmp_path_factory.mktemp("hub")
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "cache"),
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


def test_a_dataset_of_the_hub_has_its_splits_texts_classes_and_pixels(found):
    table = found["online"]["table"]
    assert table["sample_id"][:2] == ["train/0", "train/1"]
    assert table["split"] == ["train"] * 6 + ["test"] * 6
    assert table["texts"][7] == ["test picture 1"]
    assert table["labels"][:2] == [{"animal": "cat"}, {"animal": "dog"}]
    assert found["online"]["pixels"] == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105]


def test_streaming_gives_the_first_rows_of_each_split_and_is_not_repeated(found):
    assert found["streamed"]["pixels"] == [0, 1, 100, 101]
    assert found["streamed"]["table"]["labels"][3] == {"animal": "dog"}
    assert found["streamed again"] == found["streamed"]
    assert found["streamed anew"] < found["streamed first"]  # the columns' types alone


def test_without_the_hub_the_filled_cache_gives_the_same_dataset(found):
    assert found["cached"] == found["cached commit"] | {"digest": found["online"]["digest"]}
    assert found["cached"] == found["offline"] == found["online"]
    assert found["commit"] == found["cached commit"]["digest"]
    assert found["cached limit"] == found["streamed"]


@pytest.mark.parametrize("key", ["unreachable", "offline unreachable", "cached wrong revision"])
def test_out_of_reach_is_said_within_seconds_with_the_ways_out(found, key):
    assert "cannot be reached on the Hub" in found[key]
    for way in ("HF_HOME", "HF_DATASETS_OFFLINE=1", "dataset.path=FOLDER", "dataset=image_folder"):
        assert way in found[key]
    assert found[f"{key} seconds"] < 20


WRONG = {
    "wrong split": 'Unknown split "tain". Should be one of',
    "wrong config": "BuilderConfig 'other' not found. Available: ['default']\nChoose a configuration",
    "wrong name": "The Hub has no dataset 'zoo/photo', or it is private",
    "wrong revision": "has no revision 'dev' on the Hub",
}


@pytest.mark.parametrize("key", list(WRONG))
def test_what_the_hub_lacks_is_named(found, key):
    assert WRONG[key] in found[key]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keep what the library prepares out of the user's own cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield tmp_path
    datasets.enable_progress_bars()


def fault(**settings) -> str:
    with pytest.raises(UserError) as caught:
        len(Hub(**settings))
    return str(caught.value)


def test_copies_are_read_as_a_folder_a_file_and_as_the_library_saves_them(own_cache):
    import datasets as hf

    folder = write_repository(own_cache / "copy")
    dataset = Hub(path=str(folder), columns={"group": "owner", "label": ["animal", "owner"]})
    assert len(dataset) == 12
    assert dataset.table["labels"][3] == {"animal": "dog", "owner": "owner 1"}
    assert dataset.table["group"][3] == "owner 1"
    assert dataset.images([7])[0].getpixel((0, 0))[0] == 101
    file = Hub(path=str(folder / "data" / "test-00000-of-00001.parquet"))
    assert "split" not in file.table.column_names
    assert file.images([1])[0].getpixel((0, 0))[0] == 101
    loaded = hf.load_dataset(str(folder))
    loaded.save_to_disk(str(own_cache / "saved"))
    saved = Hub(path=str(own_cache / "saved"))
    assert saved.table.to_dict() == Hub(path=str(folder)).table.to_dict()
    assert len(Hub(path=str(own_cache / "saved"), split="test", limit=4)) == 4
    assert "There is no split of" in fault(path=str(own_cache / "saved"), split="tset")


def test_tables_of_texts_alone_need_no_images(own_cache):
    (own_cache / "table.csv").write_text("text,label,key\na cat,1,x\n,0,y\na dog,0,z\n")
    path = str(own_cache / "table.csv")
    assert "train/1: text: empty caption" in fault(path=path)
    dataset = Hub(path=path, on_error="skip", columns={"id": "key"})
    assert not dataset.has_images
    assert dataset.table["sample_id"][:] == ["x", "z"]
    assert dataset.table["labels"][:] == [{"label": 1}, {"label": 0}]
    assert [skipped.row for skipped in dataset.skipped] == ["train/1"]


def test_bad_rows_and_columns_are_named(own_cache):
    import datasets as hf

    rows = {"image": [None, None], "key": ["a", "a"], "url": ["x", "y"], "title": ["one", "two"]}
    features = hf.Features(
        {"image": hf.Image(), "key": hf.Value("string"), "url": hf.Value("string"), "title": hf.Value("string")}
    )
    hf.DatasetDict({"part_a": hf.Dataset.from_dict(rows, features=features)}).save_to_disk(str(own_cache / "saved"))
    path = str(own_cache / "saved")
    assert "part_a/0: image: no image (1 more row is bad)" in fault(path=path)
    message = fault(path=path, columns={"image": "", "id": "key"})
    assert "part_a/1: duplicate id 'a', first at part_a/0" in message
    assert "'url' is string, not images" in fault(path=path, columns={"image": "url"})
    assert "Did you mean title?" in fault(path=path, columns={"text": "titel"})
    assert "not text" in fault(path=path, columns={"text": "image"})
    assert "lists 2 columns" in fault(path=path, columns={"id": ["key", "url"]})
    assert "neither an image nor a text" in fault(path=path, columns={"image": "", "text": ""})


def test_splits_of_other_names_must_be_chosen(own_cache):
    import datasets as hf

    part = hf.Dataset.from_dict({"text": ["a", "b"]})
    hf.DatasetDict({"fold_a": part, "fold_b": part}).save_to_disk(str(own_cache / "saved"))
    path = str(own_cache / "saved")
    with pytest.raises(UserError, match="has the splits fold_a, fold_b"):
        Hub(path=path).table  # noqa: B018
    table = Hub(path=path, split="fold_b").table
    assert "split" not in table.column_names
    assert table["sample_id"][:] == ["fold_b/0", "fold_b/1"]


def test_settings_that_contradict_are_refused_before_anything_is_reached(tmp_path):
    for settings, words in (
        ({}, "one of the two"),
        ({"name": "a/b", "path": "c"}, "one of the two"),
        ({"name": "a/b", "streaming": True}, "without a limit"),
        ({"path": "c", "revision": "main"}, "dataset.revision goes with dataset.name"),
    ):
        with pytest.raises(UserError, match=words):
            Hub(**settings)
    with pytest.raises(MissingFile):
        len(Hub(path=str(tmp_path / "none")))
    assert "no name on the Hub" in fault(name="../etc")
    (tmp_path / "rows.txt").write_text("a")
    assert "no known format" in fault(path=str(tmp_path / "rows.txt"))


def test_code_that_comes_with_a_dataset_is_never_run(own_cache):
    folder = own_cache / "zoo"
    folder.mkdir()
    (folder / "zoo.py").write_text(f"open({str(own_cache / 'ran')!r}, 'w')\n")
    message = fault(path=str(folder))
    assert "Code that comes with a dataset is not run" in message or "data files" in message
    assert not (own_cache / "ran").exists()

"""Naming, finding, opening, comparing and removing runs."""

from __future__ import annotations

import pytest
from run_factory import done_run, new_run

from vlsae.errors import MissingFile, UserError
from vlsae.runs import entries_of, find_done, input_run, open_run, resolve, runs_root
from vlsae.runs.difference import differences
from vlsae.runs.removal import remove


class TestReference:
    @pytest.fixture
    def root(self, tmp_path):
        for name in ("clip-shapes-vl_sae", "clip-shapes-top_k"):
            done_run(tmp_path, name, "train")
        done_run(tmp_path, "clip-shapes", "extract")
        new_run(tmp_path, "clip-shapes", "extract").fail("no")
        return tmp_path

    @pytest.mark.parametrize(
        ("reference", "stage", "expected"),
        [
            ("train/clip-shapes-vl_sae/v0001", None, "train/clip-shapes-vl_sae/v0001"),
            ("train/clip-shapes-vl_sae/v1", None, "train/clip-shapes-vl_sae/v0001"),
            ("train/clip-shapes-vl_sae/latest", None, "train/clip-shapes-vl_sae/v0001"),
            ("extract/clip-shapes/latest", None, "extract/clip-shapes/v0001"),
            ("extract/clip-shapes", None, "extract/clip-shapes/v0001"),
            ("extract/clip-shapes/v0002", None, "extract/clip-shapes/v0002"),
            ("extract/clip-shapes/v0002/", "extract", "extract/clip-shapes/v0002"),
            ("clip-shapes", None, "extract/clip-shapes/v0001"),
            ("clip-shapes/v0002", "extract", "extract/clip-shapes/v0002"),
            ("clip-shapes/latest", "extract", "extract/clip-shapes/v0001"),
        ],
    )
    def test_grammar(self, root, reference, stage, expected):
        assert resolve(reference, root, stage) == root / expected

    @pytest.mark.parametrize("tail", ["v0001", "v0001/manifest.json", "latest", "", "v0001/"])
    def test_paths(self, root, tmp_path_factory, monkeypatch, tail):
        expected = root / "extract/clip-shapes/v0001"
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        assert resolve(f"{root}/extract/clip-shapes/{tail}", elsewhere) == expected
        monkeypatch.chdir(root / "extract")
        assert resolve(f"clip-shapes/{tail}", elsewhere) == expected

    def test_the_nearest_is_named(self, root):
        with pytest.raises(UserError, match="train/clip-shapes-vl_sae/"):
            resolve("train/clip-shapes-vlsae/latest", root)

    def test_another_stage_is_refused(self, root):
        with pytest.raises(UserError, match="stage extract, expected one of train"):
            resolve("extract/clip-shapes/v0001", root, "train")

    @pytest.mark.parametrize("reference", ["org/name", "hub:org/name", "org/name@main"])
    def test_a_hub_id_is_told_apart(self, root, reference):
        with pytest.raises(UserError, match=r"Hub id(.|\n)*hf download org/name"):
            resolve(reference, root)

    def test_latest_without_a_done_version(self, root):
        new_run(root, "x", "probe").fail("no")
        with pytest.raises(UserError, match=r"no latest(.|\n)*v0001"):
            resolve("probe/x/latest", root)

    def test_a_name_of_several_stages(self, root):
        done_run(root, "clip-shapes", "train")
        with pytest.raises(UserError, match="extract/clip-shapes, train/clip-shapes"):
            resolve("clip-shapes", root)

    @pytest.mark.parametrize("reference", ["", "..", "../../etc", "train/../extract/clip-shapes", "a//b", "/nowhere"])
    def test_nothing_else_resolves(self, root, reference):
        with pytest.raises(UserError, match="no run"):
            resolve(reference, root / "sub")

    def test_only_done_runs_are_inputs(self, root):
        assert input_run("extract/clip-shapes/v0001", root, "extract").id == "extract/clip-shapes/v0001"
        with pytest.raises(UserError, match="is failed"):
            input_run("extract/clip-shapes/v0002", root)

    def test_the_root(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("VLSAE_RUNS", raising=False)
        assert runs_root() == tmp_path / "runs"
        monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "other"))
        assert runs_root() == tmp_path / "other"
        assert runs_root("mine") == tmp_path / "mine"


def test_find_done_gives_the_newest_that_fits(tmp_path):
    for number in range(3):
        done_run(tmp_path, f"n{number}", identity={"k": number % 2})
    new_run(tmp_path, "n9", identity={"k": 0}).fail("no")
    found = find_done(tmp_path, "tiny", lambda manifest: manifest["identity"]["k"] == 0)
    assert found is not None
    assert found.id == "tiny/n2/v0001"
    assert find_done(tmp_path, "tiny", lambda manifest: False) is None
    assert find_done(tmp_path / "none", "tiny", lambda manifest: True) is None


class TestOpenRun:
    def test_reads_everything(self, runs_dir):
        run = new_run(runs_dir)
        run.log_metrics(0, 0, "train", loss=1)
        run.write_summary({"a": 1})
        (run.path / "tables").mkdir()
        (run.path / "tables/scores.csv").write_text("x,y\n1,2\n")
        (run.path / "items.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
        run.finish()
        opened = open_run("tiny/one/latest")
        assert (opened.id, opened.status, opened.path) == (run.id, "done", run.path)
        assert opened.config["steps"] == 5
        assert opened.summary is not None
        assert opened.summary["metrics"]["a"]["value"] == 1
        assert opened.metrics()[0]["loss"] == 1
        assert opened.table("tables/scores").to_pylist() == [{"x": 1, "y": 2}]
        assert opened.table("items.jsonl").column("id").to_pylist() == [1, 2]
        with pytest.raises(UserError, match="tables/scores"):
            opened.table("tables/score")
        with pytest.raises(MissingFile, match="no dictionary"):
            opened.dictionary()

    def test_is_exported(self, runs_dir):
        import vlsae

        done_run(runs_dir)
        assert vlsae.open_run("one").id == "tiny/one/v0001"


class TestRemove:
    def test_refuses_a_parent_and_names_its_children(self, tmp_path):
        parent = done_run(tmp_path, "a")
        child = done_run(tmp_path, "b", parents=[parent.id])
        with pytest.raises(UserError, match="tiny/b/v0001"):
            remove(parent.path, tmp_path)
        remove(child.path, tmp_path)
        remove(parent.path, tmp_path)
        assert entries_of(tmp_path) == []

    def test_refuses_a_run_at_work(self, tmp_path):
        run = new_run(tmp_path)
        with pytest.raises(UserError, match="is running"):
            remove(run.path, tmp_path)
        assert run.path.is_dir()

    def test_refuses_what_lies_outside_the_root(self, tmp_path):
        run = done_run(tmp_path / "other")
        (tmp_path / "root").mkdir()
        (tmp_path / "root/tiny").symlink_to(tmp_path / "other/tiny")
        for path in (run.path, tmp_path / "root" / run.id, tmp_path / "root", run.path.parent):
            with pytest.raises(UserError, match="is not removed"):
                remove(path, tmp_path / "root")
        assert run.path.is_dir()


def test_differences(tmp_path):
    first = new_run(tmp_path, config="a: {b: 1, c: 2}\nd: [1]\n")
    first.write_summary({"x": 1.0, "y": 2.0})
    first.manifest["packages"]["torch"] = "0.1"
    first.finish()
    second = new_run(tmp_path, config="a: {b: 1, c: 3}\nd: [1]\ne: null\n")
    second.write_summary({"x": 1.5, "y": 2.0})
    second.finish()
    found = differences(first.path, second.path)
    assert found["config"] == {"a.c": (2, 3), "e": (None, None)}
    assert found["metrics"] == {"x": (1.0, 1.5)}
    assert list(found["packages"]) == ["torch"]
    assert differences(first.path, first.path) == {"config": {}, "facts": {}, "packages": {}, "metrics": {}}

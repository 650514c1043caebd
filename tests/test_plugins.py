"""A user's own parts: files, modules, the decorator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlsae import plugins
from vlsae.config import build, check_values, compose, load, part_name, resolved, stored_yaml
from vlsae.errors import MissingFile, UserError
from vlsae.groups import groups

PARTS = Path(__file__).parent / "plugin_files" / "tiny_parts.py"


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test loads."""
    with plugins.loaded():
        yield


def test_a_file_adds_choices_with_settings_from_its_signatures():
    assert plugins.load([str(PARTS)]) == ["tiny_parts"]
    assert "my_sae" in groups()["objective"]
    config = compose("train", ["objective=my_sae", "model=tiny", "model.dimensions=5"])
    expected = {"n_concepts": None, "k": None, "flavour": "sweet"}
    assert config.objective == {"_target_": "tiny_parts.MySAE", **expected}
    assert part_name(config.objective) == "my_sae"
    assert build(config.model).dimensions == 5
    assert build(config.objective, width=4).n_concepts == 32


def test_loading_twice_is_loading_once():
    plugins.load([str(PARTS)])
    first = sys.modules["tiny_parts"]
    plugins.load([str(PARTS)])
    assert sys.modules["tiny_parts"] is first


def test_a_plug_in_that_another_one_imported_can_be_named_later(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PARTS.parent))
    (tmp_path / "own_parts.py").write_text("from tiny_parts import TinyModel\n")
    with plugins.loaded():
        plugins.load([str(tmp_path / "own_parts.py")])
    plugins.load([str(PARTS)])
    assert part_name(compose("extract", ["model=tiny"]).model) == "tiny"


def test_values_are_checked_by_the_plug_ins_bounds():
    plugins.load([str(PARTS)])
    config = resolved(compose("train", ["objective=my_sae", "objective.flavour=swet"]))
    with pytest.raises(UserError, match=r"objective.flavour is 'swet'.*\nDid you mean sweet"):
        check_values(config)
    with pytest.raises(UserError, match=r"no setting 'objective.flavor'.\nDid you mean objective.flavour"):
        compose("train", ["objective=my_sae", "objective.flavor=sweet"])


def test_a_run_made_with_a_plug_in_needs_it_again(tmp_path):
    plugins.load([str(PARTS)])
    (tmp_path / "config.yaml").write_text(stored_yaml(compose("train", ["objective=my_sae"])))
    assert load(tmp_path).objective.flavour == "sweet"
    plugins._allowed.clear()
    with pytest.raises(UserError, match="--plugin"):
        load(tmp_path)


def test_a_module_by_name(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("class Thing:\n    '''A thing.'''\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load(["own_package"])
    assert type(build({"_target_": "own_package.parts.Thing"})).__name__ == "Thing"


def test_an_installed_package_offers_plug_ins(tmp_path, monkeypatch):
    (tmp_path / "offered.py").write_text("class Thing:\n    '''A thing.'''\n")
    information = tmp_path / "offered-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[vlsae.plugins]\nthing = offered\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load_installed()
    assert type(build({"_target_": "offered.Thing"})).__name__ == "Thing"


@pytest.mark.parametrize(
    "reference", ["nothing_like_this", "no.such.module", "os", "json.decoder", "vlsae.config", "a b"]
)
def test_modules_that_are_no_plug_in(reference):
    with pytest.raises(UserError):
        plugins.load([reference])
    assert not plugins.is_allowed(reference)


def test_files_that_are_no_plug_in(tmp_path):
    with pytest.raises(MissingFile, match="no plug-in file"):
        plugins.load([str(tmp_path / "my.py")])
    for name in ("json.py", "my-part.py", "part.txt", "vlsae.py"):
        (tmp_path / name).write_text("")
        with pytest.raises(UserError, match=r"name|Name"):
            plugins.load([str(tmp_path / name)])


def test_a_broken_plug_in_is_not_kept(tmp_path):
    (tmp_path / "broken_part.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(UserError, match="cannot be imported: RuntimeError: broken"):
        plugins.load([str(tmp_path / "broken_part.py")])
    assert "broken_part" not in sys.modules
    assert not plugins.is_allowed("broken_part")


def test_a_plug_in_that_lacks_a_dependency_says_so(tmp_path, monkeypatch):
    (tmp_path / "lacking_part.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported: ModuleNotFoundError.*not_installed_anywhere"):
        plugins.load(["lacking_part"])


def test_names_that_are_taken_or_wrong():
    class Part:
        """A part."""

    with pytest.raises(UserError, match="objective=vl_sae exists already"):
        plugins.register("objective", "vl_sae")(_TopLevel)
    with pytest.raises(UserError, match=r"There is no config group 'objectiv'.\nDid you mean objective"):
        plugins.register("objectiv", "mine")
    with pytest.raises(UserError, match="no name for a plug-in"):
        plugins.register("objective", "my sae")
    with pytest.raises(UserError, match="defined within another"):
        plugins.register("objective", "inner")(Part)


class _TopLevel:
    """Defined at the top of a file."""

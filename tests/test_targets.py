"""Configurations that try to reach a callable outside of vlsae."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlsae.commands.sweeps import check_hydra
from vlsae.composition import compose_raw
from vlsae.config import build, check, check_values, compose, load, resolved
from vlsae.errors import UserError

TARGETS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "vlsae",
    "vlsae.",
    ".vlsae.models.CLIP",
    "vlsae..CLIP",
    "vlsaeX.models.CLIP",
    "vlsae_evil.CLIP",
    "vlsae.config.os.system",
    "vlsae.config.build",
    "vlsae.worker.run_stage",
    "vlsae.runs.run.Run",
    "vlsae.representations.StoreWriter",
    "vlsae.__main__.main",
    "vlsae.models.__builtins__.eval",
    "vlsae.models.clip.CLIP.__init__",
    "vlsae.models.clip._private",
    "vlsae.models.clip:CLIP",
    "vlsae.models.clip.CLIP()",
    "vlsae/models/clip.CLIP",
    "vlsae.models.clip.CLIP\n",
    "vlsae.ｍodels.CLIP",
    "",
    None,
    3,
    ["vlsae.models.CLIP"],
]

# These pass the walk by name, and are refused for what they turn out to be.
FOUND_OUT = [
    "vlsae.models.clip.Path",
    "vlsae.models.clip.UserError",
    "vlsae.models.clip.resolve",
    "vlsae.models.importlib",
    "vlsae.models.os",
    "vlsae.models.importlib.import_module",
    "vlsae.models.clip.STREAMS",
    "vlsae.datasets.captions.hashlib.sha256",
    "vlsae.datasets.captions.ThreadPoolExecutor",
    "vlsae.dictionaries.vl_sae.F",
    "vlsae.dictionaries.vl_sae.Any",
    "vlsae.models.nowhere.CLIP",
]


@pytest.mark.parametrize("target", TARGETS)
def test_refused_by_name_before_any_import(target):
    before = set(sys.modules)
    for node in ({"_target_": target}, {"a": [{"b": {"_target_": target}}]}):
        with pytest.raises(UserError, match="target"):
            check(node)
        with pytest.raises(UserError, match="target"):
            build({"_target_": "vlsae.datasets.Shapes", "n": node})
    assert set(sys.modules) == before


@pytest.mark.parametrize("target", FOUND_OUT)
def test_refused_for_what_it_is(target):
    check({"_target_": target})
    with pytest.raises(UserError, match=r"does not exist|no class of vlsae's"):
        build({"_target_": target})
    with pytest.raises(UserError, match=r"does not exist|no class of vlsae's"):
        check_values({"model": {"_target_": target}})


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "_anything_", "__class__"])
def test_special_keys_are_refused_at_any_depth(key):
    inner = {"_target_": "vlsae.models.CLIP", key: ["x"]}
    for node in (inner, {"model": inner}, {"parts": [[inner]]}, {"settings": {key: 1}}):
        with pytest.raises(UserError, match=key):
            check(node)
        with pytest.raises(UserError, match=key):
            build({"_target_": "vlsae.datasets.Captions", "path": "x", "columns": node})


@pytest.mark.parametrize(
    "overrides",
    [
        ["model._target_=os.system"],
        ["+model.inner={_target_:os.system}"],
        ["+extra=[{_target_:os.system}]"],
        ["+model._args_=[ls]"],
        ["+model._partial_=true"],
        ["model._target_='${dataset._target_}x'"],
        ["+text='{_target_: os.system}'", "+node='${oc.decode:${text}}'"],
        ["+node='${oc.create:{_target_:os.system}}'"],
    ],
)
def test_composed_configurations_get_the_walk(overrides):
    with pytest.raises(UserError, match=r"_args_|_partial_|target"):
        compose("train", overrides)


def test_a_shipped_group_cannot_be_hijacked_by_an_own_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "clip.yaml").write_text("_target_: os.system\ncommand: touch /tmp/x\n")
    with pytest.raises(UserError, match=r"model has the target 'os\.system'"):
        compose("train", [], tmp_path)


def test_configurations_of_runs_get_the_walk(tmp_path):
    text = "stage: train\nmodel:\n  _target_: posix.system\n  command: ls\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"posix\.system"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: !!python/object/apply:os.system ['touch x']\n")
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
    assert not Path("x").exists()


def test_a_configuration_cannot_allow_a_plug_in(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("class Evil:\n    '''Evil.'''\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--plugin"):
        compose("train", ["+plugin=evil", "model._target_=evil.Evil"])
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "hydra:\n  launcher:\n    _target_: os.system\n",
        "hydra:\n  sweeper:\n    _target_: vlsae.models.CLIP\n",
        "hydra:\n  callbacks:\n    one:\n      _target_: os.system\n",
        "hydra:\n  job_logging:\n    handlers:\n      x:\n        (): os.system\n",
        "hydra:\n  hydra_logging:\n    handlers:\n      x:\n        class: evil.Handler\n",
        "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: evil.so\n",
    ],
)
def test_hydras_own_node_reaches_nothing_else(text, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text("# @package _global_\n" + text)
    forced = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    check_hydra(compose_raw("train", forced, tmp_path).hydra)
    check_hydra(compose_raw("train", [*forced, "launcher=joblib"], tmp_path).hydra)
    with pytest.raises(UserError, match="hydra"):
        check_hydra(compose_raw("train", [*forced, "experiment=evil"], tmp_path).hydra)


def test_values_never_become_objects_by_themselves():
    config = resolved(compose("train", ["+model_note='vlsae.models.CLIP'"]))
    assert config["model_note"] == "vlsae.models.CLIP"

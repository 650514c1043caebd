"""Composition, checks and builds of configurations, and what they say about mistakes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from vlsae import settings
from vlsae.composition import flat_keys
from vlsae.config import (
    build,
    check_values,
    compose,
    compose_with_choices,
    load,
    part_name,
    resolved,
    stored_yaml,
    target_class,
)
from vlsae.environment import with_environment
from vlsae.errors import MissingFile, UserError
from vlsae.groups import choices, config_dir

STAGES = ("extract", "train", "probe", "aqi", "enhance")


def refusal(stage: str, *overrides: str, folder: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        check_values(resolved(compose(stage, overrides, folder)))
    return str(caught.value)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_by_default(stage):
    config = resolved(compose(stage, []))
    assert config["stage"] == stage
    assert config["model"]["_target_"] == ("vlsae.models.LM" if stage == "aqi" else "vlsae.models.CLIP")


def test_choices_are_those_made():
    composed = compose_with_choices("train", ["objective=top_k", "hardware=cpu"])
    assert composed.choices["objective"] == "top_k"
    assert composed.choices["hardware"] == "cpu"
    assert not any(group.startswith("hydra") for group in composed.choices)
    assert composed.config.hardware == {
        "device": "cpu",
        "dtype": "float32",
        "quantisation": "none",
        "workers": 1,
        "threads": None,
        "ranks": 1,
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modle=clip"], "`vlsae train` has no setting 'modle'.\nDid you mean model?"),
        (["modle"], "'modle' is no override.\nWrite it as model=CHOICE."),
        (["model=clpi"], "There is no choice for model 'clpi'.\nDid you mean clip"),
        (["objective.kk=3"], "has no setting 'objective.kk'.\nDid you mean objective.k"),
        (["k=3"], "has no setting 'k'.\nDid you mean objective.k?"),
        (["train.epoch=3"], "has no setting 'train.epoch'.\nDid you mean train.epochs"),
        (["~seeed"], "has no setting 'seeed'.\nDid you mean seed"),
        (["objective.k=1,2"], "Add -m to run each of them, or write a list: objective.k=[1,2]"),
        (["seed=1", "seed=2"], "seed is given twice: seed=1 and seed=2."),
        (["model=clip", "model=clip_b32"], "model is given twice"),
        (["name=a b=c"], "cannot be read as an override.\nQuote the value"),
        (["experiment=paper"], "There is no choice for experiment 'paper'."),
        (["+model=clip"], "`vlsae train` has model already.\nWrite model=clip, without the +."),
        (["seed=x"], "seed is 'x', expected an integer."),
        (["seed=-1"], "seed is -1, expected an integer from 0 to"),
        (["train.epochs=0"], "train.epochs is 0, expected an integer at least 1."),
        (["upstream=requir"], "upstream is 'requir', expected auto | require.\nDid you mean require?"),
        (["split.validation=1.5"], "split.validation is 1.5, expected a finite number from 0 to 1."),
        (["objective.k=0"], "objective.k is 0, expected an integer at least 1"),
        (["objective.topk_mode=exat"], "objective.topk_mode is 'exat'"),
        (["+objective.size=3"], "There is no setting of objective 'size'."),
        (["dataset=captions"], "dataset.path is not set.\nAdd dataset.path=VALUE"),
        (["dataset.n=${nowhere}"], "nowhere"),
    ],
)
def test_mistakes_are_named_with_the_mend(overrides, message):
    assert message in refusal("train", *overrides)


def test_a_stage_names_the_groups_it_takes():
    assert refusal("extract", "objective=vl_sae").startswith("`vlsae extract` takes no objective.\nIt takes dataset")


def test_unknown_stage():
    assert refusal("trian") == "There is no stage 'trian'.\nDid you mean train or extract?"


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_compose(name):
    text = (config_dir() / "experiment" / f"{name}.yaml").read_text()
    stage = "probe" if "override /probe:" in text else "enhance" if "override /task:" in text else "train"
    needed = {"dataset.path": "photos", "model.checkpoint": "path:network"}
    needed |= {"task.data.path": "val2014", "task.data.questions": "pope"}
    values = [f"{key}={value}" for key, value in needed.items() if f"{key}=" in text]
    values += ["dataset.path=photos"] if name.startswith("vl_sae_clip") else []
    check_values(resolved(compose(stage, [f"experiment={name}", *dict.fromkeys(values)])))


def test_own_folder_adds_and_comes_first(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults:\n  - clip\n  - _self_\nnormalize: true\n")
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "vl_sae.yaml").write_text("_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: 3\n")
    config = compose("train", ["model=mine"], tmp_path)
    assert config.model.normalize is True
    assert config.objective == {"_target_": "vlsae.dictionaries.vl_sae.VLSAE", "k": 3}
    assert "mine" not in refusal("train", "model=mime")
    assert "mine" in refusal("train", "model=mime", folder=tmp_path)
    # The folder counts for its own call only.
    assert compose("train", []).objective.k is None


def test_missing_own_folder():
    with pytest.raises(MissingFile, match="no configuration folder"):
        compose("train", [], "/nowhere/at/all")


def test_composing_leaves_a_callers_hydra_alone():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose("train", [])
        assert GlobalHydra.instance().hydra is before


def test_settings_table_covers_every_setting_of_the_stages():
    leaves = set()
    for stage in STAGES:
        config = resolved(compose(stage, []))
        own = {key: value for key, value in config.items() if not (isinstance(value, dict) and "_target_" in value)}
        leaves |= {key for key in flat_keys(own) if not isinstance(settings.lookup(own, key)[1], dict)}
    for launcher in ("slurm", "ray"):
        leaves |= {f"launcher.{key}" for key in resolved(compose("train", [f"launcher={launcher}"]))["launcher"]}
    # Rival dictionaries of a task are classes' settings, checked against their signatures.
    leaves = {key for key in leaves if not key.startswith("rivals.")}
    assert sorted(leaves) == sorted(settings.SETTINGS)


def test_build_gives_runtime_arguments_where_the_signature_takes_them():
    objective = build(compose("train", ["objective.k=2"]).objective, width=4, dataset="unused")
    assert (objective.width, objective.n_concepts, objective.k) == (4, 32, 2)


def test_build_checks_keys_and_values():
    node = {"_target_": "vlsae.datasets.Shapes", "n": 0}
    with pytest.raises(UserError, match=r"Shapes.n is 0, expected an integer at least 1"):
        build(node)
    with pytest.raises(UserError, match=r"There is no setting of Shapes 'sized'.\nDid you mean size"):
        build({"_target_": "vlsae.datasets.Shapes", "sized": 32})
    with pytest.raises(UserError, match=r"Captions.path is not set"):
        build({"_target_": "vlsae.datasets.Captions"})
    with pytest.raises(UserError, match="names no class"):
        build({"path": "x"})


def test_build_leaves_its_node_alone():
    node = {"_target_": "vlsae.datasets.Shapes", "n": 5}
    build(node)
    assert node == {"_target_": "vlsae.datasets.Shapes", "n": 5}


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("vlsae.models.CLIP", "clip"),
        ("vlsae.models.clip.CLIP", "clip"),
        ("vlsae.datasets.Shapes", "shapes"),
        ("vlsae.dictionaries.vl_sae.VLSAE", "vl_sae"),
        ("vlsae.datasets.ImageFolder", "image_folder"),
        ("my.MySAE", "my_sae"),
    ],
)
def test_part_names(target, name):
    assert part_name({"_target_": target}) == name


def test_target_class():
    assert target_class("vlsae.dictionaries.vl_sae.VLSAE").source == "representations"


def write_run(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder


def test_a_run_gives_its_configuration_back(tmp_path):
    config = compose("train", ["objective.k=3", "seed=7"])
    again = load(write_run(tmp_path, stored_yaml(config)))
    assert resolved(again) == resolved(config)


def test_a_damaged_or_missing_run_configuration_is_named(tmp_path):
    with pytest.raises(MissingFile, match=r"config\.yaml"):
        load(tmp_path)
    for text in ("a: [1", "- 1\n", "a: ${b\n"):
        with pytest.raises(UserError, match="damaged"):
            load(write_run(tmp_path, text))


def test_environment_only_where_allowed(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    assert "objective.k reads the environment variable MY_SECRET" in refusal(
        "train", "objective.k='${oc.env:MY_SECRET}'"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.checkpoint='${oc.env:MY_SECRET}'"],
        ["model.checkpoint='path:${oc.env:MY_SECRET}'"],
        ["+hidden=env", "model.checkpoint='${oc.${hidden}:MY_SECRET}'"],
        ["+logger.tag='${oc.env:MY_SECRET}'", "model.checkpoint='${logger.tag}'"],
        ["+logger.tag='${oc.env:MY_SECRET}'", "+copy='${logger}'"],
        ["model.checkpoint='${oc.decode:\"${oc.env:MY_SECRET}\"}'"],
        ["+deep=[{a:['${oc.env:MY_SECRET}']}]"],
    ],
)
def test_no_detour_to_the_environment(overrides, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    with pytest.raises(UserError, match="reads the environment variable MY_SECRET") as caught:
        compose("train", overrides)
    assert "hunter2" not in str(caught.value)


def test_environment_is_stored_unresolved_and_resolved_in_use(monkeypatch, tmp_path):
    monkeypatch.setenv("VLSAE_RUNS", "/somewhere")
    monkeypatch.setenv("TEAM", "blue")
    config = compose("train", ["logger=wandb", "logger.entity='${oc.env:TEAM}'"])
    stored = stored_yaml(config)
    assert "/somewhere" not in stored
    assert "blue" not in stored
    assert resolved(config)["runs_dir"] == "/somewhere"
    # What travels on as a plain dict, and into upstream runs, does not hold the value either.
    content = resolved(config)
    assert content["logger"]["entity"] == "${oc.env:TEAM}"
    assert "blue" not in stored_yaml(content)
    assert with_environment(content["logger"])["entity"] == "blue"
    monkeypatch.setenv("VLSAE_RUNS", "/elsewhere")
    assert resolved(load(write_run(tmp_path, stored)))["runs_dir"] == "/elsewhere"


def test_a_variable_that_is_not_set_is_named():
    config = compose("train", ["logger=wandb", "logger.entity='${oc.env:NOT_SET_ANYWHERE}'"])
    with pytest.raises(UserError, match="NOT_SET_ANYWHERE"):
        with_environment(resolved(config)["logger"])


def test_secrets_are_masked():
    config = compose("train", ["+logger.api_key=abc123", "+logger.nested={password:abc123,tokens:5}"])
    stored = stored_yaml(config)
    assert "abc123" not in stored
    assert yaml.safe_load(stored)["logger"]["nested"]["tokens"] == 5


def test_configuration_files_are_commented_and_end_with_a_line():
    for path in config_dir().rglob("*.yaml"):
        text = path.read_text()
        assert text.endswith("\n"), path
        assert text == textwrap.dedent(text), path

"""Where weights come from, and what is said when they do not come."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_config, write_clip

from vlsae.errors import MissingFile, UserError
from vlsae.models import CLIP, checkpoints, hub, open_clip_tables
from vlsae.models.checkpoints import parse, resolve

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hub cache and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def fill_cache(cache: Path, name: str, files: dict[str, Path], revision: str = REVISION) -> None:
    """Lay files out as the Hub's client does."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for target, source in files.items():
        shutil.copy(source, snapshot / target)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def embedding_of(model: CLIP) -> torch.Tensor:
    batch = model.prepare(texts=["a red circle"])
    return model.represent(batch, ["language.embedding"])["language.embedding"].values


def test_each_prefix_says_what_it_means():
    assert parse("bundled") == ("bundled", "")
    assert parse("path:some/where") == ("path", "some/where")
    assert parse("open_clip:ViT-B-32/openai") == ("open_clip", "ViT-B-32/openai")
    assert parse("hub:org/name@main") == ("hub", "org/name@main")


def test_without_a_prefix_a_path_comes_first_then_a_listed_pair_then_the_hub(folder, cache):
    assert parse(str(folder)) == ("path", str(folder))
    assert parse("ViT-B-32/laion2b_s34b_b79k") == ("open_clip", "ViT-B-32/laion2b_s34b_b79k")
    assert parse("some-org/some-model@v1") == ("hub", "some-org/some-model@v1")


def test_a_name_with_two_meanings_is_refused(cache, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Path("ViT-B-32/openai").mkdir(parents=True)
    with pytest.raises(UserError, match="path:ViT-B-32/openai or open_clip:ViT-B-32/openai"):
        parse("ViT-B-32/openai")
    Path("org/name").mkdir(parents=True)
    assert parse("org/name")[0] == "path"
    fill_cache(cache, "org/name", {"open_clip_config.json": folder / "open_clip_config.json"})
    with pytest.raises(UserError, match="path:org/name or hub:org/name"):
        parse("org/name")


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("bundeld", "Did you mean bundled"),
        ("path:", "names nothing"),
        ("ViT-B-32", "is an architecture, not a checkpoint"),
        ("open_clip:ViT-B-32", "open_clip:ViT-B-32/TAG with one of .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-3/openai", "Did you mean .*ViT-B-32"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "Did you mean laion2b_s34b_b79k"),
        ("ViT-B-32/laion2b_s34b_b79", "Did you mean laion2b_s34b_b79k"),
        ("hub:no-name", "ORG/NAME"),
        ("./not/there", "no existing path"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(checkpoint, expected, cache):
    with pytest.raises(UserError, match=expected):
        resolve(checkpoint)


def test_a_missing_folder_is_a_missing_file_and_names_its_neighbours(folder):
    with pytest.raises(MissingFile, match=f"Did you mean .*{folder.name}"):
        resolve(f"path:{str(folder)[:-1]}")


@pytest.mark.parametrize(
    "checkpoint", ["open_clip:ViT-B-32/laion2b_s34b_b79k", "hub:org/name", f"hub:org/name@{REVISION}"]
)
def test_weights_out_of_reach_name_the_ways_out(checkpoint, cache):
    with pytest.raises(UserError, match="cannot be reached") as caught:
        resolve(checkpoint)
    for way in ("path:", "HF_HOME", "model.checkpoint=bundled"):
        assert way in str(caught.value)


def test_a_hub_that_does_not_answer_costs_seconds_and_leaves_its_cache(cache, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", constants.ENDPOINT.rpartition("/")[0] + "/nowhere.invalid")
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        resolve("open_clip:ViT-B-32/laion2b_s34b_b79k")
    weights = {"open_clip_model.safetensors": folder / "open_clip_model.safetensors"}
    fill_cache(cache, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", weights)
    assert resolve("open_clip:ViT-B-32/laion2b_s34b_b79k").weights.is_relative_to(cache)
    assert time.monotonic() - start < 15
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("revision", ["", "@main", f"@{REVISION}"])
def test_a_filled_cache_serves_the_hub_offline(revision, cache, folder):
    fill_cache(cache, "org/name", {path.name: path for path in folder.iterdir()})
    model = CLIP(checkpoint=f"hub:org/name{revision}")
    local = CLIP(checkpoint=f"path:{folder}")
    assert model.digest() == local.digest()
    assert torch.equal(embedding_of(model), embedding_of(local))


def test_a_repository_without_weights_is_out_of_reach(cache, folder):
    fill_cache(cache, "org/name", {"open_clip_config.json": folder / "open_clip_config.json"})
    with pytest.raises(UserError, match="org/name"):
        resolve("hub:org/name")


def test_a_filled_cache_serves_a_listed_pair(cache, folder):
    weights = {"open_clip_model.safetensors": folder / "open_clip_model.safetensors"}
    fill_cache(cache, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", weights)
    found = resolve("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert found.weights.is_relative_to(cache)
    assert found.config["vision_cfg"]["layers"] == 12
    assert found.preprocess["resize_mode"] == "shortest"


def test_a_tag_says_when_its_weights_were_trained_with_quick_gelu(cache, folder, monkeypatch):
    monkeypatch.setattr(hub, "listed_weights", lambda name, source: folder / "open_clip_model.safetensors")
    assert resolve("open_clip:ViT-B-32/openai").config["quick_gelu"] is True
    assert resolve("open_clip:ViT-B-32/laion2b_s34b_b79k").config["quick_gelu"] is False


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.safetensors", "other.safetensors"])
def test_a_folder_may_hold_its_weights_under_any_of_open_clips_names(name, tmp_path):
    model = CLIP(checkpoint=f"path:{write_clip(tmp_path, weights=name)}")
    assert model.files.weights.name == name
    assert embedding_of(model).isfinite().all()


def test_the_weights_that_are_digested_are_those_that_are_loaded(folder, tmp_path):
    write_clip(tmp_path / "a", weights="model.safetensors", seed=1)
    shutil.copy(folder / "open_clip_model.safetensors", tmp_path / "a")
    model = CLIP(checkpoint=f"path:{tmp_path / 'a'}")
    assert model.files.weights.name == "open_clip_model.safetensors"
    assert torch.equal(embedding_of(model), embedding_of(CLIP(checkpoint=f"path:{folder}")))


def test_a_lone_weight_file_needs_its_architecture(folder):
    weights = folder / "open_clip_model.safetensors"
    with pytest.raises(UserError, match=r"model\.architecture=ViT-B-32"):
        resolve(f"path:{weights}")
    with pytest.raises(UserError, match=r"Did you mean .*ViT-B-32"):
        resolve(f"path:{weights}", "ViT-B32")
    with pytest.raises(UserError, match=r"Leave model\.architecture out"):
        resolve(f"path:{folder}", "ViT-B-32")
    with pytest.raises(UserError, match="does not fit ViT-S-32-alt"):
        CLIP(checkpoint=f"path:{weights}", architecture="ViT-S-32-alt").load()
    with pytest.raises(UserError, match="ends in one of"):
        resolve(f"path:{folder / 'tokenizer.json'}", "ViT-B-32")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_lone_weight_file_is_read_with_its_architecture(suffix, tmp_path, monkeypatch):
    import open_clip

    config = tmp_path / "tiny-test.json"
    config.write_text(
        json.dumps({**tiny_config(), "text_cfg": {"context_length": 12, "width": 24, "heads": 2, "layers": 2}})
    )
    open_clip.add_model_config(config)
    home = tmp_path / "home"
    (home / "model_configs").mkdir(parents=True)
    shutil.copy(config, home / "model_configs")
    monkeypatch.setattr(open_clip_tables, "_home", lambda: home)
    open_clip_tables.architectures.cache_clear()
    try:
        original = open_clip.create_model("tiny-test").eval()
        path = tmp_path / f"weights{suffix}"
        if suffix == ".pt":
            torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, path)
        else:
            from safetensors.torch import save_file

            save_file(original.state_dict(), path)
        model = CLIP(checkpoint=f"path:{path}", architecture="tiny-test")
        batch = model.prepare(texts=["a photo of a cat"])
        with torch.no_grad():
            expected = original.encode_text(batch.language)
        assert torch.equal(model.represent(batch, ["language.embedding"])["language.embedding"].values, expected)
    finally:
        open_clip_tables.architectures.cache_clear()


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "pytorch_model.pth"])
def test_nothing_is_unpickled(name, tmp_path):
    write_clip(tmp_path, weights=name)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "harm": Harmful(tmp_path / "harm")}, tmp_path / name)
    with pytest.raises(UserError, match="more than tensors"):
        CLIP(checkpoint=f"path:{tmp_path}").load()
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(tmp_path / "harm"), protocol=2))
    with pytest.raises(UserError, match="more than tensors"):
        CLIP(checkpoint=f"path:{tmp_path}").load()
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_cannot_ask_for_the_code_of_others(tmp_path):
    write_clip(tmp_path)
    path = tmp_path / "open_clip_config.json"
    whole = json.loads(path.read_text())
    whole["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match="asks to run code"):
        resolve(f"path:{tmp_path}")


def test_damaged_weights_are_named(tmp_path):
    write_clip(tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors is damaged"):
        CLIP(checkpoint=f"path:{tmp_path}").load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "lacks model_cfg.embed_dim"),
        ('{"model_cfg": {"embed_dim": 3}}', "text_cfg"),
    ],
)
def test_a_broken_configuration_is_named(text, expected, tmp_path):
    write_clip(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(UserError, match=expected):
        resolve(f"path:{tmp_path}")


def test_a_folder_without_configuration_or_weights_says_what_it_lacks(tmp_path):
    with pytest.raises(MissingFile, match=r"open_clip_config\.json"):
        resolve(f"path:{tmp_path}")
    (write_clip(tmp_path) / "open_clip_model.safetensors").unlink()
    with pytest.raises(MissingFile, match="holds no weights"):
        resolve(f"path:{tmp_path}")
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"several weight files: a\.bin, b\.bin"):
        resolve(f"path:{tmp_path}")


def test_missing_bundled_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(MissingFile, match="make bundled"):
        resolve("bundled", bundled=tmp_path / "nothing")


def test_the_digest_follows_the_content_and_not_the_place(folder, tmp_path):
    first = resolve(f"path:{folder}").digest()
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert resolve(f"path:{copy}").digest() == first
    model = CLIP(checkpoint=f"path:{copy}")
    assert model.digest() != CLIP(checkpoint=f"path:{copy}", normalize=True).digest()
    assert model.digest() != CLIP(checkpoint=f"path:{copy}", image_size=64).digest()
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("green", "groen"))
    changed = resolve(f"path:{copy}").digest()
    assert changed != first
    weights = copy / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(f"path:{copy}").digest() not in (first, changed)


def test_sites_and_digest_need_no_heavy_import(folder):
    code = (
        "import sys; from vlsae.models import CLIP\n"
        f"model = CLIP(checkpoint={f'path:{folder}'!r}); assert len(model.sites()) == 22; model.digest()\n"
        "assert not {'open_clip', 'transformers'} & set(sys.modules), 'heavy import'\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_architectures_and_tags_are_open_clips_own():
    import open_clip

    assert set(open_clip_tables.architectures()) >= {"ViT-B-32", "ViT-H-14", "coca_ViT-B-32"}
    for architecture, tag in open_clip.list_pretrained():
        assert open_clip_tables.is_listed(architecture, tag)
    assert set(checkpoints.WEIGHT_NAMES) >= {"open_clip_model.safetensors", "open_clip_pytorch_model.bin"}


@pytest.mark.parametrize("size", ["b32", "b16", "l14", "h14"])
def test_the_full_size_configurations_name_listed_weights(size):
    text = (Path(__file__).parent.parent / "configs" / "model" / f"clip_{size}.yaml").read_text()
    checkpoint = text.split("checkpoint: ")[1].strip()
    kind, rest = parse(checkpoint)
    assert kind == "open_clip"
    assert open_clip_tables.is_listed(*rest.split("/"))

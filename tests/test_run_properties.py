"""Properties of runs that hold for any input: versions, metric lines, secrets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from run_factory import done_run, new_run

from vlsae.runs import Run, read_manifest
from vlsae.runs.environment import MASK, mask_arguments, mask_config, mask_values
from vlsae.runs.metrics import read_metrics
from vlsae.runs.removal import remove

SECRET_KEYS = (
    "token",
    "hf_token",
    "api_key",
    "apikey",
    "apiKey",
    "aws-secret",
    "password",
    "accessToken",
    "credentials",
)
PLAIN_KEYS = ("tokens", "max_tokens", "monkey", "keyword", "token_count", "pass", "k", "key_dim", "tokenizer")
SECRET = "q7Zx9Secret"


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(["claim", "fail", "remove newest", "remove oldest"]), max_size=8))
def test_no_version_is_given_out_twice_and_latest_is_done(actions):
    with tempfile.TemporaryDirectory() as folder:
        root, given_out, here = Path(folder).resolve(), [], []
        for action in actions:
            if action in ("claim", "fail"):
                run = new_run(root)
                run.finish() if action == "claim" else run.fail("no")
                given_out.append(run.id)
                here.append(run.path)
            elif here:
                remove(here.pop(-1 if action == "remove newest" else 0), root)
            done = [path for path in here if read_manifest(path)["status"] == "done"]
            latest = root / "tiny/one/latest"
            assert latest.is_symlink() == bool(done)
            assert not done or latest.resolve() == done[-1]
        assert given_out == [f"tiny/one/v{number:04d}" for number in range(1, len(given_out) + 1)]


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(0, 20), max_size=12), last=st.integers(-1, 20), cut=st.integers(0, 60))
def test_truncate_keeps_the_lines_up_to_a_step_and_no_half_line(steps, last, cut):
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder))
        for step in sorted(steps):
            run.log_metrics(step, step / 2, "train", loss=step)
        run.release()
        half = '{"step": 7, "epoch": 1.0, "time": 0.1, "split": "train", "lo'[:cut]
        with (run.path / "metrics.jsonl").open("a") as stream:
            stream.write(half)
        assert [line["step"] for line in read_metrics(run.path)] == sorted(steps)
        again = Run.open(run.path)
        again.truncate_metrics(last)
        again.log_metrics(99, 0, "train")
        again.finish()
        kept = [line["step"] for line in read_metrics(run.path)]
        assert kept == [step for step in sorted(steps) if step <= last] + [99]
        for line in (run.path / "metrics.jsonl").read_text().splitlines():
            json.loads(line)


NESTED = st.recursive(
    st.just(SECRET) | st.integers(10**8, 10**9),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=4,
)


@given(st.sampled_from(SECRET_KEYS), NESTED)
def test_nothing_below_a_secret_key_is_written(key, value):
    text = mask_config(yaml.safe_dump({"logger": {"first": 1, key: value}}))
    assert SECRET not in text
    assert not any(character.isdigit() for character in text.replace("first: 1", ""))


@given(st.sampled_from(SECRET_KEYS), st.sampled_from(["{}={}", "logger.{}={}", "+logger.{}={}", "++a.b.{}='{}'",
       "logger={{name:wandb,{}:{}}}", "+logger={{a:{{{}: '{}'}},b:1}}", "x=[{{{}:{}}}]", "--{}={}",
       "logger.{}=${{oc.env:NAME,{}}}", "logger={{{}:${{oc.env:NAME,{}}}}}", "logger={{{}:[{}]}}"]))  # fmt: skip
def test_no_typed_secret_is_written(key, form):
    (word,) = mask_arguments([form.format(key, SECRET)])
    assert SECRET not in word
    assert MASK in word


@given(st.sampled_from(PLAIN_KEYS), st.sampled_from(["a.{}=3", "a={{{}:3,b:x}}", "{}=[1,2]", "a.{}=${{b.c}}", "~{}"]))
def test_other_words_stay(key, form):
    word = form.format(key)
    assert mask_arguments([word]) == [word]
    assert mask_values({key: {"a": [1, "x"]}}) == {key: {"a": [1, "x"]}}


@given(st.sampled_from(SECRET_KEYS), st.sampled_from(["${oc.env:A}", "${oc.env:A,null}", "${oc.env:A,${oc.env:B}}"]))
def test_where_a_secret_is_kept_stays(key, value):
    assert mask_values({key: value, "b": {key: None}}) == {key: value, "b": {key: None}}
    assert mask_arguments([f"a.{key}={value}"]) == [f"a.{key}={value}"]


def test_an_identity_holds_no_secret(tmp_path):
    identity = {"dataset": {"name": "photos", "token": SECRET}}
    run = new_run(tmp_path, identity=identity)
    assert SECRET not in (run.path / "manifest.json").read_text()
    run.set_fingerprint("0" * 64, identity)
    assert SECRET not in (run.path / "manifest.json").read_text()
    assert read_manifest(run.path)["identity"] == {"dataset": {"name": "photos", "token": MASK}}
    assert identity["dataset"]["token"] == SECRET


def test_dates_in_a_configuration_have_a_form_in_json(tmp_path):
    from vlsae.runs.difference import read_config
    from vlsae.runs.files import dump_json

    run = done_run(tmp_path, config="when: 2020-01-31\n")
    assert json.loads(dump_json(read_config(run.path))) == {"when": "2020-01-31"}

"""Dictionaries that come from and go elsewhere: SAELens' layout, published weights, folders, the Hub."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_dictionaries import BOTH, D, H, K, make

from vlsae.dictionaries import (
    SAED,
    SAES,
    VLSAE,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    MatryoshkaK,
    ReLUL1,
    SharedLinear,
    TopK,
    from_pretrained,
)
from vlsae.dictionaries.references import load_dictionary, statistics_of
from vlsae.dictionaries.saelens import read_saelens, site_of, write_saelens
from vlsae.dictionaries.sharing import export, push_to_hub
from vlsae.runs.files import write_json

EXCHANGED = [TopK, MatryoshkaK, BatchTopK, Matryoshka, ReLUL1, Gated, JumpReLU, SAES]


@pytest.fixture
def rows():
    return torch.randn(40, D, generator=torch.Generator().manual_seed(2)) + 0.4


def small(cls, rows, **options):
    batch = {"vision": rows.double()} if hasattr(cls, "initialize") else None
    if cls is JumpReLU:
        options = {"threshold": 0.1, **options}
    dictionary = make(cls, batch, **options).float().eval()
    if isinstance(dictionary, BatchTopK):
        dictionary.threshold.fill_(0.3)
    return dictionary


def numpy_saelens(folder, x):
    """Return codes and rows by SAELens' own rules, written out here once more."""
    config = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    x = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
    if config["architecture"] == "gated":
        code = torch.relu(x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]) * (x @ w["W_enc"] + w["b_gate"] > 0)
        return code, code @ w["W_dec"] + w["b_dec"]
    z = x @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "jumprelu":
        code = torch.relu(z) * (z > w["threshold"])
    elif config["architecture"] == "topk":
        top = z.topk(config["k"], dim=1)
        code = torch.zeros_like(z).scatter(1, top.indices, torch.relu(top.values))
    else:
        code = torch.relu(z)
    return code, code @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("cls", EXCHANGED)
def test_saelens_layout_holds_the_same_dictionary_and_comes_back(cls, rows, tmp_path):
    dictionary = small(cls, rows)
    write_saelens(dictionary, tmp_path, metadata={"hook_name": "blocks.7.hook_resid_pre"})
    code = dictionary.encode(rows, "vision")
    expected, decoded = numpy_saelens(tmp_path, rows)
    torch.testing.assert_close(code.to_dense(), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(dictionary.decode(code, "vision"), decoded, atol=2e-5, rtol=1e-4)
    again, metadata = read_saelens(tmp_path)
    assert site_of(metadata) == "language.7"
    torch.testing.assert_close(again.encode(rows, "language").to_dense(), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(again.decode(again.encode(rows, "vision"), "vision"), decoded, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_foreign_weights_of_any_norm_are_folded(apply, rescale, rows, tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, H), "W_dec": (H, D), "b_enc": (H,), "b_dec": (D,)}
    weights = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": 3, "apply_b_dec_to_input": apply, "rescale_acts_by_decoder_norm": rescale}
    write_json(tmp_path / "cfg.json", config)
    found, _ = read_saelens(tmp_path)
    norms = weights["W_dec"].norm(dim=1) if rescale else torch.ones(H)
    z = ((rows - weights["b_dec"] if apply else rows) @ weights["W_enc"] + weights["b_enc"]) * norms
    top = z.topk(3, dim=1)
    code = torch.zeros_like(z).scatter(1, top.indices, torch.relu(top.values))
    torch.testing.assert_close(found.encode(rows, "vision").to_dense(), code, atol=2e-5, rtol=1e-4)
    expected = (code / norms) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(found.decode(code, "vision"), expected, atol=5e-5, rtol=1e-4)


def test_what_saelens_has_no_place_for_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="no form"):
        write_saelens(VLSAE(D, H, K), tmp_path / "a")
    for cls in (SAED, SharedLinear):
        with pytest.raises(ValueError, match="stream"):
            write_saelens(cls(D, H, K), tmp_path / "b")
        dictionary = cls(D, H, K)
        write_saelens(dictionary, tmp_path / cls.kind, "language")
        torch.testing.assert_close(
            numpy_saelens(tmp_path / cls.kind, rows)[1],
            dictionary.decode(dictionary.encode(rows, "language"), "language"),
            atol=2e-5,
            rtol=1e-4,
        )
    write_saelens(small(TopK, rows), tmp_path / "c")
    for key, value, word in (("architecture", "topkk", "topk"), ("normalize_activations", "layer_norm", "layer_norm")):
        config = json.loads((tmp_path / "c" / "cfg.json").read_text())
        write_json(tmp_path / "c" / "cfg.json", {**config, key: value})
        with pytest.raises(ValueError, match=word):
            read_saelens(tmp_path / "c")
        write_json(tmp_path / "c" / "cfg.json", config)


def test_published_weights_need_k_and_no_code_runs(tmp_path):
    for cls in (VLSAE, SAED):
        torch.manual_seed(0)
        own = cls(D, H, K)
        names = {"vision_encoder": "v_encoder", "text_encoder": "t_encoder"}
        decoders = {"vision_decoder": "vision_decoder.0", "text_decoder": "text_decoder.0"} if cls is SAED else {}
        state = {}
        for name, value in own.state_dict().items():
            stem, dot, leaf = name.rpartition(".")
            state[{**names, **decoders}.get(stem, stem) + dot + leaf] = value
        path = tmp_path / f"{cls.kind}_best.pth"
        torch.save(state, path)
        found = load_dictionary({"path": str(path), "k": K, "sites": {"vision": "vision.embedding"}})
        assert type(found.dictionary) is cls
        assert all(torch.equal(value, found.dictionary.state_dict()[name]) for name, value in own.state_dict().items())
        assert found.site("vision") == "vision.embedding"
        with pytest.raises(ValueError, match="which site"):
            found.site("language")
        with pytest.raises(ValueError, match="Give k"):
            load_dictionary(str(path))

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"encoder": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="plain weights"):
        load_dictionary({"path": str(tmp_path / "evil.pth"), "k": 1})
    assert not (tmp_path / "ran").exists()


def saved(folder, rows):
    dictionary = small(TopK, rows)
    dictionary.save_pretrained(folder)
    values = dict.fromkeys(BOTH, rows)
    facts = {
        "extraction": "extract/a/v0001",
        "model": "0" * 64,
        "sites": {"vision": "vision.embedding", "language": "language.embedding"},
        "auxiliary": False,
        "statistics": statistics_of(values),
    }
    write_json(folder / "input.json", facts)
    return dictionary


def test_rows_that_a_dictionary_was_not_made_from_are_refused(rows, tmp_path):
    saved(tmp_path / "own", rows)
    found = load_dictionary(str(tmp_path / "own"))
    found.check({"vision": rows[:20]})
    with pytest.raises(ValueError, match="mean length"):
        found.check({"vision": 10 * rows})
    with pytest.raises(ValueError, match="mean"):
        found.check({"vision": rows + 3})
    with pytest.raises(ValueError, match="wide"):
        found.check({"vision": rows[:, :-1]})
    load_dictionary({"path": str(tmp_path / "own"), "check": False}).check({"vision": 10 * rows})
    with pytest.raises(ValueError, match="sites"):
        load_dictionary({"path": str(tmp_path / "own"), "site": "a"})
    with pytest.raises(ValueError, match="no run"):
        load_dictionary("train/nothing/v0001", tmp_path)


def test_an_export_is_a_folder_with_a_card_that_loads_again(rows, tmp_path):
    dictionary = saved(tmp_path / "run" / "dictionary", rows)
    metrics = {"l0/vision": {"value": 3.0, "unit": "", "low": 3.0, "high": 3.0}}
    write_json(tmp_path / "run" / "summary.json", {"run_id": "train/a/v0001", "metrics": metrics})
    folder = export(str(tmp_path / "run"), tmp_path / "shared")
    card = (folder / "README.md").read_text()
    for word in ("top_k", "vision.embedding", "mean length", "l0/vision | 3", "0" * 64):
        assert word in card
    again = load_dictionary(str(folder))
    assert torch.equal(again.dictionary.encoder.weight, dictionary.encoder.weight)
    assert again.sites == {"vision": "vision.embedding", "language": "language.embedding"}
    other = export(str(tmp_path / "run"), tmp_path / "lens", form="saelens")
    found = load_dictionary(str(other))
    assert found.sites == again.sites
    with pytest.raises(ValueError, match="mean length"):
        found.check({"vision": 10 * rows})
    with pytest.raises(ValueError, match="there already"):
        export(str(tmp_path / "run"), tmp_path / "lens")


class Hub(BaseHTTPRequestHandler):
    """What the Hub's client asks of a server to make a repository and take a commit, kept in memory."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    created: list[dict] = []  # noqa: RUF012

    def log_message(self, *arguments):
        pass

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.answer({"id": "me/topics", "sha": "a" * 40, "siblings": [], "xetEnabled": False})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/api/repos/create"):
            self.created.append(json.loads(body))
            return self.answer({"url": "me/topics", "id": "me/topics", "name": "me/topics"})
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
            return self.answer({"files": modes})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            address = f"http://{self.headers['Host']}/me/topics/commit/{'a' * 40}"
            return self.answer({"commitUrl": address, "commitOid": "a" * 40, "success": True})
        return self.answer({})


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    import huggingface_hub.hf_api as api

    address = f"http://{server.server_name}:{server.server_port}"
    client = api.HfApi
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: client(endpoint=address, token="hf_test"))
    yield Hub
    server.shutdown()
    server.server_close()


def test_push_to_hub_uploads_what_loads_again(rows, tmp_path, hub):
    dictionary = saved(tmp_path / "own", rows)
    (tmp_path / "scratch").mkdir()
    address = push_to_hub(str(tmp_path / "own"), "me/topics", tmp_path / "scratch")
    assert address.endswith("a" * 40)
    created = hub.created[0]
    assert created.get("private") is True or created.get("visibility") == "private"
    assert set(hub.files) == {"README.md", "config.json", "input.json", "model.safetensors"}
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in hub.files.items():
        (arrived / name).write_bytes(content)
    assert torch.equal(from_pretrained(arrived).decoder.weight, dictionary.decoder.weight)

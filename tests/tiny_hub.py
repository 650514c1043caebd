"""A stand-in for the Hugging Face Hub: one repository of a dataset, served from a folder on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "zoo/photos"


def write_repository(folder: Path, rows: int = 6) -> Path:
    """Write a dataset of pictures as Parquet, with the classes' names in its schema, and two splits."""
    import datasets as hf
    from PIL import Image

    features = hf.Features(
        {
            "picture": hf.Image(),
            "caption": hf.Value("string"),
            "animal": hf.ClassLabel(names=["cat", "dog"]),
            "owner": hf.Value("string"),
        }
    )
    for split, first in (("train", 0), ("test", 100)):
        encoded = []
        for number in range(rows):
            stream = io.BytesIO()
            Image.new("RGB", (6, 4), (first + number, 0, 0)).save(stream, "PNG")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        columns = {
            "picture": encoded,
            "caption": [f"{split} picture {number}" for number in range(rows)],
            "animal": [number % 2 for number in range(rows)],
            "owner": [f"owner {number // 2}" for number in range(rows)],
        }
        (folder / "data").mkdir(parents=True, exist_ok=True)
        hf.Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    requests: list[str]

    def log_message(self, *arguments):
        """Say nothing."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        self._json([self._entry(name) for name in asked if (self.folder / name).exists()])

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.requests.append(f"{self.command} {path}")
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            self._tree(path.split("/tree/")[1].partition("/")[2])
        elif path in (f"/api/datasets/{NAME}", *(f"/api/datasets/{NAME}/revision/{r}" for r in ("main", COMMIT))):
            self._json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self._names()]})
        elif path.startswith(f"/api/datasets/{NAME}/revision/"):
            self._missing("RevisionNotFound")
        elif path.startswith(f"/datasets/{NAME}/resolve/"):
            self._file(path.split("/resolve/")[1].split("/", 1)[1])
        else:
            self._missing("RepoNotFound")

    def _names(self):
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def _tree(self, folder):
        if not (self.folder / folder).is_dir():
            self._missing("EntryNotFound")
            return
        recursive = "recursive=true" in self.path.lower()
        found = sorted((self.folder / folder).rglob("*") if recursive else (self.folder / folder).iterdir())
        self._json([self._entry(path.relative_to(self.folder).as_posix()) for path in found])

    def _entry(self, name):
        if (self.folder / name).is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT}
        data = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _file(self, name):
        if not (self.folder / name).is_file():
            self._missing("EntryNotFound")
            return
        data = (self.folder / name).read_bytes()
        span = self.headers.get("Range")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self._send(206, part, headers)
        else:
            self._send(200, data, headers)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code):
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"})

    def _send(self, status, data, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class TinyHub:
    """The server; ``address`` is where it listens, ``requests`` what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"folder": folder, "requests": self.requests})
        here = socket.inet_ntoa(b"\x7f\x00\x00\x01")
        self.server = ThreadingHTTPServer((here, 0), handler)
        self.address = f"http://{here}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop to answer."""
        self.server.shutdown()
        self.server.server_close()

"""Bad input of every kind, hand-made and generated: what a command is given, and the word that its answer must name.

:func:`build` lays a small world into a folder, done runs and data beside it, and returns the cases by kind.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARTS = Path(__file__).parent / "plugin_files" / "tiny_parts.py"
TINY = ("--plugin", str(PARTS), "model=tiny")
TRAIN, EXTRACT = "train/tiny-shapes-my_sae/v0001", "extract/tiny-shapes/v0001"
QUICK = ("train.epochs=1", "train.batch_size=16", "train.evaluate.bootstrap=2", "train.evaluate.names=false")


@dataclass(frozen=True)
class Case:
    """A command, and what its answer must name; ``codes`` are the exit codes that are right."""

    words: tuple[str, ...]
    names: str
    codes: tuple[int, ...] = (2,)

    def __str__(self) -> str:
        return " ".join(word if len(word) < 60 else f"{word[:40]}…" for word in self.words)


@dataclass(frozen=True)
class World:
    """Folders of a small world: data, and runs that are done."""

    folder: Path
    runs: Path

    def place(self, name: str) -> Path:
        """Make a new folder of a name."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


def make_runs(world: World, main: Callable[[list[str]], int]) -> None:
    """Make an extraction and a training that are done."""
    words = ["train", *TINY, "objective=my_sae", "dataset.n=60", "extract.shard_samples=32", *QUICK]
    assert main(words) == 0


def build(world: World) -> dict[str, list[Case]]:
    """Return every case by kind."""
    return {
        "words of the command line": [*command_line(world)],
        "overrides that are none": [*overrides()],
        "names that nothing has": [*unknown_names()],
        "settings of a wrong kind": [*wrong_settings()],
        "parameters out of bounds": [*wrong_parameters()],
        "plug-ins and own configurations": [*own_parts(world)],
        "captions and pictures": [*captions(world)],
        "arrays": [*arrays(world)],
        "texts": [*texts(world)],
        "archives": [*archives(world)],
        "models and dictionaries": [*weights(world)],
        "damaged stores": [*stores(world)],
        "damaged runs": [*runs(world)],
    }


def command_line(world: World) -> Iterator[Case]:
    """Words that no command has, and places that are not there."""
    plain = {
        ("trian",): "trian",
        ("train", "--modle", "clip"): "--modle",
        ("train", "-seed", "3"): "-seed",
        ("train", "--limit"): "--limit",
        ("train", "--limit", "0"): "limit",
        ("train", "--limit", "-5"): "limit",
        ("train", "--limit", "many"): "limit",
        ("train", "--seed", "-1"): "seed",
        ("train", "--seed", "1.5"): "seed",
        ("train", "--device", "toaster"): "hardware.device",
        ("extract", *TINY, "--name", "../../etc"): "../../etc",
        ("extract", *TINY, "--name", "latest"): "latest",
        ("extract", *TINY, "--name", "v0001"): "v0001",
        ("extract", *TINY, "--name", "a" * 300): "200",
        ("extract", *TINY, "--name", "a/b"): "a/b",
        ("extract", *TINY, "--name", "-x"): "-x",
        ("train", "--run", "nowhere/at/all"): "nowhere/at/all",
        ("train", "--run", "/etc/passwd"): "/etc/passwd",
        ("train", "--run", "hub:someone/something"): "hub:someone/something",
        ("train", "--config-dir", str(world.folder / "absent")): "absent",
        ("train", "--plugin", "absent.py"): "absent.py",
        ("train", "--plugin", "no-name.py"): "no-name.py",
        ("train", "--plugin", "os"): "os",
        ("train", "--compare", "a", "b"): "--compare",
        ("aqi", "--compare", "a"): "compare",
        ("aqi", "--compare", "a", "b"): "'a'",
        ("probe", "--layer", ""): "extract.sites",
        ("runs",): "Usage",
        ("runs", "shwo", "x"): "shwo",
        ("runs", "show"): "RUN",
        ("runs", "show", "nowhere"): "nowhere",
        ("runs", "show", ""): "''",
        ("runs", "show", "../../etc"): "../../etc",
        ("runs", "show", "/dev/null"): "/dev/null",
        ("runs", "diff", "a"): "RUN",
        ("runs", "path", "a/b/c/d"): "a/b/c/d",
        ("runs", "list", "--status", "asleep"): "asleep",
        ("runs", "list", "--limit", "0"): "limit",
        ("runs", "logs", EXTRACT, "-n", "-2"): "lines",
        ("runs", "resume", "nowhere"): "nowhere",
        ("runs", "resume", "sweeps/none"): "sweeps/none",
        ("runs", "resume", EXTRACT): EXTRACT,
        ("runs", "rm"): "RUN",
        ("runs", "rm", "--yes", "nowhere"): "nowhere",
        ("runs", "rm", "--yes", EXTRACT): TRAIN,
        ("runs", "rm", "--yes", "/"): "/",
        ("runs", "export", "nowhere", str(world.folder / "x")): "nowhere",
        ("runs", "export", TRAIN, str(world.folder)): str(world.folder),
        ("runs", "export", TRAIN, str(world.folder / "y"), "--format", "zip"): "zip",
        ("runs", "push", "nowhere", "org/name"): "nowhere",
        ("report",): "RUN",
        ("report", "nowhere"): "nowhere",
        ("report", TRAIN, "--names", "absent.csv"): "absent.csv",
        ("train", "-m", "seed=1,a"): "seed",
        ("train", "-m", "seed=", "model=clip"): "seed",
    }
    for words, names in plain.items():
        yield Case(words, names, (0, 2) if words == ("runs",) else (2,))


def overrides() -> Iterator[Case]:
    """Words that Hydra's grammar does not know, or that reach for what it keeps to itself."""
    for word in (
        *("seed==", "seed=[1", "seed={a", "seed='abc", "a b=1", "=1", "seed", "+", "~", "++", "@=1", ".seed=1"),
        *("train..lr=1", "train.=1", "train.lr=${", "train.lr=${nowhere}", "model=clip=2", "seed=\x00", "seed=1 2"),
        *("s€€d=1", "seed=(1", "seed=1)", "seed=$(ls)", "seed=`ls`", "{seed}=1", "seed:1", "seed=🦆"),
        *("seed=1,2", "objective=vl_sae,top_k", "train.lr=choice(1,2)", "seed=range(1,3)", "train.lr=interval(0,1)"),
        *("model@other=clip", "model/clip=1", "hydra/launcher=none", "~hydra"),
        "train.lr=${oc.env:HOME}",
        "limit=${oc.decode:'[1'}",
        "text=" + "x" * 10,
        "seed=" + "9" * 5000,
        "+" + "a." * 400 + "b=1",
    ):
        key = re.split(r"[=:.@/ ]", word.strip("+~@.={}"))[0]
        yield Case(("train", word), "''" if key == "1" else key[:20])


def unknown_names() -> Iterator[Case]:
    """A choice that no group has, and a key that no node has."""
    for stage, word in (
        *(("train", "model=clp"), ("train", "dataset=shapez"), ("train", "objective=vlsae"), ("train", "hardware=tpu")),
        *(("train", "logger=paper"), ("train", "experiment=none_such"), ("probe", "probe=lineer")),
        *(("enhance", "task=zero_shoot"), ("train", "launcher=pigeon"), ("train", "model=../../etc/passwd")),
        *(("train", "model=''"), ("train", "objective.kk=3"), ("train", "train.lrr=1"), ("train", "trian.lr=1")),
        *(("extract", "extract.site=all"), ("extract", "split.train=0.5"), ("train", "hardware.gpus=2")),
        *(("extract", "dataset.n_samples=3"), ("probe", "probe.fold=3"), ("enhance", "task.alhpa=1")),
        *(("aqi", "aqi.block=3"), ("train", "model.chekpoint=x"), ("train", "seeds=1"), ("extract", "objective=top_k")),
    ):
        group = word.split("=")[0]
        says = group if ("." in word and "/" not in word) or group in ("seeds", "objective") else word.split("=")[1]
        yield Case((stage, word), says.strip("'"))


def wrong_settings() -> Iterator[Case]:
    """For every setting of every stage a value of a wrong kind: a mapping, and for numbers one that is none."""
    from vlsae.settings import SETTINGS

    # A picture's name and a text are the user's own words, whatever they are.
    skipped = {"stage", "launcher.jobs", "hardware.quantisation", "dictionary", "image", "text"}
    for path, annotation in SETTINGS.items():
        if path in skipped:
            continue
        head = path.split(".")[0]
        stage = head if head in ("aqi", "enhance", "train") else "extract"
        number = any(word in str(annotation) for word in ("Range", "'float'"))
        yield Case((stage, f"{path}=nan" if number else f"{path}={{a: [1, 2]}}"), path)


def wrong_parameters() -> Iterator[Case]:
    """For every objective, data set, probe and task numbers that make no sense."""
    from vlsae.config import config_dir, target_class
    from vlsae.signatures import settings_of

    for group, stage in (("objective", "train"), ("probe", "probe"), ("task", "enhance"), ("dataset", "extract")):
        for file in sorted((config_dir() / group).glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line.startswith("_target_")]
            if not lines:
                continue
            target = lines[0].split(":")[1].strip()
            bounded = [
                name
                for name, one in settings_of(target_class(target)).items()
                if "Range" in str(one) and f"\n{name}:" in text
            ]
            needed = [f"{group}.{name}=nowhere" for name in re.findall(r"^(\w+): \?\?\?", text, re.MULTILINE)]
            for name in bounded[:1]:
                yield Case((stage, f"{group}={file.stem}", *needed, f"{group}.{name}=-3"), f"{group}.{name}")
    for word in ("objective.k=-3", "objective.k=0", "objective.k=1.5", "objective.k=abc", "objective.k=true"):
        yield Case(("train", word), "objective.k")
    yield Case(("train", "objective.n_concepts=8", "objective.k=9"), "objective.k")
    yield Case(("train", *TINY, "dataset.n=0"), "n")
    yield Case(("extract", *TINY, "dataset.n=-4"), "dataset.n")
    yield Case(("extract", *TINY, "dataset.n=20", "split.validation=0.9", "split.test=0.9"), "split")
    yield Case(("extract", *TINY, "dataset.n=20", "--layer", "vision.77"), "vision.77")
    yield Case(("extract", *TINY, "dataset.n=20", "--layer", "-1"), "-1")
    yield Case(("train", *TINY, "dataset.n=20", "hardware.device=cuda:7"), "cuda:7")
    yield Case(("extract", *TINY, "dataset.n=20", "hardware.workers=100000"), "hardware.workers")
    yield Case(("extract", *TINY, "dataset.n=20", "hardware.threads=1000000"), "hardware.threads")
    yield Case(("extract", *TINY, "dataset.n=20", "runs_dir='\udcff'"), "UTF-8")


def own_parts(world: World) -> Iterator[Case]:
    """Plug-ins that cannot be imported, and configurations that try what they may not."""
    plugins = {
        "syntax": "def (",
        "raising": "1 / 0\n",
        "leaving": "import sys\nsys.exit(3)\n",
        "binary": "\udcff\udcfe",
        "lacking": "import no_such_module_anywhere\n",
        "json": "raise KeyboardInterrupt\n",
    }
    folder = world.place("plugins")
    for name, text in plugins.items():
        file = folder / f"{name}.py"
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        yield Case(("train", "--plugin", str(file)), f"{name}.py" if name != "lacking" else "no_such_module_anywhere")
    nodes = {
        "system": "_target_: os.system\ncommand: touch OWNED",
        "partial": "_target_: vlsae.dictionaries.vl_sae.VLSAE\n_partial_: true",
        "nested": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: {_target_: builtins.eval}",
        "list": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: [[{_target_: subprocess.Popen}]]",
        "python": "!!python/object/apply:os.system ['touch OWNED']",
        "decoded": "_target_: ${oc.decode:'os.system'}",
        "created": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: ${oc.create:{_target_:os.system}}",
        "environment": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: ${oc.env:HOME}",
        "endless": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: ${objective.k}",
        "search": "defaults:\n  - /../../../etc/passwd\n",
        "utf16": "\xff\xfe_\x00",
        "tab": "_target_:\tvlsae.dictionaries.vl_sae.VLSAE\n\tk: 3",
        "anchor": "_target_: vlsae.dictionaries.vl_sae.VLSAE\nk: *nowhere",
        "deep": "{a: " * 200 + "1" + "}" * 200,
        "twice": "_target_: vlsae.dictionaries.vl_sae.VLSAE\n_target_: os.system",
    }
    folder = world.place("configurations/objective")
    for name, text in nodes.items():
        (folder / f"{name}.yaml").write_bytes(text.encode("latin-1"))
        yield Case(
            ("train", "--config-dir", str(folder.parent), f"objective={name}"),
            "objective" if name != "search" else "etc",
        )


def png(width: int = 8, height: int = 8, value: int = 3) -> bytes:
    """A whole picture."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (value, 7, 9)).save(stream, "PNG")
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A picture of a few bytes that says it is 60,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def pictures() -> dict[str, bytes]:
    """Pictures that are none, by name."""
    whole = png(40, 40)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0xFF
    gif = io.BytesIO()
    Image.new("P", (5, 5)).save(gif, "GIF")
    return {
        "empty.png": b"",
        "half.png": whole[: len(whole) // 2],
        "head.png": whole[:20],
        "flipped.png": bytes(flipped),
        "words.png": b"this is no picture at all",
        "bomb.png": bomb(),
        "nothing.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
        "script.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "cut.jpg": b"\xff\xd8\xff\xe0" + b"\0" * 40,
        "cut.gif": gif.getvalue()[:20],
        "zeros.bmp": b"BM" + b"\0" * 60,
        "tail.webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 ",
        "wide.tif": b"II*\0\x08\0\0\0" + b"\xff" * 30,
    }


def extraction(kind: str, path: Path, *more: str) -> tuple[str, ...]:
    """The command that reads a data set of one's own."""
    return ("extract", *TINY, f"dataset={kind}", f"dataset.path='{path}'", *more)


def captions(world: World) -> Iterator[Case]:
    """Pictures that cannot be read, and tables of captions that make no sense."""
    for name, data in pictures().items():
        folder = world.place(f"pictures/{name}")
        (folder / name).write_bytes(data)
        (folder / "whole.png").write_bytes(png())
        (folder / "captions.csv").write_text(f"image,caption\nwhole.png,a\n{name},b\n")
        yield Case(extraction("captions", folder), name)
    tables: dict[str, tuple[str, bytes, str]] = {
        "absent": ("captions.csv", b"image,caption\nnone.png,a\n", "none.png"),
        "outside": ("captions.csv", b"image,caption\n../../../etc/passwd,a\n", "passwd"),
        "absolute": ("captions.csv", b"image,caption\n/etc/passwd,a\n", "passwd"),
        "no caption": ("captions.csv", b"image,caption\nwhole.png,\n", "captions.csv"),
        "no columns": ("captions.csv", b"a,b\n1,2\n", "captions.csv"),
        "empty": ("captions.csv", b"", "captions.csv"),
        "latin": ("captions.csv", "image,caption\nwhole.png,café\n".encode("latin-1"), "captions.csv"),
        "mixed": ("captions.csv", "image,caption\nwhole.png,é\n".encode() + b"whole.png,\xe9\n", "captions.csv"),
        "utf16": ("captions.csv", "image,caption\nwhole.png,a\n".encode("utf-16"), "UTF-16"),
        "null": ("captions.csv", b"image,caption\nwhole.png,a\x00b\n\x00", "captions.csv"),
        "cells": ("captions.csv", b"image,caption\nwhole.png,a,b,c\n", "line 2"),
        "json": ("captions.json", b'{"whole.png": ', "captions.json"),
        "number": ("captions.json", b"3", "captions.json"),
        "nan": ("captions.json", b'[{"image": "whole.png", "text": NaN}]', "captions.json"),
        "lines": ("captions.jsonl", b'{"image": "whole.png"\n', "captions.jsonl"),
        "deep": ("captions.json", b"[" * 50_000, "captions.json"),
        "twice": ("captions.csv", b"id,image,caption\n1,whole.png,a\n1,whole.png,a\n", "'1'"),
        "parquet": ("captions.parquet", b"PAR1 nothing PAR1", "captions.parquet"),
        "split": ("captions.csv", b"image,caption,split\nwhole.png,a,sometimes\n", "sometimes"),
    }
    for name, (file, data, says) in tables.items():
        folder = world.place(f"captions/{name}")
        (folder / "whole.png").write_bytes(png())
        (folder / file).write_bytes(data)
        yield Case(extraction("captions", folder), says)
    folder = world.place("captions/whole")
    (folder / "whole.png").write_bytes(png())
    (folder / "captions.csv").write_text("image,caption\nwhole.png,a\n")
    yield Case(extraction("captions", folder, "dataset.columns.text=kaption"), "kaption")
    yield Case(extraction("captions", folder, "dataset.captions=other.csv"), "other.csv")
    yield Case(extraction("captions", folder, "dataset.images=other"), "other")
    yield Case(extraction("captions", world.folder / "absent"), "absent")
    yield Case(extraction("captions", folder / "whole.png"), "whole.png")
    yield Case(extraction("captions", Path("/dev/null")), "/dev/null")
    yield Case(extraction("image_folder", world.place("no pictures")), "no pictures")
    folder = world.place("wordless")
    (folder / "whole.png").write_bytes(png())
    yield Case(extraction("image_folder", folder), "language.embedding")
    folder = world.place("captions/bytes")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(png())
    yield Case(extraction("image_folder", folder), "\\udcff.png")


#: The header of an array that would run code, were it evaluated.
CODE = b"{'descr': __import__('os').system('touch OWNED'), 'fortran_order': False, 'shape': (1,)}\n"


def arrays(world: World) -> Iterator[Case]:
    """Arrays of wrong dtypes and shapes, and files that are none."""
    images = np.zeros((4, 6, 6), np.uint8)
    contents: dict[str, dict[str, np.ndarray]] = {
        "object": {"images": np.array([b"\x80\x04.", None], dtype=object)},
        "float": {"images": np.full((4, 6, 6), np.nan)},
        "signed": {"images": images.astype(np.int64) - 5},
        "complex": {"images": images.astype(complex)},
        "text": {"images": np.array(["a", "b"])},
        "flat": {"images": np.zeros((4, 36), np.uint8)},
        "point": {"images": np.zeros((), np.uint8)},
        "five": {"images": np.zeros((4, 6, 6, 3, 2), np.uint8)},
        "channels": {"images": np.zeros((4, 6, 6, 7), np.uint8)},
        "none": {"images": np.zeros((0, 6, 6), np.uint8)},
        "thin": {"images": np.zeros((4, 0, 6), np.uint8)},
        "labels": {"images": images, "labels": np.zeros(3, int)},
        "square": {"images": images, "labels": np.zeros((4, 2), int)},
        "unnamed": {"things": images},
    }
    for name, content in contents.items():
        folder = world.place(f"arrays/{name}")
        np.savez(folder / f"{name}.npz", **content)
        yield Case(extraction("image_arrays", folder / f"{name}.npz"), name)
    folder = world.place("arrays/files")
    files = {
        "pickle.npy": pickle.dumps({"a": 1}),
        "empty.npz": b"",
        "cut.npz": (world.folder / "arrays/flat/flat.npz").read_bytes()[:60],
        "words.npy": b"not an array",
        "head.npy": b"\x93NUMPY\x01\x00\xff\xff{",
        "code.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(CODE)) + CODE,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
        yield Case(extraction("image_arrays", folder / name), name)
    for name, data in {
        "train-images-idx3-ubyte": struct.pack(">IIII", 0x00000803, 1000, 28, 28) + b"\0" * 9,
        "train-images-idx9-ubyte": struct.pack(">I", 0x00000809) + b"\xff" * 40,
        "train-images-idx3-ubyte.gz": b"\x1f\x8b\x08\x00 cut",
    }.items():
        folder = world.place(f"arrays/idx/{name}")
        (folder / name).write_bytes(data)
        yield Case(extraction("image_arrays", folder), name)


def texts(world: World) -> Iterator[Case]:
    """Text files in no or several encodings, and tables without texts."""
    for name, data in {
        "empty.txt": b"",
        "blank.txt": b"\n \n\t\n",
        "binary.txt": bytes(range(256)) * 4,
        "mixed.txt": "é\n".encode() + b"\xe9\n",
        "utf16.txt": "a\nb\n".encode("utf-16"),
        "cut.txt": "naïve".encode()[:3],
        "table.csv": b"a,b\n1\n",
        "lines.jsonl": b"{'text': 'a'}\n",
        "list.json": b"[1, 2, 3]",
        "frame.parquet": b"PAR1",
        "numbers.csv": b"text,label\n,\n,\n",
    }.items():
        folder = world.place(f"texts/{name}")
        (folder / name).write_bytes(data)
        yield Case(extraction("text", folder / name), name)
    folder = world.place("texts/other")
    (folder / "list.exe").write_bytes(b"MZ")
    yield Case(extraction("text", folder / "list.exe"), "list.exe")
    yield Case(extraction("text", world.folder / "absent.txt"), "absent.txt")
    (folder / "endless.txt").symlink_to("/dev/zero")
    yield Case(extraction("text", folder / "endless.txt"), "no regular file")
    yield Case(extraction("hub", folder), "other")
    yield Case(extraction("litmus", folder / "list.exe"), "list.exe")
    yield Case(("extract", *TINY, "dataset=hub", "dataset.name=../../etc"), "../../etc")


def archives(world: World) -> Iterator[Case]:
    """Archives that reach out of their folder, swell, or are none."""
    made: dict[str, dict[str, bytes]] = {
        "outside.zip": {"../../cat.png": png()},
        "absolute.zip": {"/tmp/cat.png": png()},
        "drive.zip": {"C:\\cat.png": png()},
        "swelling.zip": {"cat.png": b"\0" * 60_000_000},
        "broken.zip": {"cat.png": png()[:30]},
    }
    for name, members in made.items():
        folder = world.place(f"archives/{name}")
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
            for member, data in members.items():
                file.writestr(member, data)
        (folder / "captions.csv").write_text("image,caption\ncat.png,a\n")
        yield Case(extraction("captions", folder), "cat.png")
    for name, data in {"empty.zip": b"", "words.zip": b"PK nothing", "cut.zip": b"PK\x03\x04" + b"\0" * 20}.items():
        folder = world.place(f"archives/{name}")
        (folder / name).write_bytes(data)
        (folder / "captions.csv").write_text("image,caption\ncat.png,a\n")
        yield Case(extraction("captions", folder), name)
    folder = world.place("archives/tar")
    with tarfile.open(folder / "images.tar", "w") as file:
        link = tarfile.TarInfo("cat.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        outside = tarfile.TarInfo("../dog.png")
        outside.size = len(png())
        file.addfile(outside, io.BytesIO(png()))
    (folder / "captions.csv").write_text("image,caption\ncat.png,a\n../dog.png,b\n")
    yield Case(extraction("captions", folder), "cat.png")


class Touch:
    """What a foreign pickle would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (_touch, (str(self.path),))


def _touch(path: str) -> None:
    Path(path).touch()


def weights(world: World) -> Iterator[Case]:
    """Checkpoints and dictionaries that are none, of other shapes, or that would run code."""
    folder = world.place("weights")
    (folder / "foreign.pt").write_bytes(pickle.dumps(Touch(world.folder / "OWNED")))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "huge.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    (folder / "words.bin").write_bytes(b"no weights")
    bare = world.place("weights/bare")
    for stage, model in (("extract", "clip"), ("extract", "lm"), ("extract", "vit")):
        yield Case((stage, f"model={model}", "model.checkpoint=path:/nowhere/at/all"), "/nowhere/at/all")
        yield Case((stage, f"model={model}", f"model.checkpoint=path:{bare}"), str(bare))
        yield Case((stage, f"model={model}", "model.checkpoint=path:"), "model.checkpoint")
    configured = world.place("weights/configured")
    (configured / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoConfig": "evil.Evil"}}')
    (configured / "evil.py").write_text("open('OWNED', 'w')\n")
    (configured / "model.safetensors").write_bytes(b"")
    yield Case(("extract", "model=lm", f"model.checkpoint=path:{configured}", "--limit", "2"), "configured")
    broken = world.place("weights/broken")
    (broken / "config.json").write_text("{")
    (broken / "open_clip_config.json").write_text("[1]")
    (broken / "model.safetensors").write_bytes(b"")
    (broken / "open_clip_model.safetensors").write_bytes(b"")
    for model in ("lm", "clip", "vit"):
        yield Case(("extract", f"model={model}", f"model.checkpoint=path:{broken}", "--limit", "2"), "broken")
    probing = ("probe", *TINY, "probe=dictionary", "--run", EXTRACT)
    for name in ("foreign.pt", "empty.safetensors", "huge.safetensors", "words.bin", "bare", "absent"):
        yield Case((*probing, f"dictionary='{folder / name}'"), name)
    yield Case((*probing, "dictionary=hub:../../etc"), "../../etc")
    yield Case((*probing, "dictionary={path: 3}"), "'3'")
    for name, content in {
        "no kind": {"width": 8},
        "other kind": {"kind": "os.system", "schema": 1, "digest": "0"},
        "newer": {"kind": "vl_sae", "schema": 99, "digest": "0"},
        "list": [1],
        "numbers": {"kind": 3, "schema": 1, "digest": "0"},
    }.items():
        place = world.place(f"weights/dictionary {name}")
        (place / "config.json").write_text(json.dumps(content))
        (place / "model.safetensors").write_bytes(b"")
        yield Case((*probing, f"dictionary='{place}'"), "config.json" if name != "other kind" else "os.system")


#: What is done to a file.
DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "garbage": lambda path: path.write_bytes(b"\xff\x00" * 50) and None,
    "flipped": lambda path: path.write_bytes(_flipped(path.read_bytes())) and None,
}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


#: What reading would wait for, or never come to the end of.
ENDLESS = {"pipe": _pipe, "device": _device}


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) * 3 // 4] ^= 0x11
    return bytes(changed)


def damaged(world: World, run: str, name: str, file: str, how: Callable[[Path], None]) -> Path:
    """Return the copy of all runs in which one file of one run is damaged."""
    root = world.folder / "damaged" / name
    for one in (EXTRACT, TRAIN):
        shutil.copytree(world.runs / one, root / one)
    how(root / run / file)
    return root


def stores(world: World) -> Iterator[Case]:
    """A store of which one file is missing, cut or changed: nothing trains on it."""
    files = {
        "index.json": "index.json",
        "samples.arrow": "samples.arrow",
        "pairs.arrow": "pairs.arrow",
        "vision.embedding/00001.safetensors": "00001.safetensors",
    }
    for file, says in files.items():
        for how, damage in DAMAGE.items():
            root = damaged(world, EXTRACT, f"store {how} {says}", f"representations/{file}", damage)
            words = ("train", *TINY, "objective=my_sae", "--run", str(root / EXTRACT), *QUICK, f"runs_dir='{root}'")
            yield Case(words, says)


def runs(world: World) -> Iterator[Case]:
    """A run of which a file is missing, cut or changed, read by the commands that need it."""
    needed = {
        "manifest.json": ("show", "probe"),
        "config.yaml": ("probe",),
        "summary.json": ("show",),
        "concepts.jsonl": ("report",),
        "dictionary/config.json": ("probe", "export"),
        "dictionary/model.safetensors": ("probe", "export"),
        "dictionary/input.json": ("probe",),
    }
    harmless = {("summary.json", "missing"), ("summary.json", "flipped"), ("concepts.jsonl", "missing")}
    harmless |= {("config.yaml", "flipped"), ("concepts.jsonl", "flipped"), ("dictionary/input.json", "flipped")}
    harmless |= {("manifest.json", "flipped"), ("concepts.jsonl", "empty"), ("config.yaml", "half")}
    for file, commands in needed.items():
        for how, damage in DAMAGE.items():
            if (file, how) in harmless:
                continue
            root = damaged(world, TRAIN, f"run {how} {file.replace('/', ' ')}", file, damage)
            run = str(root / TRAIN)
            words = {
                "show": ("runs", "show", run, "--runs-dir", str(root)),
                "report": ("report", run),
                "probe": ("probe", *TINY, "probe=dictionary", "--run", run, f"runs_dir='{root}'"),
                "export": ("runs", "export", run, str(root / "exported")),
            }
            for command in commands:
                yield Case(words[command], file.rsplit("/", 1)[-1])
    for file in ("manifest.json", "config.yaml", "summary.json", "concepts.jsonl"):
        for how, damage in ENDLESS.items():
            root = damaged(world, TRAIN, f"run {how} {file}", file, damage)
            yield Case(("report", str(root / TRAIN)), file)
    manifest = json.loads((world.runs / TRAIN / "manifest.json").read_text(encoding="utf-8"))
    for name, changed in {
        "outside": {"files": [{"path": "../../../../etc/passwd", "bytes": 1, "sha256": "0"}]},
        "absolute": {"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": "0"}]},
        "status": {"status": "glorious"},
        "newer": {"schema": 99},
        "time": {"start": "yesterday"},
        "parents": {"parents": [{"_target_": "os.system"}]},
        "number": {"run_id": 7},
        "flag": {"reproducible": "yes"},
    }.items():
        root = damaged(world, TRAIN, f"manifest {name}", "log.txt", Path.unlink)
        (root / TRAIN / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        yield Case(("runs", "show", str(root / TRAIN)), next(iter(changed)))
    target = "model:\n  _target_: posix.system\n  command: touch OWNED\n"
    for name, text in {"target": target, "python": "model: !!python/object/apply:os.system ['touch OWNED']\n"}.items():
        root = damaged(world, TRAIN, f"config {name}", "log.txt", Path.unlink)
        (root / TRAIN / "config.yaml").write_text(text)
        words = ("probe", *TINY, "probe=dictionary", "--run", str(root / TRAIN), f"runs_dir='{root}'")
        yield Case(words, "posix.system" if name == "target" else "config.yaml")

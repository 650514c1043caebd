"""Which package may import which, what importing costs, and what no source may name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vlsae"

#: From what is started to what everything rests on: a package imports its own layer and those below it.
LAYERS = (
    {"cli", "__main__", "commands"},
    {"stages", "worker", "testing"},
    {"reporting", "dictionaries", "learners", "probes", "aqi", "enhancement"},
    {"models", "datasets", "representations", "training"},
    {
        "runs",
        "statistics",
        "config",
        "composition",
        "environment",
        "groups",
        "loggers",
        "plugins",
        "progress",
        "result",
        "settings",
        "signatures",
        "sweep_record",
        "targets",
    },
    {"bounds", "bundled", "errors", "lazy", "leaving", "memory", "ranks", "threads"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

#: Upward on purpose, within functions: a worker explains errors as commands do; an opened run hands out its parts.
UPWARD = {
    ("worker", "commands"),
    ("runs", "representations"),
    ("runs", "dictionaries"),
}

#: Packages that a notebook imports: no command line, no composition, no stage.
DOMAIN = [name for level in LAYERS[2:4] for name in level] + ["runs", "statistics"]
COMMAND_LINE = {"typer", "hydra"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield what a file imports when it runs, wherever in it, with the line; names for type checkers only are not."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")))


def _imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are absolute"
        if node.module == "vlsae":
            yield from ((f"vlsae.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield str(node.module), node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def part_of(path: Path) -> str:
    """Return the package, or the module at the top, that a file of ours belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "vlsae" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != part_of(path):
            yield parts[1], line


def test_every_part_has_its_layer():
    assert {part_of(path) for path in sources()} - {"__init__"} == set(LEVEL)


def test_arrows_point_down():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports vlsae.{target}"
        for path in sources()
        if part_of(path) in LEVEL
        for target, line in own_imports(path)
        if LEVEL[target] < LEVEL[part_of(path)] and (part_of(path), target) not in UPWARD
    ]
    assert not wrong


@pytest.mark.parametrize("part", [part for part, _ in sorted(UPWARD)])
def test_what_points_up_does_so_within_functions(part):
    paths = [path for path in sources() if part_of(path) == part]
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            for name, line in _imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
                target = name.split(".")[1] if name.startswith("vlsae.") else part
                assert (part, target) not in UPWARD, f"{path.relative_to(ROOT)}:{line}"


def test_domain_packages_know_no_command_line():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        if part_of(path) in DOMAIN
        for name, line in imports(path)
        if name.split(".")[0] in COMMAND_LINE
    ]
    assert not wrong


def test_sources_neither_print_nor_assert_of_arguments():
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            # What narrows a type for the checker is no check of what a user gave.
            narrows = isinstance(node, ast.Assert) and "isinstance" in ast.dump(node.test)
            if prints or (isinstance(node, ast.Assert) and not narrows):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_functions_and_files_stay_small():
    wrong = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 450:
            wrong.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1 - (ast.get_docstring(node) or "").count("\n")
                if length > 60:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines")
    assert not wrong


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("vlsae, vlsae.cli", "torch hydra omegaconf transformers open_clip numpy datasets pyarrow scipy"),
        (
            "vlsae.dictionaries.evaluation, vlsae.training.loop, vlsae.representations, vlsae.enhancement.zero_shot",
            "hydra typer transformers open_clip datasets sklearn matplotlib",
        ),
        ("vlsae.models.clip, vlsae.datasets.captions, vlsae.datasets.shapes", "torch transformers open_clip datasets"),
    ],
    ids=["command line", "training on a store", "describing a run"],
)
def test_importing_stays_cheap(modules, absent):
    code = f"import sys, {modules}; print(*sorted(set({absent.split()!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def texts() -> list[Path]:
    folders = ("vlsae", "configs", "scripts", "benchmarks", "docs", "tests")
    endings = {".py", ".yaml", ".md", ".toml", ".txt", ".j2", ".css"}
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in endings]
    return sorted(
        path for path in [*inside, *ROOT.glob("*.md"), *ROOT.glob("*.t*"), ROOT / "Makefile"] if path.is_file()
    )


def test_no_source_names_a_host_or_a_place_on_a_machine():
    # Papers, and the public project pages that a reader may want, are no hosts that the code depends on.
    allowed = re.compile(r"https?://(arxiv\.org|doi\.org|github\.com|www\.w3\.org|creativecommons\.org)\b")
    host = re.compile(r"https?://[\w.-]+|\b(?:\d{1,3}\.){3}\d{1,3}\b|\blocalhost\b")
    place = re.compile(r"(?<![\w.}/*-])/(?:work|root|home|Users|mnt|scratch|data)/\w")
    wrong = []
    for path in texts():
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if host.search(allowed.sub("", line)) or place.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong

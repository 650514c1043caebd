"""The audit of packages says what it could not look at, and fails for what is known alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def audit():
    path = Path(__file__).resolve().parent.parent / "scripts" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "says"),
    [
        ([CLEAN, SKIPPED], 0, "0 known vulnerabilities in 1 packages, 1 not audited"),
        ([CLEAN, FAULTY], 1, "b 2: PYSEC-2"),
        ([SKIPPED, SKIPPED], 0, "not audited, the data cannot be reached here: Dependency not found"),
        ([], 0, "not audited"),
    ],
)
def test_what_is_said_of_packages(audit, packages, code, says):
    found, lines = audit.judged(packages)
    assert found == code
    assert says in "\n".join(lines)


def test_without_an_answer_nothing_fails(audit):
    code, lines = audit.audit(timeout=0.01)
    assert code == 0
    assert "not audited" in lines[0]

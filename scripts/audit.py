"""Look for known vulnerabilities of the installed packages by pip-audit.

    .venv/bin/python scripts/audit.py

Exit code 1 names those that are known. Where the data cannot be reached, as without a network, that is said, and
nothing fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

#: Seconds that the data are waited for.
PATIENCE = 120


def audit(timeout: float = PATIENCE) -> tuple[int, list[str]]:
    """Return an exit code and what to say."""
    words = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return 0, [f"audit: no answer within {timeout:g} seconds; the packages were not audited"]
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 0, _not_audited((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return judged(packages)


def judged(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return an exit code and what to say of the packages, each with its ``vulns`` or a ``skip_reason``."""
    skipped = [one["skip_reason"] for one in packages if "skip_reason" in one]
    if len(skipped) == len(packages):
        return 0, _not_audited((skipped or ["no package"])[0])
    found = [f"{one['name']} {one['version']}: {fault['id']}" for one in packages for fault in one.get("vulns", [])]
    counted = f"audit: {len(found)} known vulnerabilities in {len(packages) - len(skipped)} packages"
    return int(bool(found)), [*found, f"{counted}, {len(skipped)} not audited"]


def _not_audited(reason: str) -> list[str]:
    return [f"audit: the packages were not audited, the data cannot be reached here: {reason[:200]}"]


def main() -> int:
    """Audit, say what came out, and return the exit code."""
    code, lines = audit()
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Pages in a real browser without a screen, for tests; none is needed to run the other tests."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")


def document(page: Path, seconds: int = 8) -> str:
    """Return the page's document as it stands after its scripts have run."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run"]
    words += [f"--virtual-time-budget={1000 * seconds}", "--dump-dom", f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run(
        [str(BROWSER), *words, page.as_uri()], capture_output=True, text=True, timeout=200, check=True
    )
    return done.stdout


def acted(page: Path, code: str, folder: Path) -> str:
    """Return the document after a test's own script, let in beside the page's own, has acted on it."""
    text = page.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    text = re.sub(r"script-src '", f"script-src 'sha256-{digest}' '", text, count=1)
    copy = folder / "acted.html"
    copy.write_text(text.replace("</body>", f"<script>{code}</script></body>"), encoding="utf-8")
    return document(copy)

"""The pages: every link leads somewhere, and the site is made of them without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as sites make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[-\s]+", "-", one) for one in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8")))
        waiting += [(page.parent / name).resolve() for name in targets if name and not name.startswith("http")]
    assert set(PAGES) <= reached, sorted(path.name for path in set(PAGES) - reached)


def test_every_choice_of_a_group_is_told_of_in_the_docs():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for group in ("objective", "probe", "task", "launcher", "logger"):
        for choice in sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml")):
            told = re.search(rf"(\*\*|`|=|,|\[|, ){re.escape(choice)}\b", text)
            assert told, f"{group}={choice} stands in no page"


def test_the_site_is_made_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    first = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorial/"' in first
    assert (tmp_path / "site" / "images" / "report.png").is_file()
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html"))
    fetched = re.findall(
        r'(?:src|href)="(?:https?:)?//[^"]+\.(?:css|js|woff2?)|(?:src|href)="https?://fonts[^"]*"', pages
    )
    assert not fetched, "nothing is fetched from elsewhere"

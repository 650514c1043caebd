"""A hook of MkDocs: the site's first page is README.md, its links seen from docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: Files beside README.md that are no pages of the site.
OUTSIDE = ("CONTRIBUTING.md", "LICENSE")


def page(readme: str) -> str:
    """Return README.md as a page of docs/: links into docs/ lose the folder, links beside it their target."""
    text = readme.replace("](docs/", "](").replace('src="docs/', 'src="')
    for name in OUTSIDE:
        text = text.replace(f"]({name})", "](#vlsae)")
    return text


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the files that the site is made of."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=page((ROOT / "README.md").read_text(encoding="utf-8"))))
    return files

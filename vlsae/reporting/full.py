"""The whole report in one folder: the page, every concept with all its items on pages beside it, figures and tables."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlsae.dictionaries.names_file import has_names, read_names
from vlsae.errors import UserError
from vlsae.reporting.concept_stream import CONCEPTS, Concept, each_concept
from vlsae.reporting.gallery import card_of, picture_kind
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.rendering import render
from vlsae.reporting.report import content_of
from vlsae.reporting.token_marks import token_marks
from vlsae.runs.files import write_atomic
from vlsae.runs.results import TABLES

FOLDER = "report"
PICTURES = "pictures"
CONCEPTS_A_PAGE = 100
#: Items of each list on a concept's page: all that the file holds.
EVERY_ITEM = 1000


def write_full(path: Path, *, privacy: Privacy | None = None, names: str | Path | None = None) -> Path:
    """Write a run's folder ``report/`` anew and return its ``index.html``.

    It stands alone: pictures lie in it as files, so that it has no limit of size. Concepts are read a page at a time.
    With ``privacy.redact`` the run's own tables, which hold the data's words, are not copied.
    """
    path = path.resolve()
    privacy = privacy or Privacy()
    folder = path / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    content = content_of(path, privacy, names, folder)
    pages = content.concepts is not None
    write_atomic(folder / "index.html", content.page(concepts_a_page=CONCEPTS_A_PAGE if pages else None))
    if not privacy.redact:
        for name in (TABLES, CONCEPTS):
            _copy(path / name, folder / name)
    if pages:
        known = read_names(names) if names is not None else read_names(path) if has_names(path) else {}
        sources = _Files(folder, content.stores, privacy)
        last = -(-content.concepts.total // CONCEPTS_A_PAGE) if content.concepts else 0
        for number, concepts in enumerate(_pages(path), start=1):
            marks = token_marks(path, {concept["id"] for concept in concepts})
            cards = [
                card_of(one, known.get(one["id"]), sources, marks.get(one["id"]), privacy, EVERY_ITEM)
                for one in concepts
            ]
            values = {**content.values, "cards": cards, "number": number, "last": last, "privacy": privacy.note}
            write_atomic(
                _page_file(folder, number), render("concepts.html.j2", {**values, "pictures_from": "'self' file:"})
            )
    return folder / "index.html"


def is_full(name: str) -> bool:
    """Tell whether a file of a run belongs to its full report."""
    return name.startswith(f"{FOLDER}/")


class _Files:
    """Pictures as files beside the pages, each written once, under a name that tells nothing of the sample."""

    def __init__(self, folder: Path, stores: list[Path], privacy: Privacy) -> None:
        self.folder = folder
        self._samples: list[Any] = []
        self._places: dict[str, tuple[int, int]] = {}
        if privacy.pictures:
            self._look_up(stores)

    def of(self, pair_id: str) -> str | None:
        """Return where an item's picture lies, seen from the pages of concepts; None where there is none."""
        if pair_id not in self._places:
            return None
        store, row = self._places[pair_id]
        picture = self._samples[store].column("thumbnail")[row].as_py()
        if picture is None:
            return None
        name = f"{hashlib.sha256(picture).hexdigest()[:20]}.{picture_kind(picture)}"
        file = self.folder / PICTURES / name
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(picture)
        return f"../{PICTURES}/{name}"

    def _look_up(self, stores: list[Path]) -> None:
        from vlsae.representations import Store

        for path in stores:
            try:
                samples = Store.open(path).samples
            except (UserError, OSError):
                continue
            if "thumbnail" in samples.column_names:
                place = len(self._samples)
                self._samples.append(samples)
                for row, name in enumerate(samples.column("sample_id").to_pylist()):
                    self._places.setdefault(name, (place, row))


def _pages(path: Path) -> Iterator[list[Concept]]:
    page: list[Concept] = []
    for concept in each_concept(path):
        page.append(concept)
        if len(page) == CONCEPTS_A_PAGE:
            yield page
            page = []
    if page:
        yield page


def _page_file(folder: Path, number: int) -> Path:
    file = folder / "concepts" / f"{number:04d}.html"
    file.parent.mkdir(exist_ok=True)
    return file


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copyfile(source, target)

"""``report.html``: one page a run, offline, made from the run's files and its parents' where they are at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vlsae.dictionaries.names_file import NamedConcept, has_names, read_names
from vlsae.reporting.concept_table import COLUMNS, ConceptTable, concept_table
from vlsae.reporting.curves import curves
from vlsae.reporting.factor_table import factor_rows, recovery_figure
from vlsae.reporting.figures import Figure
from vlsae.reporting.gallery import Card, Sources, gallery, thumbnails_of, wanted_pictures
from vlsae.reporting.lineage import Ancestor, configuration, everyone, facts, is_demonstration, lineage
from vlsae.reporting.lineage_graph import lineage_graph
from vlsae.reporting.numbers import grouped, headline, recovered
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.rendering import render
from vlsae.reporting.result_section import result_section
from vlsae.reporting.token_marks import token_marks
from vlsae.runs.files import write_atomic
from vlsae.runs.manifest import DONE, RUNNING, effective_status, read_manifest
from vlsae.runs.metrics import read_metrics, read_summary

logger = logging.getLogger(__name__)

REPORT = "report.html"
FIGURES = "figures"
MOST_BYTES = 20 << 20
SCRIPT = "page.js"


@dataclass(frozen=True)
class Content:
    """All that the page of a run shows; ``concepts`` is None for a run without any."""

    values: dict[str, Any]
    concepts: ConceptTable | None
    stores: list[Path]
    privacy: Privacy

    def page(self, with_pictures: bool = True, concepts_a_page: int | None = None) -> str:
        """Return the page; ``concepts_a_page`` is how many each page beside it holds, where there are such."""
        cards = self._cards(with_pictures) if self.concepts else []
        table = None
        if self.concepts:
            shown = [card.number for card in cards]
            table = {"columns": COLUMNS, "rows": self.concepts.rows, "shown": shown, "size": concepts_a_page}
        more = {"concepts": self.concepts, "cards": cards, "table": table, "concepts_a_page": concepts_a_page}
        return render("page.html.j2", {**self.values, **more}, SCRIPT if table else "")

    def _cards(self, with_pictures: bool) -> list[Card]:
        if self.concepts is None:
            return []
        chosen = self.concepts.chosen
        wanted = wanted_pictures(chosen) if with_pictures and self.privacy.pictures else set()
        marks = token_marks(self.values["path"], {concept["id"] for concept in chosen})
        return gallery(chosen, self.concepts.names, Sources(thumbnails_of(self.stores, wanted)), marks, self.privacy)


def write_report(run_path: str | Path, *, privacy: Privacy | None = None, names: str | Path | None = None) -> Path:
    """Write ``report.html`` and ``figures/`` into a run's directory and return the page's path.

    The page needs no network and runs no script but its own. It holds at most 20 MB: what does not fit is counted.
    ``names`` is a run or a CSV file whose names of concepts are shown in place of the run's own. Raises ``MissingFile``
    where there is no run.
    """
    path = Path(run_path).resolve()
    content = content_of(path, privacy or Privacy(), names)
    page = content.page()
    if len(page.encode("utf-8")) > MOST_BYTES:
        logger.warning("The report of %s would pass %d MB; its pictures are left out.", path, MOST_BYTES >> 20)
        page = content.page(with_pictures=False)
    write_atomic(path / REPORT, page)
    return path / REPORT


def content_of(path: Path, privacy: Privacy, names: str | Path | None = None, folder: Path | None = None) -> Content:
    """Return what a run's page shows, its figures written into ``folder``, where the page will lie (the run)."""
    place = folder or path
    manifest = read_manifest(path)
    config = configuration(path)
    ancestors = lineage(path, manifest, place)
    metrics = (read_summary(path) or {}).get("metrics", {})
    table = concept_table(path, _names(path, names), privacy)
    training = curves(read_metrics(path))
    recovery = recovery_figure(metrics)
    graph = lineage_graph(manifest, ancestors)
    found = result_section(path, privacy)
    every: list[Figure | None] = [graph, *(found.figures if found else []), *training, recovery]
    for figure in [*every, *(table.figures if table else [])]:
        if figure is not None:
            figure.write(place / FIGURES)
    values = {
        "path": path,
        "title": manifest["run_id"],
        "manifest": manifest,
        "privacy": privacy.note,
        "partial": config.get("limit"),
        "demonstration": is_demonstration(config),
        "status": _status(path, manifest),
        "facts": [(name, privacy.paths(text)) for name, text in facts(manifest, config)],
        "ancestors": ancestors,
        "graph": graph,
        "headline": headline(metrics, found.headline if found else ()),
        "groups": grouped(metrics),
        "recovered": recovered(metrics),
        "recovery": recovery,
        "left_out": _left_out(metrics),
        "factors": factor_rows(path),
        "training": training,
        "found": found,
        "has_names": has_names(path),
        "config": privacy.paths(_configuration_text(path)),
        "written": written(),
        "writer": manifest["packages"].get("vlsae", ""),
    }
    return Content(values, table, _stores(path, ancestors), privacy)


def written() -> str:
    """Return the time as the foot of a page tells it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _names(path: Path, given: str | Path | None) -> Mapping[int, NamedConcept]:
    if given is not None:
        return read_names(given)
    return read_names(path) if has_names(path) else {}


def _stores(path: Path, ancestors: list[Ancestor]) -> list[Path]:
    folders = [path, *(ancestor.path for ancestor in everyone(ancestors) if ancestor.path is not None)]
    stores = dict.fromkeys(folder / "representations" for folder in folders)
    return [store for store in stores if store.is_dir()]


def _status(path: Path, manifest: Mapping[str, Any]) -> str:
    """Return a status worth telling: the page of a run that goes well is written while the run still holds its lock."""
    status = effective_status(path, dict(manifest))
    return "" if status in (RUNNING, DONE) else status


def _left_out(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    names = ("factors", "factors_skipped", "factors_one_stream")
    return {name: int(metrics.get(f"recovery/{name}", {}).get("value") or 0) for name in names}


def _configuration_text(path: Path) -> str:
    file = path / "config.yaml"
    return file.read_text(encoding="utf-8", errors="replace")[:50_000] if file.is_file() else ""

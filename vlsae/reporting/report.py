"""``report.html``: one page a run, offline, made from the run's files and its parents' where they are at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from vlsae.reporting.concept_table import (
    MOST_ITEMS,
    ConceptTable,
    concept_figures,
    concept_table,
    read_concepts,
    strongest,
    thumbnails_of,
)
from vlsae.reporting.curves import curves
from vlsae.reporting.factor_table import factor_rows, recovery_figure
from vlsae.reporting.lineage import Ancestor, configuration, everyone, facts, is_demonstration, lineage
from vlsae.reporting.numbers import grouped, recovered
from vlsae.reporting.result_section import result_section
from vlsae.runs.files import write_atomic
from vlsae.runs.manifest import DONE, RUNNING, effective_status, read_manifest
from vlsae.runs.metrics import read_metrics, read_summary

logger = logging.getLogger(__name__)

REPORT = "report.html"
FIGURES = "figures"
MOST_BYTES = 20 << 20


def write_report(run_path: str | Path) -> Path:
    """Write ``report.html`` and ``figures/`` into a run's directory and return the page's path.

    The page needs no network and runs no scripts. It holds at most 20 MB: what does not fit is counted. Raises
    ``MissingFile`` where there is no run.
    """
    path = Path(run_path).resolve()
    manifest = read_manifest(path)
    config = configuration(path)
    ancestors = lineage(path, manifest)
    metrics = (read_summary(path) or {}).get("metrics", {})
    concepts = read_concepts(path)
    training = curves(read_metrics(path))
    recovery = recovery_figure(metrics)
    about_concepts = concept_figures(concepts) if concepts else []
    found = result_section(path)
    for figure in [*(found.figures if found else []), *training, *([recovery] if recovery else []), *about_concepts]:
        figure.write(path / FIGURES)
    values = {
        "manifest": manifest,
        "partial": config.get("limit"),
        "demonstration": is_demonstration(config),
        "status": _status(path, manifest),
        "facts": facts(manifest, config),
        "ancestors": ancestors,
        "groups": grouped(metrics),
        "recovered": recovered(metrics),
        "recovery": recovery,
        "left_out": _left_out(metrics),
        "factors": factor_rows(path),
        "training": training,
        "found": found,
        "about_concepts": about_concepts,
        "config": _configuration_text(path),
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "css": _part("page.css"),
    }
    page = _render({**values, "concepts": _concepts(path, concepts, ancestors)})
    if len(page.encode("utf-8")) > MOST_BYTES:
        logger.warning("The report of %s would pass %d MB; its pictures are left out.", manifest["run_id"], 20)
        page = _render({**values, "concepts": concept_table(concepts, {})})
    write_atomic(path / REPORT, page)
    return path / REPORT


def _concepts(path: Path, concepts: Sequence[Mapping[str, Any]], ancestors: list[Ancestor]) -> ConceptTable | None:
    if not concepts:
        return None
    folders = [path, *(ancestor.path for ancestor in everyone(ancestors) if ancestor.path is not None)]
    stores = [folder / "representations" for folder in folders if (folder / "representations").is_dir()]
    wanted = {item["pair_id"] for concept in strongest(concepts) for item in concept["images"][:MOST_ITEMS]}
    return concept_table(concepts, thumbnails_of(stores, wanted) if wanted else {})


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


def _part(name: str) -> str:
    return (resources.files("vlsae.reporting") / name).read_text(encoding="utf-8")


def _render(values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # matplotlib escapes the text that it draws, so its SVG may stand on the page as it is.
    environment.filters["svg"] = lambda figure: Markup(figure.svg)
    environment.filters["css"] = Markup
    return environment.from_string(_part("page.html.j2")).render(**values)

"""The table of final numbers: in groups, with intervals, units and what each means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Group of a number by the first part of its name, in the order of the page.
GROUPS = (
    ("Reconstruction", ("explained_variance", "cosine", "fvu_unit", "mse")),
    ("Use of concepts", ("l0", "l0_min", "l0_max", "dead", "dense", "bimodal_share")),
    ("Agreement of vision and language", ("consistency", "consistency_cosine", "activation_gap")),
    ("What a concept's top images and texts share", ("intra_sim", "inter_sim")),
    ("Names of concepts", ("naming",)),
    ("Retrieval within pairs", ("code_retrieval", "feature_retrieval")),
)
REST = "Further numbers"

#: Numbers shown first, in this order; a run that has none of them shows all it has.
HEADLINE = (
    "explained_variance/vision",
    "explained_variance/language",
    "l0/vision",
    "dead/vision",
    "dead/language",
    "consistency",
    "consistency/shuffled",
    "intra_sim",
    "inter_sim",
    "naming/score",
    "naming/score/shuffled",
    "recovery/auroc",
    "recovery_random/auroc",
    "recovery_units/auroc",
    "recovery_pca/auroc",
    "recovery_ceiling/auroc",
)

#: What a number means, by its name or the longest beginning of it.
MEANINGS = {
    "explained_variance": "share of the rows' variance that reconstructions explain, about the stream's own mean",
    "cosine": "mean cosine of rows and reconstructions",
    "fvu_unit": "share of variance left unexplained when both sides have length 1",
    "mse": "mean squared error, as trained",
    "l0": "active concepts a row",
    "l0_min": "fewest active concepts of a row",
    "l0_max": "most active concepts of a row",
    "dead": "concepts that no held-out row activates",
    "dense": "concepts that fire on more than a tenth of the rows",
    "bimodal_share": "live concepts with a quarter to three quarters of their activation from vision",
    "bimodal_share/energy": "the same, concepts weighted by squared activation",
    "consistency": "overlap of the concepts active on both sides of a pair (Jaccard)",
    "consistency/shuffled": "the same for pairs put together at random",
    "consistency/excess": "true pairs minus shuffled",
    "consistency/random": "what random choices of as many concepts would overlap",
    "consistency_cosine": "cosine of the codes of a pair",
    "consistency_cosine/shuffled": "the same for pairs put together at random",
    "consistency_cosine/excess": "true pairs minus shuffled",
    "activation_gap": "largest difference of one concept's activation within a pair, before any is left out",
    "intra_sim": "similarity of a concept's top images and its own top texts; higher is better",
    "inter_sim": "similarity to the top texts of other concepts; lower is better",
    "intra_sim/shuffled": "Intra-Sim with the texts of another concept",
    "intra_sim/contrast": "Intra-Sim minus Inter-Sim",
    "intra_sim/concepts": "concepts compared",
    "intra_sim/dead": "drawn concepts left out because they are dead in a stream",
    "code_retrieval": "partner found by its code, ties counting against it",
    "feature_retrieval": "partner found by the representations themselves",
    "naming/live": "concepts that some row activates",
    "naming/tested": "concepts with a proposed name and enough held-out rows",
    "naming/named": "concepts whose name passed its test; the others stay unnamed",
    "naming/distinct": "different names among them",
    "naming/score": "how well a row that says the name tells that the concept fires, all tested concepts",
    "naming/score/shuffled": "the same with the names of other concepts",
    "naming/score/excess": "own name minus names of other concepts",
    "naming/encoder_score": "the same by an independent encoder's similarity of rows and names",
    "naming/truth": "names that say the very factor which their concept follows best",
    "naming/truth/shuffled": "the same with the names of other concepts",
    "naming/rows": "held-out rows that names are tested on",
    "rows": "held-out rows scored",
    "steps": "steps trained",
    "best_epoch": "epoch whose weights were kept",
    "loss/validation": "lowest validation loss",
}

#: Methods of concept recovery, in the order of the table.
METHODS = (
    ("recovery", "This dictionary, sparse codes"),
    ("recovery_dense", "This dictionary, dense activations"),
    ("recovery_random", "Untrained dictionary of equal size, sparse codes"),
    ("recovery_random_dense", "Untrained dictionary of equal size, dense activations"),
    ("recovery_units", "Raw units, either sign"),
    ("recovery_pca", "Principal components, either sign"),
    ("recovery_ceiling", "Supervised logistic probe (ceiling)"),
)


@dataclass(frozen=True)
class Number:
    """A number as the page shows it."""

    name: str
    value: str
    interval: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Recovered:
    """A method's row of the recovery table."""

    method: str
    title: str
    auroc: Number
    f1: Number
    coverage: Number


def grouped(metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Number]]]:
    """Return the numbers of ``summary.json`` in groups, those of concept recovery left to their own table."""
    home = {first: title for title, firsts in GROUPS for first in firsts}
    groups: dict[str, list[Number]] = {title: [] for title in (*(title for title, _ in GROUPS), REST)}
    for name, measure in metrics.items():
        if not name.startswith("recovery"):
            groups[home.get(name.split("/")[0], REST)].append(number(name, measure))
    return [(title, numbers) for title, numbers in groups.items() if numbers]


def headline(metrics: Mapping[str, Mapping[str, Any]], named: Sequence[str] = ()) -> list[Number]:
    """Return the numbers shown first: those that the stage named, else the known ones."""
    return [number(name, metrics[name]) for name in named or HEADLINE if name in metrics]


def recovered(metrics: Mapping[str, Mapping[str, Any]]) -> list[Recovered]:
    """Return the recovery table's rows, none where recovery was not measured."""
    rows = []
    for method, title in METHODS:
        if f"{method}/auroc" in metrics:
            cells = (
                number(f"{method}/{part}", metrics.get(f"{method}/{part}", {})) for part in ("auroc", "f1", "coverage")
            )
            rows.append(Recovered(method, title, *cells))
    return rows


def number(name: str, measure: Mapping[str, Any]) -> Number:
    """Return a number of ``summary.json`` as text."""
    low, high = measure.get("low"), measure.get("high")
    interval = "" if low is None or high is None else f"{text_of(low)} – {text_of(high)}"
    return Number(name, text_of(measure.get("value")), interval, str(measure.get("unit") or ""), meaning(name))


def meaning(name: str) -> str:
    """Return what a number means, empty where nothing is known of it."""
    parts = name.split("/")
    for length in range(len(parts), 0, -1):
        if "/".join(parts[:length]) in MEANINGS:
            return MEANINGS["/".join(parts[:length])]
    return ""


def text_of(value: Any) -> str:
    """Return a number with four significant digits, a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"
    return f"{value:.3g}"

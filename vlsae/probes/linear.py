"""probe=linear: what a linear read-out finds in each layer, beside controls (Alain and Bengio, 2016, arXiv 1610.01644).

Shapes: n rows of a site, d columns, T targets, K folds, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.probes.base import Measured, Probe, Representations, SiteRows
from vlsae.probes.entities import MANY, repeated
from vlsae.probes.findings import Finding, result_of
from vlsae.probes.folds import grouped_folds, lacking
from vlsae.probes.nested import Nested, nested, with_penalties
from vlsae.probes.online_code import code_length
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress

logger = logging.getLogger(__name__)

#: Targets up to which each has a line in the log that says how it is read.
TOLD = 10

#: λ of Σ loss + λ/2 ‖w‖², on columns of unit variance.
PENALTIES = [1.0, 1e1, 1e2, 1e3, 1e4]

#: The site that stands for the words of the texts alone, and how many of them it counts.
WORDS, MOST_WORDS = "words", 1000

Penalty = Annotated[float, Range(1e-12, None)]


class Linear(Probe):
    """Linear probes of every site for every target: logistic regression of classes, ridge regression of numbers.

    Each fold is scored by a fit whose penalty was chosen on the other folds alone. ``control`` adds the control task of
    Hewitt and Liang (2019), ``words`` the read-out of word counts, ``code_length`` the shuffles of the online code
    behind each description length, for ``code_sites`` ``best``, each target's best site, or ``all``. ``samples`` bounds
    how many are probed; whole groups are drawn.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None = None,
        types: dict[str, str] | None = None,
        folds: Annotated[int, Range(3, 100)] = 5,
        penalties: list[Penalty] | None = None,
        scale: bool = True,
        components: Annotated[int, Range(1, None)] | None = None,
        samples: Annotated[int, Range(10, None)] | None = 1000,
        control: bool = True,
        words: bool = True,
        code_length: Annotated[int, Range(0, None)] = 1,
        code_sites: Annotated[str, OneOf("best", "all")] = "best",
        resamples: Annotated[int, Range(100, None)] = 1000,
    ) -> None:
        self.targets, self.types, self.folds, self.scale = targets, types or {}, folds, scale
        self.penalties = PENALTIES if penalties is None else list(penalties)
        if not self.penalties:
            raise UserError("probe.penalties is empty.", "Name at least one penalty.")
        self.components, self.samples, self.control, self.words = components, samples, control, words
        self.code_length, self.code_sites, self.resamples = code_length, code_sites, resamples

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there or say nothing, and for fewer groups than folds."""
        self._settled(targets, 0)

    def measure(self, representations: Representations, targets: Targets) -> Measured:
        """Return score, control, selectivity and description length by target and site, and the directions."""
        seed = representations.seed
        samples, chosen, notes = self._settled(targets, seed)
        many = len(chosen) > TOLD
        if many:
            logger.info("%d targets: %s", len(chosen), ", ".join(one.name for one in chosen))
        for one in chosen:
            logger.log(logging.DEBUG if many else logging.INFO, "target %s: %s", one.name, described(one, samples))
        sites = [*representations, *self._word_site(targets, representations)]
        findings: list[Finding] = []
        with progress("probe", len(sites), "sites") as advance:
            for site, rows in sites:
                findings += self._of_site(site, rows, samples, chosen, targets, seed)
                advance(1, site)
        if self.code_length:
            findings = self._told(findings, dict(sites), seed)
        notes += self._warnings(targets, findings)
        return result_of(findings, chosen, notes, resamples=self.resamples, seed=seed)

    def _settled(self, targets: Targets, seed: int) -> tuple[np.ndarray, list[Target], list[str]]:
        """Return which samples ``(s,)`` are probed, the targets, and what was left out and why."""
        chosen = targets.select(self.targets, self.types)
        groups = targets.groups
        kept = np.ones(len(targets), dtype=bool)
        if self.samples is not None and len(targets) > self.samples:
            order = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
            kept[np.argsort(order, kind="stable")[self.samples :]] = False
        folds = grouped_folds(groups[kept], self.folds, seed)
        good, notes = [], []
        for one in chosen:
            own = one.labelled[kept]
            reason = f"only {own.sum()} samples have a label" if own.sum() < self.folds else None
            reason = reason or lacking(one, one.values[kept], folds)
            if reason is None:
                good.append(one)
            elif self.targets is not None:
                raise UserError(
                    f"The target {one.name} cannot be probed for: {reason}.", "Take more samples or fewer folds."
                )
            else:
                notes.append(f"{one.name} is left out: {reason}.")
        if not good:
            raise UserError(f"No target can be probed for. {' '.join(notes)}", "Take more samples, or fewer folds.")
        return kept, good, notes

    def _of_site(
        self, site: str, rows: SiteRows, samples: np.ndarray, chosen: list[Target], targets: Targets, seed: int
    ) -> Iterator[Finding]:
        owner = rows.sample
        used = np.flatnonzero(samples[owner])
        owner, x = owner[used], rows.read()[used].numpy()
        folds = grouped_folds(targets.groups[samples], self.folds, seed)
        fold_of = np.full(len(samples), -1)
        fold_of[samples] = folds
        types = rows.table["token"].to_numpy()[used] if "token" in rows.table.column_names else targets.groups[owner]
        for part in _alike(chosen, owner):
            held = part[0].labelled[owner]
            y = np.stack([one.values[owner[held]] for one in part], axis=1)
            classes = _classes(part[0])
            own = x[held].astype(np.float64)
            basis = None
            if self.components is not None:
                own, basis = _components(own, self.components)
            place, groups = fold_of[owner[held]], targets.groups[owner[held]]
            fits = nested(own, y, place, self.penalties, classes, scale=self.scale)
            controls: list[Any] = [None] * len(part)
            if self.control:
                shuffled = _control(y, types[held], seed)
                # The control task asks what the same probe can learn, so its penalty is not chosen anew.
                same = np.stack([fit.penalties for fit in fits], axis=1)
                controls = list(zip(with_penalties(own, shuffled, place, same, classes, scale=self.scale), shuffled.T))
            for number, one in enumerate(part):
                fit = fits[number] if basis is None else _unprojected(fits[number], basis)
                yield Finding(
                    site,
                    one,
                    y[:, number],
                    place,
                    groups,
                    owner[held],
                    used[held],
                    fit,
                    controls[number],
                    np.nan,
                    overlap=_overlap(types[held], place),
                )

    def _told(self, findings: list[Finding], sites: dict[str, SiteRows], seed: int) -> list[Finding]:
        """Return the findings with the length of the online code of their labels, where it is asked for."""
        chosen = {id(one) for one in findings if one.target.kind != "number"}
        if self.code_sites == "best":
            best: dict[str, Finding] = {}
            for one in findings:
                held = best.get(one.target.name)
                if one.site != WORDS and (held is None or np.nanmean(one.parts) > np.nanmean(held.parts)):
                    best[one.target.name] = one
            chosen &= {id(one) for one in best.values()}
        batches: dict[tuple[str, int, bytes], list[int]] = {}
        for place, one in enumerate(findings):
            if id(one) in chosen:
                key = (one.site, _classes(one.target), one.rows.tobytes())
                batches.setdefault(key, []).append(place)
        found = list(findings)
        for (site, classes, _), places in batches.items():
            first = findings[places[0]]
            x = sites[site].read()[first.rows].numpy().astype(np.float64)
            if self.components is not None:
                x, _ = _components(x, self.components)
            y = np.stack([findings[place].y for place in places], axis=1)
            draws = [
                code_length(x, y, first.groups, self.penalties, classes, seed + k) for k in range(self.code_length)
            ]
            for place, bits in zip(places, np.mean(draws, axis=0)):
                found[place] = replace(findings[place], bits=float(bits))
        return found

    def _word_site(self, targets: Targets, representations: Representations) -> list[tuple[str, SiteRows]]:
        """Return the site of word counts, where samples have texts and a word is in two of them."""
        samples = targets.samples
        if not self.words or "texts" not in samples.column_names:
            return []
        counts = word_counts([" ".join(texts or ()) for texts in samples["texts"].to_pylist()])
        if counts is None:
            return []
        return list(Representations.of_arrays({WORDS: counts}, samples))

    def _warnings(self, targets: Targets, findings: list[Finding]) -> list[str]:
        notes = []
        if not targets.grouped and not targets.has_factors and "texts" in targets.samples.column_names:
            share = repeated([" ".join(texts or ()) for texts in targets.samples["texts"].to_pylist()])
            if share >= MANY:
                notes.append(
                    f"{share:.0%} of the texts have another about the same things, and no group column keeps them in "
                    "one fold: a probe may know them again. Map one: dataset.columns.group=NAME."
                )
                logger.warning(notes[-1])
        if self.control and all(one.overlap == 0 for one in findings):
            notes.append(
                "No token or group occurs in two folds, so the control task can only be guessed: it shows that labels "
                "that carry nothing give nothing, not how much the probe can learn by heart."
            )
        return notes


def described(target: Target, samples: np.ndarray) -> str:
    """Return the words for a target's type and how its values are spread over some samples."""
    values = target.values[samples & target.labelled]
    if target.kind == "number":
        return f"number, {values.min():g}…{values.max():g}, {len(values)} samples"
    counts = np.bincount(values.astype(int), minlength=len(target.classes))
    shown = ", ".join(f"{name} {count}" for name, count in list(zip(target.classes, counts))[:6])
    return f"{target.kind}, {shown}{', …' if len(counts) > 6 else ''}"


def word_counts(texts: list[str]) -> np.ndarray | None:
    """Return which of the commonest words stand in each text ``(s, w)``; None where no word is in two texts."""
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        counter = CountVectorizer(binary=True, token_pattern=r"\b\w+\b", min_df=2, max_features=MOST_WORDS)
        counts = counter.fit_transform(texts)
    except ValueError:
        return None
    return np.asarray(counts.toarray(), dtype=np.float32)


def _classes(target: Target) -> int:
    return {"number": 0, "binary": 2}.get(target.kind, len(target.classes))


def _alike(chosen: list[Target], owner: np.ndarray) -> Iterator[list[Target]]:
    """Yield the targets that can be fitted in one batch: of one kind, and labelled in the same rows."""
    parts: dict[tuple[int, bytes], list[Target]] = {}
    for one in chosen:
        held = np.packbits(one.labelled[owner]).tobytes()
        parts.setdefault((_classes(one), held), []).append(one)
    yield from parts.values()


def _control(y: np.ndarray, types: np.ndarray, seed: int) -> np.ndarray:
    """Return labels ``(n, T)`` drawn for each type from the labels' own spread; all rows of a type share one."""
    numbers = np.unique(types, return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(y), (numbers.max() + 1, y.shape[1]))
    return np.take_along_axis(y, drawn, axis=0)[numbers]


def _overlap(types: np.ndarray, folds: np.ndarray) -> float:
    """Return the share of rows whose type occurs in another fold too."""
    numbers = np.unique(types, return_inverse=True)[1]
    low, high = np.full(numbers.max() + 1, np.iinfo(np.int64).max), np.full(numbers.max() + 1, -1)
    np.minimum.at(low, numbers, folds)
    np.maximum.at(high, numbers, folds)
    return float((low < high)[numbers].mean())


def _components(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in their first k principal components, and these ``(k, d)``."""
    centered = x - x.mean(axis=0)
    basis = np.linalg.svd(centered, full_matrices=False)[2][:k]
    return x @ basis.T, basis


def _unprojected(fit: Nested, basis: np.ndarray) -> Nested:
    slopes = fit.coefficients[..., :-1] @ basis
    return fit._replace(coefficients=np.concatenate([slopes, fit.coefficients[..., -1:]], axis=-1))

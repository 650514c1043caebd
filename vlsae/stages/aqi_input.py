"""What the index reads: which stream and sites, which samples, and the extraction that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError, unknown

if TYPE_CHECKING:
    from vlsae.aqi.labelling import Labelling, Samples

STREAMS = ("vision", "language")

#: The input of a stream's first block.
FIRST = 0

#: The stratum of all samples where no label names one.
AXIOM = "axiom"


def stream_of(asked: str, sites: Sequence[str], texts: bool, images: bool) -> str:
    """Return the stream that is scored; ``UserError`` where model or data lack it."""
    held = {site.split(".")[0] for site in sites}
    able = [name for name, there in (("language", texts), ("vision", images)) if there and name in held]
    if asked == "auto":
        if not able:
            raise UserError(
                f"The model has {' and '.join(sorted(held))} sites, and the data have none of it.", "Use other data."
            )
        return able[0]
    missing = [name for name in (STREAMS if asked == "joint" else (asked,)) if name not in able]
    if missing:
        raise UserError(
            f"aqi.stream={asked}: model and data do not both have {' and '.join(missing)}.",
            f"Use aqi.stream={able[0] if able else 'auto'}, or other data.",
        )
    return asked


def streams_of(stream: str) -> tuple[str, ...]:
    """Return the streams whose rows are read."""
    return STREAMS if stream == "joint" else (stream,)


def sites_of(known: Sequence[str], wanted: Sequence[str], stream: str) -> list[str]:
    """Return the wanted sites of a stream in the model's order, the input of the first block always among them.

    For ``joint``, those that both streams have.
    """
    mine = [site for site in known if site.split(".")[0] in streams_of(stream)]
    words = {f"{name}.{FIRST}" for name in streams_of(stream)} | set(wanted)
    chosen = [site for site in mine if site in words]
    if stream != "joint":
        return chosen
    both = {_layer(site) for site in chosen if f"{_other(site)}.{_layer(site)}" in chosen}
    return [site for site in chosen if _layer(site) in both]


def slots_of(sites: Sequence[str], stream: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return each slot's name with the sites that are read for it: one, or for ``joint`` one a stream."""
    if stream != "joint":
        return [(site, (site,)) for site in sites]
    layers = dict.fromkeys(_layer(site) for site in sites)
    return [(f"joint.{layer}", tuple(f"{name}.{layer}" for name in STREAMS)) for layer in layers]


def extraction(config: Mapping[str, Any], sites: Sequence[str], pooling: str | None = None) -> dict[str, Any]:
    """Return the configuration of the extraction of some sites, pooled otherwise where ``pooling`` says so."""
    tokens = dict(config["extract"]["tokens"])
    if pooling is not None:
        tokens["pooling"] = pooling
    kept = {name: value for name, value in config.items() if name != "aqi"}
    node = {**config["extract"], "sites": list(sites), "tokens": tokens}
    return {**kept, "stage": "extract", "name": None, "extract": node}


def labelling_of(table: Any, settings: Mapping[str, Any], stream: str, limit: int | None) -> Labelling:
    """Return the labelled samples of a table (a data set's or a store's) as the ``aqi`` node says."""
    from vlsae.aqi.labelling import Rules, label_samples

    samples = samples_of(table, settings, stream, limit)
    classes = [_text(name) for name in settings["classes"]]
    return label_samples(samples, classes, Rules(**settings["rows"]))


def samples_of(table: Any, settings: Mapping[str, Any], stream: str, limit: int | None) -> Samples:
    """Return what the index reads of each sample of a table."""
    from vlsae.aqi.labelling import ALL, Samples, field_of

    columns = _columns(table, limit)
    labels: list[Mapping[str, Any]] = columns["labels"]
    name = field_of(labels, settings["label"])
    fields = _strata_fields(labels, settings["strata"])
    values = [
        [str(label[one]) if one != "source" else source for one in fields]
        for label, source in zip(labels, columns["source"])
    ]
    return Samples(
        ids=columns["sample_id"],
        labels=[None if label[name] is None else _text(label[name]) for label in labels],
        strata=["/".join(row) or ALL for row in values],
        sources=columns["source"],
        groups=columns["group"],
        texts=[_first(texts) for texts in columns["texts"]] if stream == "language" else None,
    )


def _strata_fields(labels: Sequence[Mapping[str, Any]], asked: Any) -> list[str]:
    known = [*(labels[0] if labels else ()), "source"]
    if asked == "none":
        return []
    if asked == "auto":
        return [AXIOM] if AXIOM in known else []
    for name in asked:
        if name not in known:
            raise unknown("label for aqi.strata", name, known)
    return list(asked)


def _columns(table: Any, limit: int | None) -> dict[str, list[Any]]:
    names = ("sample_id", "labels", "source", "group", "texts")
    if hasattr(table, "with_format"):
        table = table.with_format("arrow")[:]
    count = table.num_rows if limit is None else min(limit, table.num_rows)
    return {name: table[name].slice(0, count).to_pylist() for name in names}


def _first(texts: Sequence[str]) -> str:
    return texts[0] if texts else ""


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _layer(site: str) -> str:
    return site.split(".", 1)[1]


def _other(site: str) -> str:
    return STREAMS[1 - STREAMS.index(site.split(".")[0])]

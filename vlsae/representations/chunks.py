"""Checking and normalising what comes into a shard: samples, row tables and values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vlsae.errors import UserError
from vlsae.representations.layout import SiteInfo
from vlsae.representations.pairs import column

#: The columns of a row table; the last two only where rows are tokens.
ROW_TYPES = {
    "sample": pa.int64(),
    "item": pa.int32(),
    "position": pa.int32(),
    "split": pa.dictionary(pa.int8(), pa.string()),
    "token": pa.int32(),
    "role": pa.int8(),
}
_OPTIONAL = ("token", "role")

#: Float16's largest value, and the smallest one that keeps all its digits.
FLOAT16_MAX, FLOAT16_SMALLEST = 65504.0, 2.0**-14


def check_samples(samples: pa.Table, shard: int) -> pa.Table:
    """Return the samples without notes of other libraries in their schema; refuse missing or repeated ids."""
    if "sample_id" not in samples.column_names:
        raise UserError(f"The samples have columns {', '.join(samples.column_names)}; expected sample_id among them.")
    ids = samples["sample_id"].to_pylist()
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        again = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"Sample id {again!r} appears twice in shard {shard}.", "Give every sample an id of its own.")
    return samples.replace_schema_metadata(None)


def row_table(table: pa.Table, first: int, samples: pa.Table, stream: str) -> pa.Table:
    """Return a row table with the store's columns and types; refuse rows that are not of these samples, in order."""
    missing = [name for name in ROW_TYPES if name not in table.column_names and name not in _OPTIONAL]
    extra = [name for name in table.column_names if name not in ROW_TYPES]
    if missing or extra:
        raise UserError(
            f"The row table of {stream} has columns {', '.join(table.column_names)}.",
            f"Expected {', '.join(ROW_TYPES)}; the last two only for tokens.",
        )
    columns = {}
    for name, kind in ROW_TYPES.items():
        if name in table.column_names:
            values = table[name].combine_chunks()
            if pa.types.is_dictionary(kind):
                values = values.cast(pa.string()).dictionary_encode()
            columns[name] = values.cast(kind)
    owner = column(table, "sample")
    outside = (owner < first) | (owner >= first + samples.num_rows)
    if outside.any() or (np.diff(owner) < 0).any():
        row = int((outside if outside.any() else np.diff(owner, prepend=owner[:1]) < 0).argmax())
        raise UserError(
            f"Row {row} of {stream} belongs to sample {owner[row]}.",
            f"Expected samples {first}…{first + samples.num_rows - 1}, ascending.",
        )
    return pa.table(columns)


def converted(site: str, info: SiteInfo, values: Tensor, table: pa.Table, samples: pa.Table, first: int) -> Tensor:
    """Return values ``(r, d)`` in the site's dtype; refuse what is not finite or does not fit, by sample id."""
    expected = (table.num_rows, info.width)
    if tuple(values.shape) != expected or not values.is_floating_point():
        raise UserError(
            f"{site}: expected floating-point values {expected}; got {values.dtype} {tuple(values.shape)}.",
            f"All sites of {info.stream} share their rows: pooled ones, such as an embedding, and tokens lie in "
            "stores of their own.",
        )
    values = values.detach().cpu()
    stored = values.to(getattr(torch, info.dtype)).contiguous()
    bad = ~torch.isfinite(stored).all(dim=1)
    if info.dtype == "float16":
        largest = values.abs().amax(dim=1) if values.shape[1] else torch.zeros(len(values))
        bad |= (largest > 0) & (largest < FLOAT16_SMALLEST)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise _refusal(site, info, values[row], _name(table, row, samples, first), int(bad.sum()))
    return stored


def _refusal(site: str, info: SiteInfo, row: Tensor, name: str, count: int) -> UserError:
    more = f" (and {count - 1} more rows)" if count > 1 else ""
    if not torch.isfinite(row).all():
        dimension = int((~torch.isfinite(row)).nonzero()[0])
        return UserError(
            f"{site}: {row[dimension].item()} at dimension {dimension} of sample {name}{more}.",
            "Values must be finite: mend the weights or the input, or compute in hardware.dtype=float32.",
        )
    return UserError(
        f"{site}: sample {name} does not fit {info.dtype}: its largest value is {row.abs().max().item():g}{more}.",
        f"float16 holds rows up to {FLOAT16_MAX:g} and down to {FLOAT16_SMALLEST:g}; use extract.dtype=bfloat16."
        if info.dtype == "float16"
        else "Use extract.dtype=float32.",
    )


def _name(table: pa.Table, row: int, samples: pa.Table, first: int) -> str:
    entry = table.slice(row, 1).to_pylist()[0]
    name = repr(samples["sample_id"][entry["sample"] - first].as_py())
    return name if entry["position"] < 0 else f"{name} at position {entry['position']}"

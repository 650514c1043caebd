"""Representations on disk: a store of sites, and a reader that trains from it in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.representations.layout import SiteInfo
    from vlsae.representations.norms import position_norms
    from vlsae.representations.order import epoch_order
    from vlsae.representations.pooling import pool
    from vlsae.representations.reader import Reader
    from vlsae.representations.store import Store
    from vlsae.representations.writer import StoreWriter

_HOMES = {
    "Reader": "reader",
    "SiteInfo": "layout",
    "Store": "store",
    "StoreWriter": "writer",
    "epoch_order": "order",
    "pool": "pooling",
    "position_norms": "norms",
}

__all__ = ["Reader", "SiteInfo", "Store", "StoreWriter", "epoch_order", "pool", "position_norms"]

__getattr__ = lazy.exports(__name__, _HOMES)

"""Run directories: claimed once, locked while at work, traced to what they were made from."""

from __future__ import annotations

from vlsae.runs.claims import claim
from vlsae.runs.fingerprints import content_digest, find_done, fingerprint
from vlsae.runs.listing import Entry, entries_of
from vlsae.runs.locks import fingerprint_lock
from vlsae.runs.manifest import DamagedRun, effective_status, read_manifest
from vlsae.runs.metrics import Measure
from vlsae.runs.names import check_name, runs_root
from vlsae.runs.opened import OpenedRun, open_run
from vlsae.runs.reference import input_run, resolve, unfinished_run
from vlsae.runs.run import Run

__all__ = [
    "DamagedRun",
    "Entry",
    "Measure",
    "OpenedRun",
    "Run",
    "check_name",
    "claim",
    "content_digest",
    "effective_status",
    "entries_of",
    "find_done",
    "fingerprint",
    "fingerprint_lock",
    "input_run",
    "open_run",
    "read_manifest",
    "resolve",
    "runs_root",
    "unfinished_run",
]

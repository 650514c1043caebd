"""The stages of the pipeline and how one is started."""

from __future__ import annotations

from vlsae.stages.launch import Estimate, plan, start

#: Stage name → module. Each has ``SCHEMA``, ``identity``, ``parents``, ``run_name`` and ``run``.
STAGES: dict[str, str] = {
    "extract": "vlsae.stages.extract",
    "train": "vlsae.stages.train",
    "probe": "vlsae.stages.probe",
    "aqi": "vlsae.stages.aqi",
    "enhance": "vlsae.stages.enhance",
}

__all__ = ["STAGES", "Estimate", "plan", "start"]

"""Batches over a live table: walked by key, resumable at the batch, throttled by what the server feels, verified."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbsec.backfill.job import Job
    from dbsec.backfill.state import State, Status, abort, forget, pause, resume, status, statuses
    from dbsec.backfill.workers import Limits, Outcome, run

__all__ = [
    "Job",
    "Limits",
    "Outcome",
    "State",
    "Status",
    "abort",
    "forget",
    "pause",
    "resume",
    "run",
    "status",
    "statuses",
]

_HOME = {
    "job": ("Job",),
    "state": ("State", "Status", "abort", "forget", "pause", "resume", "status", "statuses"),
    "workers": ("Limits", "Outcome", "run"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the driver is heavy, and help does not need it."""
    for home, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""Safe schema change: what a migration does to a live PostgreSQL, told before it runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbsec.migrations.linter import Options, Result, lint
    from dbsec.migrations.reading.source import read
    from dbsec.migrations.rule import Rule
    from dbsec.migrations.schema.catalog import from_catalog
    from dbsec.migrations.schema.dump import from_dump
    from dbsec.migrations.schema.model import Schema
    from dbsec.migrations.script import Script, Unread
    from dbsec.migrations.stats import Stats, snapshot

__all__ = [
    "Options",
    "Result",
    "Rule",
    "Schema",
    "Script",
    "Stats",
    "Unread",
    "from_catalog",
    "from_dump",
    "lint",
    "read",
    "snapshot",
]

_HOME = {
    "linter": ("Options", "Result", "lint"),
    "rule": ("Rule",),
    "schema.catalog": ("from_catalog",),
    "schema.dump": ("from_dump",),
    "schema.model": ("Schema",),
    "script": ("Script", "Unread"),
    "reading.source": ("read",),
    "stats": ("Stats", "snapshot"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the parser and the driver are heavy, and not everybody needs both."""
    for home, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

"""dbsec's own tables in schema ``dbsec`` of a target database: install, upgrade, uninstall, by numbered SQL files."""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg

__all__ = ["install"]


def install(connection: psycopg.Connection[Any]) -> None:
    """Bring the schema to the version of this dbsec; running it again changes nothing."""
    folder = resources.files(__name__).joinpath("sql")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('dbsec.own'))")
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql"):
                connection.execute(file.read_text(encoding="utf-8").encode())

"""What a server is, read once into frozen records; whoever judges does so on these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

_SERVER: LiteralString = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), current_setting('server_version'),
       current_setting('server_version_num')::int, current_database(), pg_is_in_recovery()
"""
_SETTINGS: LiteralString = """
SELECT name, setting, source, context, pending_restart FROM pg_settings WHERE name = ANY (%s) ORDER BY name
"""
_SESSIONS: LiteralString = """
SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), a.backend_type,
       a.client_addr IS NOT NULL, coalesce(s.ssl, false), coalesce(s.version, ''), coalesce(s.cipher, '')
  FROM pg_stat_activity a LEFT JOIN pg_stat_ssl s USING (pid)
 WHERE a.backend_type IN ('client backend', 'walsender') AND a.pid <> pg_backend_pid()
 ORDER BY a.pid
"""


@dataclass(frozen=True, slots=True)
class Server:
    """The identity of a server. ``version_num`` is 170010 for 17.10."""

    system_identifier: str
    version: str
    version_num: int
    database: str
    in_recovery: bool

    @property
    def major(self) -> int:
        return self.version_num // 10000

    def to_json(self) -> dict[str, Any]:
        """Return what an evidence line calls the target."""
        return {"system_identifier": self.system_identifier, "version": self.version, "database": self.database}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of pg_settings."""

    name: str
    value: str
    source: str
    context: str
    pending_restart: bool


@dataclass(frozen=True, slots=True)
class Session:
    """One client or replication session and how it is protected; ``network`` is False on a Unix socket."""

    pid: int
    user: str
    application: str
    backend: str
    network: bool
    encrypted: bool
    tls_version: str
    cipher: str


def server(connection: psycopg.Connection[Any]) -> Server:
    """Read who the server is. Needs EXECUTE on pg_control_system() (superuser or pg_monitor)."""
    row = connection.execute(_SERVER).fetchone()
    if row is None:
        raise psycopg.DataError("the server did not describe itself")
    return Server(*row)


def settings(connection: psycopg.Connection[Any], names: Sequence[str]) -> dict[str, Setting]:
    """Read settings by name; those that this version does not know are absent."""
    return {row[0]: Setting(*row) for row in connection.execute(_SETTINGS, [list(names)])}


def sessions(connection: psycopg.Connection[Any]) -> list[Session]:
    """Read every client and replication session but this one. Needs pg_read_all_stats to see those of others."""
    return [Session(*row) for row in connection.execute(_SESSIONS)]

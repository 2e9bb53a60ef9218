"""A database that is fresh again in a few milliseconds: a new one takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql

from dbsec.pg import Conninfo, connect

_THROW_OUT: LiteralString = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SCHEMAS: LiteralString = """
SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
"""
# What a dropped schema does not take along; 16384 is FirstNormalObjectId.
_LEFT: LiteralString = """
SELECT sum(n) FROM (
  SELECT count(*) FROM pg_event_trigger UNION ALL SELECT count(*) FROM pg_publication
  UNION ALL SELECT count(*) FROM pg_extension WHERE oid >= 16384
  UNION ALL SELECT count(*) FROM pg_cast WHERE oid >= 16384
  UNION ALL SELECT count(*) FROM pg_language WHERE oid >= 16384 UNION ALL SELECT count(*) FROM pg_am WHERE oid >= 16384
  UNION ALL SELECT count(*) FROM pg_default_acl UNION ALL SELECT count(*) FROM pg_largeobject_metadata
  UNION ALL SELECT count(*) FROM pg_foreign_data_wrapper
  UNION ALL SELECT 1 - count(*) FROM pg_extension WHERE extname = 'plpgsql'
  UNION ALL SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = (
      SELECT oid FROM pg_database WHERE datname = current_database())
) AS left_behind (n)
"""


class Server(Protocol):
    """What the suites need of a server: its major, and databases of their own."""

    @property
    def major(self) -> int: ...

    def create_database(self, name: str) -> Conninfo: ...

    def drop_database(self, name: str) -> None: ...


@dataclass(slots=True)
class Scratch:
    """One database of ``server``, by ``name``, that ``fresh`` empties.

    It keeps one session of its own there: to open one takes longer than most examples run.
    """

    server: Server
    name: str
    _conninfo: Conninfo | None = None
    _session: psycopg.Connection[Any] | None = None

    @contextmanager
    def fresh(self) -> Iterator[tuple[Conninfo, psycopg.Connection[Any]]]:
        """Give the empty database as its superuser, and the session that is kept; who is left there is thrown out."""
        if self._conninfo is None or self._session is None:
            self._conninfo = self.server.create_database(self.name)
            self._session = connect(self._conninfo)
            self._session.prepare_threshold = None  # DISCARD ALL drops what the driver has prepared
        try:
            yield self._conninfo, self._session
        finally:
            if not _emptied(self._session):
                self.drop()

    def drop(self) -> None:
        """Drop the database; the next ``fresh`` makes it again."""
        if self._session is not None:
            self._session.close()
        self.server.drop_database(self.name)
        self._conninfo = self._session = None


def _emptied(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("ROLLBACK")
        session.execute("DISCARD ALL")
        session.execute(_THROW_OUT)
        for (name,) in session.execute(_SCHEMAS).fetchall():
            session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        session.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public")
        left = session.execute(_LEFT).fetchone()
    except psycopg.Error:
        return False
    return left is not None and left[0] == 0

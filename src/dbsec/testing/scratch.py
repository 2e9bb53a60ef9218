"""A database that is fresh again in a few milliseconds: a new one takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql

from dbsec.pg import Conninfo, connect

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
    """One database of ``server``, by ``name``, that ``fresh`` empties."""

    server: Server
    name: str
    _conninfo: Conninfo | None = None

    @contextmanager
    def fresh(self) -> Iterator[Conninfo]:
        """Give the empty database as its superuser; whoever still is in it afterwards is thrown out."""
        if self._conninfo is None:
            self._conninfo = self.server.create_database(self.name)
        yield self._conninfo
        if not self._emptied(self._conninfo):
            self.drop()

    def drop(self) -> None:
        """Drop the database; the next ``fresh`` makes it again."""
        self.server.drop_database(self.name)
        self._conninfo = None

    def _emptied(self, conninfo: Conninfo) -> bool:
        with connect(conninfo) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            try:
                _empty(session)
            except psycopg.Error:
                return False
            left = session.execute(_LEFT).fetchone()
            return left is not None and left[0] == 0


def _empty(session: psycopg.Connection[Any]) -> None:
    for (name,) in session.execute(_SCHEMAS).fetchall():
        session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
    session.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public")

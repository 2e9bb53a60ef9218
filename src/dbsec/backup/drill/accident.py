"""An accident to rehearse: a table of the drill's own, and the DELETE that forgot its WHERE."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql

from dbsec.pg import Conninfo, connect
from dbsec.pg.lsn import Lsn

ROWS = 1000


@dataclass(frozen=True, slots=True)
class Accident:
    """``table`` is ``schema.name``; it goes with the drill."""

    server: Conninfo
    schema: str

    @property
    def table(self) -> str:
        return f"{self.schema}.accident"

    def happen(self) -> tuple[int, Lsn]:
        """Delete every row of the table; returns how many, and where the commit ended in the WAL."""
        with connect(self.server) as session:
            gone = session.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(self.schema, "accident"))).rowcount
            row = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        return gone, Lsn.parse(row[0] if row else "")


@contextmanager
def accident(server: Conninfo) -> Iterator[Accident]:
    """Make a schema with a table of rows, and drop it in the end. **rights**: CREATE on the database."""
    made = Accident(server, f"dbsec_drill_{secrets.token_hex(4)}")
    schema = sql.Identifier(made.schema)
    with connect(server) as session:
        session.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    try:
        with connect(server) as session:
            session.execute(
                sql.SQL(
                    "CREATE TABLE {} AS SELECT i AS id, md5(i::text) AS value FROM generate_series(1, {}) AS i"
                ).format(sql.Identifier(made.schema, "accident"), sql.Literal(ROWS))
            )
        yield made
    finally:
        with connect(server) as session:
            session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))

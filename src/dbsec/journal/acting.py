"""Acts as the role that opened a journal: one that a file SETs has no rights on dbsec's tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

_NOW: LiteralString = "SELECT session_user, pg_catalog.current_setting('role')"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a session acts as; ``role`` is "none" without SET ROLE."""

    session: str
    role: str

    @classmethod
    def of(cls, connection: psycopg.Connection[Any]) -> Identity:
        """Read it. Transaction: the caller's, or one of its own."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(_NOW, prepare=False).fetchone()
        assert row is not None
        return cls(*row)


@contextmanager
def acting(connection: psycopg.Connection[Any], wanted: Identity) -> Iterator[None]:
    """Act as ``wanted`` in the block, in the caller's transaction or in one of its own, and as before afterwards."""
    if (now := Identity.of(connection)) == wanted:
        yield
        return
    idle = connection.info.transaction_status is TransactionStatus.IDLE
    with connection.transaction() if idle else nullcontext():
        _become(connection, wanted, now)
        yield
        # after an error the rollback brings it back
        _become(connection, now, wanted)


def _become(connection: psycopg.Connection[Any], to: Identity, now: Identity) -> None:
    if to.session != now.session:
        # not refused: the server asks what the login was, not what it acts as
        authorize = sql.SQL("SET LOCAL SESSION AUTHORIZATION {}").format(sql.Identifier(to.session))
        connection.execute(authorize, prepare=False)
    role = sql.SQL("NONE") if to.role == "none" else sql.Identifier(to.role)
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(role), prepare=False)

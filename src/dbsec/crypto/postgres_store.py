"""The keyring in a table: schema dbsec, on connections of its own, outside of the application's transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg

from dbsec.crypto.errors import CryptoError
from dbsec.crypto.store import MOST_INVOCATIONS, KeyRow, KeyState, NewKey, Purpose
from dbsec.errors import ConnectError, reason
from dbsec.pg import own

_COLUMNS: LiteralString = """
SELECT id, tenant, context, purpose, generation, state, wrapped, kek, kek_version, commitment, salt, used,
       created_at, retired_at
  FROM dbsec.keyring
"""
_ACTIVE: LiteralString = (
    _COLUMNS
    + """
 WHERE tenant = %s AND context = %s AND purpose = %s AND state = 'active' ORDER BY generation DESC LIMIT 1
"""
)
_GENERATION: LiteralString = _COLUMNS + " WHERE tenant = %s AND context = %s AND purpose = %s AND generation = %s"
_BY_IDS: LiteralString = _COLUMNS + " WHERE id = ANY (%s)"
_ADD: LiteralString = """
INSERT INTO dbsec.keyring (tenant, context, purpose, generation, wrapped, kek, kek_version, commitment, salt)
VALUES (%(tenant)s, %(context)s, %(purpose)s, %(generation)s, %(wrapped)s, %(kek)s, %(kek_version)s, %(commitment)s,
        %(salt)s)
ON CONFLICT DO NOTHING
"""
_LEASE: LiteralString = """
UPDATE dbsec.keyring SET used = used + %(count)s
 WHERE id = %(id)s AND state = 'active' AND used + %(count)s <= %(limit)s
RETURNING used
"""
Connect = Callable[[], psycopg.Connection[Any]]


def row_maker(**values: Any) -> KeyRow:
    """Make a row of what the server sent."""
    values["purpose"] = Purpose(values["purpose"])
    values["state"] = KeyState(values["state"])
    return KeyRow(**values)


class PostgresKeyStore:
    """Rows of ``dbsec.keyring``. ``connect`` opens a session that may read, insert and update them.

    Each call is a session and a transaction of its own, so that a lease stands even where the caller rolls back.
    Errors: ``ApplyError`` where schema dbsec is missing or older; ``ConnectError``.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._checked = False

    def active(self, tenant: str, context: str, purpose: Purpose) -> KeyRow | None:
        return next(iter(self._rows(_ACTIVE, [tenant, context, purpose])), None)

    def of_generation(self, tenant: str, context: str, purpose: Purpose, generation: int) -> KeyRow | None:
        return next(iter(self._rows(_GENERATION, [tenant, context, purpose, generation])), None)

    def by_ids(self, ids: Sequence[int]) -> list[KeyRow]:
        return self._rows(_BY_IDS, [list(ids)])

    def add(self, new: NewKey) -> KeyRow:
        values = {name: getattr(new, name) for name in NewKey.__slots__}
        with self._session() as session:
            session.execute(_ADD, values)
        found = self.of_generation(new.tenant, new.context, new.purpose, new.generation)
        if found is None:
            other = self.active(new.tenant, new.context, new.purpose)
            if other is None:
                raise CryptoError(f"the keyring does not keep a key of '{new.context}'", hint="dbsec crypto keys")
            return other
        return found

    def lease(self, key_id: int, count: int, *, limit: int = MOST_INVOCATIONS) -> bool:
        with self._session() as session:
            leased = session.execute(_LEASE, {"id": key_id, "count": count, "limit": limit})
            return leased.fetchone() is not None

    def _rows(self, query: LiteralString, values: Sequence[object]) -> list[KeyRow]:
        with self._session() as session, session.cursor(row_factory=_rows_of) as cursor:
            return cursor.execute(query, values).fetchall()

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self._connect() as session:
                if not self._checked:
                    own.require(session, 5)
                    self._checked = True
                yield session
        except psycopg.OperationalError as exc:
            raise ConnectError(f"the database of the keyring went away: {reason(exc)}", sqlstate=exc.sqlstate) from exc


def _rows_of(cursor: psycopg.Cursor[Any]) -> Any:
    columns = [column.name for column in cursor.description or ()]
    return lambda values: row_maker(**dict(zip(columns, values, strict=True)))

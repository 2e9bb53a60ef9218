"""Rows of the keyring as their administrator sees them: all of them, retired, wrapped anew, destroyed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from dbsec.crypto.postgres_store import row_maker
from dbsec.crypto.store import KeyRow, NewKey, Purpose
from dbsec.errors import ApplyError
from dbsec.pg import advisory, own

VERSION = 5  # of schema dbsec: the step that brings the keyring
_ROWS: LiteralString = """
SELECT id, tenant, context, purpose, generation, state, wrapped, kek, kek_version, commitment, salt, used,
       created_at, retired_at
  FROM dbsec.keyring
 WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(context)s::text IS NULL OR context = %(context)s)
   AND id > %(after)s
 ORDER BY id LIMIT %(limit)s
"""
_RETIRE: LiteralString = """
UPDATE dbsec.keyring SET state = 'retired', retired_at = pg_catalog.clock_timestamp()
 WHERE tenant = %s AND context = %s AND purpose = 'data' AND state = 'active' AND id = %s
"""
_ADD: LiteralString = """
INSERT INTO dbsec.keyring (tenant, context, purpose, generation, wrapped, kek, kek_version, commitment, salt)
VALUES (%(tenant)s, %(context)s, %(purpose)s, %(generation)s, %(wrapped)s, %(kek)s, %(kek_version)s, %(commitment)s,
        %(salt)s)
RETURNING id
"""
_LAST: LiteralString = """
SELECT coalesce(pg_catalog.max(generation), 0) FROM dbsec.keyring WHERE tenant = %s AND context = %s AND purpose = %s
"""
_REWRAP: LiteralString = """
UPDATE dbsec.keyring SET wrapped = %s, kek = %s, kek_version = %s
 WHERE id = %s AND wrapped = %s AND state <> 'destroyed'
"""
# the DEK's bytes go with its state: a row that says destroyed opens nothing, whoever gets at the KEK
_DESTROY: LiteralString = r"""
UPDATE dbsec.keyring
   SET state = 'destroyed', wrapped = '\x', retired_at = coalesce(retired_at, pg_catalog.clock_timestamp())
 WHERE id = ANY (%s) AND state <> 'destroyed'
"""
_HOLD: LiteralString = "SELECT pg_catalog.pg_try_advisory_lock(%s)"
_LET_GO: LiteralString = "SELECT pg_catalog.pg_advisory_unlock(%s)"
_MANY = 10_000


def read(
    connection: psycopg.Connection[Any],
    *,
    tenant: str | None = None,
    context: str | None = None,
    after: int = 0,
    limit: int = _MANY,
) -> list[KeyRow]:
    """Return rows in the order of their id, those after one. Errors: ``ApplyError`` where there is no keyring."""
    own.require(connection, VERSION)
    values = {"tenant": tenant, "context": context, "after": after, "limit": limit}
    with connection.cursor(row_factory=dict_row) as cursor:
        return [row_maker(**row) for row in cursor.execute(_ROWS, values)]


def every(
    connection: psycopg.Connection[Any], *, tenant: str | None = None, context: str | None = None
) -> Iterator[KeyRow]:
    """Yield all rows in the order of their id, however many."""
    after = 0
    while some := read(connection, tenant=tenant, context=context, after=after):
        yield from some
        after = some[-1].id


def last_generation(connection: psycopg.Connection[Any], tenant: str, context: str, purpose: Purpose) -> int:
    """Return the highest generation there ever was, 0 without one."""
    row = connection.execute(_LAST, (tenant, context, purpose)).fetchone()
    return int(row[0]) if row else 0


def succeed(connection: psycopg.Connection[Any], old: KeyRow, new: NewKey) -> int:
    """Retire a key and let another one encrypt, both or neither; returns the new one's id.

    Errors: ``ApplyError`` where the old one is not active any more.
    """
    with connection.transaction():
        if connection.execute(_RETIRE, (old.tenant, old.context, old.id)).rowcount != 1:
            raise ApplyError(f"key {old.id} of '{old.context}' is not active any more", hint="dbsec crypto keys")
        values = {name: getattr(new, name) for name in NewKey.__slots__}
        row = connection.execute(_ADD, values).fetchone()
    assert row is not None
    return int(row[0])


def keep_rewrapped(connection: psycopg.Connection[Any], done: Sequence[tuple[KeyRow, bytes, str, str]]) -> int:
    """Store (row, wrapped, KEK, its version) in one transaction; a row that changed meanwhile stays as it is."""
    with connection.transaction():
        return sum(
            connection.execute(_REWRAP, (wrapped, kek, version, row.id, row.wrapped)).rowcount
            for row, wrapped, kek, version in done
        )


def destroy(connection: psycopg.Connection[Any], ids: Sequence[int]) -> int:
    """Mark rows as destroyed and empty their wrapped DEKs; returns how many were not so before."""
    with connection.transaction():
        return connection.execute(_DESTROY, (list(ids),)).rowcount


@contextmanager
def alone(connection: psycopg.Connection[Any], what: str, name: str) -> Iterator[None]:
    """Hold an advisory lock of the session. Errors: ``ApplyError``, naming who holds it."""
    lock = advisory.key(what, name)
    row = connection.execute(_HOLD, (lock,)).fetchone()
    if not (row and row[0]):
        who = ", ".join(map(str, advisory.holders(connection, lock))) or "a session that just ended"
        raise ApplyError(f"another session does this: {who}", hint="wait for it to end, then again")
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute(_LET_GO, (lock,))

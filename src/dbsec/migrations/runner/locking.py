"""Takes the locks of a statement by NOWAIT, again and again, so that nobody ever queues behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from dbsec.migrations.effects.model import LockMode
from dbsec.migrations.names import Name
from dbsec.migrations.runner.blockers import Blocker, looking
from dbsec.migrations.runner.classify import Classified
from dbsec.migrations.runner.limits import Limits

Told = Callable[[Sequence[Blocker]], None]
_SUX = LockMode.SHARE_UPDATE_EXCLUSIVE
_LOOK_S = 1.0  # pg_locks is read by all its partitions: not at each turn
_REFUSED = (errors.LockNotAvailable, errors.DeadlockDetected)
_TARGETS: LiteralString = """
SELECT c.oid::bigint, n.nspname, c.relname, wanted.mode::int,
       c.relkind IN ('r', 'p') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (
         pg_catalog.has_table_privilege(c.oid, 'UPDATE') OR pg_catalog.has_table_privilege(c.oid, 'DELETE')
         OR pg_catalog.has_table_privilege(c.oid, 'TRUNCATE'))
  FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::int[]))
       WITH ORDINALITY AS wanted (place, name, mode, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.place
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
 WHERE c.relpersistence <> 't' ORDER BY wanted.n
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A relation that is there, with the mode that the statement takes.

    ``lockable``: LOCK TABLE can take it. It cannot take sequences, indexes, materialized views and foreign tables, and
    of a view it would lock the tables too; and it asks for UPDATE, DELETE or TRUNCATE, which REFERENCES is not.
    """

    oid: int
    name: Name
    mode: LockMode
    lockable: bool


def targets(connection: psycopg.Connection[Any], locks: Iterable[tuple[Name, LockMode]]) -> list[Target]:
    """Look up what of the locks is there; temporary tables are nobody else's."""
    wanted = list(locks)
    if not wanted:
        return []
    columns = (
        [name.schema or "public" for name, _ in wanted],
        [name.name for name, _ in wanted],
        [int(mode) for _, mode in wanted],
    )
    with looking(connection) as cursor:
        rows = cursor.execute(_TARGETS, columns).fetchall()
    return [Target(oid, Name(place, name), LockMode(mode), bool(able)) for oid, place, name, mode, able in rows]


def lock(one: Target, *, nowait: bool) -> sql.Composed:
    """Write LOCK TABLE without the children: they are targets of their own."""
    return sql.SQL("LOCK TABLE ONLY {} IN {} MODE{}").format(
        sql.Identifier(one.name.schema or "public", one.name.name),
        sql.SQL(_MODE_WORDS[one.mode]),
        sql.SQL(" NOWAIT" if nowait else ""),
    )


_MODE_WORDS: dict[LockMode, LiteralString] = {
    LockMode.ACCESS_SHARE: "ACCESS SHARE",
    LockMode.ROW_SHARE: "ROW SHARE",
    LockMode.ROW_EXCLUSIVE: "ROW EXCLUSIVE",
    LockMode.SHARE_UPDATE_EXCLUSIVE: "SHARE UPDATE EXCLUSIVE",
    LockMode.SHARE: "SHARE",
    LockMode.SHARE_ROW_EXCLUSIVE: "SHARE ROW EXCLUSIVE",
    LockMode.EXCLUSIVE: "EXCLUSIVE",
    LockMode.ACCESS_EXCLUSIVE: "ACCESS EXCLUSIVE",
}


def is_refusal(exc: psycopg.Error) -> bool:
    """Tell what may be tried again: a lock that was not to be had (55P03), a deadlock (40P01)."""
    return isinstance(exc, _REFUSED)


def small(connection: psycopg.Connection[Any], works: Sequence[Classified], limits: Limits) -> bool:
    """Tell whether all that the statements work on is so small that nobody notices."""
    names = {task.table for one in works for task in one.effect.work}
    query: LiteralString = """
    SELECT coalesce(max(pg_catalog.pg_total_relation_size(c.oid)), 0)
      FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS named (place, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = named.place
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = named.name
    """
    if not names:
        return False
    with suppress(errors.LockNotAvailable), looking(connection) as cursor:
        cursor.execute("SET LOCAL lock_timeout = '200ms'", prepare=False)
        row = cursor.execute(query, ([n.schema or "public" for n in names], [n.name for n in names])).fetchone()
        return row is not None and int(row[0]) <= limits.small_bytes
    return False

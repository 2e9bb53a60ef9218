"""What a live database has: its columns and types, and counts over samples. No value leaves the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from dbsec.crypto.classification.document import Classification
from dbsec.crypto.classification.personal import ANYWHERE, WHOLE
from dbsec.errors import reason

HEADS_LOOKED_AT = 1000
_LIKE_TEXT = {"text", "varchar", "bpchar", "citext", "name", "json", "jsonb"}
# Columns of tables, partitioned and foreign ones and materialized views; the parts of a partitioned one are not asked.
# Of a domain the type below it, however deep.
_COLUMNS: LiteralString = """
WITH RECURSIVE below (domain, type) AS (
    SELECT oid, oid FROM pg_catalog.pg_type
    UNION ALL
    SELECT b.domain, t.typbasetype FROM below b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT n.nspname || '.' || c.relname AS table, n.nspname AS schema, c.relname AS relation, a.attname AS column,
       t.typname AS type, pg_catalog.format_type(a.atttypid, a.atttypmod) AS declared
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN below b ON b.domain = a.atttypid
  JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype <> 'd'
 WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p', 'f', 'm') AND NOT c.relispartition
 ORDER BY 1, a.attnum
"""
_SCHEMAS: LiteralString = "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)"
# With row security off a policy that would hide rows is an error, not a smaller sample.
_READ_ONLY: LiteralString = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL row_security = off;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '30s';
SET LOCAL search_path = pg_catalog, pg_temp
"""
_HEADS: LiteralString = """
SELECT pg_catalog.count(*) FILTER (WHERE NOT substr(v, 1, 2) = ANY (%s::bytea[]))
  FROM (SELECT {column}::bytea AS v FROM {table} WHERE {column} IS NOT NULL LIMIT %s) AS looked_at
"""
_SAMPLE: LiteralString = """
SELECT pg_catalog.count(*), {counts}
  FROM (SELECT pg_catalog.left({column}::text, 1000) AS v FROM {table} WHERE {column} IS NOT NULL LIMIT %s) AS looked_at
"""


@dataclass(frozen=True, slots=True)
class ObservedColumn:
    """A column that is there. ``type`` is its name in pg_type, of a domain that below it; ``declared`` is psql's word.

    ``not_ours`` counts the values without the header of the listed mode, ``looks_like`` says what a sample looks like;
    None and "" where nobody looked.
    """

    table: str
    schema: str
    relation: str
    column: str
    type: str
    declared: str
    not_ours: int | None = None
    looks_like: str = ""

    @property
    def name(self) -> str:
        """Table and column."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All columns of some schemas; ``unread`` are those whose values could not be looked at, with the reason."""

    columns: tuple[ObservedColumn, ...]
    unread: dict[str, str] = field(default_factory=dict)
    missing_schemas: tuple[str, ...] = ()


def read(connection: psycopg.Connection[Any], listed: Classification, *, sample: int = 0) -> Observed:
    """Read the columns, the first bytes of encrypted ones, and of up to ``sample`` rows what text looks like.

    Locks: ACCESS SHARE on each table, for one transaction that only reads and that waits 2 s for a lock. Of a table the
    rows that the server reads first are looked at, which may be old ones.
    """
    unread: dict[str, str] = {}
    with _reading(connection):
        schemas = {row[0] for row in connection.execute(_SCHEMAS, [list(listed.schemas)])}
        with connection.cursor(row_factory=class_row(ObservedColumn)) as cursor:
            found = cursor.execute(_COLUMNS, [list(listed.schemas)]).fetchall()
        columns = tuple(_looked_at(connection, one, listed, sample, unread) for one in found)
    return Observed(columns, unread, tuple(name for name in listed.schemas if name not in schemas))


@contextmanager
def _reading(connection: psycopg.Connection[Any]) -> Iterator[None]:
    with connection.transaction(force_rollback=True):
        connection.execute(_READ_ONLY)
        yield


def _looked_at(
    connection: psycopg.Connection[Any],
    one: ObservedColumn,
    listed: Classification,
    sample: int,
    unread: dict[str, str],
) -> ObservedColumn:
    entry = listed.of(one.name)
    heads = entry.mode.heads if entry is not None else ()
    try:
        with connection.transaction():
            if heads and one.type == "bytea":
                return replace(one, not_ours=_without_heads(connection, one, heads))
            if sample and not heads and one.type in _LIKE_TEXT:
                return replace(one, looks_like=_looks_like(connection, one, sample))
    except psycopg.Error as exc:
        if exc.sqlstate is None:  # the session is gone
            raise
        unread[one.name] = reason(exc)
    return one


def _without_heads(connection: psycopg.Connection[Any], one: ObservedColumn, heads: Sequence[bytes]) -> int:
    row = connection.execute(_named(_HEADS, one), [list(heads), HEADS_LOOKED_AT]).fetchone()
    return int(row[0]) if row else 0


def _looks_like(connection: psycopg.Connection[Any], one: ObservedColumn, sample: int) -> str:
    kinds = [*ANYWHERE, *WHOLE]
    count = sql.SQL("pg_catalog.count(*) FILTER (WHERE v ~ %s)")
    query = _named(_SAMPLE, one, counts=sql.SQL(", ").join([count] * len(kinds)))
    row = connection.execute(query, [*ANYWHERE.values(), *WHOLE.values(), sample]).fetchone()
    if row is None:
        return ""
    total, *hits = row
    found = dict(zip(kinds, hits, strict=True))
    likely = [kind for kind in kinds if found[kind] and (kind in ANYWHERE or found[kind] * 2 >= total)]
    return likely[0] if likely else ""


def _named(query: LiteralString, one: ObservedColumn, **more: sql.Composable) -> sql.Composed:
    return sql.SQL(query).format(
        column=sql.Identifier(one.column), table=sql.Identifier(one.schema, one.relation), **more
    )

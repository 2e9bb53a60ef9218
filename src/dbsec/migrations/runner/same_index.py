"""Whether an index that is there is the one that a CREATE INDEX asks for, as PostgreSQL itself understands both."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.migrations.names import Name
from dbsec.migrations.runner.blockers import looking

# Names, tablespace and statistics targets do not count; per column its text, and what that does not say.
_MEANING: LiteralString = """
SELECT am.amname, i.indisunique, i.indnkeyatts, pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct',
       i.indcollation::text, i.indclass::text, i.indoption::text,
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
               FROM pg_catalog.generate_series(1, i.indnatts) AS k ORDER BY k),
       pg_catalog.pg_get_expr(i.indpred, i.indrelid), c.reloptions
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE i.indexrelid = %s
"""
_NAME = "dbsec_asked_for"


def definition(connection: psycopg.Connection[Any], index: int) -> str:
    """Return CREATE INDEX as the server writes it."""
    with looking(connection) as cursor:
        row = cursor.execute("SELECT pg_catalog.pg_get_indexdef(%s::oid)", (index,)).fetchone()
    return str(row[0]) if row else ""


def same(connection: psycopg.Connection[Any], index: int, table: Name, text: str) -> bool:
    """Tell whether ``text``, a CREATE INDEX on ``table``, asks for what ``index`` is.

    It is built on an empty temporary copy of the table, and what came out is compared: no own reading of expressions,
    casts and operator classes. All of it is rolled back. Locks: ACCESS SHARE on the table. False where TEMPORARY is not
    granted on the database and the two do not read alike.
    """
    if _plain(definition(connection, index)) == _plain(text):
        return True
    there = sql.Identifier(table.schema or "public", table.name)
    # the same name, for a predicate may say users.deleted
    copy = sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(sql.Identifier("pg_temp", table.name), there)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(copy, prepare=False)
            connection.execute(_on_copy(text).encode(), prepare=False)
            made = sql.Literal(f"pg_temp.{_NAME}")
            query = sql.SQL("SELECT pg_catalog.to_regclass({})::pg_catalog.oid::pg_catalog.int8").format(made)
            oid = connection.execute(query, prepare=False).fetchone()
            return oid is not None and _meaning(connection, next(iter(oid))) == _meaning(connection, index)
    except psycopg.Error:
        if connection.broken:
            raise
        return False


def _meaning(connection: psycopg.Connection[Any], index: int) -> tuple[Any, ...] | None:
    with looking(connection) as cursor:
        return cursor.execute(_MEANING, (index,)).fetchone()


def _on_copy(text: str) -> str:
    from pglast.stream import RawStream

    asked = _statement(text)
    asked.relation.schemaname, asked.relation.catalogname = "pg_temp", None
    asked.idxname, asked.concurrent, asked.if_not_exists, asked.tableSpace = _NAME, False, False, None
    return str(RawStream()(asked))


def _plain(text: str) -> str:
    """Write a CREATE INDEX in one way, without names of the index and the schema."""
    from pglast.stream import RawStream

    asked = _statement(text)
    asked.relation.schemaname = asked.idxname = asked.tableSpace = None
    asked.relation.inh = True
    asked.concurrent = asked.if_not_exists = False
    return str(RawStream()(asked))


def _statement(text: str) -> Any:
    from pglast.parser import parse_sql

    return parse_sql(text)[0].stmt

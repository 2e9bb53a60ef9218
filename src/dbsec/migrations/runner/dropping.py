"""What a contract takes away, with the SQL that would make it again: read before it goes, kept in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.interpret import operations_of
from dbsec.migrations.names import Name, quoted
from dbsec.migrations.operations import (
    AlterColumnType,
    Drop,
    DropColumn,
    DropConstraint,
    DropDefault,
    Operation,
    SetNotNull,
    Truncate,
)
from dbsec.migrations.reading.parse import parse
from dbsec.migrations.runner.blockers import looking
from dbsec.migrations.runner.ledger import Dropped
from dbsec.migrations.schema.model import Schema
from dbsec.migrations.script import Script

LOSES_ROWS = frozenset({"column", "type of column", "table", "materialized view", "rows", "sequence", "schema"})

_COLUMN: LiteralString = """
SELECT pg_catalog.format('ALTER TABLE %%s ADD COLUMN %%I %%s%%s;', a.attrelid::regclass, a.attname,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       coalesce(' DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''))
  FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %s::pg_catalog.oid AND a.attname = %s AND NOT a.attisdropped
"""
_TABLE: LiteralString = """
SELECT pg_catalog.format('CREATE TABLE %%s (%%s);', a.attrelid::regclass,
       pg_catalog.string_agg(pg_catalog.format('%%I %%s%%s', a.attname,
         pg_catalog.format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END),
         ', ' ORDER BY a.attnum))
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY a.attrelid
"""
_CONSTRAINT: LiteralString = """
SELECT pg_catalog.format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s;', conrelid::regclass, conname,
       pg_catalog.pg_get_constraintdef(oid))
  FROM pg_catalog.pg_constraint WHERE conrelid = %s::pg_catalog.oid AND conname = %s
"""
_INDEX: LiteralString = "SELECT pg_catalog.pg_get_indexdef(%s::pg_catalog.oid) || ';'"
_VIEW: LiteralString = """
SELECT pg_catalog.format('CREATE VIEW %%s AS %%s', c.oid::regclass, pg_catalog.pg_get_viewdef(c.oid))
  FROM pg_catalog.pg_class c WHERE c.oid = %s::pg_catalog.oid
"""
_TRIGGER: LiteralString = """
SELECT pg_catalog.pg_get_triggerdef(oid) || ';' FROM pg_catalog.pg_trigger
 WHERE tgrelid = %s::pg_catalog.oid AND tgname = %s
"""
_FUNCTION: LiteralString = """
SELECT pg_catalog.string_agg(pg_catalog.pg_get_functiondef(p.oid) || ';', E'\\n') FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proname = %s AND p.prokind IN ('f', 'p') AND n.nspname = coalesce(%s, n.nspname)
"""
_QUERY: dict[str, LiteralString] = {
    "table": _TABLE,
    "index": _INDEX,
    "view": _VIEW,
    "materialized view": _VIEW,
}


def taken_away(connection: psycopg.Connection[Any], script: Script, schema: Schema) -> list[Dropped]:
    """List what the statements of a script drop or overwrite, with its definition where the catalog tells one.

    Reads the catalog only; names without a schema are found as ``schema`` finds them. What is not there now, as a
    constraint that the script itself makes and drops, is not listed.
    """
    found: dict[tuple[str, str], Dropped] = {}
    for what, name, query, values in _of_script(script, schema):
        definition = _definition(connection, query, values) if query else ""
        if definition or not query:
            found.setdefault((what, name), Dropped(what, name, definition))
    return list(found.values())


def names_taken_away(script: Script, schema: Schema) -> set[tuple[str, str]]:
    """Name what the statements of a script drop, as (what, name): also of what is gone already."""
    return {(what, name) for what, name, _, _ in _of_script(script, schema)}


def _of_script(script: Script, schema: Schema) -> Iterator[Asked]:
    for statement in parse(script)[0]:
        for operation in operations_of(statement):
            yield from _asked(operation, schema)


def _definition(connection: psycopg.Connection[Any], query: LiteralString, values: Sequence[Any]) -> str:
    """Ask for it with every name qualified: nobody knows which search_path will put it back."""
    first, *rest = values
    if query is not _FUNCTION:
        row = connection.execute("SELECT pg_catalog.to_regclass(%s)::pg_catalog.oid", [first]).fetchone()
        first = row[0] if row else None
    with looking(connection) as cursor:
        row = cursor.execute(query, [first, *rest]).fetchone()
    return (row[0] if row else None) or ""


Asked = tuple[str, str, LiteralString, list[Any]]


def _asked(operation: Operation, schema: Schema) -> Iterator[Asked]:
    """Say what an operation takes away, and the query that defines it."""
    match operation:
        case DropColumn(column=column) | AlterColumnType(column=column):
            table = _full(schema, operation.table)
            what = "column" if isinstance(operation, DropColumn) else "type of column"
            yield what, f"{table}.{quoted(column)}", _COLUMN, [str(table), column]
        case DropConstraint(name=name):
            table = _full(schema, operation.table)
            yield "constraint", f"{table}.{quoted(name)}", _CONSTRAINT, [str(table), name]
        case DropDefault(column=column) | SetNotNull(column=column):
            what = "default" if isinstance(operation, DropDefault) else "null allowed"
            yield what, f"{_full(schema, operation.table)}.{quoted(column)}", "", []
        case Truncate(tables=tables):
            for one in tables:
                yield "rows", str(_full(schema, one)), "", []
        case Drop():
            yield _of_drop(operation, schema)
        case _:
            return


def _of_drop(drop: Drop, schema: Schema) -> Asked:
    if drop.kind in ("function", "procedure", "routine"):
        return drop.kind, str(drop.name), _FUNCTION, [drop.name.name, drop.name.schema]
    if drop.table is not None:
        table = _full(schema, drop.table)
        name = f"{table}.{quoted(drop.name.name)}"
        return drop.kind, name, *((_TRIGGER, [str(table), drop.name.name]) if drop.kind == "trigger" else ("", []))
    full = _full(schema, drop.name)
    query = _QUERY.get(drop.kind, "")
    return drop.kind, str(full), query, [str(full)] if query else []


def _full(schema: Schema, name: Name) -> Name:
    known = schema.table(name) or schema.view(name)
    return known.name if known is not None else name

"""What a server has of the guard: functions, triggers and rows, read at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbsec.migrations.guard.parts import Function, Trigger
from dbsec.migrations.guard.rows import Row

_HERE: LiteralString = "SELECT pg_catalog.to_regnamespace('dbsec_guard') IS NOT NULL"
_FUNCTIONS: LiteralString = """
SELECT proname, prosrc, prosecdef, coalesce(proconfig, '{}') FROM pg_catalog.pg_proc
 WHERE pronamespace = 'dbsec_guard'::regnamespace
"""
_TRIGGERS: LiteralString = """
SELECT e.evtname, e.evtevent, p.proname, coalesce(e.evttags, '{}'), e.evtenabled::text
  FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
 WHERE p.pronamespace = 'dbsec_guard'::regnamespace
"""
_TABLES: LiteralString = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'dbsec_guard'::regnamespace AND c.relkind = 'r' GROUP BY 1
"""
ALWAYS = "A"


@dataclass(frozen=True, slots=True)
class Live:
    """``here``: is there a schema of ours; ``enabled``: a trigger's ``evtenabled``; ``tables``: columns by table."""

    here: bool = False
    functions: dict[str, Function] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    enabled: dict[str, str] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read(connection: psycopg.Connection[Any]) -> Live:
    """Read the catalog; needs no right on the schema. Locks: none that DDL would notice."""
    if not _one(connection, _HERE):
        return Live()
    functions = {
        name: Function(name, body, definer, tuple(settings))
        for name, body, definer, settings in connection.execute(_FUNCTIONS)
    }
    triggers, enabled = {}, {}
    for name, event, function, tags, state in connection.execute(_TRIGGERS):
        triggers[name] = Trigger(name, event, function, tuple(tags))
        enabled[name] = state
    tables = {name: tuple(columns) for name, columns in connection.execute(_TABLES)}
    return Live(True, functions, triggers, enabled, tables)


def rows_of(
    connection: psycopg.Connection[Any], table: str, columns: tuple[str, ...], *, by_policy: bool | None = None
) -> set[Row]:
    """Read rows of one table; ``by_policy`` None takes all. Needs SELECT on it: superuser, or who installed."""
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("dbsec_guard", table)
    )
    if by_policy is not None:
        query += sql.SQL(" WHERE by_policy = {}").format(sql.Literal(by_policy))
    return set(connection.execute(query).fetchall())


def _one(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]

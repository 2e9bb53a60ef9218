"""What an installation would change on a server, and what a person should know of the guard there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from dbsec.migrations.guard import live, script
from dbsec.migrations.guard.live import Live
from dbsec.migrations.guard.parts import TRIGGERS, functions
from dbsec.migrations.guard.policy import Policy
from dbsec.migrations.guard.rows import Rows, rows

_COLUMNS = {
    "guards": ("name", "sqlstate", "mode"),
    "settings": ("name", "value"),
    "table_limits": ("table_name", "max_bytes", "reason", "by_policy"),
    "protected": ("object_type", "object_identity", "by_policy"),
    "lists": ("list", "entry", "by_policy"),
    "overrides": ("id", "guard", "role_name", "reason", "opened_by", "opened_at", "until", "ended_at"),
}
_UNKNOWN: LiteralString = """
SELECT p.object_type, p.object_identity FROM dbsec_guard.protected p
 WHERE NOT EXISTS (
   SELECT FROM pg_catalog.pg_class c, pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, c.oid, 0) i
    WHERE i.type = p.object_type AND i.identity = p.object_identity
   UNION ALL
   SELECT FROM pg_catalog.pg_attribute a,
          pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, a.attrelid, a.attnum) i
    WHERE p.object_type = 'table column' AND a.attnum > 0 AND NOT a.attisdropped
      AND i.type = p.object_type AND i.identity = p.object_identity
   UNION ALL
   SELECT FROM (SELECT 'pg_catalog.pg_constraint'::regclass AS class, oid FROM pg_catalog.pg_constraint UNION ALL
                SELECT 'pg_catalog.pg_policy'::regclass, oid FROM pg_catalog.pg_policy UNION ALL
                SELECT 'pg_catalog.pg_trigger'::regclass, oid FROM pg_catalog.pg_trigger UNION ALL
                SELECT 'pg_catalog.pg_proc'::regclass, oid FROM pg_catalog.pg_proc UNION ALL
                SELECT 'pg_catalog.pg_type'::regclass, oid FROM pg_catalog.pg_type UNION ALL
                SELECT 'pg_catalog.pg_namespace'::regclass, oid FROM pg_catalog.pg_namespace) o,
          pg_catalog.pg_identify_object(o.class, o.oid, 0) i
    WHERE p.object_type NOT IN ('table', 'table column') AND i.type = p.object_type AND i.identity = p.object_identity)
 ORDER BY 1, 2
"""
_OPEN: LiteralString = """
SELECT id, guard, role_name, until, reason FROM dbsec_guard.overrides
 WHERE ended_at IS NULL AND until > pg_catalog.clock_timestamp() ORDER BY id
"""
_BARE: LiteralString = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relrowsecurity AND c.relforcerowsecurity
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%(schemas)s)
   AND pg_catalog.format('%%I.%%I', n.nspname, c.relname) <> ALL (%(exempt)s)
   AND NOT (c.relrowsecurity AND c.relforcerowsecurity
            AND EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = c.oid)) ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: ``verb`` is what an installation would do with ``object``."""

    verb: str
    object: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verb:<7} {self.object}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """``changes``: empty where the server is as the policy says. ``notes``: what no installation changes."""

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def plan(connection: psycopg.Connection[Any], policy: Policy) -> Plan:
    """Compare a server with what ``render`` would make of it; changes nothing.

    As whoever installs: the tables are closed to others.
    """
    there = live.read(connection)
    wanted = rows(policy)
    changes = [*_schema(there), *_functions(there), *_triggers(there), *_rows(connection, there, wanted)]
    return Plan(tuple(changes), tuple(_notes(connection, there, policy, wanted)))


def made(there: Live) -> list[Change]:
    """Compare functions and triggers alone: needs no right on the tables."""
    return [*_schema(there), *_functions(there), *_triggers(there)]


def _schema(there: Live) -> Iterator[Change]:
    if not there.here:
        yield Change("create", "schema dbsec_guard")
    for name, columns in _COLUMNS.items():
        if name not in there.tables:
            yield Change("create", f"table dbsec_guard.{name}")
        elif there.tables[name] != columns:
            yield Change("replace", f"table dbsec_guard.{name}", "its columns are not those of this dbsec")


def _functions(there: Live) -> Iterator[Change]:
    wanted = functions(map(script.part, script.PARTS))
    for name, function in wanted.items():
        if name not in there.functions:
            yield Change("create", f"function dbsec_guard.{name}")
        elif there.functions[name] != function:
            yield Change("replace", f"function dbsec_guard.{name}", "it was made by another dbsec, or by hand")
    for name in sorted(there.functions.keys() - wanted.keys()):
        yield Change("remove", f"function dbsec_guard.{name}")


def _triggers(there: Live) -> Iterator[Change]:
    wanted = {trigger.name: trigger for trigger in TRIGGERS}
    for name, trigger in wanted.items():
        if name not in there.triggers:
            yield Change("create", f"event trigger {name}", f"on {trigger.event}")
        elif there.triggers[name] != trigger:
            yield Change("replace", f"event trigger {name}", f"on {trigger.event}")
        elif there.enabled[name] != live.ALWAYS:
            yield Change("enable", f"event trigger {name}", "always, also for a session that says it is a replica")
    for name in sorted(there.triggers.keys() - wanted.keys()):
        yield Change("remove", f"event trigger {name}")


def _rows(connection: psycopg.Connection[Any], there: Live, wanted: tuple[Rows, ...]) -> Iterator[Change]:
    for table in wanted:
        if there.tables.get(table.name) != _COLUMNS[table.name]:
            continue
        have = live.rows_of(connection, table.name, table.columns, by_policy=True if table.owned else None)
        own = live.rows_of(connection, table.name, table.columns, by_policy=False) if table.owned else set()
        keys = {row[: table.key] for row in own}
        want = {row for row in table.rows if row[: table.key] not in keys}
        for row in sorted(want - have):
            yield Change("set", f"row of dbsec_guard.{table.name}", ", ".join(map(str, row)))
        kept = {row[: table.key] for row in want}
        for row in sorted(row for row in have - want if row[: table.key] not in kept and table.owned):
            yield Change("remove", f"row of dbsec_guard.{table.name}", ", ".join(map(str, row)))


def _notes(connection: psycopg.Connection[Any], there: Live, policy: Policy, wanted: tuple[Rows, ...]) -> Iterator[str]:
    schemas, exempt = list(policy.tenant_schemas), list(policy.not_tenant_tables)
    for name, closed in connection.execute(_BARE, {"schemas": schemas, "exempt": exempt}):
        yield f"{name}: {'no policy: nobody sees a row' if closed else 'row security is not enabled and forced'}"
    if any(there.tables.get(name) != columns for name, columns in _COLUMNS.items()):
        return
    for table in (table for table in wanted if table.owned):
        for row in sorted(live.rows_of(connection, table.name, table.columns, by_policy=False)):
            yield f"dbsec_guard.{table.name}: '{', '.join(map(str, row))}' is no row of the policy's, and is kept"
    for kind, name in connection.execute(_UNKNOWN):
        yield f"no {kind} '{name}' is there: what is protected is written as PostgreSQL writes it"
    for number, guard, role, until, reason in connection.execute(_OPEN):
        yield f"override {number} of '{guard}' is open for '{role}' until {until:%Y-%m-%d %H:%M:%S %z}: {reason}"

"""The guard as one plain SQL script, and the script that takes it away again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from psycopg.sql import Literal

from dbsec.migrations.guard.parts import TRIGGERS, Trigger, functions
from dbsec.migrations.guard.policy import GUARDS, Policy
from dbsec.migrations.guard.rows import Row, Rows, rows

PARTS = ("tables", "judge", "text", "refusals", "start", "end", "other")
_HEAD = """\
-- Guardrails in the database itself: they see what no linter can, psql at 3 a.m., an ORM, a DO block.
-- Made by dbsec from [migrations.guard] of dbsec.toml: change that, not this. PostgreSQL 15 to 18, no extension.
--
--   psql -X -v ON_ERROR_STOP=1 -f guardrails.sql    all of it or nothing; again as often as you like; in each database;
--                                                   as superuser, or as whoever else may create event triggers
--
--   guard                mode     SQLSTATE
{guards}
--
-- What they cannot see, how each can be evaded, and how to open one in an emergency: docs/migrations_guard.md.
-- None of them writes before a command, and none refuses at the end what has committed on its way. One that fails
-- itself warns and lets pass.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;

"""
_DOWN = """\
-- The way back of guardrails.sql, as who ran it. The log of overrides goes too: keep dbsec_guard.overrides before.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
  gone text;
BEGIN
  FOR gone IN SELECT evtname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
               WHERE p.pronamespace = to_regnamespace('dbsec_guard') LOOP
    EXECUTE format('DROP EVENT TRIGGER %I', gone);
  END LOOP;
END $$;
DROP SCHEMA IF EXISTS dbsec_guard CASCADE;

COMMIT;
"""


def render(policy: Policy) -> str:
    """Write the script: the same text for the same policy."""
    width = max(len(guard.name) for guard in GUARDS)
    guards = [
        f"--   {guard.name:<{width}}  {policy.mode_of(guard.name):<7}  {guard.sqlstate}  {guard.does}"
        for guard in GUARDS
    ]
    parts = [_HEAD.format(guards="\n".join(guards)), *("\n".join([part(name), ""]) for name in PARTS)]
    return "".join([*parts, _closed(), _policy(rows(policy)), "\n", _triggers(TRIGGERS), "\nCOMMIT;\n"])


def render_down() -> str:
    """Write the script that leaves nothing of it."""
    return _DOWN


def part(name: str) -> str:
    """Read a part of the script as it stands in ``sql/``."""
    return resources.files("dbsec.migrations.guard").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def _closed() -> str:
    names = sorted(f"dbsec_guard.{name}" for name in functions(map(part, PARTS)))
    return "REVOKE ALL ON FUNCTION\n  " + ",\n  ".join(names) + "\nFROM PUBLIC;\n\n"


def _policy(tables: Iterable[Rows]) -> str:
    return "-- the policy\n\n" + "\n".join(map(_table, tables))


def _table(table: Rows) -> str:
    """Write the rows of the policy over those of its last run; a row of somebody else stays, and wins."""
    name, columns = f"dbsec_guard.{table.name}", ", ".join(table.columns)
    if table.owned:
        values = [(*row, True) for row in table.rows]
        return f"DELETE FROM {name} WHERE by_policy;\n{_insert(name, f'{columns}, by_policy', values, 'DO NOTHING')}"  # noqa: S608
    update = ", ".join(f"{column} = excluded.{column}" for column in table.columns[1:])
    return _insert(name, columns, table.rows, f"({table.columns[0]}) DO UPDATE SET {update}")


def _insert(name: str, columns: str, values: Sequence[Row], conflict: str) -> str:
    if not values:
        return ""
    told = ",\n  ".join(f"({', '.join(Literal(value).as_string() for value in row)})" for row in values)
    return f"INSERT INTO {name} ({columns}) VALUES\n  {told}\nON CONFLICT {conflict};\n"


def _triggers(triggers: Iterable[Trigger]) -> str:
    told = (
        "-- ALWAYS: session_replication_role = replica does not pass them by; they fire in the order of their names\n"
    )
    for trigger in triggers:
        tags = f"\n  WHEN TAG IN ({', '.join(map(repr, trigger.tags))})" if trigger.tags else ""
        told += (
            f"CREATE EVENT TRIGGER {trigger.name} ON {trigger.event}{tags}\n"
            f"  EXECUTE FUNCTION dbsec_guard.{trigger.function}();\n"
            f"ALTER EVENT TRIGGER {trigger.name} ENABLE ALWAYS;\n"
        )
    return told

"""What a server's refusal means to a batch: try again, open another session, or stop; told without a row's values."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import errors

from dbsec.backfill.job import Job, command
from dbsec.backfill.target import Target
from dbsec.errors import ApplyError, reason
from dbsec.pg import quoting

# Deadlock, no lock in time, another transaction was first, a statement that took too long (a smaller batch may not).
CONFLICTS = frozenset(("40P01", "55P03", "40001", "57014"))
# Ended by an administrator, a crash or a timeout of the session; a server that starts, or is a standby by now.
_LOST = frozenset(("57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "25006"))
# Classes of refusals that quote names, never values.
_ABOUT_NAMES = ("42", "3F", "3D", "28", "53", "55", "57", "25", "40", "54")
_SPELLED = frozenset(("42883", "42P01", "42704", "42703"))
_BLOCKERS: LiteralString = """
SELECT a.pid, a.application_name, a.state, extract(epoch FROM clock_timestamp() - a.xact_start)
  FROM pg_catalog.pg_stat_activity a
 WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.xact_start IS NOT NULL
   AND a.application_name NOT LIKE 'dbsec@%%'
   AND EXISTS (SELECT FROM pg_catalog.pg_locks l
                WHERE l.pid = a.pid AND l.relation = %s AND l.granted
                  AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock'))
 ORDER BY a.xact_start LIMIT 3
"""


class Again(Exception):
    """A batch that was rolled back by no fault of its own; its text has no values."""


def lost(exc: psycopg.Error, connection: psycopg.Connection[Any]) -> bool:
    """Tell whether the session is of no use any more."""
    if connection.closed or exc.sqlstate in _LOST or (exc.sqlstate or "").startswith("08"):
        return True
    return isinstance(exc, psycopg.OperationalError) and exc.sqlstate is None


def shown(exc: psycopg.Error) -> str:
    """Write an error without what it may quote of a row: PostgreSQL puts values into texts and details."""
    if exc.sqlstate is None:
        return type(exc).__name__
    if quoting.by_function(exc):
        return f"SQLSTATE {exc.sqlstate}, in the words of a function, which may quote a row: see the server's log"
    if exc.sqlstate.startswith(_ABOUT_NAMES):
        return f"{reason(exc)} ({exc.sqlstate})"
    diag = exc.diag
    places = (("constraint", diag.constraint_name), ("column", diag.column_name), ("table", diag.table_name))
    where = "".join(f", {what} '{name}'" for what, name in places if name)
    return f"{type(exc).__name__} ({exc.sqlstate}{where})"


def fatal(exc: psycopg.Error, job: Job, where: str) -> ApplyError:
    """Make the error that ends a run; every batch before is committed, this one is rolled back."""
    hint = f"mend the job or the rows, then run it again: it goes on at its cursor ({command('status', job.name)})"
    if exc.sqlstate in _SPELLED:
        hint = "name schemas in 'set' and 'where', or add search_path = [\"...\"] to the job; triggers run with it too"
    elif isinstance(exc, errors.InsufficientPrivilege):
        hint = f"GRANT SELECT, UPDATE ON {job.table} TO the role, without row-level security that hides rows"
    return ApplyError(f"backfill '{job.name}', {where}: {shown(exc)}", hint=hint)


def blockers(connection: psycopg.Connection[Any], target: Target) -> str:
    """Name the oldest transactions that may hold rows of the table; nothing where none is seen."""
    found = connection.execute(_BLOCKERS, (target.oid,)).fetchall()
    return "; ".join(f"pid {pid} ('{name}', {state}, for {age:.0f} s)" for pid, name, state, age in found)

"""Put the guard into a server, and take it away."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from dbsec.errors import ApplyError, reason
from dbsec.migrations.guard import live, script
from dbsec.migrations.guard.planning import Change, Plan, plan
from dbsec.migrations.guard.policy import Policy

_COUNT: LiteralString = "SELECT count(*) FROM dbsec_guard.overrides"
_INSTALLER = "as a superuser, or as the role that may create event triggers there"


def install(connection: psycopg.Connection[Any], policy: Policy) -> Plan:
    """Run what ``render`` writes, and return what that changed; nothing where nothing was to change.

    ``connection`` is in autocommit and in no transaction; the script is one. Locks: those of new objects, and of the
    guard's own. Errors: ``ApplyError`` where the server refuses, or where it is not as planned afterwards.
    """
    ahead = plan(connection, policy)
    if ahead.changes:
        _run(connection, script.render(policy))
        if left := plan(connection, policy).changes:
            raise ApplyError(
                f"the guard is not as it was written: {left[0]}", hint="dbsec migrate guard plan --dsn ..."
            )
    return ahead


def planned_removal(connection: psycopg.Connection[Any]) -> Plan:
    """Name what ``uninstall`` would take away; changes nothing."""
    there = live.read(connection)
    if not there.here:
        return Plan()
    changes = [Change("remove", f"event trigger {name}") for name in sorted(there.triggers)]
    kept = 0
    if "overrides" in there.tables:
        row = connection.execute(_COUNT).fetchone()
        kept = row[0] if row else 0
    return Plan((*changes, Change("remove", "schema dbsec_guard", f"with the log of {kept} overrides")))


def uninstall(connection: psycopg.Connection[Any]) -> Plan:
    """Leave nothing of the guard, and return what was removed. Errors: ``ApplyError``."""
    ahead = planned_removal(connection)
    if ahead.changes:
        _run(connection, script.render_down())
    return ahead


def _run(connection: psycopg.Connection[Any], text: str) -> None:
    """Run a script that is one transaction."""
    try:
        connection.execute(text.encode())
    except psycopg.Error as exc:
        if not connection.closed:
            connection.rollback()
        raise ApplyError(f"PostgreSQL refused the guard: {exc.sqlstate} {reason(exc)}", hint=_INSTALLER) from exc

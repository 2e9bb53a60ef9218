"""The difference between the model and a server: as a plan, and carried out beside a live service."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier

from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ApplyError, ConfigError, UsageError
from dbsec.retry import retry
from dbsec.roles import catalog
from dbsec.roles.catalog import Catalog, Thing
from dbsec.roles.changes import Change, Plan, change
from dbsec.roles.desired import Model
from dbsec.roles.grants import check_targets, default_changes, object_changes
from dbsec.roles.principals import membership_changes, role_changes, setting_changes

# "dbsec" and "role" in ASCII: one applier at a time in a database.
ADVISORY_LOCK = 0x64627365_726F6C65
# Who waits for a lock stalls everybody behind him: a few milliseconds first, then more (facts/migrations.md, 5.4).
_FIRST_LOCK_MS, _LAST_LOCK_MS = 5, 100


def plan(connection: psycopg.Connection[Any], model: Model) -> Plan:
    """Say what would make the server as the model says; changes nothing and is safe on production.

    Needs a role that may read the catalogs, which every role may. Errors: ``ConfigError`` where the model names an
    object that is not there, another database, or what this version cannot do.
    """
    return _present(connection, model)


def _present(connection: psycopg.Connection[Any], model: Model) -> Plan:
    with connection.transaction():
        # names in our queries must mean the catalog, whatever the database or the role has set
        connection.execute("SET LOCAL search_path = pg_catalog")
        return compare(model, catalog.read(connection, list(model.schemas)))


def compare(model: Model, live: Catalog) -> Plan:
    """Judge what was read; a pure function."""
    if live.database != model.database.name:
        raise ConfigError(
            f"the model is of database '{model.database.name}', this is '{live.database}'",
            hint=f"connect to '{model.database.name}'",
        )
    check_targets(model, live)
    return Plan(tuple(_changes(model, live)), model)


def _changes(model: Model, live: Catalog) -> Iterator[Change]:
    # what we take from ourselves comes last: everything before needs it
    roles = list(role_changes(model, live))
    yield from (c for c in roles if c.object != live.session_user)
    yield from membership_changes(model, live)
    yield from setting_changes(model, live)
    yield from _schema_changes(model, live)
    yield from default_changes(model, live)
    yield from object_changes(model, live)
    yield from (c for c in roles if c.object == live.session_user)


def _schema_changes(model: Model, live: Catalog) -> Iterator[Change]:
    present = {t.name for t in live.things if t.kind == "schema"}
    for name, owner in model.owned_schemas.items():
        if name not in present:
            create = SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(Identifier(name), Identifier(owner))
            yield change("create-schema", name, create, SQL("DROP SCHEMA {}").format(Identifier(name)), "is not there")
            empty = Thing("schema", name, name, "", "SCHEMA", True, False, owner)
            yield from object_changes(model, _only(live, empty))


def _only(live: Catalog, thing: Thing) -> Catalog:
    return Catalog(live.major, live.database, live.session_user, live.roles, (), (), (thing,), {})


class _Busy(Exception):
    """Another transaction was in the way; the next attempt may get through."""


def apply(
    connection: psycopg.Connection[Any],
    plan: Plan,
    *,
    within_s: float = 30.0,
    allow_lockout: bool = False,
    clock: Clock = SYSTEM,
) -> int:
    """Run a plan's statements and return how many; all of them or none.

    Needs superuser, and a connection in autocommit mode. Locks: advisory lock ``ADVISORY_LOCK``; ACCESS EXCLUSIVE on
    each table with another owner from the lock statement to the commit (milliseconds), waited for 5 ms at first and
    never over 100 ms. Errors: ``ApplyError`` where a statement fails, the server has changed since the plan, or our own
    role would lose LOGIN or SUPERUSER; ``GaveUp`` where the tables stay locked by others.
    """
    model, attempts = plan.model, count()
    if model is None or not connection.autocommit:
        raise UsageError("a plan of roles is applied, on a connection in autocommit mode")

    def attempt() -> int:
        wait_ms = min(_FIRST_LOCK_MS << min(next(attempts), 10), _LAST_LOCK_MS)
        try:
            with connection.transaction():
                return _run(connection, model, plan, wait_ms, allow_lockout=allow_lockout)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as exc:
            raise _Busy(str(exc).splitlines()[0]) from exc
        except errors.InternalError_ as exc:
            # two GRANTs on one catalog row: the server says so without an SQLSTATE of its own
            if "concurrently" not in str(exc):
                raise ApplyError(f"the roles were not changed: {exc}") from exc
            raise _Busy(str(exc)) from exc

    return retry(attempt, on=(_Busy,), within_s=within_s, what="changing the roles", first_pause_s=0.02, clock=clock)


def _run(connection: psycopg.Connection[Any], model: Model, plan: Plan, wait_ms: int, *, allow_lockout: bool) -> int:
    timeouts = "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', '60s', true)"
    connection.execute(timeouts, [f"{wait_ms}ms"])
    connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
    if _present(connection, model) != plan:
        raise ApplyError("the server is not as it was when the plan was made", hint="make the plan again")
    before = _own_attributes(connection)
    for step in plan:
        try:
            connection.execute(step.statement.encode())
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.InternalError_):
            raise
        except psycopg.Error as exc:
            said = str(exc).splitlines()[0]
            raise ApplyError(f"{step.kind} {step.object}: {said}; nothing was changed", hint=step.statement) from exc
    if _own_attributes(connection) != before and not allow_lockout:
        raise ApplyError(
            "the plan takes LOGIN or SUPERUSER from the role that applies it; nothing was changed",
            hint="apply it as another superuser",
        )
    return len(plan)


def _own_attributes(connection: psycopg.Connection[Any]) -> tuple[bool, bool]:
    row = connection.execute(
        "SELECT rolcanlogin, rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user"
    ).fetchone()
    return (row[0], row[1]) if row else (False, False)

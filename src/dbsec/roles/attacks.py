"""What a stolen login of the service would try: each attempt in a transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier

from dbsec.evidence import Observation, Outcome
from dbsec.pg import Conninfo, connect
from dbsec.retry import retry

# A lock that is waited for stalls everybody behind; this is how long the service may stall, at most.
_LOCK_TIMEOUT = "200ms"
_WITHIN_S = 15.0

Facts = dict[str, Any]
Attempt = Callable[[psycopg.Connection[Any]], Facts]


def refused(login: Conninfo, attempt: Attempt, *, done: str, refusal: type[psycopg.Error]) -> Observation:
    """Let a login try; PASS where the server answers with exactly this error, FAIL where it obeys.

    The same session first reads a row of its own table: a login that may do nothing proves nothing. Locks: those of the
    attempt, until the rollback that follows at once; waited for 200 ms at a time. Errors: ``GaveUp``, ``ConnectError``,
    and any other error of the server, none of which says anything about the control.
    """

    def once() -> Observation:
        with connect(login, application_name="dbsec drill") as session:
            who = _who(session)
            with session.transaction(force_rollback=True):
                session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
                session.execute("SELECT FROM app.orders LIMIT 1")
            try:
                with session.transaction(force_rollback=True):
                    session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
                    facts = attempt(session)
            except refusal as exc:
                said = exc.diag.message_primary or ""
                seen = {**who, "sqlstate": exc.sqlstate, "message": said}
                return Observation(Outcome.PASS, f"'{login.user}' is refused by {exc.sqlstate}: {said}", seen)
            return Observation(Outcome.FAIL, f"'{login.user}' {done}", {**who, **facts})

    busy = (errors.LockNotAvailable, errors.DeadlockDetected)
    return retry(once, on=busy, within_s=_WITHIN_S, what=f"an attempt as '{login.user}'")


def _who(session: psycopg.Connection[Any]) -> Facts:
    row = session.execute("SELECT session_user, current_setting('is_superuser') = 'on'").fetchone()
    return {"role": row[0], "superuser": row[1]} if row else {}


def drop_table(session: psycopg.Connection[Any]) -> Facts:
    rows = _one(session, "SELECT reltuples::bigint FROM pg_class WHERE oid = 'app.orders'::regclass")
    session.execute("DROP TABLE app.orders")
    return {"rows_lost": rows}


def truncate(session: psycopg.Connection[Any]) -> Facts:
    session.execute("TRUNCATE app.orders")
    return {"rows_left": _one(session, "SELECT count(*) FROM app.orders")}


def create_in_app(session: psycopg.Connection[Any]) -> Facts:
    session.execute("CREATE TABLE app.dbsec_drill (id int)")
    return {"created": "app.dbsec_drill"}


def create_in_public(session: psycopg.Connection[Any]) -> Facts:
    session.execute("CREATE TABLE public.dbsec_drill (id int)")
    return {"created": "public.dbsec_drill"}


def read_password_hashes(session: psycopg.Connection[Any]) -> Facts:
    count = _one(session, "SELECT count(*) FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL")
    return {"password_hashes_read": count}


def run_program(session: psycopg.Connection[Any]) -> Facts:
    """Run ``id`` on the server; where no temporary table can be made, ``true``, which adds no row to a real one."""
    try:
        with session.transaction():
            session.execute("CREATE TEMPORARY TABLE dbsec_drill (line text)")
    except errors.InsufficientPrivilege:
        session.execute("COPY app.orders FROM PROGRAM 'true'")
        return {"program": "true"}
    session.execute("COPY pg_temp.dbsec_drill FROM PROGRAM 'id'")
    return {"program": "id", "said": _one(session, "SELECT line FROM pg_temp.dbsec_drill")}


def read_server_file(session: psycopg.Connection[Any]) -> Facts:
    return {"PG_VERSION": str(_one(session, "SELECT pg_catalog.pg_read_file('PG_VERSION')")).strip()}


def make_superuser(session: psycopg.Connection[Any]) -> Facts:
    session.execute("CREATE ROLE dbsec_drill SUPERUSER LOGIN")
    return {"created": "a superuser that may log in"}


def become_owner(session: psycopg.Connection[Any]) -> Facts:
    owner = _one(session, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'app.orders'::regclass")
    session.execute(SQL("SET LOCAL ROLE {}").format(Identifier(str(owner))))
    return {"became": owner}


def switch_triggers_off(session: psycopg.Connection[Any]) -> Facts:
    session.execute("SET LOCAL session_replication_role = replica")
    return {"triggers": "off", "foreign_keys": "off"}


def _one(session: psycopg.Connection[Any], query: str) -> Any:
    row = session.execute(query.encode()).fetchone()
    return row[0] if row else None
